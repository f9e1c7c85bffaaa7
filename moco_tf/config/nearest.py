"""The recipe that a run departs least from, and in what."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import yaml

from moco_tf.config.choices import kinds
from moco_tf.config.identity import leaves, may_change
from moco_tf.config.methods import Method
from moco_tf.config.reader import plain
from moco_tf.config.recipes import configs_folder
from moco_tf.config.tree import Config

# Which images and which draw: of these a recipe only has examples.
_OWN = ("seed", "data.source", "data.name", "data.range", "data.positives")


@dataclass(frozen=True)
class Departure:
    """How a run's settings differ from a recipe's.

    Attributes:
        recipe: its name.
        settings: key -> the recipe's value and the run's, in alphabetical order.
    """

    recipe: str
    settings: dict[str, tuple[Any, Any]]


def nearest_recipe(config: Config) -> Departure | None:
    """Compares a run with the recipes that come along; the run's own name decides ties.

    Where things lie, and which images these are, is no departure.

    Args:
        config: the run.

    Returns:
        None for a method that no recipe has.
    """
    now = _values(config)
    found = []
    for name, before in _recipes().items():
        if before["method.name"] != config.method.name:
            continue
        differing = {
            key: (before.get(key), value)
            for key, value in now.items()
            if before.get(key) != value
        }
        found.append((len(differing), name != config.name, name, differing))
    if not found:
        return None
    _, _, name, differing = min(found, key=lambda one: one[:3])
    return Departure(name, differing)


@functools.cache  # a page is written often
def _recipes():
    """Name -> values of each recipe that comes along."""
    return {
        path.stem: _resolved(yaml.safe_load(path.read_text(encoding="utf-8")))
        for path in sorted(configs_folder().glob("*.yaml"))
    }


def _resolved(recipe):
    """The values of a recipe, with the defaults of what it leaves out."""
    method = kinds(Method)[recipe.get("method", {}).get("name", "moco")]
    values = _values(dataclasses.replace(Config(), method=method()))
    for section, fields in recipe.items():
        if isinstance(fields, dict):
            given = {f"{section}.{name}": value for name, value in fields.items()}
            values |= {key: value for key, value in given.items() if key in values}
    return values


def _values(config):
    return {
        key: plain(value)
        for key, value in leaves(config)
        if not (key in _OWN or may_change(key))
    }
