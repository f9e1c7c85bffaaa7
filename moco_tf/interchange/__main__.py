"""`python -m moco_tf.interchange {import,export}`, the same as `moco-tf import`."""

import importlib
import sys

if __name__ == "__main__":
    # By name: this folder is below the command line and imports nothing of it.
    sys.exit(importlib.import_module("moco_tf.cli.weights").main(sys.argv[1:]))
