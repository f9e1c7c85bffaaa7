"""The table that ends a run."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from moco_tf.report.history import PROBES


def closing_table(
    rows: Sequence[tuple[str, float | None, float | None]],
    artefacts: Mapping[str, object],
    next_commands: Mapping[str, str],
    remark: str | None = None,
) -> str:
    """Plain text that ends a run: accuracies, where things are, what to type next.

    Args:
        rows: (representation, kNN accuracy, linear accuracy), accuracies in [0, 1] or
            None where not measured. A column without any figure is left out.
        artefacts: what -> where.
        next_commands: purpose -> command.
        remark: on the accuracies, a sentence.

    Returns:
        Lines without a final newline.
    """
    lines = []
    if rows:
        names = tuple(PROBES.values())
        shown = [i for i in (0, 1) if any(row[1 + i] is not None for row in rows)]
        width = max(len(row[0]) for row in rows)
        head = "".join(f"{names[i]:>10}" for i in shown)
        lines += [" " * (2 + width) + head, "  " + "-" * (width + len(head))]
        for name, *figures in rows:
            cells = "".join(f"{_percent(figures[i]):>10}" for i in shown)
            lines.append(f"  {name:<{width}}{cells}")
    if remark:
        lines += ["", *textwrap.wrap(remark, 80)]
    width = max(map(len, artefacts), default=0)
    lines += ["", "Written"] if artefacts else []
    lines += [f"  {name:<{width}}  {value}" for name, value in artefacts.items()]
    lines += ["", "Next"] if next_commands else []
    for name, command in next_commands.items():
        lines += [f"  {name}:", f"    {command}"]  # a line of its own can be copied
    return "\n".join(lines).lstrip("\n")


def below_untrained(
    figures: Mapping[str, Mapping[str, float]], is_begun: bool = False
) -> str | None:
    """A sentence where a trained encoder is worse than before its training.

    Args:
        figures: "untrained" and "trained", where measured -> probe -> accuracy, 0 to 1.
        is_begun: whether that before its training had weights from elsewhere.
    """
    first, after = figures.get("untrained", {}), figures.get("trained", {})
    worse = [name for name in after if name in first and after[name] < first[name]]
    if not worse:
        return None
    found = " and ".join(
        f"{PROBES[name]} ({_percent(after[name])} against {_percent(first[name])})"
        for name in worse
    )
    before = "what it started from" if is_begun else "the untrained one"
    return (
        f"The trained encoder is below {before} in {found}: what it has "
        "learnt so far does not help these classes. Usually the run is too short, or "
        "the loss did not fall (see the curves), or the crops or colours that the "
        "views change are what tells the classes apart (data.crop_scale, "
        "augment.recipe)."
    )


def _percent(figure):
    return "-" if figure is None else f"{100 * figure:.1f} %"
