"""`moco-tf pack`: images as a few large files, no larger than training needs."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from moco_tf.config.limits import check_limits
from moco_tf.config.packing import Packing
from moco_tf.config.reader import FlagParser
from moco_tf.log import import_tensorflow, set_up_log
from moco_tf.shell import command


def main(argv: Sequence[str]) -> int:
    """Packs a set and returns the exit code.

    Args:
        argv: words after the program's name.
    """
    options = _parser().parse_args(argv)
    names = [field.name for field in dataclasses.fields(Packing)]
    packing = Packing(**{name: getattr(options, name) for name in names})
    check_limits(packing, "--")
    import_tensorflow()
    set_up_log()
    import tensorflow_datasets as tfds

    from moco_tf.data import open_source
    from moco_tf.data.pack import pack

    kind, _, name = options.source.rpartition(":")
    place = {"name": name, "data_dir": options.data_dir}
    if kind != "tfds":
        kind, place = "folder", {"data_dir": options.source}
    sources = {
        split: open_source(kind, split, channels=options.channels, **place)
        for split in options.splits
    }
    folder = pack(sources, options.out, packing)
    images = sum(source.num_examples for source in sources.values())
    size = tfds.builder_from_directory(folder).info.dataset_size
    out = folder.parent
    words = ["--data.source=tfds", f"--data.name={out.name}"]
    words += [f"--data.data_dir={out.parent}", f"--data.split={options.splits[0]}"]
    print(f"{images:,} images, {size / 2**20:,.1f} MiB, in {folder}. To train on them:")
    print(f"  {command('train', *words)}")
    return 0


def _parser():
    parser = FlagParser(
        prog=command("pack"),
        description=(
            "Pack images into a set of TensorFlow Datasets: a few large files, in a "
            "random order, of images that are no larger than training needs, which are "
            "read many times as fast as photographs. The same command goes on where it "
            "was stopped."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "source", help="Folder of images, or tfds:NAME, a set of TensorFlow Datasets."
    )
    parser.add_argument("out", help="New folder, whose name becomes the set's.")
    parser.add_argument(
        "--splits", nargs="+", default=["train"],
        help="Which parts to pack: sub-folders, or TFDS's names.",
    )  # fmt: skip
    parser.add_argument(
        "--shorter_side", type=int, default=Packing.shorter_side,
        help="Of the packed images, in pixels; smaller ones stay as they are. Crops of "
        "224 want 256 or more.",
    )  # fmt: skip
    parser.add_argument(
        "--quality", type=int, default=Packing.quality, help="Of JPEG, 1 to 100."
    )
    parser.add_argument(
        "--channels",
        type=int,
        default=Packing.channels,
        choices=(1, 3, 4),
        help="4 become PNG.",
    )
    parser.add_argument(
        "--shard_images",
        type=int,
        default=Packing.shard_images,
        help="Images in a file.",
    )
    parser.add_argument(
        "--seed", type=int, default=Packing.seed, help="Of the images' order."
    )
    parser.add_argument("--data_dir", help="Root of TFDS's sets, where they are not ~.")
    return parser
