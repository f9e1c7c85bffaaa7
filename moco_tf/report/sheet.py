"""Rows of small pictures with captions: neighbours, groups, the odd ones out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from moco_tf.report import look
from moco_tf.report.views import coloured

# Inches: a picture's side, and from one to the next across and down.
SIDE, _STEP, _ROW, _LINE = 0.98, 1.12, 1.25, 0.13


@dataclass(frozen=True)
class Tile:
    """A picture on a sheet.

    Attributes:
        image: uint8 (H,W,C), of any shape, shown whole; C other than 3 shows the first,
            grey; None draws an empty frame.
        caption: written below, in a line or two.
        is_right: a solid green frame for True, a dashed red one for False, else none.
    """

    image: np.ndarray | None
    caption: str
    is_right: bool | None = None


@look.literal
def draw_sheet(
    rows: Sequence[Sequence[Tile | None]],
    title: str,
    heads: Sequence[str] = (),
    legend: tuple[str, str] | None = None,
    is_first_apart: bool = False,
    below: str = "",
) -> Figure:
    """Draws rows of pictures below one another.

    Args:
        rows: of at least one row, each of at least one picture; None leaves a place
            empty.
        title: what is shown.
        heads: above the columns; may be empty.
        legend: what the green frame means, and the red one.
        is_first_apart: whether a gap sets the first column apart.
        below: a smaller line under the title.
    """
    columns = max(map(len, rows))
    gap = 0.15 if is_first_apart else 0.0
    tiles = [tile for row in rows for tile in row if tile is not None]
    lines = max(tile.caption.count("\n") for tile in tiles)
    step = _ROW + _LINE * lines
    first = 0.6 if heads or below else 0.4
    # One pair of axes in inches: a hundred of their own would take seconds.
    words = 0.4 + 0.075 * len(title) + (2.35 if legend is not None else 0.0)
    width = max(_STEP * (columns + gap + 0.05) + 0.2, words)
    height = step * len(rows) + first + 0.05
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    lefts = [0.1 + _STEP * (place + gap * (place > 0)) for place in range(columns)]
    for left, head in zip(lefts, heads):
        _write(axes, left + SIDE / 2, 0.5, head, 9)
    for number, row in enumerate(rows):
        top = first + step * number
        for left, tile in zip(lefts, row):
            if tile is not None:
                _draw(axes, left, top, tile)
    axes.text(0.1, 0.2, title, fontsize=10, color=look.INK, va="center")
    if below:
        axes.text(0.1, 0.42, below, fontsize=8, color=look.GREY, va="center")
    if legend is not None:
        for left, text in ((width - 2.35, legend[0]), (width - 1.2, legend[1])):
            _draw_frame(axes, left, 0.15, 0.14, 0.1, text == legend[0])
            axes.text(left + 0.22, 0.2, text, fontsize=9, color=look.INK,
                      va="center")  # fmt: skip
    return figure


def short_name(name: str, most: int = 17) -> str:
    """A file's path where there is room, else its name, long ones without middle."""
    if len(name) > most:
        name = os.path.basename(name)
    if len(name) <= most:
        return name
    return f"{name[: most // 2 - 1]}…{name[-(most - most // 2) :]}"


def _draw(axes, left, top, tile):
    if tile.image is None:
        axes.add_patch(
            Rectangle((left, top), SIDE, SIDE, fill=False, edgecolor=look.GREY,
                      linewidth=0.8)
        )  # fmt: skip
    else:
        sides = tile.image.shape[:2]
        tall, wide = (SIDE * side / max(sides) for side in sides)
        right, bottom = left + (SIDE + wide) / 2, top + (SIDE + tall) / 2
        axes.imshow(
            coloured(tile.image),
            extent=(right - wide, right, bottom, bottom - tall),
            interpolation="nearest" if max(sides) <= 64 else "antialiased",
            aspect="auto",
        )
    extra = 0.5 * _LINE * tile.caption.count("\n")
    _write(axes, left + SIDE / 2, top + SIDE + 0.1 + extra, tile.caption, 7)
    if tile.is_right is not None:
        _draw_frame(axes, left, top, SIDE, SIDE, tile.is_right)


def _write(axes, middle, base, text, size):
    axes.text(middle, base, text, fontsize=size, color=look.GREY, ha="center",
              va="center", linespacing=1.25)  # fmt: skip


def _draw_frame(axes, left, top, width, height, is_right):
    axes.add_patch(
        Rectangle(
            (left, top), width, height,
            fill=False,
            edgecolor=look.GREEN if is_right else look.RED,
            linewidth=2.5,
            linestyle="-" if is_right else (0, (2, 1)),
            capstyle="butt",
            joinstyle="miter",
        )
    )  # fmt: skip
