"""A panel of curves as SVG, and what a browser needs to tell its figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from moco_tf.report.page.panels import Line, Panel

_WIDTH, _HEIGHT = 400, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 390, 8, 186
_DASHES = {"dashed": "6 4", "dotted": "1.5 3.5"}
# Points that are few enough to be seen one by one.
_FEW = 40

Columns = Mapping[str, Sequence[Any]]


def draw(panel: Panel, runs: Sequence[Columns], number: int) -> tuple[str, dict]:
    """Draws a panel.

    Args:
        panel: what is shown.
        runs: of each run the columns of its history, None where one has no figure.
        number: of the panel on the page.

    Returns:
        HTML, and for the page's script where the axes are and which column is whose.
    """
    curves = [_points(line, runs, panel.scale) for line in panel.lines]
    x0, x1 = _across(curves)
    y0, y1, ticks = _upward(curves, panel.from_zero)

    def x(value):
        return _LEFT + (value - x0) / (x1 - x0) * (_RIGHT - _LEFT)

    def y(value):
        return _BOTTOM - (value - y0) / (y1 - y0) * (_BOTTOM - _TOP)

    parts = [_grid(x, y, _whole_ticks(x0, x1), ticks)]
    for line, points in zip(panel.lines, curves):
        parts.append(_curve(line, points, x, y))
    label = f"{panel.title}, by epoch. " + "; ".join(
        f"{line.name}: {points[-1][1]:.4g}" for line, points in zip(panel.lines, curves)
    )
    html = (
        f'<figure class="chart"><figcaption>{escape(panel.title)}</figcaption>'
        f'<div class="legend">{"".join(map(_mark, panel.lines))}</div>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" data-panel="{number}" '
        f'aria-label="{escape(label)}">{"".join(parts)}'
        f'<line class="at" y1="{_TOP}" y2="{_BOTTOM}" visibility="hidden"/>'
        "</svg></figure>"
    )
    told = {
        "x": [x0, x1],
        "box": [_LEFT, _RIGHT],
        "scale": panel.scale,
        "lines": [
            {"name": line.name, "colour": line.colour, "run": line.run,
             "column": line.column, "level": line.level}
            for line in panel.lines
        ],
    }  # fmt: skip
    return html, told


def _points(line: Line, runs, scale) -> list[tuple[float, float]]:
    """Epoch and figure where there is one; a level has the ends of no epoch."""
    if line.level is not None:
        return [(math.nan, scale * line.level)]
    columns = runs[line.run]
    pairs = zip(columns["epoch"], columns[line.column])
    return [(e, scale * v) for e, v in pairs if e is not None and v is not None]


def _across(curves):
    epochs = [x for points in curves for x, _ in points if not math.isnan(x)]
    first, last = min(epochs), max(epochs)
    return (min(first, 1 if first else 0), max(last, first + 1))


def _upward(curves, from_zero):
    """Ends of the axis, and the round numbers on it."""
    values = [value for points in curves for _, value in points]
    low, high = min(values), max(values)
    if from_zero:
        low, high = min(0.0, low), max(0.0, high)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - abs(low) / 10 - 1e-9, high + abs(high) / 10 + 1e-9
    step = _step((high - low) / 5)
    if not from_zero or low < 0:
        low -= 0.05 * (high - low)
    high += 0.05 * (high - low)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return low, high, [(first + i) * step for i in range(count)]


def _whole_ticks(first, last):
    step = max(1, _step((last - first) / 6))
    start = math.ceil(first / step)
    return [step * n for n in range(start, math.floor(last / step) + 1)]


def _step(rough):
    """The round number at or above a rough distance of ticks."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= rough * (1 - 1e-9))


def _grid(x, y, across, upward):
    parts = []
    for value in upward:
        at = f"{y(value):.1f}"
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{at}" y2="{at}"/>'
            f'<text x="{_LEFT - 6}" y="{at}" class="up">{_short(value)}</text>'
        )
    for value in across:
        at = f'x="{x(value):.1f}" y="{_BOTTOM + 17}"'
        parts.append(f'<text {at} class="across">{value:g}</text>')
    return "".join(parts)


def _curve(line, points, x, y):
    if line.level is not None:
        at = f"{y(points[0][1]):.1f}"
        return (
            f'<line class="level c{line.colour}" x1="{_LEFT}" x2="{_RIGHT}" y1="{at}" '
            f'y2="{at}" stroke-dasharray="{_DASHES[line.dashes]}"/>'
        )
    places = [(f"{x(epoch):.1f}", f"{y(value):.1f}") for epoch, value in points]
    path = " ".join(f"{left},{top}" for left, top in places)
    html = f'<polyline class="c{line.colour}" points="{path}"/>'
    if len(places) <= _FEW:
        html += "".join(
            f'<circle class="c{line.colour}" cx="{left}" cy="{top}" r="2.4"/>'
            for left, top in places
        )
    return html


def _mark(line):
    style = line.dashes if line.level is not None else "solid"
    return (
        f'<span><i style="border-top:3px {style} var(--c{line.colour})"></i>'
        f"{escape(line.name)}</span>"
    )


def _short(value):
    return f"{value:.6g}" if abs(value) < 1e5 else f"{value:.0e}"
