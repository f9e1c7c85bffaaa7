"""The command line: `moco-tf COMMAND`, `python -m moco_tf COMMAND`, `train.py`, ...

Words in, exit code out: 0, 2 for what a user can mend, 130 after Ctrl-C, 75 where a
cluster stopped a run that the same command continues.
"""

from __future__ import annotations

import difflib
import importlib
import os
import pathlib
import platform
import sys
from collections.abc import Callable, Sequence

import moco_tf
from moco_tf.lanes import versions
from moco_tf.mistakes import Mistake
from moco_tf.stops import CTRL_C, Stopped

COMMANDS = {
    "train": "pretrain an encoder, or run a sweep of pretrainings",
    "inspect": "look through a folder of pictures, and suggest settings for it",
    "launch": "start a command as several workers on this machine",
    "pack": "write images as a few large files, no larger than training needs",
    "data-service": "let other machines read and crop the images of a run",
    "evaluate": "judge an encoder (knn, linear, ...) or ask it (search, map, ...)",
    "import": "turn a checkpoint of another project into a SavedModel",
    "export": "write an encoder as another tool's file",
    "upload": "bring an encoder to a hub, with its card",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one of the commands and returns the exit code.

    Args:
        argv: the command and its words; None takes the process's own.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_code(lambda: _run(words))


def _run(words):
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        print(version())
        return 0
    if words[0] in ("import", "export"):
        return importlib.import_module("moco_tf.cli.weights").main(words)
    if words[0] in COMMANDS:
        module = words[0].replace("-", "_")
        return importlib.import_module(f"moco_tf.cli.{module}").main(words[1:])
    near = difflib.get_close_matches(words[0], COMMANDS, n=1)
    advice = f"did you mean {near[0]}?" if near else f"use {', '.join(COMMANDS)}."
    raise Mistake(f"{words[0]!r} is not a command; {advice}")


def exit_code(run: Callable[[], int], stopped: Callable[[], str] | None = None) -> int:
    """Runs a command and turns how it ends into an exit code.

    Args:
        run: does the work; its number is the exit code.
        stopped: says after Ctrl-C what has become of the work.
    """
    try:
        return run()
    except Mistake as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if (error.name or "moco_tf").partition(".")[0] == "moco_tf":
            raise
        print(f"error: {_foreign(error.name)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        stop = error if isinstance(error, Stopped) else Stopped(CTRL_C)
        after = f" after {stop.saved}, which is saved" if stop.saved else ""
        print(f"\nStopped{after}{stopped() if stopped else '.'}", file=sys.stderr)
        return stop.code


def _foreign(missing: str | None) -> str:
    """A sentence for whoever runs the commands with a Python that lacks a package."""
    checkout = pathlib.Path(moco_tf.__file__).parents[1]
    made = sorted(checkout.glob(".venv*/bin/python"))
    if made:
        remedy = f"use {os.path.relpath(made[0])} instead, which has it."
    elif (checkout / "Makefile").is_file():
        remedy = f"`make ready` in {checkout} sets an environment up that has it."
    else:
        remedy = "install moco_tf again with pip, which brings it."
    return (
        f"{sys.executable} (Python {platform.python_version()}) has no package "
        f"{missing}; {remedy}"
    )


def version() -> str:
    """Versions that a report of a fault needs, in one line."""
    return f"moco_tf {moco_tf.__version__} ({versions()})"


def _overview():
    commands = "\n".join(f"  {name:14}{what}" for name, what in COMMANDS.items())
    return (
        "usage: moco-tf COMMAND [words ...]\n\n"
        "Momentum-contrast self-supervised pretraining.\n\n"
        f"{commands}\n\n"
        "moco-tf COMMAND --help explains one, moco-tf train --list shows the recipes,\n"
        "moco-tf --version the versions of what it runs on."
    )
