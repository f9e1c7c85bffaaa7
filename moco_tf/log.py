"""What the commands say while they work."""

from __future__ import annotations

import logging
import sys


def set_up_log() -> None:
    """Prints the package's messages plainly and keeps TensorFlow's to errors."""
    log = logging.getLogger("moco_tf")
    if not log.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False  # or a root handler would print each line again
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
