"""Judging an encoder: features, the vote of neighbours and the linear sweep.

    python -m benchmarks.evaluate [--turns=3] [--train=20000] [--test=5000] \
        [--dim=512] [--images=256] [--epochs=10]

`features` are images a second of `FeatureExtractor` on noise of 224 pixels (ResNet-50)
and on glyphs of 32 (ResNet-18 with CIFAR's stem), beside Keras's `predict`. `votes` are
test images a second of the kNN vote (k of 200) on made features, beside scikit-learn's
classifier with the same weights. `sweep` is SGD on cached features with fifteen pairs
of rate and penalty at once, beside one pair after the other, in candidates a second;
training epochs are as many in both. All in one process, where the ways of a thing take
turns; the median turn counts. `ratio` is to the way beside it. Results go to
benchmarks/results/evaluate.csv.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import moco_tf  # before TensorFlow, whose Keras it chooses

# isort: split
import numpy as np
import tensorflow as tf

from benchmarks.timing import in_turns
from benchmarks.writing import write_results
from moco_tf.data.sources.glyphs import draw_glyphs
from moco_tf.evaluation import (
    FeatureExtractor,
    Features,
    knn_predict,
    linear_sweep,
)

NEIGHBOURS, TEMPERATURE, CLASSES = 200, 0.1, 10
RATES, DECAYS = (0.01, 0.03, 0.1, 0.3, 1.0), (0.0, 1e-5, 1e-3)
OURS = "moco_tf"


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3, help="of each way")
    parser.add_argument("--train", type=int, default=20_000, help="made features")
    parser.add_argument("--test", type=int, default=5_000, help="made features")
    parser.add_argument("--dim", type=int, default=512, help="of made features")
    parser.add_argument("--images", type=int, default=256, help="to encode")
    parser.add_argument("--epochs", type=int, default=10, help="of the sweep")
    options = parser.parse_args()
    train = made_features(options.train, options.dim, seed=0)
    test = made_features(options.test, options.dim, seed=1)
    noise = tf.random.uniform((options.images, 224, 224, 3), 0, 256, tf.int32)
    glyphs = draw_glyphs("test")[0][: 4 * options.images]
    resnet18 = moco_tf.encoders.ResNet18(stem="cifar")
    pairs = len(RATES) * len(DECAYS)
    cases: dict[str, tuple[int, dict[str, Callable]]] = {
        "features, ResNet50, 224 px": (
            options.images,
            encoding(moco_tf.encoders.ResNet50(), tf.cast(noise, tf.uint8), 32),
        ),
        "features, ResNet18, 32 px": (len(glyphs), encoding(resnet18, glyphs, 128)),
        "votes": (options.test, voting(train, test)),
        "sweep": (pairs, sweeping(train, test, options.epochs)),
    }
    rows = []
    for what, (count, ways) in cases.items():
        times = in_turns(ways, options.turns, seconds=0)
        for row in rows_of(what, count, times):
            rows.append(row)
            print("  ".join(map(str, row.values())), flush=True)
    write_results("evaluate", rows)


def rows_of(what: str, count: int, times: dict[str, float]) -> list[dict]:
    """The rows of a thing, of milliseconds that each way takes for `count` of it."""
    return [
        {
            "what": what,
            "way": way,
            "number": count,
            "seconds": f"{time / 1000:.2f}",
            "a second": f"{1000 * count / time:.1f}",
            "ratio": "" if way == OURS else f"{time / times[OURS]:.2f}",
        }
        for way, time in times.items()
    ]


def encoding(encoder, images, batch: int) -> dict[str, Callable]:
    """Features of uint8 images, this project's way and Keras's."""
    count = len(images)
    labels = np.zeros(count, np.int64)
    elements = {"image": images, "label": labels, "id": np.arange(count)}
    data = tf.data.Dataset.from_tensor_slices(elements).batch(batch).cache()
    plain = data.map(lambda element: tf.cast(element["image"], tf.float32))
    extractor = FeatureExtractor(encoder)
    return {
        OURS: lambda: extractor.extract(data),
        "Keras's predict": lambda: encoder.predict(plain, verbose=0),
    }


def voting(train: Features, test: Features) -> dict[str, Callable]:
    """The vote of neighbours, this project's way and scikit-learn's."""
    from sklearn.neighbors import KNeighborsClassifier

    search = KNeighborsClassifier(
        NEIGHBOURS,
        metric="cosine",
        algorithm="brute",
        weights=lambda distance: np.exp((1 - distance) / TEMPERATURE),
        n_jobs=-1,
    )
    search.fit(train.features, train.labels)
    sets = (train.features, train.labels, test.features)
    return {
        OURS: lambda: knn_predict(*sets, NEIGHBOURS, TEMPERATURE),
        "scikit-learn": lambda: search.predict(test.features),
    }


def sweeping(train: Features, test: Features, epochs: int) -> dict[str, Callable]:
    """The linear sweep over all pairs at once, and with one call for each."""

    def sweep(rates, decays):
        return linear_sweep(train, test, rates, decays, epochs=epochs, lbfgs=False)

    def one_by_one():
        for rate in RATES:
            for decay in DECAYS:
                sweep([rate], [decay])

    return {OURS: lambda: sweep(RATES, DECAYS), "one after the other": one_by_one}


def made_features(count: int, dim: int, seed: int) -> Features:
    """Clusters around a centre for each class."""
    centres = np.random.default_rng(2).normal(size=(CLASSES, dim))
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    rows = centres[labels] + 3 * random.normal(size=(count, dim))
    return Features(rows.astype(np.float32), labels, np.arange(count))


if __name__ == "__main__":
    main()
