"""Tables of numbers as maps: what is taken for what, and which setting gives what."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from moco_tf.report import look

_NAMED_CLASSES = 30  # more names than this cannot be read


@look.literal
def confusion_matrix(
    counts: np.ndarray, class_names: Sequence[str], title: str
) -> Figure:
    """Draws which classes are taken for which.

    Args:
        counts: int (classes, classes), rows by label, columns by prediction.
        class_names: a name per class, written where they are few enough.
        title: line above.

    Returns:
        The picture; each row is shown as shares of its label.
    """
    classes = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 5.0 + 0.22 * min(classes, _NAMED_CLASSES)
    figure = Figure(figsize=(side, side), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    look.title(axes, title)
    axes.set_xlabel("predicted", fontsize=9, color=look.GREY)
    axes.set_ylabel("label, with its accuracy", fontsize=9, color=look.GREY)
    axes.tick_params(colors=look.GREY, labelsize=8.5, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if classes > _NAMED_CLASSES:
        axes.set_xlabel(f"predicted, {classes} classes in their order", fontsize=9)
        axes.set_ylabel("label", fontsize=9)
        return figure
    rows = [f"{n}  {100 * shares[i, i]:.0f} %" for i, n in enumerate(class_names)]
    axes.set_xticks(range(classes), class_names, rotation=90)
    axes.set_yticks(range(classes), rows)
    texts = [[f"{100 * share:.0f}" for share in row] for row in shares]
    _number(axes, shares, texts, shares >= 0.005, 7.5)
    return figure


@look.literal
def heat_map(
    values: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str,
    labels: tuple[str, str],
) -> Figure:  # fmt: skip
    """Draws accuracies on a grid of settings, each with its number.

    Args:
        values: float (rows, columns), 0 to 1; the greatest is marked.
        rows: a name per row.
        columns: a name per column.
        title: line above.
        labels: what rows and columns are.
    """
    size = (2.2 + 0.9 * len(columns), 1.6 + 0.5 * len(rows))
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    low, high = np.min(values), np.max(values)
    axes.imshow(values, cmap="Blues", aspect="auto", interpolation="nearest")
    look.title(axes, title)
    axes.set_ylabel(labels[0], fontsize=9, color=look.GREY)
    axes.set_xlabel(labels[1], fontsize=9, color=look.GREY)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(colors=look.GREY, labelsize=8.5, length=0)
    texts = [[f"{100 * value:.1f}" for value in row] for row in values]
    row, column = divmod(int(np.argmax(values)), len(columns))
    texts[row][column] += " best"
    shares = (values - low) / max(high - low, 1e-9)
    _number(axes, shares, texts, np.ones_like(shares, bool), 8.5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def _number(axes, shares, texts, shown, size):
    """Writes a text into each cell of a map in blues, in a colour that can be read."""
    blues = matplotlib.colormaps["Blues"]
    for row, column in np.argwhere(shown):
        colour = look.ink_on(blues(float(shares[row, column])))
        axes.text(column, row, texts[row][column], color=colour, fontsize=size,
                  ha="center", va="center")  # fmt: skip
