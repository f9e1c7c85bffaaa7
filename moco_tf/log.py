"""What the commands say while they work."""

from __future__ import annotations

import logging
import sys


class _Printing(logging.Handler):
    """Prints to whatever standard output is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints the message."""
        print(self.format(record), file=sys.stdout, flush=True)


def set_up_log() -> None:
    """Prints the package's messages plainly and keeps TensorFlow's to errors."""
    log = logging.getLogger("moco_tf")
    if not log.handlers:
        handler = _Printing()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False  # or a root handler would print each line again
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
