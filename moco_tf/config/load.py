"""From YAML files and command-line words to a checked Config, and back to YAML."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import os
import pathlib
import re
import typing
from collections.abc import Iterable, Iterator, Sequence

import jsonargparse
import yaml

from moco_tf.config.checks import validate
from moco_tf.config.tree import Config, ConfigError

_DESCRIPTION = (
    "Pretrain an encoder with Momentum Contrast. Without --config it runs the embedded "
    "demo. Any field below can be overridden, for instance --train.batch_size=64 or "
    "--data.crop_scale=[0.1,1]."
)


def load_config(
    path: str | os.PathLike | None = None, overrides: Iterable[str] = ()
) -> Config:
    """Read a configuration.

    Args:
        path: YAML file; None for the defaults, which are the demo.
        overrides: words such as "train.epochs=5", with or without leading dashes;
            they win over the file, a later one over an earlier one.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: one sentence that says what is wrong, where, and how to mend it.
    """
    words = [word if word.startswith("--") else f"--{word}" for word in overrides]
    return _load(path, words)


def dump(config: Config) -> str:
    """YAML of every field, which `load_config` reads back to an equal Config."""
    header = (
        f"# Effective learning rate {config.effective_learning_rate:g} = "
        f"{config.optimizer.learning_rate:g} x batch {config.train.batch_size} / 256.\n"
    )
    return header + yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


def parse_args(argv: Sequence[str]) -> tuple[Config, pathlib.Path | None]:
    """Read train.py's command line; `--help` and `--print_config` print and exit.

    Args:
        argv: words after the program's name.

    Returns:
        The checked configuration, and the run directory to resume (None to start anew,
        or to continue whatever the configured run directory holds).

    Raises:
        ConfigError: as `load_config`.
    """
    options, words = _flag_parser().parse_known_args(argv)
    if options.help:
        _print_help()
        raise SystemExit(0)
    resume = None
    if options.resume is None:
        config = _load(options.config, words)
    else:
        resume = pathlib.Path(options.resume)
        config = _load_run(resume, options.config, words)
    if options.print_config:
        print(dump(config), end="")
        raise SystemExit(0)
    return config, resume


def _load_run(run_dir: pathlib.Path, path: str | None, words: list[str]) -> Config:
    if path is not None:
        raise ConfigError(
            f"--config {path} contradicts --resume {run_dir}, which has its own "
            "config.yaml; leave one of the two out."
        )
    moved = {word.partition("=")[0] for word in words} & {"--name", "--runs_dir"}
    if moved:
        raise ConfigError(
            f"{moved.pop()} would move the run that --resume {run_dir} continues; "
            "leave it out."
        )
    if not (run_dir / "config.yaml").is_file():
        raise ConfigError(
            f"--resume {run_dir} holds no config.yaml, so it is not a run; "
            "give a directory such as runs/demo."
        )
    # A run may have been moved since it was started: where it lies now is what counts.
    place = run_dir.resolve()
    here = [f"--runs_dir={run_dir.parent}", f"--name={place.name}"]
    return _load(run_dir / "config.yaml", [*words, *here])


def _load(path: str | os.PathLike | None, words: Sequence[str]) -> Config:
    for word in words:
        if word.startswith("-"):
            _check_key(word.partition("=")[0].lstrip("-"), word)
    if path is not None:
        _check_file(path)
        words = [f"--config={path}", *words]
    parser = _field_parser()
    with _one_sentence(path, words):
        namespace = parser.parse_args(list(words))
        _refuse_null(namespace, path)
        del namespace["config"]
        values = parser.instantiate(namespace)
    config = Config(**{f.name: values[f.name] for f in dataclasses.fields(Config)})
    validate(config)
    return config


def _refuse_null(namespace: jsonargparse.Namespace, path: object) -> None:
    # In a file, jsonargparse takes null for "not given" whatever the type.
    for key, hint in _hints().items():
        if namespace[key] is None and type(None) not in typing.get_args(hint):
            raise ConfigError(
                f"{key}=null in {path} is not a value; use {_describe(hint)}."
            )


def _check_file(path: str | os.PathLike) -> None:
    """Refuse what is not a YAML mapping of known keys."""
    try:
        tree = yaml.safe_load(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        raise ConfigError(
            f"config file {path} cannot be read ({reason}); "
            "give one of the files in configs/ or your own."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not text"
        raise ConfigError(
            f"config file {path} is not valid YAML{line} ({problem}); mend that line."
        ) from error
    _require_mapping(tree, f"config file {path}", "'train: {epochs: 5}'")
    for section, value in tree.items():
        _check_key(str(section), f"{section} in {path}")
        if section not in _sections():
            continue
        _require_mapping(value, f"section {section} in {path}", "'{key: value}'")
        for key in value:
            _check_key(f"{section}.{key}", f"{section}.{key} in {path}")


def _require_mapping(value: object, what: str, example: str) -> None:
    if not isinstance(value, dict):
        found = "nothing" if value is None else repr(value)
        raise ConfigError(f"{what} holds {found}; it needs keys such as {example}.")


def _check_key(key: str, where: str) -> None:
    if "." not in key and key in _sections():
        if where.startswith("-"):
            raise ConfigError(
                f"{where} names a whole section; set one field of it at a time, "
                f"such as --{key}.{dataclasses.fields(_sections()[key])[0].name}=VALUE."
            )
        return
    hints = _hints()
    if key in hints:
        return
    # Somebody who knows the last part of a key often leaves its section out.
    near = [k for k in hints if k.rpartition(".")[2] == key.rpartition(".")[2]]
    near = near or difflib.get_close_matches(key, hints, n=1, cutoff=0.5)
    advice = (
        f"did you mean {' or '.join(near)}?" if near else "see --help for all keys."
    )
    raise ConfigError(f"{where} is not a known key; {advice}")


@contextlib.contextmanager
def _one_sentence(path: object, words: Sequence[str]) -> Iterator[None]:
    """Turn the parser's many-line complaint into one sentence about one key."""
    try:
        yield
    except argparse.ArgumentError as error:
        message = error.message
        key = re.search(r'[Pp]arser key "([\w.]+)"', message)
        if key is None or key[1] not in _hints():
            flat = " ".join(message.split())
            raise ConfigError(
                f"{flat}; write overrides as --section.key=value."
            ) from error
        values = re.findall(r"(?:Given|Got) value: ([^\n]*)", message)
        found = values[-1] if values else "the value given"
        overridden = any(word.partition("=")[0] == f"--{key[1]}" for word in words)
        origin = "" if overridden else f" in {path}"
        raise ConfigError(
            f"{key[1]}={found}{origin} has the wrong type; "
            f"use {_describe(_hints()[key[1]])}."
        ) from error


def _describe(hint: object) -> str:
    """A type hint in words."""
    arguments = typing.get_args(hint)
    if type(None) in arguments:
        return " or ".join([*map(_describe, arguments[:-1]), "null"])
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(arguments)
    if typing.get_origin(hint) is tuple:
        item = {int: "whole numbers", float: "numbers"}[arguments[0]]
        count = "a list of" if Ellipsis in arguments else "a list of two"
        return f"{count} {item} in brackets"
    words = {int: "a whole number", float: "a number", bool: "true or false"}
    return words.get(hint, "text, in quotes where it looks like a number")


def _sections() -> dict[str, type]:
    hints = typing.get_type_hints(Config)
    return {k: hint for k, hint in hints.items() if dataclasses.is_dataclass(hint)}


def _hints() -> dict[str, object]:
    """Type of every settable key, by its dotted name."""
    flat = {}
    for key, hint in typing.get_type_hints(Config).items():
        if dataclasses.is_dataclass(hint):
            inner = typing.get_type_hints(hint)
            flat.update({f"{key}.{name}": kind for name, kind in inner.items()})
        else:
            flat[key] = hint
    return flat


def _plain(value: object) -> object:
    """The same tree with lists for tuples, which safe YAML has no word for."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


class _FlagParser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise ConfigError(f"{message}; see --help.")


def _flag_parser() -> argparse.ArgumentParser:
    """The words that are not fields; kept apart so that overrides win in any order."""
    parser = _FlagParser(add_help=False, allow_abbrev=False)
    _add_flags(parser)
    return parser


def _add_flags(parser: argparse.ArgumentParser) -> None:
    flags = parser.add_argument_group("Options")
    flags.add_argument("-h", "--help", action="store_true", help="Print this and exit.")
    flags.add_argument("--config", metavar="FILE.yaml", help="A recipe from configs/.")
    flags.add_argument(
        "--resume", metavar="RUN_DIR", help="Continue a run from its last checkpoint."
    )
    flags.add_argument(
        "--print_config",
        action="store_true",
        help="Print the resolved configuration as YAML and exit.",
    )


def _field_parser() -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(exit_on_error=False, add_help=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Config)
    return parser


def _print_help() -> None:
    parser = jsonargparse.ArgumentParser(
        usage="train.py [--config FILE.yaml] [--section.key=value ...]",
        description=_DESCRIPTION,
        add_help=False,
    )
    _add_flags(parser)
    parser.add_class_arguments(Config)
    for action in parser._actions:
        if action.dest in _sections():
            action.help = argparse.SUPPRESS  # `_check_key` refuses whole sections
    parser.print_help()
