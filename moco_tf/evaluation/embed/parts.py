"""Finished parts of an embedding, so that the same command goes on after a stop."""

from __future__ import annotations

import io
import json
import logging
import pathlib
import time
from collections.abc import Iterator

import numpy as np

from moco_tf.evaluation.features import Features
from moco_tf.paths import remove

log = logging.getLogger("moco_tf")

# A part is kept after so many rows or seconds, whichever comes first.
_ROWS, _SECONDS = 4096, 30.0


class Parts:
    """Features that are kept, a part at a time, in a hidden folder beside a file.

    Args:
        out: the file that will be made of them.
        digest: of all that decides them; parts of another one are taken away.
    """

    def __init__(self, out: pathlib.Path, digest: str):
        self.folder = out.with_name(f".{out.name}.parts")
        note = self.folder / "made_of.json"
        try:
            same = json.loads(note.read_text()) == digest
        except (OSError, ValueError):
            same = False
        if self.folder.is_dir() and not same:
            log.info(
                "What was begun for %s is of another encoder or other images, and is "
                "left aside.",
                out.name,
            )
            remove(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if not same:
            note.write_text(json.dumps(digest))
        self._pending: list[Features] = []
        self._kept_at = time.monotonic()
        self._files: list[pathlib.Path] = []
        self.rows = 0  # that are kept, from the first on
        for file in sorted(self.folder.glob("*.npz")):
            if int(file.stem) == self.rows:
                self._files.append(file)
                with file.open("rb") as held, np.load(held) as arrays:
                    self.rows += len(arrays["labels"])

    def add(self, features: Features) -> None:
        """Takes the next rows; those of a part are then kept."""
        self._pending.append(features)
        waiting = sum(map(len, self._pending))
        if waiting >= _ROWS or time.monotonic() - self._kept_at > _SECONDS:
            self.keep()

    def keep(self) -> None:
        """Keeps what was taken, as a part."""
        if not self._pending:
            return
        held = io.BytesIO()
        labels = np.concatenate([part.labels for part in self._pending])
        features = np.concatenate([part.features for part in self._pending])
        np.savez(held, features=features, labels=labels)
        file = self.folder / f"{self.rows:012d}.npz"
        passing = self.folder / ".passing"
        passing.write_bytes(held.getvalue())
        passing.replace(file)
        self._files.append(file)
        self.rows += len(features)
        self._pending.clear()
        self._kept_at = time.monotonic()

    def __iter__(self) -> Iterator[Features]:
        """The parts that are kept, from the first on."""
        return map(_read, self._files)

    def remove(self) -> None:
        """Takes them away."""
        remove(self.folder)


def _read(file):
    with file.open("rb") as held, np.load(held, allow_pickle=False) as arrays:
        labels = arrays["labels"]
        return Features(arrays["features"], labels, np.arange(len(labels)))
