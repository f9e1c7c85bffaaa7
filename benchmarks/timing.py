"""Times of ways that take turns in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def in_turns(
    ways: Mapping[str, Callable[[], object]], turns: int, seconds: float
) -> dict[str, float]:
    """Milliseconds of a call of each way, the median of its turns.

    Args:
        ways: what to call, by name; each is called twice before anything is timed.
        turns: of each way, one after the other.
        seconds: of a turn at least.
    """
    for way in ways.values():
        way()
        way()
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            found[name].append(milliseconds(way, seconds))
    return {name: statistics.median(times) for name, times in found.items()}


def milliseconds(call: Callable[[], object], seconds: float) -> float:
    """The median time of calls that fill the seconds, one at least."""
    times: list[float] = []
    while not times or sum(times) < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)
