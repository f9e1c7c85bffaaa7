"""Pretrain an encoder: `python train.py [--config FILE.yaml] [--section.key=value]`.

`--sweep FILE.yaml` runs the rows of a file from configs/sweeps instead.
"""

from __future__ import annotations

import os
import sys

from moco_tf.config import ConfigError, parse_args
from moco_tf.config.sweep import parse_sweep
from moco_tf.sweep import run_sweep


def main(argv: list[str]) -> int:
    """Run the command line and return the exit code: 2 for a user's mistake."""
    config = None
    mistakes: tuple[type[Exception], ...] = (ConfigError,)
    try:
        flags = {word.partition("=")[0] for word in argv}
        if "--sweep" in flags and not flags & {"-h", "--help"}:
            folder = run_sweep(parse_sweep(argv))
            print(f"All runs are finished; next: python evaluate.py tables {folder}")
            return 0
        config = parse_args(argv)
        # 2 would still show errors about GPU libraries that a CPU run does without.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        # TensorFlow takes seconds to import; --help and mistakes should not wait.
        from moco_tf.pretrain import MISTAKES, pretrain

        mistakes = MISTAKES
        pretrain(config)
    except mistakes as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        how = f"; continue with --resume {config.run_dir}" if config else ""
        print(f"\nStopped{how}.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
