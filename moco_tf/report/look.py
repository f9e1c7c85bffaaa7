"""The look that all of the project's pictures share."""

from __future__ import annotations

import functools
import io
import itertools
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Callable, Literal, TypeVar, Union, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from moco_tf.paths import to_path
from moco_tf.report.letters import make_legible

log = logging.getLogger("moco_tf")

# Each can be read on white: a contrast of 4.5 to 1 and more.
BLUE, ORANGE, GREEN, RED = "#2166ac", "#b3560a", "#1e7d47", "#c2334d"
COLOURS = (BLUE, ORANGE, GREEN, RED, "#7b5ea7", "#7d5f14", "#00767f", "#a8327f",
           "#4d6b1f", "#5f5f5f")  # fmt: skip
INK, GREY, GRID = "#333333", "#666666", "#eeeeee"
_DPI = 150

Colour = Union[str, tuple[float, float, float], tuple[float, float, float, float]]


Draws = TypeVar("Draws", bound=Callable)


def literal(draw: Draws) -> Draws:
    """Around all drawing and saving: a $ in a name is a $, and begins no formula."""

    @functools.wraps(draw)
    def drawn(*args, **kwargs):
        with matplotlib.rc_context({"text.parse_math": False}):
            return draw(*args, **kwargs)

    return cast(Draws, drawn)


def title(axes: Axes, text: str) -> None:
    """Writes what a panel shows, and in which unit, above its left edge."""
    axes.set_title(text, loc="left", fontsize=10.5, color=INK)


def headline(figure: Figure, text: str, below: str = "") -> None:
    """Writes what a picture shows at its top left, and in small what of.

    Args:
        figure: with layout="constrained".
        text: the headline.
        below: data, number of seeds and the like.
    """
    lines = f"{text}\n" + (f"{below}\n" if below else "")
    # An unseen title makes the room; the texts have sizes and colours of their own.
    figure.suptitle(lines, fontsize=8, linespacing=1.35, alpha=0)
    inch = 1 / figure.get_figheight()
    figure.text(0.1 / figure.get_figwidth(), 1 - 0.1 * inch, text, fontsize=12.5,
                color=INK, va="top")  # fmt: skip
    figure.text(0.1 / figure.get_figwidth(), 1 - 0.36 * inch, below, fontsize=9,
                color=GREY, va="top")  # fmt: skip


def colours(count: int) -> list[str]:
    """A colour for each of several series, no two alike as long as there are ten."""
    return list(itertools.islice(itertools.cycle(COLOURS), count))


def contrast(one: Colour, other: Colour) -> float:
    """How well one colour can be read on another, 1 to 21 (WCAG 2)."""
    low, high = sorted(map(_luminance, (to_rgb(one), to_rgb(other))))
    return (high + 0.05) / (low + 0.05)


def ink_on(ground: Colour) -> str:
    """White or black, whichever can be read better on a colour."""
    return max(("white", "black"), key=lambda ink: contrast(ink, ground))


def _luminance(rgb):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return np.dot(linear, (0.2126, 0.7152, 0.0722))


def finish(axes: Axes, grid: Literal["both", "x", "y"] = "y") -> None:
    """Takes away what does not carry data; `grid` is the axis with faint lines."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#bbbbbb")
    axes.tick_params(colors=GREY, labelsize=8.5, length=3)
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def whole_ticks(axes: Axes, first: float, last: float) -> None:
    """Whole numbers along the abscissa, the last one among them."""
    ticks = MaxNLocator(integer=True, nbins=8).tick_values(first, last)
    step = ticks[1] - ticks[0]
    inside = [tick for tick in ticks if first <= tick <= last - 0.6 * step]
    axes.set_xticks(sorted({*inside, last}))


def apart(places: Sequence[float], gaps: Sequence[float]) -> list[float]:
    """Places as near as can be to those wanted, and far enough from each other.

    Args:
        places: wanted, rising.
        gaps: least distance between each of them and the next, one fewer.
    """
    offsets = np.concatenate([[0.0], np.cumsum(gaps)])
    # Without their gaps they may touch but not cross: means of blocks (isotonic fit).
    blocks: list[list[float]] = []
    for wanted in np.asarray(places, float) - offsets:
        blocks.append([wanted])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    settled = [np.mean(block) for block in blocks for _ in block]
    return [float(place) for place in settled + offsets]


def save(figure: Figure, path: str | os.PathLike) -> Path:
    """Writes a PNG, making its folder, and returns its path."""
    path = to_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if legend := make_legible(figure):
        log.warning(
            "No font here has the letters of some names in %s, where %s; install one "
            "of their script, such as Noto Sans CJK for Chinese.",
            path.name,
            ", ".join(f"{number} stands for {word}" for number, word in legend.items()),
        )
    drawn = io.BytesIO()
    literal(figure.savefig)(drawn, format="png", dpi=_DPI)
    path.write_bytes(drawn.getvalue())
    return path


def pixels(figure: Figure, dpi: int = 100) -> np.ndarray:
    """A figure as uint8 (height, width, 3), for TensorBoard."""
    make_legible(figure)
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    literal(canvas.draw)()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
