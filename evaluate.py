"""Judge an encoder: `python evaluate.py PROTOCOL RUN_DIR_OR_SAVED_MODEL [--k=v]`."""

import sys

from moco_tf.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
