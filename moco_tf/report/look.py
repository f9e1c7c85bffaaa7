"""The look that all of the project's pictures share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED = "#2166ac", "#d9730d", "#2a9d5c", "#d1495b"
COLOURS = (BLUE, ORANGE, GREEN, RED, "#7b5ea7", "#8c6d31")
INK, GREY, GRID = "#333333", "#7a7a7a", "#eeeeee"
_DPI = 150


def title(axes: Axes, text: str) -> None:
    """Writes what a panel shows, and in which unit, above its left edge."""
    axes.set_title(text, loc="left", fontsize=10.5, color=INK)


def finish(axes: Axes, grid: Literal["both", "x", "y"] = "y") -> None:
    """Takes away what does not carry data; `grid` is the axis with faint lines."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#bbbbbb")
    axes.tick_params(colors=GREY, labelsize=8.5, length=3)
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def save(figure: Figure, path: str | os.PathLike) -> Path:
    """Writes a PNG, making its folder, and returns its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)
    return path
