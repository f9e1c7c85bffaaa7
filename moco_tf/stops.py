"""Being asked to stop, by a person or by a cluster that takes its machine back."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import threading
from collections.abc import Iterator

# The exit code of a run that a cluster has stopped: "try again" (sysexits.h).
TRY_AGAIN = 75
CTRL_C = 130


class Stopped(KeyboardInterrupt):
    """Work has stopped because the process was asked to.

    Args:
        code: the exit code.
        saved: up to where a run is saved, in words; empty where it has nothing new.
    """

    def __init__(self, code: int = TRY_AGAIN, saved: str = ""):
        super().__init__()
        self.code, self.saved = code, saved


@dataclasses.dataclass
class Asked:
    """What a process has been asked.

    Attributes:
        code: exit code for a stop; 0 while there is none.
        is_training: whether somebody looks at `code` after each step.
    """

    code: int = 0
    is_training: bool = False


@contextlib.contextmanager
def listening() -> Iterator[Asked]:
    """Takes SIGINT, SIGTERM and SIGUSR1 (Slurm's warning) as requests to stop.

    In training the work is saved first; a second Ctrl-C does not wait for that, and
    outside of training all stop at once, with `Stopped`. Threads other than the main
    one cannot listen.
    """
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number, frame):
        code = CTRL_C if number == signal.SIGINT else TRY_AGAIN
        if not asked.is_training or code == asked.code == CTRL_C:
            raise Stopped(code)
        if code == CTRL_C:
            print("\nSaving; Ctrl-C again stops at once.", file=sys.stderr, flush=True)
        asked.code = code

    names = ("SIGINT", "SIGTERM", "SIGUSR1")  # the last is not on Windows
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            # None stands for a handler that is not Python's.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
