"""What the commands say while they work."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
from collections.abc import Iterator


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


def import_tensorflow() -> None:
    """Imports TensorFlow and KerasCV without what they print of themselves.

    TensorFlow's libraries print lines before their log level holds, and KerasCV names
    its backend. With TF_CPP_MIN_LOG_LEVEL set below 3 everything is shown.
    """
    # 2 would still show errors about GPU libraries that a CPU run does without.
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "3":
        with _hidden_errors(), contextlib.redirect_stdout(io.StringIO()):
            import keras_cv  # noqa: F401


@contextlib.contextmanager
def _hidden_errors() -> Iterator[None]:
    """Hides what the process writes to its standard error, its libraries included."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
