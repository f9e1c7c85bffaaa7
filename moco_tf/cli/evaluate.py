"""Judge an encoder: a protocol, what to judge and its settings in, results out."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence

from moco_tf import cli
from moco_tf.config import ConfigError
from moco_tf.config.help import print_help
from moco_tf.config.reader import Reader
from moco_tf.evaluation.commands import (
    ON_IMAGES,
    ON_RESULTS,
    PROTOCOLS,
    Evaluation,
)
from moco_tf.evaluation.given import sort_given
from moco_tf.interchange.formats import find_export
from moco_tf.log import import_tensorflow
from moco_tf.paths import to_path
from moco_tf.shell import command


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns the exit code.

    Args:
        argv: words after the program's name.
    """

    def run() -> int:
        evaluation = parse_evaluation(argv)
        if (encoder := _encoder(evaluation)) is not None:
            find_export(encoder)
        # TensorFlow takes seconds to import; --help and mistakes should not wait.
        import_tensorflow()
        from moco_tf.evaluation.run import evaluate

        evaluate(evaluation)
        return 0

    after = "; no results were written."
    if argv and argv[0] in ON_IMAGES:
        after = "; the same command goes on with what was encoded."
    return cli.exit_code(run, lambda: after)


def _encoder(evaluation):
    """Path of the encoder that is judged; None where there is none."""
    if evaluation.protocol in ON_RESULTS:
        return None
    if evaluation.protocol in ON_IMAGES:
        return sort_given(evaluation.protocol, evaluation.paths).encoder
    return evaluation.paths[0]


def parse_evaluation(argv: Sequence[str]) -> Evaluation:
    """Reads the command line; `--help` and `--version` print and exit.

    Args:
        argv: words after the program's name.

    Raises:
        ConfigError: one sentence that says what is wrong and how to mend it.
    """
    wants_help = "--help" in argv or "-h" in argv
    protocol, *rest = argv or ["--help"]
    if protocol == "--version":
        print(cli.version())
        raise SystemExit(0)
    if protocol not in PROTOCOLS:
        if wants_help or not argv:
            _print_overview()
            raise SystemExit(0)
        raise ConfigError(
            f"{protocol!r} is not a protocol; use one of {', '.join(PROTOCOLS)}, as in "
            f"{command('evaluate', 'knn', 'runs/demo')}."
        )
    if wants_help:
        _print_help(protocol)
        raise SystemExit(0)
    paths, words = _sort(rest)
    if protocol in ON_RESULTS:
        if not paths:
            raise ConfigError(
                f"{protocol} needs {ON_RESULTS[protocol][0]}, as in "
                f"{command('evaluate', protocol)} {ON_RESULTS[protocol][1]}."
            )
    elif protocol in ON_IMAGES:
        sort_given(protocol, tuple(map(to_path, paths)))
    elif len(paths) != 1:
        found = " ".join(paths) if paths else "none"
        raise ConfigError(
            f"{protocol} judges one encoder and was given {found}; name one run "
            "directory or SavedModel, as in "
            f"{command('evaluate', protocol, 'runs/demo')}."
        )
    settings = Reader(PROTOCOLS[protocol]).read(None, words)
    settings.check()
    return Evaluation(protocol, tuple(map(to_path, paths)), settings)


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
    evaluate = command("evaluate")
    print(f"usage: {evaluate} PROTOCOL RUN_DIR_OR_SAVED_MODEL [--key=value ...]\n")
    print("Judge a pretrained encoder:")
    for name, settings in PROTOCOLS.items():
        if name == ON_IMAGES[0]:
            print("\nAsk it about images, labelled or not (ENCODER FOLDER):")
        print(f"  {name:<12}{inspect.getdoc(settings).splitlines()[0]}")
    print(f"\n{evaluate} PROTOCOL --help explains its settings.")


def _print_help(protocol):
    settings = PROTOCOLS[protocol]
    what = "RUN_DIR ..." if protocol in ON_RESULTS else "RUN_DIR_OR_SAVED_MODEL"
    if protocol in ON_IMAGES:
        what += " [FOLDER]" if protocol == "embed" else " [FOLDER or FILE ...]"
    text = inspect.getdoc(settings).partition("\n\nAttributes:")[0]
    print_help(
        settings,
        f"{command('evaluate', protocol)} {what} [--key=value ...]",
        " ".join(text.split()),
        _add_help_flag,
    )


def _add_help_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group("Options").add_argument(
        "-h", "--help", action="store_true", help="Print this and exit."
    )
