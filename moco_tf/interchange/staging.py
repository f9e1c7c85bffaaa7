"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from moco_tf.interchange.errors import InterchangeError
from moco_tf.mistakes import require_plain
from moco_tf.paths import copy, is_remote, to_path


def check_replaceable(path: str | os.PathLike, folder: bool) -> None:
    """Raises InterchangeError where writing `path` would destroy something else.

    Args:
        path: the file or folder to make.
        folder: whether it is a folder, which replaces an empty one or a SavedModel of
            this project only; a file replaces any file.
    """
    path = to_path(path)
    require_plain(path, "the target", InterchangeError)
    if not folder and path.is_dir():
        raise InterchangeError(f"{path} is a folder; name a file to write instead.")
    if folder and _is_taken(path) and not path.is_dir():
        raise InterchangeError(
            f"{path} is a file, and a folder is to be written; give a path that does "
            "not exist yet."
        )
    if folder and path.is_dir() and any(path.iterdir()) and not _is_own(path):
        raise InterchangeError(
            f"{path} is a folder of other things, no SavedModel that this project "
            "wrote, and would be replaced; give a path that does not exist yet."
        )


@contextlib.contextmanager
def replacing(path: str | os.PathLike, folder: bool) -> Iterator[Path]:
    """Gives a path to write to; what is there takes `path`'s place at the end.

    An error in the body leaves `path` as it was, and nothing beside it. Only a file or
    an earlier SavedModel is replaced; results of evaluate.py in the latter's report
    folder stay, as they do in a run directory (each names the weights it is of).

    Args:
        path: the file or folder to make; its parents are made as well.
        folder: which of the two it is.

    Yields:
        A path of the same name in a new folder on the same disk, or on this machine
        where the target is on another.

    Raises:
        InterchangeError: if `path` is something else or cannot be written.
    """
    path = to_path(path)
    check_replaceable(path, folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = None if is_remote(path) else path.parent
        staging = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=beside))
    except OSError as error:
        raise InterchangeError(
            f"{path} cannot be written ({(error.strerror or 'no access').lower()}); "
            "give another path."
        ) from error
    old = staging / "old"
    try:
        (staging / "new").mkdir()
        new = staging / "new" / path.name
        yield new
        if is_remote(path):  # nothing moves there, so it is made here and copied
            copy(new, path)
            return
        report = path / "report"
        if report.is_dir():
            shutil.copytree(report, new / "report")
        if path.is_dir():  # which nothing replaces in one step
            path.rename(old)
        new.replace(path)
    finally:
        # The old one is let go only when something stands in its place.
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(staging, ignore_errors=True)


def _is_taken(path: Path) -> bool:
    return path.exists() if is_remote(path) else os.path.lexists(path)


def _is_own(path: Path) -> bool:
    return (path / "saved_model.pb").is_file() and (
        path / "assets.extra" / "encoder.json"
    ).is_file()
