"""Sections whose fields depend on their `name`, as a method's do."""

from __future__ import annotations

import copy
import dataclasses
import os
import typing
from collections.abc import Mapping, Sequence

from moco_tf.config.hints import describe, meant
from moco_tf.config.limits import ConfigError


def kinds(hint: object) -> dict[str, type]:
    """Name -> dataclass of a section by its type hint; empty for a plain field.

    A section that has one dataclass has it under the name "".
    """
    found = typing.get_args(hint) or (hint,)
    if not all(map(dataclasses.is_dataclass, found)):
        return {}
    return {one.name if len(found) > 1 else "": one for one in found}


def choose(
    section: str,
    kinds: Mapping[str, type],
    words: Sequence[str],
    in_file: dict,
    path: str | os.PathLike | None,
) -> type:
    """The dataclass of a section that its name chooses; what it lacks is refused.

    Fields that only others have are taken out of `in_file` where the words choose
    another than the file does, and where it holds the fields of all: so wrote runs of
    version 0.1 their config.yaml.

    Args:
        section: such as "method".
        kinds: name -> dataclass; the first is the default.
        words: of the command line.
        in_file: what the file gives the section.
        path: of that file.

    Raises:
        ConfigError: one sentence on an unknown name, or on a field of another.
    """
    key = f"{section}.name"
    typed = _values(words, section)
    name = str(typed.get("name", in_file.get("name", next(iter(kinds)))))
    if name not in kinds:
        hint = _literal(kinds)
        origin = "" if "name" in typed else f" in {path}"
        raise ConfigError(
            f"{key}={name}{origin} does not fit; {meant(name, hint)}use "
            f"{describe(hint)}."
        )
    own = _names(kinds[name])
    every = set().union(*map(_names, kinds.values()))
    foreign = [field for field in in_file if field in every - own]
    if "name" in typed or every <= set(in_file):
        for field in foreign:
            del in_file[field]
        foreign = []
    if "name" in typed:
        in_file.pop("name", None)
    given = [(field, f"{section}.{field} in {path}") for field in foreign]
    given += [(f, f"{section}.{f}={v}") for f, v in typed.items() if f in every - own]
    if given:
        field, where = given[0]
        owners = [other for other, kind in kinds.items() if field in _names(kind)]
        raise ConfigError(
            f"{where} is a field of {key}={' or '.join(owners)}, but {name} has only "
            f"{', '.join(sorted(own - {'name'}))}; leave it out, or choose another "
            f"{section}."
        )
    return kinds[name]


def with_kinds(kind: type, chosen: Mapping[str, type]) -> type:
    """A dataclass like `kind`, with one dataclass for each section that has several."""
    hints = typing.get_type_hints(kind)
    fields = [
        (f.name, chosen[f.name], dataclasses.field(default_factory=chosen[f.name]))
        if f.name in chosen
        else (f.name, hints[f.name], copy.copy(f))
        for f in dataclasses.fields(kind)
    ]
    return _made(kind, fields)


def shared_fields(kinds: Mapping[str, type]) -> type:
    """A dataclass of the fields that all of several have, with the names as choices."""
    first = next(iter(kinds.values()))
    hints = typing.get_type_hints(first) | {"name": _literal(kinds)}
    shared = set.intersection(*map(_names, kinds.values()))
    fields = [
        (f.name, hints[f.name], copy.copy(f))
        for f in dataclasses.fields(first)
        if f.name in shared
    ]
    return _made(first.__mro__[-2], fields)


def _literal(names):
    return typing.Literal[tuple(names)]


def _made(kind, fields):
    made = dataclasses.make_dataclass(kind.__name__, fields, frozen=True)
    made.__doc__ = kind.__doc__
    return made


def _names(kind):
    return {field.name for field in dataclasses.fields(kind)}


def _values(words, section):
    """Field -> value of words such as "--method.dim=8", or "--method.dim" and "8"."""
    found = {}
    for word, after in zip(words, [*words[1:], ""]):
        key, is_whole, value = word.partition("=")
        start, _, field = key.partition(".")
        if start == f"--{section}":
            found[field] = value if is_whole else after
    return found
