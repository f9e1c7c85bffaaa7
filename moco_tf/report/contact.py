"""A contact sheet: some images of a folder, each with its name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from moco_tf.report import look

_SIDE, _STEP, _ROW = 1.15, 1.3, 1.45  # inches
_LETTERS = 20


@look.literal
def contact_sheet(
    images: Sequence[np.ndarray],
    names: Sequence[str],
    out_path: str | os.PathLike,
    title: str,
    below: str,
    columns: int = 8,
) -> Path:
    """Draws images of any shape in rows, in squares of one size.

    Args:
        images: uint8 (height, width, 3), at least one.
        names: of each, written below it.
        out_path: the PNG to write.
        title: line above.
        below: smaller line under it.
        columns: images in a row.

    Returns:
        `out_path`, as a `Path`.
    """
    rows = -(-len(images) // columns)
    width, height = _STEP * columns + 0.2, _ROW * rows + 0.7
    figure = Figure(figsize=(width, height), facecolor="white")
    # One pair of axes in inches: fifty of their own would take seconds.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    axes.text(0.15, 0.2, title, fontsize=12.5, color=look.INK, va="center")
    axes.text(0.15, 0.45, below, fontsize=9, color=look.GREY, va="center")
    for number, (image, name) in enumerate(zip(images, names)):
        row, column = divmod(number, columns)
        tall, wide = (_SIDE * side / max(image.shape[:2]) for side in image.shape[:2])
        middle = 0.15 + _STEP * column + _SIDE / 2
        top = 0.7 + _ROW * row + (_SIDE - tall) / 2
        axes.imshow(
            image,
            extent=(middle - wide / 2, middle + wide / 2, top + tall, top),
            interpolation="nearest" if max(image.shape[:2]) < 64 else "antialiased",
        )
        axes.text(middle, 0.7 + _ROW * row + _SIDE + 0.12, _short(name), fontsize=7,
                  color=look.GREY, ha="center", va="center")  # fmt: skip
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    return look.save(figure, out_path)


def _short(name):
    if len(name) <= _LETTERS:
        return name
    return f"{name[: _LETTERS // 3]}...{name[-2 * _LETTERS // 3 + 3 :]}"
