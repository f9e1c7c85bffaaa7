"""`evaluate.py cluster`: groups of like images, and pictures that stand for each."""

from __future__ import annotations

import numpy as np

from moco_tf.config import ConfigError
from moco_tf.evaluation.cluster.groups import assigned, centres_of, silhouettes
from moco_tf.evaluation.cluster.settings import Cluster
from moco_tf.evaluation.embed.collection import conclude, open_collection
from moco_tf.evaluation.given import Given
from moco_tf.evaluation.results.output import text_table
from moco_tf.interchange import Pretrained
from moco_tf.report.sheet import Tile, draw_sheet, short_name

# Groups on the sheet, and lines of the table.
_MOST = 40


def run(settings: Cluster, given: Given, pretrained: Pretrained | None) -> dict:
    """Groups the images, and writes report/cluster[_on_IMAGES].

    Args:
        settings: how many groups, where to.
        given: what was typed.
        pretrained: the encoder; None where only files were given.

    Returns:
        What results.json holds.

    Raises:
        ConfigError: more groups than images, or nowhere to write.
        DataError: images or files cannot be had.
    """
    collection = open_collection("cluster", settings, given, pretrained)
    embeddings, count = collection.embeddings, len(collection)
    clusters, tried = settings.clusters, {}
    if clusters is None:
        tried = silhouettes(embeddings, settings.tried, settings.seed)
        if not tried:
            raise ConfigError(
                f"tried={list(settings.tried)} has no number of groups below the "
                f"{count} images that are not all the same; set --clusters, or look "
                "at fewer with --tried."
            )
        clusters = max(tried, key=lambda number: tried[number])
    if clusters > count:
        raise ConfigError(
            f"clusters={clusters} is more than the {count} images; use fewer."
        )
    centres = centres_of(embeddings, clusters, settings.seed)
    cluster, distance = assigned(embeddings, centres)
    # The largest group is group 1.
    order = np.argsort(-np.bincount(cluster, minlength=clusters), kind="stable")
    cluster = np.argsort(order)[cluster]
    sizes = np.bincount(cluster, minlength=clusters)
    most = min(_MOST, int((sizes > 0).sum()))
    nearest = [
        _nearest(cluster, distance, number)[: settings.shown] for number in range(most)
    ]
    found = collection.pictures.load(np.concatenate(nearest))
    tiles, cells = [], []
    for number, rows in enumerate(nearest, 1):
        line = [
            Tile(found.get(int(row)), short_name(embeddings.names[row])) for row in rows
        ]
        first = Tile(line[0].image, f"group {number}\n{sizes[number - 1]:,} images")
        tiles.append([first, *line[1:]])
        cells.append([str(number), f"{sizes[number - 1]:,}", embeddings.names[rows[0]]])
    title = f"{clusters} groups of {count:,} images, those nearest to each centre first"
    text = text_table(["group", "images", "nearest to its centre"], cells)
    if clusters > _MOST:
        text += f"\n\nThe {_MOST} largest of {clusters} groups."
    if tried:
        scores = ", ".join(f"{n}: {score:.3f}" for n, score in tried.items())
        text += (
            f"\n\n{clusters} groups have the best silhouette of those tried ({scores}; "
            "1 is well apart, 0 not at all). --clusters=N takes another number."
        )
    rows = (
        {
            "name": name,
            "cluster": int(cluster[row]) + 1,
            "distance": f"{distance[row]:.6f}",
        }
        for row, name in enumerate(embeddings.names)
    )
    return conclude(
        "cluster",
        collection,
        settings,
        {"clusters": clusters, "sizes": sizes.tolist(),
         "silhouettes": {str(number): score for number, score in tried.items()}},
        rows,
        {"cluster": draw_sheet(tiles, title)},
        text,
    )  # fmt: skip


def _nearest(cluster, distance, number):
    """Members of a group, those nearest to its centre first."""
    members = np.flatnonzero(cluster == number)
    return members[np.argsort(distance[members], kind="stable")]
