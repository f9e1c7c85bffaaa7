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
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

# Seconds between two lines on the same work where nothing can be drawn.
HEARTBEAT = 60.0


class _Printing(logging.Handler):
    """Prints to whatever standard output is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints the message."""
        say(self.format(record))


def say(text: str) -> None:
    """Prints lines that fit the terminal, or 80 columns; a command stays whole."""
    width = max(60, shutil.get_terminal_size().columns)
    for line in text.split("\n"):
        print(_wrapped(line, width), file=sys.stdout)
    sys.stdout.flush()


def watched(
    items: Iterable[Item], title: str | None, total: int | None = None
) -> Iterable[Item]:
    """Items one by one, with a bar on a terminal and a line a minute elsewhere.

    Args:
        items: what is worked on in turn.
        title: what that work is; None shows nothing.
        total: how many they are; None asks their length, if they have one.
    """
    if title is None:
        return items
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        return tqdm(items, title, total, leave=False, dynamic_ncols=True)
    return _told(items, title, total)


def _told(items, title, total):
    start = said = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said < HEARTBEAT:
            continue
        said = now
        left = ""
        if total:
            seconds = (total - done) * (now - start) / done
            left = f"/{total:,}, {tqdm.format_interval(seconds)} left"
        logging.getLogger("moco_tf").info("  %s: %s%s", title, f"{done:,}", left)


def _wrapped(line: str, width: int) -> str:
    if len(line) <= width:
        return line
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
        with quiet_libraries(), contextlib.redirect_stdout(io.StringIO()):
            import keras_cv  # noqa: F401


def hide_first_compilation() -> None:
    """Lets XLA compile once, as it prints lines at its first time in a process."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "3":
        return
    import tensorflow as tf

    with quiet_libraries(), contextlib.suppress(tf.errors.OpError):
        tf.function(lambda: tf.constant(0) + 1, jit_compile=True)()


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hides what C libraries write to standard error, and nothing of Python's.

    TensorFlow's libraries write there without a level that could be set: libjpeg on
    every damaged file, the TensorFlow Lite converter on every model.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    python = sys.stderr
    if _is_process_wide(python):
        sys.stderr = open(os.dup(kept), "w", encoding=python.encoding)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            if sys.stderr is not python:
                sys.stderr.close()
                sys.stderr = python


def _is_process_wide(stream):
    try:
        return stream.fileno() == 2
    except (OSError, ValueError, AttributeError):  # a notebook's, a test's
        return False
