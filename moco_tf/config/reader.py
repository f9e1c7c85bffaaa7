"""From YAML files and command-line words to any frozen dataclass tree of two levels."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import os
import re
import typing
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import jsonargparse
import yaml

from moco_tf.config.choices import choose, kinds, with_kinds
from moco_tf.config.hints import describe, meant
from moco_tf.config.limits import ConfigError, check_limits
from moco_tf.config.recipes import advice
from moco_tf.paths import to_path

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Tree = TypeVar("Tree", bound="DataclassInstance")

# What the reference's scripts, and much other code, call a key.
_ELSEWHERE = {
    "arch": "encoder.name",
    "aug_plus": "augment.recipe",
    "backbone": "encoder.name",
    "cos": "optimizer.schedule",
    "gpu": "distribution.gpus",
    "k": "method.queue_size",
    "m": "method.key_momentum",
    "mlp": "method.projection",
    "moco_dim": "method.dim",
    "moco_k": "method.queue_size",
    "moco_m": "method.key_momentum",
    "moco_t": "method.temperature",
    "output_dir": "runs_dir",
    "t": "method.temperature",
    "tau": "method.temperature",
    "workers": "data.decode_threads",
}


class Reader(Generic[Tree]):
    """Reads one kind of tree: plain fields, and sections of plain fields.

    A section whose type is a union of dataclasses has the fields of the one that its
    `name` chooses. jsonargparse types, documents and overrides the fields; this class
    says what is wrong in one sentence.

    Args:
        kind: the dataclass; its default is made of defaults only.
    """

    def __init__(self, kind: type[Tree]):
        """See the class docstring."""
        self.kind = kind
        hints = typing.get_type_hints(kind)
        # Dataclasses of each section by their names; of most sections one, without.
        self.sections = {
            key: made for key, hint in hints.items() if (made := kinds(hint))
        }
        # Type of every settable key, by its dotted name.
        self.hints: dict[str, object] = {}
        for key, hint in hints.items():
            if key not in self.sections:
                self.hints[key] = hint
                continue
            for inner in self.sections[key].values():
                types = typing.get_type_hints(inner)
                for field in dataclasses.fields(inner):
                    self.hints[f"{key}.{field.name}"] = types[field.name]
            if len(names := tuple(self.sections[key])) > 1:
                self.hints[f"{key}.name"] = typing.Literal[names]

    def read(
        self,
        path: str | os.PathLike | None,
        words: Sequence[str],
        flags: Sequence[str] = (),
    ) -> Tree:
        """Reads a file, then the words that override it.

        Args:
            path: YAML file; None for the defaults.
            words: such as "--train.epochs=5"; a later one wins over an earlier one.
            flags: other words that the command has, such as "--config", one of which
                a misspelt key may have been meant for.

        Returns:
            The tree, its types and the limits of its fields checked.

        Raises:
            ConfigError: one sentence that says what is wrong, where, and how to mend
                it.
        """
        for word in words:
            if word.startswith("-"):
                self._check_key(word.partition("=")[0].lstrip("-"), word, flags)
        tree = {} if path is None else self._check_file(path)
        chosen = {
            section: choose(section, several, words, tree.get(section, {}), path)
            for section, several in self.sections.items()
            if len(several) > 1
        }
        if path is not None:
            # Not the file itself: fields of another choice have been taken out.
            words = [f"--config={yaml.safe_dump(tree)}", *words]
        parser = jsonargparse.ArgumentParser(exit_on_error=False, add_help=False)
        parser.add_argument("--config", action="config")
        parser.add_class_arguments(with_kinds(self.kind, chosen))
        with self._one_sentence(path, words):
            namespace = parser.parse_args(list(words))
            self._refuse_null(namespace, path)
            del namespace["config"]
            values = parser.instantiate(namespace)
        fields = dataclasses.fields(self.kind)
        made = self.kind(**{field.name: values[field.name] for field in fields})
        check_limits(made)
        return made

    def _refuse_null(self, namespace, path):
        # In a file, jsonargparse takes null for "not given" whatever the type.
        for key, hint in self.hints.items():
            is_null = key in namespace and namespace[key] is None
            if is_null and type(None) not in typing.get_args(hint):
                raise ConfigError(
                    f"{key}=null in {path} is not a value; use {describe(hint)}."
                )

    def _check_file(self, path):
        """The file's tree; refuses what is not a YAML mapping of known keys."""
        try:
            tree = yaml.safe_load(to_path(path).read_text(encoding="utf-8"))
        except OSError as error:
            reason = (error.strerror or "unreadable").lower()
            raise ConfigError(
                f"config file {path} cannot be read ({reason}); {advice(path)}"
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            mark = getattr(error, "problem_mark", None)
            line = f" at line {mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or "not text"
            raise ConfigError(
                f"config file {path} is not valid YAML{line} ({problem}); "
                "mend that line."
            ) from error
        _require_mapping(tree, f"config file {path}", "'train: {epochs: 5}'")
        if "rows" in tree and "rows" not in self.hints:
            raise ConfigError(f"{path} is a sweep, no recipe; use --sweep {path}.")
        for section, value in tree.items():
            self._check_key(str(section), f"{section} in {path}")
            if section not in self.sections:
                continue
            _require_mapping(value, f"section {section} in {path}", "'{key: value}'")
            for key in value:
                self._check_key(f"{section}.{key}", f"{section}.{key} in {path}")
        return tree

    def _check_key(self, key, where, flags=()):
        if "." not in key and key in self.sections:
            if where.startswith("-"):
                kind = next(iter(self.sections[key].values()))
                field = dataclasses.fields(kind)[0].name
                raise ConfigError(
                    f"{where} names a whole section; set one field of it at a time, "
                    f"such as --{key}.{field}=VALUE."
                )
            return
        if key in self.hints:
            return
        near = self._near(key, [flag.lstrip("-") for flag in flags])
        advice = (
            f"did you mean {' or '.join(near)}?" if near else "see --help for all keys."
        )
        raise ConfigError(f"{where} is not a known key; {advice}")

    def _near(self, key, flags):
        """Known keys and flags that somebody who wrote `key` may have meant."""
        key = key.replace("-", "_")
        if key in self.hints:
            return [key]
        last = key.rpartition(".")[2]
        ends = {known: known.rpartition(".")[2] for known in self.hints}
        # Somebody who knows the last part of a key often leaves its section out.
        if near := [known for known, end in ends.items() if end == last]:
            return near
        if (known := _ELSEWHERE.get(last.lower())) in self.hints:
            return [known]
        short = [k for k, end in ends.items() if _initials(end) == last.lower()]
        if short and len(last) > 1:
            return short
        known = [*self.hints, *flags]
        if near := difflib.get_close_matches(key, known, n=1, cutoff=0.6):
            return near
        section = key[: len(key) - len(last)]
        inside = {end: k for k, end in ends.items() if k.startswith(section)}
        near = difflib.get_close_matches(last, inside, n=1, cutoff=0.6)
        return [inside[near[0]]] if near else []

    @contextlib.contextmanager
    def _one_sentence(self, path, words) -> Iterator[None]:
        """Turn the parser's many-line complaint into one sentence about one key."""
        try:
            yield
        except argparse.ArgumentError as error:
            message = error.message
            key = re.search(r'[Pp]arser key "([\w.]+)"', message)
            if key is None or key[1] not in self.hints:
                flat = " ".join(message.split())
                raise ConfigError(
                    f"{flat}; write overrides as --section.key=value."
                ) from error
            values = re.findall(r"(?:Given|Got) value: ([^\n]*)", message)
            found = values[-1] if values else "the value given"
            overridden = any(word.partition("=")[0] == f"--{key[1]}" for word in words)
            origin = "" if overridden else f" in {path}"
            raise ConfigError(
                f"{key[1]}={found}{origin} does not fit; "
                f"{meant(found, self.hints[key[1]])}use "
                f"{describe(self.hints[key[1]])}."
            ) from error


class FlagParser(argparse.ArgumentParser):
    """A parser of the words that are not fields; mistakes are `ConfigError`s."""

    def error(self, message: str) -> typing.NoReturn:
        """Raises the message as a sentence."""
        raise ConfigError(f"{message}; see --help.")


def plain(value: object) -> object:
    """The same tree with lists for tuples, which safe YAML has no word for."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _require_mapping(value, what, example):
    if not isinstance(value, dict):
        found = "nothing" if value is None else repr(value)
        raise ConfigError(f"{what} holds {found}; it needs keys such as {example}.")


def _initials(name: str) -> str:
    """Such as lr for learning_rate."""
    return "".join(part[:1] for part in name.split("_"))
