"""Time of the augmentation: each layer and each recipe, beside KerasCV's stock layers.

    python -m benchmarks.augment [--sizes 224 32] [--turns=3] [--seconds=0.3]

Milliseconds an image of uint8 batches (32 of 224 pixels, 256 of 32) into float32, by
TensorFlow's own kernels (`graph`) and compiled by XLA (`xla`, what training does by
itself). A layer by itself changes every image here, as the stock layers do; a recipe
changes those that its paper says. KerasCV's blur has a kernel of 13 pixels, as far as
this project's reaches. The random crop is made on the host, see
benchmarks/input_pipeline.py. The ways take turns; the median turn counts. `ratio` is
KerasCV's better time over this project's compiled one. Results go to
benchmarks/results/augment.csv.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import moco_tf  # before TensorFlow, whose Keras it chooses

# isort: split
import keras_cv
import tensorflow as tf

from benchmarks.timing import in_turns
from benchmarks.writing import write_results
from moco_tf import augment
from moco_tf.augment import Recipe

BATCHES = {224: 32, 32: 256}
SIGMA, REACH = (0.1, 2.0), 13
RECIPES = ("moco_v1", "moco_v2", "moco_v3", "simclr", "cifar")
GREY_LEVELS = (0, 255)


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", choices=BATCHES,
                        default=list(BATCHES), help="pixels")  # fmt: skip
    parser.add_argument("--turns", type=int, default=3, help="of each way")
    parser.add_argument("--seconds", type=float, default=0.3, help="of a turn")
    options = parser.parse_args()
    rows = []
    for size in options.sizes:
        batch = BATCHES[size]
        for what, (recipe, stock) in cases().items():
            ways = ways_of(recipe, stock, grey_images(batch, size))
            times = in_turns(ways, options.turns, options.seconds)
            each = {way: time / batch for way, time in times.items()}
            rows.append({"pixels": size, "batch": batch, "what": what, **cells(each)})
            print("  ".join(map(str, rows[-1].values())), flush=True)
    write_results("augment", rows)


def cases() -> dict[str, tuple[Recipe, list]]:
    """What is measured: this project's layers, and the stock ones that do the like."""
    stock = keras_cv.layers
    jitter = augment.ColorJitter(0.4, 0.4, 0.4, 0.1)
    blur = augment.RandomGaussianBlur(SIGMA, 1.0)
    stock_jitter = stock.RandomColorJitter(GREY_LEVELS, 0.4, 0.4, 0.4, 0.1)
    stock_blur = stock.RandomGaussianBlur(REACH, SIGMA)
    layers = {
        "jitter": ([jitter], [stock_jitter]),
        "grayscale": ([augment.RandomGrayscale(1.0)], [stock.Grayscale(3)]),
        "blur": ([blur], [stock_blur]),
        "solarise": (
            [augment.RandomSolarize(1.0)],
            [stock.Solarization(GREY_LEVELS, threshold_factor=(128, 128))],
        ),
        "flip": ([augment.RandomHorizontalFlip()], [stock.RandomFlip("horizontal")]),
        "normalise": (
            [augment.Normalize(augment.IMAGENET_MEAN, augment.IMAGENET_STD)],
            [],
        ),
        "jitter and blur": ([jitter, blur], [stock_jitter, stock_blur]),
    }
    found = {what: (Recipe(own), others) for what, (own, others) in layers.items()}
    for name in RECIPES:
        recipe = getattr(augment, name)()
        found[f"recipe {name}"] = (recipe, [])
        if recipe.key is not None:
            found[f"recipe {name}, keys"] = (recipe.key, [])
    return found


def ways_of(
    recipe: Recipe, stock: list, images: tf.Tensor
) -> dict[str, Callable[[], tf.Tensor]]:
    """What augments the images, by the name of its column."""

    def of_stock(images):
        for layer in stock:
            images = layer(images, training=True)
        return images

    functions = {"graph ms": recipe.uncompiled(), "xla ms": recipe}
    if stock:
        functions["keras_cv graph ms"] = of_stock
        functions["keras_cv xla ms"] = tf.function(of_stock, jit_compile=True)
    ways = {}
    for name, function in functions.items():
        traced = tf.function(function)
        ways[name] = lambda traced=traced: traced(images)
    return ways


def cells(times: dict[str, float]) -> dict[str, str]:
    """A row's cells of milliseconds an image; without stock layers these are empty."""
    names = ("graph ms", "xla ms", "keras_cv graph ms", "keras_cv xla ms")
    row = {name: f"{times[name]:.4f}" if name in times else "" for name in names}
    stock = [times[name] for name in names[2:] if name in times]
    row["ratio"] = f"{min(stock) / times['xla ms']:.1f}" if stock else ""
    return row


def grey_images(batch: int, size: int) -> tf.Tensor:
    """Noise, uint8 (batch, size, size, 3)."""
    noise = tf.random.uniform((batch, size, size, 3), 0, 256, tf.int32)
    return tf.cast(noise, tf.uint8)


if __name__ == "__main__":
    assert moco_tf.__version__
    main()
