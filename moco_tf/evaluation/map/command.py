"""`evaluate.py map`: all images on a plane, as a PNG and as a page to explore."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from moco_tf.data.labelled import evenly_spread
from moco_tf.data.sources import DataError
from moco_tf.evaluation.embed.collection import conclude, open_collection
from moco_tf.evaluation.given import Given
from moco_tf.evaluation.map.page import SIDE, page_of
from moco_tf.evaluation.map.places import places_of
from moco_tf.evaluation.map.settings import Map
from moco_tf.interchange import Pretrained
from moco_tf.report import look
from moco_tf.report.views import coloured

log = logging.getLogger("moco_tf")

# Images side by side across the PNG; where several would lie, one is drawn.
_ACROSS = 36
# Classes that are told apart by colours.
_CLASSES = 10


def run(settings: Map, given: Given, pretrained: Pretrained | None) -> dict:
    """Places the images, and writes report/map[_on_IMAGES] with map.html.

    Args:
        settings: the method, how many images, where to.
        given: what was typed.
        pretrained: the encoder; None where only files were given.

    Returns:
        What results.json holds.

    Raises:
        ConfigError: the method's package is not there, or nowhere to write.
        DataError: images or files cannot be had, or there are fewer than 4.
    """
    collection = open_collection("map", settings, given, pretrained)
    embeddings, count = collection.embeddings, len(collection)
    if count < 4:
        raise DataError(f"a map needs 4 images or more; there are {count}.")
    rows = evenly_spread(count, settings.images)
    log.info("Placing %s images by %s.", f"{len(rows):,}", settings.method)
    places = places_of(
        embeddings.unit(rows), settings.method, settings.perplexity, settings.seed
    )
    names = [embeddings.names[row] for row in rows]
    labels = embeddings.labels[rows]
    classes = [embeddings.class_names[n] if n >= 0 else "" for n in labels]
    found = collection.pictures.load(rows, SIDE) if settings.thumbnails else {}
    images = {
        number: found[int(row)] for number, row in enumerate(rows) if int(row) in found
    }
    how = {"tsne": "t-SNE", "umap": "UMAP"}[settings.method]
    title = f"{len(rows):,} images of {collection.called} by {how}"
    text = (
        f"{title}: like ones are close together; how far groups lie from each other "
        f"means little. Open {collection.folder / 'map.html'} in a browser: names and "
        "images appear under the mouse."
    )
    if len(rows) < count:
        text += f" {len(rows):,} of {count:,} are shown; --images=N takes more."
    table = (
        {"name": name, "x": f"{x:.5f}", "y": f"{y:.5f}", "label": kind}
        for name, (x, y), kind in zip(names, places, classes)
    )
    return conclude(
        "map",
        collection,
        settings,
        {"method": settings.method, "placed": len(rows)},
        table,
        {"map": draw_map(places, classes, images, title)},
        text,
        texts={"map.html": page_of(places, names, classes, images, title)},
    )


@look.literal
def draw_map(
    places: np.ndarray,
    classes: Sequence[str],
    images: Mapping[int, np.ndarray],
    title: str,
) -> Figure:
    """The map as a picture, of the images or of points.

    Args:
        places: float (images, 2), 0 to 1.
        classes: of the images, "" where they have none.
        images: number of an image -> uint8 (side, side, C); empty draws points.
        title: what is shown.
    """
    figure = Figure(figsize=(8, 8.3), facecolor="white")
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.95))
    edge = 0.6 / _ACROSS
    axes.set(xlim=(-edge, 1 + edge), ylim=(1 + edge, -edge), aspect="equal")
    axes.set_axis_off()
    look.title(axes, title)
    taken = set()
    for number in sorted(images):
        x, y = places[number]
        cell = int(x * (_ACROSS - 1e-9)), int(y * (_ACROSS - 1e-9))
        if cell in taken:
            continue
        taken.add(cell)
        half = 0.48 / _ACROSS
        middle = [(part + 0.5) / _ACROSS for part in cell]
        axes.imshow(
            coloured(images[number]),
            extent=(middle[0] - half, middle[0] + half, middle[1] + half,
                    middle[1] - half),
            aspect="equal",
            interpolation="antialiased",
        )  # fmt: skip
    if not images:
        kinds = sorted(set(classes))
        few = len(kinds) <= _CLASSES
        colours = look.colours(len(kinds)) if few else [look.BLUE] * len(kinds)
        size = float(np.clip(20_000 / len(places), 3, 30))
        for kind, colour in zip(kinds, colours):
            own = places[[one == kind for one in classes]]
            x, y = own.T
            axes.scatter(x, y, s=size, color=colour, label=kind, linewidths=0)
        if few and len(kinds) > 1:
            axes.legend(frameon=False, fontsize=8.5, labelcolor=look.INK)
    axes.set(xlim=(-edge, 1 + edge), ylim=(1 + edge, -edge))
    return figure
