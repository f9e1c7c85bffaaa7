"""Images a second that the host makes into two views, by the format of the files.

    python -m benchmarks.file_formats [--count=128] [--image_size=224] [--seconds=5]

The same photographs of 500 x 375 pixels (see `benchmarks.input_pipeline`) as JPEG,
PNG, TIFF and so on. JPEG and PNG are decoded by TensorFlow; all others by Python
libraries, a call for each file. The formats take turns, three each; the median turn
counts. Results go to benchmarks/results/file_formats.csv.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.input_pipeline import (
    TURNS,
    images_per_second,
    save_photographs,
)
from benchmarks.writing import write_results
from moco_tf.data import open_source, two_views

# isort: split
import numpy as np
import pillow_heif
import tifffile
from PIL import Image

BATCH = 16


def _deep(image):
    """The same in 16 bits, the lower 8 noise as a camera's are."""
    noise = np.random.default_rng(0).integers(0, 256, image.shape, np.uint16)
    return image.astype(np.uint16) * 256 + noise


WRITERS = {
    "jpg": lambda path, image: Image.fromarray(image).save(path, quality=90),
    "png": lambda path, image: Image.fromarray(image).save(path),
    "tif": lambda path, image: tifffile.imwrite(path, image),
    "16 bits.tif": lambda path, image: tifffile.imwrite(path, _deep(image)),
    "deflate.tif": lambda path, image: tifffile.imwrite(
        path, image, compression="zlib"
    ),
    "npy": lambda path, image: np.save(path, image),
    "float32.npy": lambda path, image: np.save(path, np.float32(image / 255)),
    "webp": lambda path, image: Image.fromarray(image).save(path, quality=90),
    "heic": lambda path, image: pillow_heif.from_pillow(Image.fromarray(image)).save(
        path, quality=90
    ),
    "avif": lambda path, image: Image.fromarray(image).save(path, quality=90),
}


def main() -> None:
    """Measures the formats in turn and writes the CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=128, help="photographs")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a turn")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = pathlib.Path(place)
        os.environ["MOCO_TF_CACHE"] = str(root / "cache")
        ways = {name: _views(root, name, options) for name in WRITERS}
        rates = {name: [] for name in ways}
        for _ in range(TURNS):
            for name, batches in ways.items():
                rates[name].append(images_per_second(batches, options.seconds))
        rows = []
        for name, found in rates.items():
            files = [*(root / name).iterdir()]
            kib = sum(file.stat().st_size for file in files) / len(files) / 1024
            rate = statistics.median(found)
            print(f"{name:12} {kib:7.0f} KiB a file {rate:8.0f} images/s")
            row = {"format": name, "KiB a file": f"{kib:.0f}"}
            rows.append({**row, "images/s": f"{rate:.0f}"})
    write_results("file_formats", rows)


def _views(root, name, options):
    """Numbers of images of the batches of a format, without an end."""
    photographs = root / "jpg"
    if not photographs.exists():
        photographs.mkdir()
        save_photographs(str(photographs), options.count, 375, 500)
    if name != "jpg":
        (root / name).mkdir()
        for file in sorted(photographs.iterdir()):
            image = np.asarray(Image.open(file))
            WRITERS[name](f"{root / name / file.stem}.{name.split('.')[-1]}", image)
    value_range = (0.0, 1.0) if name == "float32.npy" else None
    source = open_source(
        "folder", "train", data_dir=str(root / name), value_range=value_range
    )
    views = two_views(source, batch_size=BATCH, image_size=options.image_size)
    return (len(batch["id"]) for batch in views)


if __name__ == "__main__":
    main()
