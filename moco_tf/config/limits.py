"""Limits that settings share, each refused in one sentence."""

from __future__ import annotations

import math

from moco_tf.config.tree import ConfigError


def require(condition: object, sentence: str) -> None:
    """Raises ConfigError(sentence) unless the condition holds."""
    if not condition:
        raise ConfigError(sentence)


def at_least(least: int, key: str, value: int | None) -> None:
    """Raises ConfigError unless the value is None or large enough."""
    require(
        value is None or value >= least,
        f"{key}={value} is too small; use {least} or more.",
    )


def between(low: float, high: float, key: str, value: float) -> None:
    """Raises ConfigError unless the value is from low to high."""
    require(
        low <= value <= high,
        f"{key}={value} is out of range; use a value from {low} to {high}.",
    )


def positive(key: str, value: float) -> None:
    """Raises ConfigError unless the value is an ordinary number above 0."""
    require(
        value > 0 and math.isfinite(value),
        f"{key}={value} must be positive; use a value above 0.",
    )


def not_negative(key: str, value: float) -> None:
    """Raises ConfigError unless the value is an ordinary number of 0 or more."""
    require(
        value >= 0 and math.isfinite(value),
        f"{key}={value} must not be negative; use 0 or more.",
    )


def inner_share(key: str, value: float) -> None:
    """Raises ConfigError unless the value is above 0 and below 1."""
    require(
        0 < value < 1,
        f"{key}={value} is out of range; use a share between 0 and 1.",
    )


def crop_shares(key: str, value: tuple[float, float]) -> None:
    """Raises ConfigError unless a random crop's least and greatest share are right."""
    low, high = value
    require(
        0 < low <= high <= 1,
        f"{key}={[low, high]} must be two rising shares of the area above 0 and up to "
        "1; use for instance [0.2, 1.0].",
    )
