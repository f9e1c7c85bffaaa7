"""Pretrain an encoder: `python train.py [--config RECIPE] [--section.key=value]`."""

import sys

from moco_tf.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
