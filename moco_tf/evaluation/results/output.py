"""What a protocol leaves: a results folder and a table in the terminal."""

from __future__ import annotations

import csv
import dataclasses
import errno
import io
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from moco_tf.config import ConfigError
from moco_tf.config.reader import plain
from moco_tf.evaluation.results.typed import command_of
from moco_tf.interchange import Pretrained
from moco_tf.interchange.card import refresh_card
from moco_tf.log import say
from moco_tf.paths import copy, is_remote, to_path
from moco_tf.report import look

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def results_folder(
    default: pathlib.Path, out: str | None, key: str = "out"
) -> pathlib.Path:
    """Where a command's results go, checked to be writable before work starts.

    Args:
        default: the folder where the user names none.
        out: the user's own folder, or None.
        key: of the setting to change, for the sentence.

    Raises:
        ConfigError: the folder cannot be made or written to.
    """
    folder = to_path(out) if out else default
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if is_remote(folder):
            folder.mkdir(parents=True, exist_ok=True)
            return folder
        if os.path.lexists(folder) and not folder.is_dir():
            raise FileExistsError(errno.EEXIST, "a file of that name exists")
        # Files are made beside the folder and moved into it.
        for place in {folder.parent, folder if folder.is_dir() else folder.parent}:
            with tempfile.TemporaryDirectory(prefix=".results-", dir=place):
                pass
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written ({(error.strerror or 'no access').lower()}); "
            f"choose another folder with --{key}=PATH."
        ) from None
    return folder


def of_images(base: pathlib.Path, images: str, own: str | None) -> pathlib.Path:
    """The folder of results on some images, which keep out of those on others.

    Args:
        base: the folder of the run's own images.
        images: what the images are called.
        own: what the run's own are called; None for a SavedModel, whose own are those
            that it was judged on first.

    Returns:
        `base`, or BASE_on_IMAGES.
    """
    own = own or _judged_on(base) or images
    if images == own:
        return base
    return base.with_name(f"{base.name}_on_{plain_name(images)}")


def plain_name(text: str) -> str:
    """Of letters and digits that every file system takes."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text)


def _judged_on(folder):
    """What the images of earlier results are called, where they say so."""
    try:
        return json.loads((folder / "results.json").read_text()).get("data_set")
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class Outcome:
    """What a protocol found.

    Attributes:
        figures: the figures that `compare` shows, name -> share from 0 to 1.
        facts: whatever else results.json should hold, JSON-serialisable.
        rows: of results.csv, at least one, all with the same keys.
        pictures: name of a PNG without suffix -> picture.
        table: what the terminal shows.
        warning: a sentence where the figures should not be taken at face value.
        tests: a row for each test set, where there are several: "test_set", "images"
            and shares by name.
    """

    figures: Mapping[str, float]
    facts: Mapping[str, object]
    rows: Sequence[Mapping[str, object]]
    pictures: Mapping[str, Figure]
    table: str
    warning: str | None = None
    tests: Sequence[Mapping[str, Any]] = ()


def conclude(
    protocol: str,
    outcome: Outcome,
    folder: pathlib.Path,
    settings: DataclassInstance,
    pretrained: Pretrained,
) -> dict:
    """Writes a protocol's results and prints its table.

    Args:
        protocol: its name.
        outcome: what it found.
        folder: where results.json, results.csv and pictures go.
        settings: the protocol's settings, a dataclass.
        pretrained: what was judged.

    Returns:
        What results.json holds.
    """
    document = {
        "protocol": protocol,
        "command": command_of(protocol, settings, pretrained.path),
        "figures": outcome.figures,
        "warning": outcome.warning,
        **outcome.facts,
        **({"tests": list(outcome.tests)} if outcome.tests else {}),
        "encoder": {
            **pretrained.provenance,
            "weights": pretrained.digest,
            "architecture": pretrained.architecture,
        },
        "settings": plain(dataclasses.asdict(settings)),
    }
    texts = {"tests.csv": _csv_text(outcome.tests)} if outcome.tests else {}
    write_results(folder, document, outcome.rows, outcome.pictures, texts)
    refresh_card(pretrained.path)
    say(f"\n{outcome.table}")
    if outcome.tests:
        say(f"\n{_table_of_tests(outcome.tests)}")
    if outcome.warning:
        say(f"\n{outcome.warning}")
    print(f"\nWritten to {folder}.")
    return document


def _csv_text(rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _table_of_tests(rows):
    names = [name for name in rows[0] if name not in ("test_set", "images")]
    cells = [
        [row["test_set"], f"{row['images']:,}", *(percent(row[name]) for name in names)]
        for row in rows
    ]
    return text_table(["test set", "images", *names], cells)


def write_results(
    folder: pathlib.Path,
    document: Mapping[str, object],
    rows: Iterable[Mapping[str, object]],
    pictures: Mapping[str, Figure],
    texts: Mapping[str, str] | None = None,
    header: Sequence[str] = (),
) -> None:
    """Writes results.json, results.csv and pictures, each whole or not at all.

    Earlier results are replaced file by file, results.json last; other files stay.

    Args:
        folder: where they go.
        document: of results.json.
        rows: of results.csv, all with the same keys.
        pictures: name of a PNG without suffix -> picture.
        texts: name of another file -> what it holds.
        header: the keys, where there may be no rows.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = None if is_remote(folder) else folder.parent
    staging = pathlib.Path(tempfile.mkdtemp(prefix=".results-", dir=beside))
    try:
        for name, picture in pictures.items():
            look.save(picture, staging / f"{name}.png")
        with open(staging / "results.csv", "w", newline="", encoding="utf-8") as file:
            rows = iter(rows)
            first = next(rows, None)
            writer = csv.DictWriter(file, list(first or header))
            writer.writeheader()
            writer.writerows([first] if first else [])
            writer.writerows(rows)
        for name, held in (texts or {}).items():
            # As it is: a CSV file's lines end as csv writes them.
            (staging / name).write_bytes(held.encode())
        text = json.dumps(document, indent=2, default=str) + "\n"
        (staging / "results.json").write_text(text)
        folder.mkdir(exist_ok=True)
        for path in sorted(staging.iterdir(), key=lambda path: path.suffix == ".json"):
            if is_remote(folder):
                copy(path, folder / path.name)
            else:
                os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def text_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int = 80
) -> str:
    """Columns of text, the first one left-aligned, the others right-aligned.

    Args:
        header: a head for each column.
        rows: their cells.
        width: a wider table becomes several, one below the other, each of which begins
            with the first column.
    """
    columns = [
        _aligned(cells, left=not number)
        for number, cells in enumerate(zip(header, *rows))
    ]
    first, *others = columns
    tables, shown = [], [first]
    for column in others:
        if len(shown) > 1 and 2 + _width([*shown, column]) > width:
            tables.append(shown)
            shown = [first]
        shown.append(column)
    return "\n\n".join(map(_table, [*tables, shown]))


def _aligned(cells, left):
    width = max(map(len, cells))
    return [cell.ljust(width) if left else cell.rjust(width) for cell in cells]


def _width(columns):
    return sum(len(column[0]) + 2 for column in columns) - 2


def _table(columns):
    head, *rows = ("  ".join(cells).rstrip() for cells in zip(*columns))
    return "\n".join(f"  {line}" for line in (head, "-" * _width(columns), *rows))


def summary(shares: Sequence[float]) -> dict[str, float | int | None]:
    """Count, mean and sample standard deviation of the figure of several runs.

    Args:
        shares: 0 to 1; of none the mean is None, of one the deviation.
    """
    return {
        "count": len(shares),
        "mean": float(np.mean(shares)) if shares else None,
        "std": float(np.std(shares, ddof=1)) if len(shares) > 1 else None,
    }


def mean_and_spread(shares: Sequence[float]) -> str:
    """The same as text, in %: 67.5 ± 0.1."""
    found = summary(shares)
    if found["mean"] is None:
        return "-"
    text = f"{100 * found['mean']:.1f}"
    return text if found["std"] is None else f"{text} ± {100 * found['std']:.1f}"


def percent(share: float | None) -> str:
    """A share as text, with one decimal."""
    return "-" if share is None else f"{100 * share:.1f} %"
