"""Pretrain an encoder: a recipe and overrides in, a run directory out."""

from __future__ import annotations

import argparse
import os
import pathlib
import textwrap
from collections.abc import Sequence

from moco_tf import cli
from moco_tf.config import Config, ConfigError, dump
from moco_tf.config.checks import check_places
from moco_tf.config.help import print_help
from moco_tf.config.load import read_words
from moco_tf.config.reader import FlagParser
from moco_tf.config.recipes import Recipe, find, recipes
from moco_tf.config.sweep import Sweep, load_sweep
from moco_tf.log import import_tensorflow
from moco_tf.paths import to_path
from moco_tf.shell import command

_DESCRIPTION = (
    "Pretrain an encoder with Momentum Contrast. Without --config it runs the embedded "
    "demo. Any field below can be overridden, for instance --train.batch_size=64 or "
    "--data.crop_scale=[0.1,1]."
)


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns the exit code.

    Args:
        argv: words after the program's name.
    """
    asked = None

    def run() -> int:
        nonlocal asked
        flags = {word.partition("=")[0] for word in argv}
        if "--sweep" in flags and not flags & {"-h", "--help"}:
            from moco_tf.pretrain.sweep import run_sweep

            folder = run_sweep(parse_sweep(argv))
            tables = command("evaluate", "tables", folder)
            print(f"All runs are finished; next: {tables}")
            return 0
        asked = parse_args(argv)
        check_places(asked)
        # TensorFlow takes seconds to import; --help and mistakes should not wait.
        import_tensorflow()
        from moco_tf.pretrain import pretrain

        pretrain(asked)
        return 0

    def stopped() -> str:
        if asked is None:
            return "."
        if "TF_CONFIG" in os.environ:
            return "; start the same command on all hosts again to continue."
        return f"; continue with: {command('train', '--resume', asked.run_dir)}"

    return cli.exit_code(run, stopped)


def parse_args(argv: Sequence[str]) -> Config:
    """Reads the command line of one run.

    `--help`, `--list`, `--version` and `--print_config` print and exit.

    Args:
        argv: words after the program's name.

    Returns:
        The checked configuration; with `--resume` that of the run directory named.

    Raises:
        ConfigError: as `moco_tf.config.load_config`.
    """
    # Kept apart from the fields, so that overrides win in any order.
    parser = FlagParser(add_help=False, allow_abbrev=False)
    _add_flags(parser)
    options, words = parser.parse_known_args(argv)
    if options.help:
        print_help(
            Config,
            f"{command('train')} [--config RECIPE] [--section.key=value ...]",
            _DESCRIPTION,
            _add_flags,
        )
        raise SystemExit(0)
    if options.list:
        print(_listed())
        raise SystemExit(0)
    if options.version:
        print(cli.version())
        raise SystemExit(0)
    if options.seeds:
        raise ConfigError(
            f"--seeds={options.seeds} belongs to --sweep; for one run use --seed=N."
        )
    _refuse_lone_words(words)
    if options.resume is None:
        config = read_words(options.config, words, list(parser._option_string_actions))
    else:
        config = _load_run(to_path(options.resume), options.config, words)
    if options.print_config:
        print(dump(config), end="")
        raise SystemExit(0)
    return config


def parse_sweep(argv: Sequence[str]) -> Sweep:
    """Reads the command line of a sweep.

    Args:
        argv: words after the program's name: --sweep FILE.yaml, overrides of all rows,
            --seeds=[0,1,2] instead of the file's seeds, and --config RECIPE instead of
            the file's recipe and scale.

    Raises:
        ConfigError: as `load_sweep`, or for flags that do not go with a sweep.
    """
    parser = FlagParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--sweep", required=True)
    parser.add_argument("--seeds")
    parser.add_argument("--config")
    options, words = parser.parse_known_args(argv)
    for word in words:
        if word.partition("=")[0] in ("--resume", "--print_config"):
            raise ConfigError(
                f"{word.partition('=')[0]} does not go with --sweep, which goes on "
                "where it was by itself; leave it out."
            )
    _refuse_lone_words(words)
    return load_sweep(options.sweep, _joined(words), options.seeds, options.config)


def _refuse_lone_words(words: Sequence[str]) -> None:
    """Refuses a word that no flag takes, such as a recipe without --config."""
    for word in _joined(words):
        if word.startswith("-"):
            continue
        place = to_path(word)
        if find(word).is_file():
            meant = f"did you mean --config {word}?"
        elif find(word, "sweeps").is_file():
            meant = f"did you mean --sweep {word}?"
        elif (place / "config.yaml").is_file():
            meant = f"did you mean --resume {word}?"
        elif place.is_dir():
            meant = f"did you mean --config folder_photos --data.data_dir={word}?"
        else:
            meant = "write overrides as --section.key=value."
        raise ConfigError(f"{word!r} belongs to no flag; {meant}")


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
    return read_words(run_dir / "config.yaml", [*words, *here])


def _add_flags(parser: argparse.ArgumentParser) -> None:
    flags = parser.add_argument_group("Options")
    flags.add_argument("-h", "--help", action="store_true", help="Print this and exit.")
    flags.add_argument(
        "--config", metavar="RECIPE", help="A recipe's name, or a YAML file."
    )
    flags.add_argument(
        "--list",
        action="store_true",
        help="Print the recipes and sweeps, with published and measured figures.",
    )
    flags.add_argument(
        "--resume", metavar="RUN_DIR", help="Continue a run from its last checkpoint."
    )
    flags.add_argument(
        "--sweep",
        metavar="SWEEP",
        help="Run the rows of a sweep, by its name or file, seed by seed.",
    )
    flags.add_argument(
        "--seeds", metavar="[0,1,2]", help="With --sweep: seeds instead of the file's."
    )
    flags.add_argument(
        "--print_config",
        action="store_true",
        help="Print the resolved configuration as YAML and exit.",
    )
    flags.add_argument(
        "--version", action="store_true", help="Print versions and exit."
    )


def _joined(words: Sequence[str]) -> list[str]:
    """Makes "--key value" one word."""
    joined: list[str] = []
    for word in words:
        is_value = joined and joined[-1].startswith("--") and "=" not in joined[-1]
        if is_value and not word.startswith("--"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _listed() -> str:
    train = command("train")
    parts = [f"Recipes, as in {train} --config {recipes()[0].name}", ""]
    parts += map(_entry, recipes())
    parts += [f"Sweeps, as in {train} --sweep {recipes('sweeps')[0].name}", ""]
    parts += map(_entry, recipes("sweeps"))
    return "\n".join(parts).rstrip()


def _entry(recipe: Recipe) -> str:
    facts = [("", recipe.about)]
    facts += [("expected: ", recipe.expected), ("measured: ", recipe.measured)]
    lines = [recipe.name]
    for title, text in facts:
        if text:
            lines += textwrap.wrap(
                f"{title}{text}",
                width=79,
                initial_indent="  ",
                subsequent_indent="  " + " " * len(title),
            )
    return "\n".join([*lines, ""])
