"""Settings of `evaluate.py compare` and `tables`; the docstrings are their `--help`."""

# ruff: noqa: UP045  (jsonargparse evaluates the hints; Python 3.9 cannot do X | None)
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Optional


@dataclass(frozen=True)
class Compare:
    """A table, a picture and a page of curves over runs; one run's own page anew.

    Attributes:
        out: Folder for the results (null: compare, beside the first run).
    """

    out: Optional[str] = None

    def check(self) -> None:
        """There is nothing to check."""


@dataclass(frozen=True)
class Tables:
    """Finished sweeps (train.py --sweep) beside the paper's figures.

    Attributes:
        figure: knn or linear, of the monitor's last measurement.
        out: Folder for the results (null: table, in the sweep's folder).
    """

    figure: Literal["knn", "linear"] = "linear"
    out: Optional[str] = None

    def check(self) -> None:
        """There is nothing to check."""
