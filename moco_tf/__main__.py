"""`python -m moco_tf COMMAND`, the same as `moco-tf COMMAND`."""

import sys

from moco_tf.cli import main

if __name__ == "__main__":
    sys.exit(main())
