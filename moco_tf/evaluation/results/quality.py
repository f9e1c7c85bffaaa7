"""What runs show without labels, and whether it puts them in the order of accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from moco_tf.evaluation.results.output import text_table
from moco_tf.evaluation.unlabelled import NAMES
from moco_tf.report import look

TITLES = dict(zip(NAMES, ("RankMe", "alignment", "uniformity")))
# Of alignment and uniformity the lower is the better.
SIGNS = dict(zip(NAMES, (1, -1, -1)))
# Runs from which on an order says something.
FEWEST = 5


def quality_table(names: Sequence[str], groups: Sequence[Sequence[dict]]) -> str:
    """A table of figures that need no labels; empty where no run has them.

    Args:
        names: of the groups of runs.
        groups: for each the figures of its runs, name -> value.
    """
    rows = quality_rows(groups)
    return text_table(["without labels", *names], rows) if rows else ""


def quality_rows(groups: Sequence[Sequence[dict]]) -> list[list[str]]:
    """The lines of that table: a figure's name, and its text for each group."""
    if not any(run for group in groups for run in group):
        return []
    return [
        [title, *(_text([run[name] for run in group if run]) for group in groups)]
        for name, title in TITLES.items()
    ]


def agreement(qualities: Sequence[dict], accuracies: Sequence[float]) -> dict:
    """Spearman's rank correlation of quality and accuracy over runs, -1 to 1.

    Args:
        qualities: of each run, name -> value.
        accuracies: of each run.

    Returns:
        For each figure 1 where it puts the runs in the order of their accuracy and -1
        in the opposite one; {} for too few runs, or where all are alike.
    """
    if len(qualities) < FEWEST or len(set(accuracies)) < 2:
        return {}
    found = {}
    for name, sign in SIGNS.items():
        values = [sign * run[name] for run in qualities]
        if len(set(values)) > 1 and np.isfinite(values).all():
            found[name] = float(stats.spearmanr(values, accuracies)[0])
    return found


def describe(agreements: dict, count: int, accuracy: str) -> str:
    """The same in words."""
    shown = ", ".join(f"{TITLES[name]} {rank:.2f}" for name, rank in agreements.items())
    return (
        f"Rank correlation with {accuracy} over {count} runs (1: the same order, -1: "
        f"the opposite; lower alignment and uniformity count as better): {shown}."
    )


@look.literal
def draw_agreement(
    qualities: Sequence[dict], accuracies: Sequence[float], agreements: dict, of: str
) -> Figure:
    """Runs as points, accuracy over each figure that needs no labels.

    Args:
        qualities: of each run, name -> value.
        accuracies: of each run, 0 to 1.
        agreements: what `agreement` gave.
        of: the accuracy's name.
    """
    size = (3.6 * len(agreements), 3.4)
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(agreements), sharey=True))
    for axes, (name, rank) in zip(panels, agreements.items()):
        values = [run[name] for run in qualities]
        axes.plot(values, 100 * np.asarray(accuracies), "o", color=look.BLUE,
                  markersize=5, alpha=0.8)  # fmt: skip
        look.title(axes, f"{TITLES[name]}: rank correlation {rank:.2f}")
        axes.set_xlabel(TITLES[name], fontsize=8.5, color=look.GREY)
        look.finish(axes)
    panels[0].set_ylabel(f"{of}, %", fontsize=8.5, color=look.GREY)
    return figure


def _text(values):
    if not values:
        return "-"
    text = f"{np.mean(values):.2f}"
    return text if len(values) < 2 else f"{text} ± {np.std(values, ddof=1):.2f}"
