"""A run that stands still says where."""

from __future__ import annotations

import contextlib
import logging
import pathlib
import sys
import threading
import time
import traceback
from collections.abc import Iterator

from moco_tf.methods import ContrastiveModel

log = logging.getLogger("moco_tf")

_PACKAGE = str(pathlib.Path(__file__).resolve().parents[1])
_WAITS = {
    "images": "waits for images: a slow disk or network, or a pool that is gone",
    "step": "is in a step: a device is busy, or another host has stopped",
    "after": "is between steps: probes, pictures, a checkpoint, or figures that a "
    "device has yet to compute",
}


@contextlib.contextmanager
def stalls_told(model: ContrastiveModel, minutes: float | None) -> Iterator[None]:
    """Warns, from a thread of its own, when training makes no step for some minutes.

    Args:
        model: which is trained in the body, by the thread that enters it.
        minutes: without a step; a stall is told again each time it has lasted twice as
            long. None never tells.
    """
    if minutes is None:
        yield
        return
    end, trainer = threading.Event(), threading.get_ident()

    def watch():
        counted, since, patience = model.steps_made, time.monotonic(), 60 * minutes
        while not end.wait(min(10.0, 15 * minutes)):
            if model.steps_made != counted:
                counted = model.steps_made
                since, patience = time.monotonic(), 60 * minutes
            still = time.monotonic() - since
            if still > patience:
                patience *= 2
                log.warning(
                    "No step for %.3g minutes. The run %s (%s).",
                    still / 60,
                    _WAITS[model.doing],
                    _place(trainer),
                )

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _place(thread):
    """The innermost line of this package that a thread has reached."""
    lines = traceback.extract_stack(sys._current_frames()[thread])
    own = [line for line in lines if line.filename.startswith(_PACKAGE)]
    line = (own or lines)[-1]
    return f"{pathlib.Path(line.filename).name}:{line.lineno}, {line.name}"
