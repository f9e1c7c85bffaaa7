"""`evaluate.py duplicates`: groups of exact and near copies, which nothing deletes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from moco_tf.data.copies import exact_copies
from moco_tf.data.sources import DataError
from moco_tf.evaluation.duplicates.groups import groups_of
from moco_tf.evaluation.duplicates.settings import Duplicates
from moco_tf.evaluation.duplicates.threshold import FAR, Standing, choose
from moco_tf.evaluation.embed.collection import Collection, conclude, open_collection
from moco_tf.evaluation.given import Given
from moco_tf.evaluation.search.approximate import require_index
from moco_tf.evaluation.search.nearest import nearest_others
from moco_tf.interchange import Pretrained
from moco_tf.report.sheet import Tile, draw_sheet, short_name

_ACROSS = 8
_COLUMNS = ("group", "name", "what", "cosine", "bytes")


@dataclass(frozen=True)
class Group:
    """Images that are copies of one another.

    Attributes:
        rows: int, the first is the one to keep: the largest file.
        is_exact: whether each has the same bytes as an earlier one.
        cosine: of each with the first.
    """

    rows: np.ndarray
    is_exact: np.ndarray
    cosine: np.ndarray


def run(settings: Duplicates, given: Given, pretrained: Pretrained | None) -> dict:
    """Finds groups of copies, and writes report/duplicates[_on_IMAGES].

    Args:
        settings: the threshold, where to.
        given: what was typed.
        pretrained: the encoder; None where only files were given.

    Returns:
        What results.json holds.

    Raises:
        ConfigError: no faiss where it is asked for, or nowhere to write.
        DataError: images or files cannot be had, or there is but one image.
    """
    require_index(settings.index)
    collection = open_collection("duplicates", settings, given, pretrained)
    count = len(collection)
    if count < 2:
        raise DataError("one image alone has no duplicates; name more.")
    files = collection.pictures.files()
    number = exact_copies(files)
    near, cosine = nearest_others(
        collection.embeddings,
        min(FAR, count - 1),
        None,
        "comparing images",
        settings.index,
    )
    one = np.repeat(np.arange(count), near.shape[1])
    other, alike = near.ravel(), cosine.ravel()
    standing = None
    if settings.threshold is not None:
        is_pair = alike >= settings.threshold
    elif (standing := choose(cosine)) is not None:
        is_pair = standing.is_pair(one, other, alike)
    else:
        is_pair = np.zeros(len(alike), bool)
    is_exact = number != np.arange(count)
    firsts = np.concatenate([one[is_pair], np.flatnonzero(is_exact)])
    seconds = np.concatenate([other[is_pair], number[is_exact]])
    sizes = np.array([file[1] if file else -1 for file in files])
    groups = [
        _group(members, number, sizes, collection)
        for members in groups_of(count, firsts, seconds)
    ]
    explained = _explained(settings, standing, alike[is_pair])
    removable = sum(len(group.rows) - 1 for group in groups)
    exact = sum(int(group.is_exact.sum()) for group in groups)
    text = f"{explained}\n\n{_counted(groups, removable, exact, collection)}"
    facts = {
        "groups": len(groups),
        "removable": removable,
        "exact": exact,
        "threshold": settings.threshold,
        "standing": standing and {
            "ratio": standing.ratio, "far": standing.far,
            "dimension": standing.dimension,
        },
        "least_cosine": float(alike[is_pair].min()) if is_pair.any() else None,
        "explained": explained,
    }  # fmt: skip
    pictures = {}
    if groups:
        pictures["duplicates"] = _draw(groups[: settings.shown], collection)
    return conclude(
        "duplicates",
        collection,
        settings,
        facts,
        _rows(groups, collection, sizes),
        pictures,
        text,
        header=_COLUMNS,
    )


def _group(members, number, sizes, collection) -> Group:
    # The largest file is the one that lost least; of equals, the first by name.
    rows = members[np.argsort(-sizes[members], kind="stable")]
    seen: set[int] = set()
    is_exact = []
    for row in rows:
        is_exact.append(number[row] in seen)
        seen.add(number[row])
    unit = collection.embeddings.unit(rows)
    return Group(rows, np.array(is_exact), unit @ unit[0])


def _explained(
    settings: Duplicates, standing: Standing | None, cosines: np.ndarray
) -> str:
    """How it was decided, in words."""
    if settings.threshold is not None:
        return f"Near-duplicates have a cosine of {settings.threshold:g} or more."
    if standing is None:
        return (
            "There are too few images, or too many are alike, to choose a threshold "
            "from: only exact copies are told; --threshold=0.95 or so tells near ones."
        )
    far = standing.far
    text = (
        f"Two images are near-duplicates where they are at most {standing.ratio:.2f} "
        f"times as far from each other as either is from its {far}th nearest image: "
        "neighbours here become more with distance as in "
        f"{standing.dimension:.1f} dimensions, in which less than one image of such a "
        "set would have a neighbour as near by chance."
    )
    if len(cosines):
        text += f" The pairs have cosines of {cosines.min():.3f} and more."
    return f"{text} --threshold=COSINE decides otherwise."


def _counted(groups, removable, exact, collection) -> str:
    if not groups:
        return f"None of {len(collection):,} images has a duplicate."
    near = removable - exact
    parts = [f"{exact:,} exact {'copy' if exact == 1 else 'copies'}"] * (exact > 0)
    parts += [f"{near:,} near {'copy' if near == 1 else 'copies'}, to be looked at"] * (
        near > 0
    )
    return (
        f"{removable:,} of {len(collection):,} images could be removed, which leaves "
        f"one of each of {len(groups):,} groups: {' and '.join(parts)}. Nothing was "
        "deleted."
    )


def _rows(groups: Sequence[Group], collection: Collection, sizes) -> Iterator[dict]:
    for place, group in enumerate(groups, 1):
        for index, row in enumerate(group.rows):
            what = "exact copy" if group.is_exact[index] else "near copy"
            size = "" if sizes[row] < 0 else int(sizes[row])
            yield dict(
                zip(
                    _COLUMNS,
                    (place, collection.embeddings.names[row],
                     what if index else "first", f"{group.cosine[index]:.6f}", size),
                )
            )  # fmt: skip


def _draw(groups: Sequence[Group], collection: Collection):
    shown = [group.rows[:_ACROSS] for group in groups]
    found = collection.pictures.load(np.concatenate(shown))
    rows: list[list[Tile | None]] = []
    for group in groups:
        tiles: list[Tile | None] = []
        for index, row in enumerate(group.rows[:_ACROSS]):
            what = "exact copy" if group.is_exact[index] else "near"
            told = f"{what} {group.cosine[index]:.3f}" if index else "first"
            more = len(group.rows) - _ACROSS
            if index == _ACROSS - 1 and more > 0:
                told = f"and {more:,} more"
            name = short_name(collection.embeddings.names[row])
            tiles.append(Tile(found.get(int(row)), f"{name}\n{told}"))
        # Several small groups share a row, a place apart.
        if rows and len(rows[-1]) + 1 + len(tiles) <= _ACROSS:
            rows[-1] += [None, *tiles]
        else:
            rows.append(tiles)
    title = f"{len(groups)} groups of copies, with their cosine to the first"
    return draw_sheet(rows, title)
