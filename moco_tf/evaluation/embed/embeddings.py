"""Features of images with their names: on disk, and read a part at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Rows:
    """Some rows of embeddings.

    Attributes:
        names: of the images.
        labels: int64 (rows,); -1 where an image has none.
        features: float32 (rows, dim), not normalised.
    """

    names: Sequence[str]
    labels: np.ndarray
    features: np.ndarray


@dataclass(frozen=True)
class Origin:
    """Where some rows of embeddings come from.

    Attributes:
        count: rows.
        about: what `evaluate.py embed` noted of encoder and images; empty where the
            file has no such note.
    """

    count: int
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Embeddings(Rows):
    """Features of a whole set, of one file or several, on disk rather than in memory.

    Attributes:
        class_names: a name for each label.
        origins: of the rows, file by file.
    """

    class_names: tuple[str, ...] = ()
    origins: tuple[Origin, ...] = ()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.features)

    def unit(self, rows: slice | np.ndarray) -> np.ndarray:
        """Some rows divided by their lengths, float32 (rows, dim)."""
        return unit_rows(self.features[rows])

    def blocks(self, rows: int = 2**14) -> Iterator[tuple[slice, np.ndarray]]:
        """All rows, divided by their lengths, so many at a time, and where they are."""
        for start in range(0, len(self), rows):
            place = slice(start, min(start + rows, len(self)))
            yield place, self.unit(place)


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Rows divided by their lengths, float32; one of zeros stays."""
    features = np.asarray(features, np.float32)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(lengths, 1e-12)
