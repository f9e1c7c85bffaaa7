"""`evaluate.py outliers`: the images that are least like any others."""

from __future__ import annotations

import numpy as np

from moco_tf.config import ConfigError
from moco_tf.evaluation.embed.collection import conclude, open_collection
from moco_tf.evaluation.given import Given
from moco_tf.evaluation.outliers.settings import Outliers
from moco_tf.evaluation.results.output import text_table
from moco_tf.evaluation.search.approximate import require_index
from moco_tf.evaluation.search.nearest import nearest_others
from moco_tf.interchange import Pretrained
from moco_tf.report.sheet import Tile, draw_sheet, short_name

_ACROSS = 8


def run(settings: Outliers, given: Given, pretrained: Pretrained | None) -> dict:
    """Ranks the images, and writes report/outliers[_on_IMAGES].

    Args:
        settings: how many neighbours, where to.
        given: what was typed.
        pretrained: the encoder; None where only files were given.

    Returns:
        What results.json holds.

    Raises:
        ConfigError: fewer images than neighbours, no faiss where it is asked for, or
            nowhere to write.
        DataError: images or files cannot be had.
    """
    require_index(settings.index)
    collection = open_collection("outliers", settings, given, pretrained)
    if settings.k >= len(collection):
        raise ConfigError(
            f"k={settings.k} is more than the {len(collection) - 1} others that an "
            "image has here; use a smaller --k."
        )
    index, cosine = nearest_others(
        collection.embeddings, settings.k, None, "comparing images", settings.index
    )
    distance = 1 - cosine.mean(axis=1, dtype=np.float64)
    order = np.argsort(-distance, kind="stable")
    names = collection.embeddings.names
    shown = order[: settings.shown]
    found = collection.pictures.load(shown)
    tiles = [
        Tile(found.get(int(row)), f"{short_name(names[row])}\n{distance[row]:.3f}")
        for row in shown
    ]
    lines = [tiles[at : at + _ACROSS] for at in range(0, len(tiles), _ACROSS)]
    title = (
        f"least like any others of {len(collection):,} images: mean distance "
        f"to the {settings.k} nearest"
    )
    cells = [
        [names[row], f"{distance[row]:.3f}", names[index[row, 0]]] for row in shown
    ]
    median = float(np.median(distance))
    text = text_table(["image", "distance", "nearest"], cells)
    text += f"\n\nHalf of all images have a distance of {median:.3f} or less."
    rows = (
        {
            "rank": rank,
            "name": names[row],
            "distance": f"{distance[row]:.6f}",
            "nearest": names[index[row, 0]],
            "cosine": f"{cosine[row, 0]:.6f}",
        }
        for rank, row in enumerate(order, 1)
    )
    return conclude(
        "outliers",
        collection,
        settings,
        {"median_distance": median},
        rows,
        {"outliers": draw_sheet(lines, title)},
        text,
    )
