"""`--help` of a tree of settings, with fields under the choice that has them."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import jsonargparse

from moco_tf.config.choices import shared_fields, with_kinds
from moco_tf.config.reader import Reader

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def print_help(
    kind: type[DataclassInstance],
    usage: str,
    description: str,
    add_flags: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Prints every key with its docstring, limit, type and default.

    Args:
        kind: the dataclass that the command reads.
        usage: the command line in short.
        description: what the command does.
        add_flags: adds the words that are not fields.
    """
    sections = Reader(kind).sections
    parser = jsonargparse.ArgumentParser(
        usage=usage, description=description, add_help=False
    )
    add_flags(parser)
    choices = {key: kinds for key, kinds in sections.items() if len(kinds) > 1}
    shared = {key: shared_fields(kinds) for key, kinds in choices.items()}
    parser.add_class_arguments(with_kinds(kind, shared))
    for section, kinds in choices.items():
        _add_own_fields(parser, section, kinds, shared[section])
    limits = _limits(kind, sections)
    for group in parser._action_groups:
        for action in group._group_actions:
            if action.dest in sections:
                action.help = argparse.SUPPRESS  # whole sections are refused
            elif limit := limits.get(action.dest):
                action.help = f"{action.help} ({limit})"
    parser.print_help()


def _add_own_fields(parser, section, kinds, shared):
    """Groups of the fields that not all kinds of a section have, below the shared."""
    known = {field.name for field in dataclasses.fields(shared)}
    groups = parser._action_groups
    (place,) = [
        number
        for number, group in enumerate(groups)
        if any(action.dest == f"{section}.name" for action in group._group_actions)
    ]
    for name, kind in reversed(kinds.items()):
        only = jsonargparse.ArgumentParser(add_help=False)
        only.add_class_arguments(kind, section)
        group = parser.add_argument_group(
            f"with {section}.name={name}", kind.__doc__.splitlines()[0]
        )
        group._group_actions.extend(
            action
            for action in only._actions
            if action.dest.partition(".")[2] not in {"", *known}
        )
        groups.remove(group)
        if group._group_actions:
            groups.insert(place + 1, group)


def _limits(kind, sections):
    """Key -> what its value must be, in words, where it has a limit."""
    placed = [("", kind)]
    placed += [
        (f"{key}.", one) for key, kinds in sections.items() for one in kinds.values()
    ]
    return {
        prefix + field.name: field.metadata["limit"].words
        for prefix, one in placed
        for field in dataclasses.fields(one)
        if "limit" in field.metadata
    }
