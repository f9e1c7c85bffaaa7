"""The project's commands as a user types them in the shell that started this one."""

from __future__ import annotations

import os
import pathlib
import shlex
import shutil
import sys

from moco_tf.paths import to_path


def command(name: str, *words: object) -> str:
    """One of the commands, such that it runs as printed.

    Args:
        name: "train", "evaluate", "import" or "export".
        *words: that follow it; quoted where a shell needs that.

    Returns:
        Such as "python evaluate.py knn runs/demo", with "moco-tf evaluate" or, from a
        notebook, "python -m moco_tf evaluate" for the start.
    """
    started = pathlib.Path(sys.argv[0])
    script = started.with_name(f"{name}.py")
    if started.stem == "moco-tf":
        start = [_typed(started), name]
    elif started.name in ("train.py", "evaluate.py") and script.is_file():
        start = [_typed(sys.executable), str(script)]
    else:
        start = [_typed(sys.executable), "-m", "moco_tf", name]
    return shlex.join([*start, *map(str, words)])


def tensorboard(*runs: str | os.PathLike) -> str:
    """How this environment's TensorBoard is started on runs.

    Args:
        *runs: run directories. One alone is shown with its projector; several are
            shown under their names, for which TensorBoard leaves the projector out.
    """
    beside = pathlib.Path(sys.executable).with_name("tensorboard")
    start = [_typed(beside)]
    if shutil.which(str(beside)) is None:
        start = [_typed(sys.executable), "-m", "tensorboard.main"]
    folders = [to_path(run) / "tensorboard" for run in runs]
    if len(folders) == 1:
        return shlex.join([*start, "--logdir", str(folders[0])])
    named = [f"{folder.absolute().parent.name}:{folder}" for folder in folders]
    return shlex.join([*start, "--logdir_spec", ",".join(named)])


def _typed(program):
    """A program by its name if that finds it, else by the shortest path."""
    program = pathlib.Path(program)
    is_python = program.name.startswith("python")
    for name in ("python", program.name) if is_python else (program.name,):
        found = shutil.which(name)
        if found and pathlib.Path(found).parent == program.parent.absolute():
            return name
    from_here = os.path.relpath(program)
    return str(program) if from_here.startswith("..") else from_here
