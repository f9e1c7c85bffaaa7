"""Figures of runs that should not be compared with one another as they stand."""

from __future__ import annotations

from collections.abc import Sequence

from moco_tf.evaluation.results.reading import DIGESTS, Run


def unlike_conditions(runs: Sequence[Run]) -> list[str]:
    """Sentences on protocols whose figures were not measured in the same way."""
    warnings = []
    for protocol in sorted({name for one in runs for name in one.conditions}):
        having = [one for one in runs if protocol in one.conditions]
        if len({one.conditions[protocol] for one in having}) > 1:
            warnings.append(
                f"The figures of {protocol} were measured with different settings or "
                "data, so they do not compare; run it again with the same for all."
            )
    return warnings


def unlike_weights(runs: Sequence[Run]) -> list[str]:
    """Sentences on runs whose figures are not all of the weights that they have."""
    warnings = []
    for one in runs:
        now = {"weights": one.weights} if one.weights else {}
        stale = [name for name, its in one.encoders.items() if _differ([its, now])]
        if stale:
            warnings.append(
                f"The figures of {one.name} for {', '.join(stale)} are of other "
                "weights than it has now; measure them again."
            )
        elif _differ(one.encoders.values()):
            warnings.append(
                f"The figures of {one.name} for {', '.join(one.encoders)} are of "
                "different encoders; measure them again."
            )
    return warnings


def _differ(encoders):
    """Whether a digest that several have is not the same in all."""
    found = [{its[key] for its in encoders if key in its} for key in DIGESTS]
    return any(len(values) > 1 for values in found)
