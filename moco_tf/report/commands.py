"""What to type next, of a run that is over or under way."""

from __future__ import annotations

import pathlib

from moco_tf.shell import command, tensorboard

# Images from which on the papers' linear protocol is the one to take.
_LARGE = 200_000


def next_commands(
    run_dir: pathlib.Path, images: int, is_labelled: bool
) -> dict[str, str]:
    """Commands that go on from a finished run, purpose -> command.

    Args:
        run_dir: of the run.
        images: that it learnt from.
        is_labelled: whether a monitor watched it on labelled ones.
    """
    commands = {"watch the curves": tensorboard(run_dir)}
    if is_labelled:
        # The papers' protocol has one rate, which suits sets like theirs.
        words = [] if images >= _LARGE else ["--protocol=cached"]
        commands["kNN with several settings"] = command("evaluate", "knn", run_dir)
        linear = command("evaluate", "linear", run_dir, *words)
        commands["linear classification"] = linear
    else:
        alike = command("evaluate", "search", run_dir)
        commands["which pictures are alike (--query=PICTURE asks of one)"] = alike
        commands["copies and near copies"] = command("evaluate", "duplicates", run_dir)
        commands["a map of all pictures"] = command("evaluate", "map", run_dir)
    commands["take it to other tools"] = command("export", "--help")
    return commands
