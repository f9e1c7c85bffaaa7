"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from moco_tf.interchange.errors import InterchangeError


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a path to write to; what is there takes `path`'s place at the end.

    An error in the body leaves `path` as it was, and nothing beside it. Only a file or
    an earlier SavedModel is replaced; results of evaluate.py in the latter's report
    folder stay, as they do in a run directory (each names the weights it is of).

    Args:
        path: the file or folder to make; its parents are made as well.

    Yields:
        A path of the same name in a new folder on the same disk.

    Raises:
        InterchangeError: if `path` is a folder of something else or cannot be written.
    """
    path = Path(path)
    if path.is_dir() and any(path.iterdir()) and not _is_saved_model(path):
        raise InterchangeError(
            f"{path} is a folder of other things, which would be replaced; give a path "
            "that does not exist yet."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise InterchangeError(
            f"{path} cannot be written ({(error.strerror or 'no access').lower()}); "
            "give another path."
        ) from error
    try:
        (staging / "new").mkdir()
        new = staging / "new" / path.name
        yield new
        report = path / "report"
        if report.is_dir() and new.is_dir():
            shutil.copytree(report, new / "report")
        if path.exists():
            path.rename(staging / "old")
        new.rename(path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _is_saved_model(path: Path) -> bool:
    return (path / "saved_model.pb").is_file()
