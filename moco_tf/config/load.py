"""train.py's configuration: from a recipe and words to a checked Config, and back."""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Sequence

import yaml

from moco_tf.config.checks import validate
from moco_tf.config.reader import FlagParser, Reader, plain
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
    scale = f"batch {config.train.batch_size} / 256"
    if config.optimizer.scaling == "sqrt":
        scale = f"sqrt({scale})"
    header = (
        f"# Effective learning rate {config.effective_learning_rate:g} = "
        f"{config.optimizer.learning_rate:g} x {scale}.\n"
    )
    return header + yaml.safe_dump(plain(dataclasses.asdict(config)), sort_keys=False)


def parse_args(argv: Sequence[str]) -> Config:
    """Read train.py's command line; `--help` and `--print_config` print and exit.

    Args:
        argv: words after the program's name.

    Returns:
        The checked configuration; with `--resume` that of the run directory named.

    Raises:
        ConfigError: as `load_config`.
    """
    # Kept apart from the fields, so that overrides win in any order.
    parser = FlagParser(add_help=False, allow_abbrev=False)
    _add_flags(parser)
    options, words = parser.parse_known_args(argv)
    if options.help:
        Reader(Config).print_help(
            "train.py [--config FILE.yaml] [--section.key=value ...]",
            _DESCRIPTION,
            _add_flags,
        )
        raise SystemExit(0)
    if options.seeds:
        raise ConfigError(
            f"--seeds={options.seeds} belongs to --sweep; for one run use --seed=N."
        )
    if options.resume is None:
        config = _load(options.config, words)
    else:
        config = _load_run(pathlib.Path(options.resume), options.config, words)
    if options.print_config:
        print(dump(config), end="")
        raise SystemExit(0)
    return config


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
    is_link = run_dir.name != place.name  # or "." or ".."
    runs_dir = place.parent if is_link else run_dir.parent
    here = [f"--runs_dir={runs_dir}", f"--name={place.name}"]
    return _load(run_dir / "config.yaml", [*words, *here])


def _load(path: str | os.PathLike | None, words: Sequence[str]) -> Config:
    config = Reader(Config).read(path, words)
    validate(config)
    return config


def _add_flags(parser: argparse.ArgumentParser) -> None:
    flags = parser.add_argument_group("Options")
    flags.add_argument("-h", "--help", action="store_true", help="Print this and exit.")
    flags.add_argument("--config", metavar="FILE.yaml", help="A recipe from configs/.")
    flags.add_argument(
        "--resume", metavar="RUN_DIR", help="Continue a run from its last checkpoint."
    )
    flags.add_argument(
        "--sweep",
        metavar="FILE.yaml",
        help="Run the rows of a file from configs/sweeps, seed by seed.",
    )
    flags.add_argument(
        "--seeds", metavar="[0,1,2]", help="With --sweep: seeds instead of the file's."
    )
    flags.add_argument(
        "--print_config",
        action="store_true",
        help="Print the resolved configuration as YAML and exit.",
    )
