"""`evaluate.py search`: nearest pictures, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from moco_tf.config import ConfigError
from moco_tf.data.sources import Source, open_source
from moco_tf.data.sources.folder import open_file
from moco_tf.evaluation.embed.collection import Collection, conclude, open_collection
from moco_tf.evaluation.given import Given
from moco_tf.evaluation.images import central_crops, extractor_of, require_finite
from moco_tf.evaluation.knn.gallery import spread_queries
from moco_tf.evaluation.results.output import text_table
from moco_tf.evaluation.search.approximate import require_index
from moco_tf.evaluation.search.nearest import nearest, nearest_others
from moco_tf.evaluation.search.settings import Search
from moco_tf.interchange import Pretrained
from moco_tf.paths import to_path
from moco_tf.pixels import for_the_eye
from moco_tf.report.sheet import Tile, draw_sheet, short_name


def run(settings: Search, given: Given, pretrained: Pretrained | None) -> dict:
    """Finds the nearest pictures, and writes report/search[_on_IMAGES].

    Args:
        settings: the query, how many, where to.
        given: what was typed.
        pretrained: the encoder; None where only files were given.

    Returns:
        What results.json holds.

    Raises:
        ConfigError: a query without an encoder, fewer images than neighbours, no faiss,
            or nowhere to write.
        DataError: images or files cannot be had.
    """
    if settings.query is not None and pretrained is None:
        raise ConfigError(
            f"query={settings.query} must be encoded; name the encoder before "
            f"{given.files[0]}."
        )
    require_index(settings.index)
    query = None
    if settings.query is not None:
        query = _open_query(settings, pretrained)
    collection = open_collection("search", settings, given, pretrained)
    embeddings = collection.embeddings
    most = len(collection) - (query is None)
    if settings.k > most:
        raise ConfigError(
            f"k={settings.k} is more than the {most} images to choose from; use "
            f"--k={most} or fewer."
        )
    if query is None:
        chosen = spread_queries(embeddings.labels, settings.shown)
        names = [embeddings.names[row] for row in chosen]
        index, cosine = nearest_others(
            embeddings, settings.k, chosen, "searching", settings.index
        )
        own = collection.pictures.load(chosen)
        queries = [own.get(int(row)) for row in chosen]
    else:
        names = list(query.file_names)
        features = _encoded(query, settings, pretrained)
        index, cosine = nearest(
            embeddings.features, features, settings.k, "searching", settings.index
        )
        queries = _pixels(query, pretrained, settings.shown)
    shown = min(settings.shown, len(names))
    picture = _draw(collection, names[:shown], queries, index, cosine)
    cells = []
    for name, near, alike in zip(names[:shown], index, cosine):
        cells.append([name, ""])
        cells += [
            [f"  {embeddings.names[row]}", f"{value:.3f}"]
            for row, value in zip(near, alike)
        ]
    text = text_table(["query, and the nearest to it", "cosine"], cells)
    if len(names) > shown:
        text += f"\n\nThe first {shown} of {len(names):,} queries; the CSV has all."
    return conclude(
        "search",
        collection,
        settings,
        {"queries": len(names)},
        _rows(collection, names, index, cosine),
        {"search": picture},
        text,
    )


def _open_query(settings, pretrained) -> Source:
    place = to_path(settings.query)
    if not place.is_dir():
        return open_file(place, channels=pretrained.channels, pixels=pretrained.pixels)
    return open_source(
        "folder",
        "train",
        data_dir=str(place),
        channels=pretrained.channels,
        pixels=pretrained.pixels,
        max_unreadable=settings.data.max_unreadable,
    )


def _encoded(query, settings, pretrained):
    batches = central_crops(query, pretrained, settings.features.batch_size)
    features = extractor_of(pretrained).extract(batches, "encoding queries").features
    broken = int(np.sum(~np.isfinite(features).all(axis=1)))
    require_finite(broken, len(features), settings.precision, "query")
    return features


def _pixels(query, pretrained, count):
    """The first queries as the encoder sees them, before normalisation."""
    batch = next(iter(central_crops(query, pretrained, count)))
    return list(for_the_eye(batch["image"].numpy(), pretrained.pixels.value_range))


def _draw(collection: Collection, names, queries, index, cosine):
    found = collection.pictures.load(np.unique(index[: len(names)]))

    def caption(row, value):
        return f"{short_name(collection.embeddings.names[row])}\n{value:.3f}"

    rows = []
    for name, image, near, alike in zip(names, queries, index, cosine):
        tiles = [Tile(image, short_name(name))]
        for row, value in zip(near, alike):
            tiles.append(Tile(found.get(int(row)), caption(row, value)))
        rows.append(tiles[:13])  # as many as can be seen
    title = f"the nearest of {len(collection):,} images, with their cosine"
    heads = ["query", *map(str, range(1, len(rows[0])))]
    return draw_sheet(rows, title, heads, is_first_apart=True)


def _rows(collection, names, index, cosine) -> Iterator[dict]:
    embeddings = collection.embeddings
    for name, near, alike in zip(names, index, cosine):
        for rank, (row, value) in enumerate(zip(near, alike), 1):
            label = embeddings.labels[row]
            yield {
                "query": name,
                "rank": rank,
                "name": embeddings.names[row],
                "cosine": f"{value:.6f}",
                "label": embeddings.class_names[label] if label >= 0 else "",
            }
