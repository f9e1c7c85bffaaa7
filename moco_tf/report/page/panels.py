"""Which curves a page shows, of one run or of several."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from moco_tf.report.history import PROBES
from moco_tf.report.page.facts import Facts


@dataclass(frozen=True)
class Line:
    """A curve, or a level that does not change.

    Attributes:
        name: what it is.
        colour: its number among the page's colours.
        run: whose column it is, by its number on the page.
        column: of the history; None for a level.
        level: the height of a level.
        dashes: how a level is drawn, "dashed" or "dotted".
    """

    name: str
    colour: int
    run: int = 0
    column: str | None = None
    level: float | None = None
    dashes: str = "dashed"


@dataclass(frozen=True)
class Panel:
    """Curves of one scale.

    Attributes:
        title: what they are, with their unit.
        lines: at least one.
        scale: that figures are multiplied by: 100 shows shares in %.
        from_zero: whether the axis begins there.
    """

    title: str
    lines: Sequence[Line]
    scale: float = 1.0
    from_zero: bool = False


@dataclass(frozen=True)
class _Kind:
    """A panel for any run: its columns, and their names where there are several."""

    title: str
    columns: Mapping[str, str]
    scale: float = 1.0
    from_zero: bool = False


_KINDS = (
    _Kind("InfoNCE loss, nats", {"loss": "loss"}),
    _Kind("Own key found among the 1+K, %", {"top1": "top-1", "top5": "top-5"}, 100),
    _Kind("Accuracy of the frozen features, %", PROBES, 100),
    _Kind("RankMe: dimensions that features span", {"rankme": "RankMe"}),
    _Kind("Alignment of views; lower is closer", {"alignment": "alignment"}),
    _Kind("Uniformity; lower is more even", {"uniformity": "uniformity"}),
    _Kind("Effective rank of embeddings; 1: collapsed",
          {"effective_rank": "effective rank"}),
    _Kind("Deviation of embeddings; 0: collapsed",
          {"feature_std": "deviation"}, from_zero=True),
    _Kind("Cosine of a query with keys",
          {"positive_similarity": "own key", "negative_similarity": "negatives"}),
    _Kind("Gradient norm", {"gradient_norm": "gradient norm"}),
    _Kind("Learning rate", {"learning_rate": "learning rate"}, from_zero=True),
    _Kind("Images a second", {"images_per_second": "images/s"}, from_zero=True),
    _Kind("Time spent waiting for images, %",
          {"input_wait": "waiting"}, 100, from_zero=True),
)  # fmt: skip


def panels_of(facts: Facts) -> list[Panel]:
    """The panels of one run: those that its history has figures for.

    Args:
        facts: of the run.
    """
    panels = []
    for kind in _KINDS:
        lines = [
            Line(name, number, column=column)
            for number, (column, name) in enumerate(kind.columns.items())
            if facts.last(column) is not None
        ]
        if not lines:
            continue
        lines += _levels(facts, [(line.column, line.colour) for line in lines])
        panels.append(Panel(kind.title, lines, kind.scale, kind.from_zero))
    return panels


def shared_panels(
    runs: Sequence[Facts], names: Sequence[str], colours: Sequence[int]
) -> list[Panel]:
    """The panels of several runs, a figure each, with a line for each run.

    Args:
        runs: what is known of them.
        names: of each, for the legend.
        colours: of each, numbers.
    """
    panels = []
    for kind in _KINDS:
        for column, name in kind.columns.items():
            lines = [
                Line(label, colour, number, column)
                for number, (run, label, colour) in enumerate(zip(runs, names, colours))
                if run.last(column) is not None
            ]
            if lines:
                title = kind.title
                if len(kind.columns) > 1:
                    title = f"{kind.title}: {name}"
                panels.append(Panel(title, lines, kind.scale, kind.from_zero))
    return panels


def _levels(facts: Facts, shown: Iterable[tuple[str | None, int]]) -> list[Line]:
    """What the curves of one run are held against."""
    levels = []
    before = "at the start" if facts.is_begun else "untrained"
    for column, colour in shown:
        if column == "loss" and (ceiling := facts.last("loss_ceiling")) is not None:
            levels.append(Line("a blind guess, ln(1+K)", 9, level=ceiling))
        if column not in PROBES:
            continue
        for key, name, dashes in (
            ("untrained", before, "dashed"),
            ("raw_pixels", "raw pixels", "dotted"),
        ):
            level = facts.baselines.get(key, {}).get(column)
            if level is not None and math.isfinite(level):
                name = f"{PROBES[column]}, {name}"
                levels.append(Line(name, colour, level=level, dashes=dashes))
    return levels
