"""Sources of images and the host side of the input pipeline."""

from moco_tf.data.order import steps_per_epoch
from moco_tf.data.pipeline import labelled_batches, two_views
from moco_tf.data.sources import DataError, Source, from_arrays, open_source
from moco_tf.data.sources.glyphs import glyphs

__all__ = [
    "DataError",
    "Source",
    "from_arrays",
    "glyphs",
    "labelled_batches",
    "open_source",
    "steps_per_epoch",
    "two_views",
]
