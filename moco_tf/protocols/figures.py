"""Pictures of the protocols' results, in the look of the run's report."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from moco_tf.report import look

_NAMED_CLASSES = 30  # more names than this cannot be read


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
        return figure
    rows = [f"{n}  {100 * shares[i, i]:.0f} %" for i, n in enumerate(class_names)]
    axes.set_xticks(range(classes), class_names, rotation=90)
    axes.set_yticks(range(classes), rows)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            colour = "white" if share > 0.5 else look.INK
            text = f"{100 * share:.0f}"
            axes.text(column, row, text, color=colour, fontsize=7.5, ha="center",
                      va="center")  # fmt: skip
    return figure


def curves(
    times: Sequence[float],
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    x_label: str = "epoch",
) -> Figure:
    """Draws figures over epochs or steps, a panel for each scale.

    Args:
        times: the common abscissa, whole numbers.
        panels: title of a panel -> name of a line -> its values.
        x_label: what the abscissa counts.
    """
    size = (5.5 * len(panels), 3.8)
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    for axes, (title, lines) in zip(
        np.atleast_1d(figure.subplots(1, len(panels))), panels.items()
    ):
        look.title(axes, title)
        for colour, (name, values) in zip(look.COLOURS, lines.items()):
            axes.plot(times, values, color=colour, linewidth=1.8, label=name,
                      marker="o" if len(times) == 1 else None)  # fmt: skip
        axes.set_xlabel(x_label, fontsize=8.5, color=look.GREY)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.legend(frameon=False, fontsize=8.5, labelcolor=look.INK)
        look.finish(axes)
    return figure


def heat_map(
    values: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str,
    labels: tuple[str, str],
) -> Figure:  # fmt: skip
    """Draws accuracies on a grid of settings, each with its number.

    Args:
        values: float (rows, columns), 0 to 1.
        rows: a name per row.
        columns: a name per column.
        title: line above.
        labels: what rows and columns are.
    """
    size = (2.2 + 0.9 * len(columns), 1.6 + 0.5 * len(rows))
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(values, cmap="Blues", aspect="auto", interpolation="nearest")
    look.title(axes, title)
    axes.set_ylabel(labels[0], fontsize=9, color=look.GREY)
    axes.set_xlabel(labels[1], fontsize=9, color=look.GREY)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(colors=look.GREY, labelsize=8.5, length=0)
    middle = (np.min(values) + np.max(values)) / 2
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value > middle else look.INK
        axes.text(column, row, f"{100 * value:.1f}", color=colour, fontsize=8.5,
                  ha="center", va="center")  # fmt: skip
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def grouped_points(
    title: str, groups: Sequence[str], series: Mapping[str, Sequence[Sequence[float]]]
) -> Figure:
    """Draws each measured value as a point and each mean as a bar, by group.

    Args:
        title: line above.
        groups: names along the abscissa.
        series: name of a figure -> for each group the values of its runs, 0 to 1.
    """
    size = (2.5 + 0.55 * len(groups) * len(series) + 0.8 * len(groups), 4.2)
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(series)
    for number, (name, values) in enumerate(series.items()):
        colour = look.COLOURS[number % len(look.COLOURS)]
        place = np.arange(len(groups)) + (number - (len(series) - 1) / 2) * width
        filled = [i for i, of_group in enumerate(values) if len(of_group)]
        means = [100 * np.mean(values[i]) for i in filled]
        axes.bar(place[filled], means, 0.9 * width, color=colour, alpha=0.35,
                 label=name)  # fmt: skip
        for i, mean in zip(filled, means):
            shown = 100 * np.asarray(values[i])
            axes.plot([place[i]] * len(shown), shown, ".", color=colour, markersize=7)
            axes.text(place[i], max(shown) + 1, f"{mean:.1f}", color=look.INK,
                      fontsize=8, ha="center", va="bottom")  # fmt: skip
    look.title(axes, title)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.set_ylim(0, 105)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=look.INK, loc="upper left",
                bbox_to_anchor=(1.0, 1.0))  # fmt: skip
    look.finish(axes)
    return figure


def dots(
    names: Sequence[str], panels: Mapping[str, Sequence[Sequence[float]]]
) -> Figure:
    """Draws each value as a point and each mean as a stroke, a row for each name.

    Args:
        names: of the rows, from above.
        panels: title -> for each row its values.
    """
    size = (2.5 + 3.5 * len(panels), 1.2 + 0.42 * len(names))
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    columns = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for axes, (title, values), colour in zip(columns, panels.items(), look.COLOURS):
        look.title(axes, title)
        for row, shown in enumerate(values):
            if not len(shown):
                continue
            mean = np.mean(shown)
            axes.plot(shown, [row] * len(shown), ".", color=colour, alpha=0.6)
            axes.plot(mean, row, "|", color=colour, markersize=16, markeredgewidth=2)
            axes.annotate(
                f"{mean:.1f}", (mean, row), (0, 9), textcoords="offset points",
                color=look.INK, fontsize=8, ha="center",
            )  # fmt: skip
        axes.margins(x=0.15)
        axes.set_ylim(len(names) - 0.5, -0.7)
        axes.set_yticks(range(len(names)), names)
        look.finish(axes, grid="both")
    return figure


def lines(
    points: Sequence[tuple[str, float]],
    panels: Mapping[str, Sequence[Sequence[float]]],
    x_label: str,
) -> Figure:
    """Draws values over a number, a line of means for each series.

    Args:
        points: series and abscissa of each row.
        panels: title -> for each row its values; rows without any are left out.
        x_label: what the abscissa is; its axis is logarithmic if all are above 0.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    size = (1.5 + 4.5 * columns, 3.8 * rows)
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in grid[len(panels) :]:
        unused.set_visible(False)
    series = list(dict.fromkeys(name for name, _ in points))
    ticks = sorted({x for _, x in points})
    for axes, (title, values) in zip(grid, panels.items()):
        look.title(axes, title)
        for name, colour in zip(series, itertools.cycle(look.COLOURS)):
            own = sorted(
                (x, list(shown))
                for (of, x), shown in zip(points, values)
                if of == name and len(shown)
            )
            means = [np.mean(shown) for _, shown in own]
            axes.plot([x for x, _ in own], means, "o-", color=colour, label=name,
                      linewidth=1.8, markersize=5)  # fmt: skip
            for x, shown in own:
                axes.plot([x] * len(shown), shown, ".", color=colour, alpha=0.5)
        axes.set_xscale("log" if ticks[0] > 0 else "linear")
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()
        axes.set_xlabel(x_label, fontsize=8.5, color=look.GREY)
        if len(series) > 1:
            axes.legend(frameon=False, fontsize=8.5, labelcolor=look.INK)
        look.finish(axes)
    return figure
