"""Pretrain an encoder: `python train.py [--config RECIPE] [--section.key=value]`."""

import sys

from moco_tf.cli.train import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
