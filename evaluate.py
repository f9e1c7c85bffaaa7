"""Judge an encoder: `python evaluate.py PROTOCOL RUN_DIR_OR_SAVED_MODEL [--k=v]`."""

from __future__ import annotations

import os
import sys

from moco_tf.config import ConfigError
from moco_tf.config.commands import parse_evaluation


def main(argv: list[str]) -> int:
    """Run the command line and return the exit code: 2 for a user's mistake."""
    mistakes: tuple[type[Exception], ...] = (ConfigError,)
    try:
        evaluation = parse_evaluation(argv)
        # 2 would still show errors about GPU libraries that a CPU run does without.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        # TensorFlow takes seconds to import; --help and mistakes should not wait.
        from moco_tf.data.sources import DataError
        from moco_tf.interchange import InterchangeError
        from moco_tf.protocols import evaluate

        mistakes = (ConfigError, DataError, InterchangeError)
        evaluate(evaluation)
    except mistakes as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped; no results were written.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
