"""Where images come from: one plain value for every kind of data set."""

from moco_tf.data.sources.open import open_source
from moco_tf.data.sources.source import (
    DataError,
    Source,
    check_channels,
    check_same_classes,
    from_arrays,
)

__all__ = [
    "DataError",
    "Source",
    "check_channels",
    "check_same_classes",
    "from_arrays",
    "open_source",
]
