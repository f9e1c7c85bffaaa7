"""Whether two configurations are the same run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from moco_tf.config.load import load_config
from moco_tf.config.tree import Config

# Where things lie, and how, not what, a run does: a continued run may have these
# otherwise.
_MAY_CHANGE = {
    "name",
    "runs_dir",
    "data.data_dir",
    "data.manual_dir",
    "data.decode_threads",
    "data.max_unreadable",
    "data.service",
    "log.every_steps",
    "log.histograms",
    "log.project",
    "log.tracker",
    "distribution.gpus",
    "monitor.data_dir",
    "monitor.manual_dir",
    "monitor.batch_size",
    "train.checkpoint_every",
    "train.checkpoint_minutes",
    "train.keep_checkpoints",
    "train.profile",
    "train.stall_minutes",
}


def is_finished(config: Config) -> bool:
    """Whether the run in a configuration's directory has come to its end."""
    try:
        json.loads((config.run_dir / "report" / "summary.json").read_text())
    except (OSError, ValueError):  # a broken file is written anew
        return False
    return True


def other_run(config: Config) -> list[str]:
    """What makes the run in a configuration's directory another one than it.

    Empty if it is the same one, or if nothing has been trained there yet: a mistake
    that was found before the first checkpoint can be mended and tried again.

    Raises:
        ConfigError: if that run's configuration cannot be read.
    """
    run_dir, file = config.run_dir, config.run_dir / "config.yaml"
    is_trained = any((run_dir / "checkpoints").glob("epoch-*"))
    is_trained |= (run_dir / "report" / "summary.json").exists()
    if not (is_trained and file.exists()):
        return []
    return differences(load_config(file), config)


def differences(before: Config, now: Config) -> list[str]:
    """What makes two configurations different runs; empty if they are the same one.

    Returns:
        One "key was A and is B" for each setting, in alphabetical order.
    """
    old, new = dict(leaves(before)), dict(leaves(now))
    return [
        f"{key} was {old.get(key)} and is {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not may_change(key)
    ]


def may_change(key: str) -> bool:
    """Whether a continued run may have another value: it moves nothing of its result.

    Args:
        key: such as "data.data_dir".
    """
    return key in _MAY_CHANGE


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each field of a configuration, by its dotted key, sections in alphabetical order.

    Args:
        tree: the configuration.
        prefix: of the keys.
    """
    for name, value in sorted(vars(tree).items()):
        if hasattr(value, "__dataclass_fields__"):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
