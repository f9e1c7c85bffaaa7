"""What the commands say while they work."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator


class _Printing(logging.Handler):
    """Prints to whatever standard output is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints the message, in lines that fit the terminal, or 80 columns."""
        width = max(60, shutil.get_terminal_size().columns)
        for line in self.format(record).split("\n"):
            print(_wrapped(line, width), file=sys.stdout)
        sys.stdout.flush()


def _wrapped(line: str, width: int) -> str:
    # A command in backticks stays whole, so that it can be copied.
    line = re.sub("`[^`]*`", lambda found: found[0].replace(" ", "\0"), line)
    lines = textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("\0", " ")


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


def hide_first_compilation() -> None:
    """Lets XLA compile once, as it prints lines at its first time in a process."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "3":
        return
    import tensorflow as tf

    with _hidden_errors(), contextlib.suppress(tf.errors.OpError):
        tf.function(lambda: tf.constant(0) + 1, jit_compile=True)()


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
