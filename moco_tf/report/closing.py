"""The table that ends a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def closing_table(
    rows: Sequence[tuple[str, float | None, float | None]],
    artefacts: Mapping[str, object],
    next_commands: Mapping[str, str],
) -> str:
    """Plain text that ends a run: accuracies, where things are, what to type next.

    Args:
        rows: (representation, kNN accuracy, linear accuracy), accuracies in [0, 1] or
            None where not measured. A column without any figure is left out.
        artefacts: what -> where.
        next_commands: purpose -> command.

    Returns:
        Lines without a final newline.
    """
    lines = []
    if rows:
        names = ("kNN", "linear")
        shown = [i for i in (0, 1) if any(row[1 + i] is not None for row in rows)]
        width = max(len(row[0]) for row in rows)
        head = "".join(f"{names[i]:>10}" for i in shown)
        lines += [" " * (2 + width) + head, "  " + "-" * (width + len(head))]
        for name, *figures in rows:
            cells = "".join(f"{_percent(figures[i]):>10}" for i in shown)
            lines.append(f"  {name:<{width}}{cells}")
    for heading, pairs in (("Written", artefacts), ("Next", next_commands)):
        if pairs:
            width = max(len(name) for name in pairs)
            lines += ["", heading] if lines else [heading]
            lines += [f"  {name:<{width}}  {value}" for name, value in pairs.items()]
    return "\n".join(lines)


def _percent(figure):
    return "-" if figure is None else f"{100 * figure:.1f} %"
