"""The project's commands as a user types them in the shell that started this one."""

from __future__ import annotations

import os
import pathlib
import shlex
import shutil
import sys


def command(name: str) -> str:
    """One of the commands, such that it runs as printed.

    Args:
        name: "train", "evaluate", "import" or "export".

    Returns:
        Such as "python evaluate.py", "moco-tf evaluate" or, from a notebook,
        "python -m moco_tf evaluate"; other words may follow.
    """
    started = pathlib.Path(sys.argv[0])
    if started.stem == "moco-tf":
        return f"{_typed(started)} {name}"
    script = started.with_name(f"{name}.py")
    if started.name in ("train.py", "evaluate.py") and script.is_file():
        return f"{_typed(sys.executable)} {shlex.quote(str(script))}"
    return f"{_typed(sys.executable)} -m moco_tf {name}"


def _typed(program):
    """A program by its name if that finds it, else by the shortest path."""
    program = pathlib.Path(program)
    for name in (program.name, "python"):
        found = shutil.which(name)
        if found and pathlib.Path(found).parent == program.parent.absolute():
            return name
    with_here = os.path.relpath(program)
    return shlex.quote(str(program) if with_here.startswith("..") else with_here)
