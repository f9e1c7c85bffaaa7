"""Commands as a user types them, in a process of their own."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run_train(*words, timeout=60):
    """The finished process of `train.py` with these words, its output as text."""
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
