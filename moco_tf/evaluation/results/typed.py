"""The command that a protocol's figures come from, as it would be typed again."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shlex
from typing import TYPE_CHECKING

from moco_tf.config.reader import plain
from moco_tf.paths import each_place, to_path

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# Where and on what it runs, which does not change figures.
_WHERE = ("out", "save", "distribution", "features")


def command_of(protocol: str, settings: DataclassInstance, path: pathlib.Path) -> str:
    """The command that gives such figures, by the names of folders alone.

    Args:
        protocol: its name.
        settings: the protocol's settings; those that are as by default are left out,
            and those of devices and places of results.
        path: of what was judged.
    """
    words = ["moco-tf", "evaluate", protocol, path.resolve().name]
    for key, value in _changed(settings, type(settings)()):
        if key.endswith("_dir") and value is not None:
            names = [to_path(place).resolve().name for place in each_place(value)]
            value = names[0] if len(names) == 1 else names
        shown = plain(value)
        text = json.dumps(shown) if isinstance(shown, (list, bool)) else str(shown)
        words.append(f"--{key}={text}".replace(", ", ",").replace('"', ""))
    return shlex.join(words)


def _changed(settings, usual, prefix=""):
    """Key and value of each field that is not as by default."""
    for name, value in vars(settings).items():
        before = getattr(usual, name)
        if dataclasses.is_dataclass(value):
            if name not in _WHERE:
                yield from _changed(value, before, f"{name}.")
        elif value != before and name not in _WHERE:
            yield f"{prefix}{name}", value
