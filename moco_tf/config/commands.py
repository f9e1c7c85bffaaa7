"""evaluate.py's command line: a protocol, what to judge, and its settings."""

from __future__ import annotations

import argparse
import inspect
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

from moco_tf.config.protocols import KNN, Compare, Linear, Tables
from moco_tf.config.reader import Reader
from moco_tf.config.transfer import Detect, Finetune
from moco_tf.config.tree import ConfigError

Settings = Union[KNN, Linear, Finetune, Detect, Compare, Tables]

PROTOCOLS: dict[str, type[Settings]] = {
    "knn": KNN,
    "linear": Linear,
    "finetune": Finetune,
    "detect": Detect,
    "compare": Compare,
    "tables": Tables,
}
# Commands on finished runs: they read results, not encoders.
ON_RESULTS = {
    "compare": "runs that were evaluated before, as in evaluate.py compare runs/a "
    "runs/b",
    "tables": "sweeps, as in evaluate.py tables runs/ablation",
}


@dataclass(frozen=True)
class Evaluation:
    """One command.

    Attributes:
        protocol: one of `PROTOCOLS`.
        paths: run directories or SavedModels; exactly one but for compare.
        settings: the protocol's, checked.
    """

    protocol: str
    paths: tuple[pathlib.Path, ...]
    settings: Settings


def parse_evaluation(argv: Sequence[str]) -> Evaluation:
    """Reads evaluate.py's command line; `--help` prints and exits.

    Args:
        argv: words after the program's name.

    Raises:
        ConfigError: one sentence that says what is wrong and how to mend it.
    """
    wants_help = "--help" in argv or "-h" in argv
    protocol, *rest = argv or ["--help"]
    if protocol not in PROTOCOLS:
        if wants_help or not argv:
            _print_overview()
            raise SystemExit(0)
        raise ConfigError(
            f"{protocol!r} is not a protocol; use one of {', '.join(PROTOCOLS)}, as in "
            "evaluate.py knn runs/demo."
        )
    if wants_help:
        _print_help(protocol)
        raise SystemExit(0)
    paths, words = _sort(rest)
    if protocol in ON_RESULTS:
        if not paths:
            raise ConfigError(f"{protocol} needs {ON_RESULTS[protocol]}.")
    elif len(paths) != 1:
        found = " ".join(paths) if paths else "none"
        raise ConfigError(
            f"{protocol} judges one encoder and was given {found}; name one run "
            f"directory or SavedModel, as in evaluate.py {protocol} runs/demo."
        )
    settings = Reader(PROTOCOLS[protocol]).read(None, words)
    settings.check()
    return Evaluation(protocol, tuple(map(pathlib.Path, paths)), settings)


def _sort(words):
    """Paths, and overrides with their values, which may be words of their own."""
    paths, overrides = [], []
    words = iter(words)
    for word in words:
        if not word.startswith("-"):
            paths.append(word)
            continue
        overrides.append(word)
        if "=" not in word:
            overrides.extend([value] if (value := next(words, None)) else [])
    return paths, overrides


def _print_overview():
    print("usage: evaluate.py PROTOCOL RUN_DIR_OR_SAVED_MODEL [--key=value ...]\n")
    print("Judge a pretrained encoder. Protocols:")
    for name, settings in PROTOCOLS.items():
        print(f"  {name:<10}{_summary(settings)}")
    print("\nevaluate.py PROTOCOL --help explains its settings.")


def _print_help(protocol):
    settings = PROTOCOLS[protocol]
    what = "RUN_DIR ..." if protocol in ON_RESULTS else "RUN_DIR_OR_SAVED_MODEL"
    text = inspect.getdoc(settings).partition("\n\nAttributes:")[0]
    Reader(settings).print_help(
        f"evaluate.py {protocol} {what} [--key=value ...]",
        " ".join(text.split()),
        _add_help_flag,
    )


def _add_help_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group("Options").add_argument(
        "-h", "--help", action="store_true", help="Print this and exit."
    )


def _summary(settings):
    return inspect.getdoc(settings).splitlines()[0]
