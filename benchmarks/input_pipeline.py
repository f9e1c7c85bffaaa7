"""Images a second that the host makes into two views, beside Pillow's.

    python -m benchmarks.input_pipeline [--sizes 375x500 3000x4000] [--count=256] \
        [--image_size=224] [--seconds=10]

The photographs are noise of several scales, saved as JPEG of quality 90. `decode` only
decodes them and `two_views` is the whole pipeline (decode once, no larger than the
crops need, two random resized crops with Pillow's filter); `two_views_whole` decodes
the whole, `two_views_bilinear` resizes without averaging, `two_views_packed` reads what
`moco-tf pack` made of them (shorter side 256). `pillow` makes the same crops
with Pillow, in as many threads as there are cores (it lets go of the interpreter while
it works), `pillow_draft` of images that it decodes at a quarter where they are large;
`pillow_v2` adds all of MoCo v2's augmentation, which the reference's host does and this
project's device. The ways take turns, three each; the median turn counts. Results go to
benchmarks/results/input_pipeline.csv.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import itertools
import math
import os
import pathlib
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.writing import write_results
from moco_tf.config.packing import Packing
from moco_tf.data import open_source, two_views
from moco_tf.data.decoding import decode
from moco_tf.data.pack import pack

# isort: split
import numpy as np
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageFilter

BATCH = 16
TURNS = 3
KINDS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def main() -> None:
    """Measures the ways in turn and writes the CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sizes", nargs="+", default=["375x500", "3000x4000"], help="HEIGHTxWIDTH"
    )
    parser.add_argument("--count", type=int, default=256, help="small photographs")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a turn")
    options = parser.parse_args()
    rows = []
    for size in options.sizes:
        height, width = (int(side) for side in size.split("x"))
        count = max(BATCH, options.count * 375 * 500 // (height * width))
        rates = measured(count, height, width, options)
        for way, turns in rates.items():
            rate = statistics.median(turns)
            print(f"{size:>10} {way:>16} {rate:8.1f} images/s", flush=True)
            row = {"height": height, "width": width, "way": way}
            rows.append({**row, "images/s": f"{rate:.1f}"})
    write_results("input_pipeline", rows)


def measured(
    count: int, height: int, width: int, options: argparse.Namespace
) -> dict[str, list[float]]:
    """The rates of each way's turns."""
    size = options.image_size
    with tempfile.TemporaryDirectory() as folder:
        save_photographs(folder, count, height, width)
        ways = {
            "decode": decoded(folder),
            "two_views": views(folder, size),
            "two_views_whole": views(folder, size, whole=True),
            "two_views_bilinear": views(folder, size, antialias=False),
            "two_views_packed": views(folder, size, packed=True),
            "pillow": pillow_views(folder, size, lambda view, _: view),
            "pillow_draft": pillow_views(
                folder, size, lambda view, _: view, draft=True
            ),
            "pillow_v2": pillow_views(folder, size, augmented),
        }
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(TURNS):
            for way, batches in ways.items():
                rates[way].append(images_per_second(batches, options.seconds))
    return rates


def save_photographs(folder: str, count: int, height: int, width: int) -> None:
    """Noise of several scales, which takes about as many bytes as photographs do."""
    rng = np.random.default_rng(0)
    size = (width, height)
    for number in range(count):
        layers = [
            np.asarray(
                Image.fromarray(
                    rng.integers(0, 256, (cells, cells, 3), np.uint8)
                ).resize(size, Image.Resampling.BICUBIC),
                np.float32,
            )
            / divisor
            for cells, divisor in ((4, 2), (16, 4), (64, 8), (192, 8))
        ]
        image = Image.fromarray(np.uint8(np.clip(sum(layers), 0, 255)))
        image.save(f"{folder}/{number:05}.jpg", quality=90)


def decoded(folder: str) -> Iterator[int]:
    """Numbers of images that were decoded, batch by batch, without an end."""
    files = tf.data.Dataset.list_files(f"{folder}/*.jpg").cache().repeat()
    # The pixels must be used, or the graph leaves the decoding out.
    sums = files.map(
        lambda file: tf.reduce_max(decode(tf.io.read_file(file), 3)),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    for batch in sums.batch(BATCH).prefetch(2):
        yield len(batch)


def views(
    folder: str,
    image_size: int,
    whole: bool = False,
    antialias: bool = True,
    packed: bool = False,
) -> Iterator[int]:
    """The same for this project's pipeline, as its options say."""
    source = open_source("folder", "train", data_dir=folder)
    if packed:
        pack({"train": source}, pathlib.Path(folder, "packed", "set"), Packing())
        source = open_source("tfds", "train", name="set", data_dir=f"{folder}/packed")
    if whole:
        load = source.load

        def decoded_whole(example_id):
            element = load(example_id)
            return {**element, "image": decode(element["image"], 3)}

        source = dataclasses.replace(source, load=decoded_whole)
    options = {"image_size": image_size, "antialias": antialias}
    for batch in two_views(source, batch_size=BATCH, **options):
        yield len(batch["id"])


def pillow_views(
    folder: str,
    image_size: int,
    change: Callable[[Image.Image, random.Random], Image.Image],
    draft: bool = False,
) -> Iterator[int]:
    """The same with Pillow in threads, and a change of each view."""
    files = sorted(pathlib.Path(folder).glob("*.jpg"))
    numbers = random.Random(0)

    def two_crops(file):
        with Image.open(file) as image:
            if draft and min(image.size) >= 8 * image_size:
                image.draft("RGB", (image.width // 4, image.height // 4))
            photograph = image.convert("RGB")
        crops = [random_crop(photograph, image_size, numbers) for _ in range(2)]
        return [np.asarray(change(crop, numbers)) for crop in crops]

    endless = itertools.cycle(files)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        while True:
            done = list(pool.map(two_crops, itertools.islice(endless, BATCH)))
            yield len(np.stack([query for query, _ in done]))


def random_crop(image: Image.Image, size: int, numbers: random.Random) -> Image.Image:
    """A random resized crop of 0.2 to 1 of the area, as torchvision makes it."""
    width, height = image.size
    for _ in range(10):
        area = width * height * numbers.uniform(0.2, 1.0)
        ratio = math.exp(numbers.uniform(math.log(3 / 4), math.log(4 / 3)))
        columns = round(math.sqrt(area * ratio))
        rows = round(math.sqrt(area / ratio))
        if columns <= width and rows <= height:
            break
    else:
        columns = rows = min(width, height)
    left = numbers.randint(0, width - columns)
    top = numbers.randint(0, height - rows)
    box = (left, top, left + columns, top + rows)
    return image.crop(box).resize((size, size), Image.Resampling.BILINEAR)


def augmented(view: Image.Image, numbers: random.Random) -> Image.Image:
    """MoCo v2's augmentation after the crop."""
    if numbers.random() < 0.8:
        jitters = [functools.partial(enhance, kind) for kind in KINDS] + [jitter_hue]
        numbers.shuffle(jitters)
        for jitter in jitters:
            view = jitter(view, numbers)
    if numbers.random() < 0.2:
        view = view.convert("L").convert("RGB")
    if numbers.random() < 0.5:
        view = view.filter(ImageFilter.GaussianBlur(numbers.uniform(0.1, 2.0)))
    if numbers.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return view


def enhance(kind: type, view: Image.Image, numbers: random.Random) -> Image.Image:
    """Brightness, contrast or saturation times 0.6 to 1.4."""
    return kind(view).enhance(numbers.uniform(0.6, 1.4))


def jitter_hue(view: Image.Image, numbers: random.Random) -> Image.Image:
    """The hue turned by a tenth at most."""
    hue, saturation, value = view.convert("HSV").split()
    shift = np.uint8(int(numbers.uniform(-0.1, 0.1) * 255) % 256)
    hue = Image.fromarray(np.asarray(hue) + shift)
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def images_per_second(batches: Iterator[int], seconds: float) -> float:
    """The rate of a turn, its first three batches left out."""
    for _ in range(3):
        next(batches)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        count += next(batches)
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
