"""Judge an encoder: `python evaluate.py PROTOCOL RUN_DIR_OR_SAVED_MODEL [--k=v]`."""

from __future__ import annotations

import sys

from moco_tf import cli


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit code: 2 for a user's mistake."""
    return cli.main(["evaluate", *argv])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
