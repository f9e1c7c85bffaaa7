"""Pictures of the protocols' results, in the look of the run's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from moco_tf.report import look


@dataclass(frozen=True)
class Panel:
    """One figure of all rows of a sweep.

    Attributes:
        title: what it is, with its unit.
        values: for each row its mean, NaN where there is none.
        spreads: for each row the standard deviation of its seeds, NaN where it has one.
        is_cost: whether it is speed or memory, drawn as bars from 0; else the best row
            is marked.
        is_published: whether the values are a paper's, whose curve is joined.
    """

    title: str
    values: np.ndarray
    spreads: np.ndarray
    is_cost: bool = False
    is_published: bool = False


@look.literal
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
        for colour, (name, values) in zip(look.colours(len(lines)), lines.items()):
            axes.plot(times, values, color=colour, linewidth=1.8, label=name,
                      marker="o" if len(times) == 1 else None)  # fmt: skip
        axes.set_xlabel(x_label, fontsize=8.5, color=look.GREY)
        look.whole_ticks(axes, min(times), max(times))
        axes.legend(frameon=False, fontsize=8.5, labelcolor=look.INK)
        look.finish(axes)
    return figure


@look.literal
def grouped_bars(
    title: str, groups: Sequence[str], series: Mapping[str, Sequence[Sequence[float]]]
) -> Figure:
    """Draws each mean as a bar from 0 and each value as a point, group below group.

    Args:
        title: line above.
        groups: names, from above.
        series: name of a series -> for each group its values, 0 to 1; none where it has
            not been measured.
    """
    tall = 0.22 * len(series) + 0.16
    height = 1.0 + tall * len(groups) + 0.2 * (len(series) > 1)
    figure = Figure(figsize=(8, height), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    thick = 0.22 / tall
    handles = []
    for number, (name, colour) in enumerate(zip(series, look.colours(len(series)))):
        offset = (number - (len(series) - 1) / 2) * thick
        filled = [i for i, values in enumerate(series[name]) if len(values)]
        means = [100 * np.mean(series[name][i]) for i in filled]
        places = np.asarray(filled, float) + offset
        handles.append(
            axes.barh(places, means, 0.86 * thick, color=colour, alpha=0.4, label=name)
        )
        for place, i, mean in zip(places, filled, means):
            shown = 100 * np.asarray(series[name][i])
            axes.plot(shown, [place] * len(shown), ".", color=colour, markersize=6)
            axes.text(max(shown) + 1, place, f"{mean:.1f}", color=look.INK, fontsize=8,
                      ha="left", va="center")  # fmt: skip
    look.title(axes, title)
    axes.set_yticks(range(len(groups)), groups)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlim(0, 107)
    axes.set_xticks(range(0, 101, 20))
    if len(series) > 1:
        _legend(figure, handles, list(series))
    look.finish(axes, grid="x")
    return figure


@look.literal
def by_row(
    names: Sequence[str], panels: Sequence[Panel], title: str, below: str
) -> Figure:
    """Draws the rows of a sweep side by side, one below the other.

    Args:
        names: of the rows, from above.
        panels: their figures.
        title: of the sweep.
        below: data and number of seeds.
    """
    size = (2.0 + 3.6 * len(panels), 1.5 + 0.36 * len(names))
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    look.headline(figure, title, below)
    columns = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for axes, panel, colour in zip(columns, panels, look.colours(len(panels))):
        look.title(axes, panel.title)
        best = _best(panel)
        for row, (value, spread) in enumerate(zip(panel.values, panel.spreads)):
            if np.isnan(value):
                continue
            if panel.is_cost:
                axes.barh(row, value, 0.5, color=colour, alpha=0.4)
            else:
                axes.errorbar(value, row, xerr=None if np.isnan(spread) else spread,
                              fmt="|", color=colour, markersize=13, capsize=3,
                              markeredgewidth=2)  # fmt: skip
            text = f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
            axes.annotate(
                text + " best" * (row == best), (value, row), (0, 8),
                textcoords="offset points", color=look.INK, fontsize=8, ha="center",
                weight="bold" if row == best else "normal",
            )  # fmt: skip
        axes.margins(x=0.15)
        if panel.is_cost:
            axes.set_xlim(left=0)
        axes.set_ylim(len(names) - 0.5, -0.8)
        axes.set_yticks(range(len(names)), names)
        look.finish(axes, grid="both")
    return figure


@look.literal
def by_number(
    points: Sequence[tuple[str, float]],
    panels: Sequence[Panel],
    x_label: str,
    title: str,
    below: str,
) -> Figure:
    """Draws the rows of a sweep over a number, in a colour for each series.

    Means of several seeds are joined, with their standard deviations; what one run
    alone has measured stays a point, because a line through such would be read as a
    trend.

    Args:
        points: series and abscissa of each row.
        panels: their figures.
        x_label: what the abscissa is; its axis is logarithmic if all are above 0.
        title: of the sweep.
        below: data and number of seeds.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    size = (1.5 + 4.5 * columns, 0.9 + 3.5 * rows)
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    look.headline(figure, title, below)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in grid[len(panels) :]:
        unused.set_visible(False)
    series = list(dict.fromkeys(name for name, _ in points))
    ticks = sorted({x for _, x in points})
    handles = {}
    for axes, panel in zip(grid, panels):
        look.title(axes, panel.title)
        best = _best(panel)
        for name, colour in zip(series, look.colours(len(series))):
            own = [i for i, (of, _) in enumerate(points) if of == name]
            own = sorted(
                (i for i in own if not np.isnan(panel.values[i])),
                key=lambda i: points[i][1],
            )
            spreads = panel.spreads[own]
            joined = np.isfinite(spreads).all() or panel.is_published
            handles[name] = axes.errorbar(
                [points[i][1] for i in own], panel.values[own],
                yerr=spreads if np.isfinite(spreads).any() else None,
                fmt="o-" if joined else "o", color=colour, capsize=3, markersize=5.5,
            )  # fmt: skip
        if best is not None:
            axes.annotate(
                f"best {panel.values[best]:.1f}", (points[best][1], panel.values[best]),
                (0, 8), textcoords="offset points", color=look.INK, fontsize=8.5,
                ha="center", weight="bold",
            )  # fmt: skip
        axes.set_xscale("log" if ticks[0] > 0 else "linear")
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()
        axes.margins(x=0.08, y=0.15)
        if panel.is_cost:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(x_label, fontsize=8.5, color=look.GREY)
        look.finish(axes)
    if len(series) > 1:
        _legend(figure, [handles[name] for name in series], series)
    return figure


def _best(panel):
    """The row with the greatest value, if there is a choice."""
    if panel.is_cost or np.isfinite(panel.values).sum() < 2:
        return None
    return int(np.nanargmax(panel.values))


def _legend(figure, handles, names):
    """One legend for all panels, above them at the right."""
    figure.legend(handles, names, loc="outside upper right", ncols=min(4, len(names)),
                  frameon=False, fontsize=8.5, labelcolor=look.INK)  # fmt: skip
