"""A text or CSV file that names images, their labels and their groups."""

from __future__ import annotations

import csv
import dataclasses
import os
import pathlib

import numpy as np

from moco_tf.data.sources.formats import EXTRA, is_readable
from moco_tf.data.sources.listing import Listing, file_state, listed, suffix
from moco_tf.data.sources.source import DataError
from moco_tf.lanes import install
from moco_tf.paths import is_remote

# Of a header, and without one the order of the first three.
_COLUMNS = ("path", "label", "group", "split")
_NAMED = 10


def read_manifest(path: pathlib.Path, split: str | None) -> Listing:
    """Reads a manifest: an image a line, `path[,label][,group]`.

    A first line that has the word path in a cell says which columns there are, in any
    order: path, label, group and split; others are not read. Relative paths begin
    where the manifest lies. Cells are separated by commas, or by tabs; those that hold
    a comma stand in double quotes.

    Args:
        path: the file.
        split: which images, where it has a column of that name; else "train" are all.
            None takes all.

    Returns:
        The images in alphabetical order of their paths, without doubles.

    Raises:
        DataError: it is no such file, images are missing, a split is not in it, or an
            extra that reads them is not installed.
    """
    rows = _of_split(_rows(path), path, split)
    if not rows:
        raise DataError(f"{path} names no image; give a path in each line.")
    root = path.resolve().parent
    found, about, missing = [], {}, []
    for row in rows:
        place = os.path.join(root, os.path.expanduser(row["path"]))
        name = os.path.relpath(place, root)
        if name in about:
            continue
        about[name] = row
        if (state := file_state(place)) is None:
            missing.append(row["path"])
        else:
            found.append((name, state.st_size, state.st_mtime_ns))
    if missing:
        more = len(missing) - _NAMED
        raise DataError(
            f"{len(missing)} of the {len(about)} images of {path} are missing: "
            f"{', '.join(missing[:_NAMED])}{f' and {more} more' if more > 0 else ''}; "
            f"relative paths begin in {root}."
        )
    absent = [name for name in about if not is_readable(suffix(name))]
    if absent:
        raise DataError(
            f"{len(absent)} of the {len(about)} images of {path}, such as {absent[0]}, "
            f"need the extra {EXTRA!r}: `{install(EXTRA)}`."
        )
    listing = listed(root, found, str(path.resolve()))
    labels, groups = (
        [about[name][column] for name in listing.paths] for column in _COLUMNS[1:3]
    )
    return dataclasses.replace(
        listing, classes=labels, groups=groups if any(groups) else None
    )


def is_divided(path: pathlib.Path) -> bool:
    """Whether a manifest says of its images which split they are of."""
    return any(row["split"] for row in _rows(path))


def _rows(path):
    """The lines as dicts of all columns, "" where a cell is not there."""
    if is_remote(path):
        raise DataError(f"{path} is not on this machine, as a manifest must be.")
    with open(path, "rb") as file:
        start = file.read(4096)
    if b"\0" in start or start.startswith(b"\xff\xd8"):
        raise DataError(
            f"data_dir={str(path)!r} is neither a folder nor a text file of the paths "
            "of images; name one of these."
        )
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        first = file.readline()
        file.seek(0)
        tabs = "\t" in first and "," not in first
        reader = csv.reader(file, delimiter="\t" if tabs else ",")
        try:
            lines = [(reader.line_num, line) for line in reader if any(line)]
        except csv.Error as error:
            raise DataError(
                f"{path} is no manifest (line {reader.line_num}: {error}); give a path "
                "in each line."
            ) from None
    header = [cell.strip().lower() for cell in lines[0][1]] if lines else []
    columns = list(_COLUMNS[:3])
    if "path" in header:
        columns, lines = header, lines[1:]
    rows = []
    for number, line in lines:
        if len(line) > len(columns) or not line[columns.index("path")].strip():
            raise DataError(
                f"line {number} of {path} does not fit {','.join(columns)}; put paths "
                "that hold a comma in double quotes."
            )
        cells = dict(zip(columns, (cell.strip() for cell in line)))
        rows.append({name: cells.get(name, "") for name in _COLUMNS})
    return rows


def _of_split(rows, path, split):
    splits = sorted({row["split"] for row in rows} - {""})
    if split is None or (not splits and split == "train"):
        return rows
    chosen = [row for row in rows if row["split"] == split]
    if not chosen:
        has = f"it has {', '.join(splits)}" if splits else "give it a column split"
        raise DataError(f"split={split!r} is not in the manifest {path}; {has}.")
    return chosen


def group_numbers(groups: list[str]) -> np.ndarray:
    """A number for each group, int64 (count,); what has no group is one of its own."""
    names = {name: number for number, name in enumerate(sorted(set(groups) - {""}))}
    numbers = np.array([names.get(name, -1) for name in groups], np.int64)
    alone = numbers < 0
    numbers[alone] = len(names) + np.arange(alone.sum())
    return numbers
