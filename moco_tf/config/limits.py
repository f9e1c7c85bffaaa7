"""Limits of single fields: they stand beside the field, and `--help` prints them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moco_tf.mistakes import Mistake

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class ConfigError(Mistake):
    """A user's mistake in the configuration, told in one sentence."""


def require(condition: object, sentence: str) -> None:
    """Raises ConfigError(sentence) unless the condition holds."""
    if not condition:
        raise ConfigError(sentence)


@dataclass(frozen=True)
class Limit:
    """What a value must be.

    Attributes:
        holds: whether it is so.
        words: what it must be, for `--help`.
        fault: what a sentence says of a value that is not, after "key=value".
        remedy: what to use instead.
    """

    holds: Callable[[Any], bool]
    words: str
    fault: str = "is out of range"
    remedy: str = ""

    def check(self, key: str, value: object) -> None:
        """Raises ConfigError unless the value is right; None always is."""
        shown = list(value) if isinstance(value, tuple) else value
        require(
            value is None or self.holds(value),
            f"{key}={shown} {self.fault}; use {self.remedy or self.words}.",
        )


def at_least(least: int) -> Limit:
    """Whole numbers from `least`."""
    return Limit(lambda n: n >= least, f"{least} or more", "is too small")


def between(low: float, high: float) -> Limit:
    """Numbers from `low` to `high`."""
    words = f"{low} to {high}"
    return Limit(lambda n: low <= n <= high, words, remedy=f"a value from {words}")


POSITIVE = Limit(
    lambda n: n > 0 and math.isfinite(n),
    "above 0",
    "must be positive",
    "a value above 0",
)
NOT_NEGATIVE = Limit(
    lambda n: n >= 0 and math.isfinite(n), "0 or more", "must not be negative"
)
BELOW_ONE = Limit(lambda n: 0 <= n < 1, "0 or more and less than 1")
FACTOR = Limit(
    lambda n: 0 < n <= 1, "above 0, up to 1", remedy="a value above 0 and up to 1"
)
INNER_SHARE = Limit(
    lambda n: 0 < n < 1, "between 0 and 1", remedy="a share between 0 and 1"
)
VALUE_RANGE = Limit(
    lambda pair: pair[0] < pair[1],
    "two rising numbers",
    "must be two rising numbers",
    "for instance [0, 65535] or [0.0, 1.0]",
)
CROP_SHARES = Limit(
    lambda pair: 0 < pair[0] <= pair[1] <= 1,
    "two rising shares, above 0, up to 1",
    "must be two rising shares of the area above 0 and up to 1",
    "for instance [0.2, 1.0]",
)

SIGMAS = Limit(
    lambda pair: 0 <= pair[0] <= pair[1] <= 16,
    "two rising numbers from 0 to 16",
    "must be two rising numbers of pixels from 0 to 16",
    "for instance [0.1, 2.0]",
)


def rising(what: str, example: str) -> Limit:
    """Two positive numbers, the second at least the first."""
    return Limit(
        lambda pair: 0 < pair[0] <= pair[1],
        f"two rising positive {what}",
        f"must be two rising positive {what}",
        f"for instance {example}",
    )


def limited(default: Any, limit: Limit, each: bool = False) -> Any:
    """A dataclass's field with a limit.

    Args:
        default: its default.
        limit: of its value.
        each: whether the value is a tuple, for each of whose items the limit is.
    """
    return dataclasses.field(default=default, metadata={"limit": limit, "each": each})


def check_limits(tree: DataclassInstance, prefix: str = "") -> None:
    """Checks every field of a tree that has a limit, and that numbers are finite.

    Args:
        tree: a dataclass whose fields may be dataclasses.
        prefix: of its fields' keys, such as "data.".

    Raises:
        ConfigError: one sentence with the key, its value, the limit and a remedy.
    """
    for field in dataclasses.fields(tree):
        key, value = prefix + field.name, getattr(tree, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            check_limits(value, f"{key}.")
            continue
        limit = field.metadata.get("limit")
        several = isinstance(value, tuple) and field.metadata.get("each")
        for one in value if several else (value,):
            numbers = one if isinstance(one, tuple) else (one,)
            require(
                all(math.isfinite(n) for n in numbers if isinstance(n, float)),
                f"{key}={one} is not finite; use an ordinary number.",
            )
            if limit:
                limit.check(key, one)
