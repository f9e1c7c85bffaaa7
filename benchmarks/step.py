"""Images a second of a MoCo step: inside `fit`, bare, and in PyTorch.

    python -m benchmarks.step [--turns=3] [--networks ResNet50] [--precisions float32]
    python -m benchmarks.step --parts [--networks ResNet50] [--precisions float32]

`fit` is `MoCo.fit` with everything that train.py puts around a step: uint8 views, their
augmentation, progress, health and logs. `bare` is `MoCo.train_step` as a graph on views
that are ready; `torch` is the same algorithm in plain PyTorch, `torch_last` with
channels last, both left out where that is not installed. Each runs in a process of its
own and the ways take turns; the median turn counts, the ratio is to the better PyTorch.
ResNet-50 with 224 pixels and 16 images, a queue of 65,536; ResNet-18 with CIFAR's stem,
32 pixels and 128 images, a queue of 4,096. Results go to benchmarks/results/step.csv.

`--parts` times what a step consists of, each by itself, and prints their shares.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import moco_tf  # before TensorFlow, whose Keras it chooses
from benchmarks.writing import write_results

WAYS = ("fit", "bare", "torch", "torch_last")
SECONDS = 15.0  # of a turn at least
PRECISIONS = ("float32", "mixed_bfloat16")
NETWORKS = {
    "ResNet50": {
        "batch": 16, "size": 224, "stem": "imagenet", "queue": 65536,
    },
    "ResNet18": {
        "batch": 128, "size": 32, "stem": "cifar", "queue": 4096,
    },
}  # fmt: skip
TEMPERATURE, KEY_MOMENTUM, RATE = 0.2, 0.999, 0.03


def main() -> None:
    """Measures, or, as a child, measures one way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3, help="of each way")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS
    )
    parser.add_argument("--parts", action="store_true", help="of a step, by themselves")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(*options.child.split(","))))
        return
    rows = []
    for network in options.networks:
        for precision in options.precisions:
            about = {"network": network, "precision": precision}
            kind = part_rows if options.parts else way_rows
            for row in kind(network, precision, options.turns):
                rows.append({**about, **row})
                print("  ".join(map(str, rows[-1].values())), flush=True)
    write_results("step_parts" if options.parts else "step", rows)


def way_rows(network: str, precision: str, turns: int) -> list[dict]:
    """Rates of each way, and what they are of the better PyTorch's."""
    torch = importlib.util.find_spec("torch")
    ways = [way for way in WAYS if torch or not way.startswith("torch")]
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(turns):
        for way in ways:
            rates[way].append(in_child(way, network, precision))
    medians = {way: statistics.median(rates[way]) for way in ways}
    best = max((medians[way] for way in ways if way.startswith("torch")), default=None)
    batch = NETWORKS[network]["batch"]
    return [
        {
            "batch": batch,
            "way": way,
            "images/s": f"{rate:.2f}",
            "ratio": f"{rate / best:.2f}" if best else "",
        }
        for way, rate in medians.items()
    ]


def part_rows(network: str, precision: str, turns: int) -> list[dict]:
    """Milliseconds of each part, and its share of the whole step."""
    found = [in_child("parts", network, precision) for _ in range(turns)]
    times = {part: statistics.median(turn[part] for turn in found) for part in found[0]}
    return [
        {"part": part, "ms": f"{ms:.2f}", "percent": f"{100 * ms / times['step']:.1f}"}
        for part, ms in times.items()
    ]


def in_child(way: str, network: str, precision: str) -> float:
    """Measures one way in a process of its own."""
    return run_child("benchmarks.step", f"{way},{network},{precision}")


def run_child(module: str, what: str, python: str = sys.executable):
    """What a benchmark measures as a child: its last line, which is JSON."""
    done = subprocess.run(
        [python, "-m", module, f"--child={what}"],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if done.returncode:
        sys.exit(f"error: {what} with {python} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(way: str, network: str, precision: str):
    """Images a second, in this process; of the parts of a step, milliseconds."""
    if way == "parts":
        return measure_parts(network, precision)
    if way == "fit":
        return measure_fit(network, precision)
    if way == "bare":
        step = bare_step(network, precision)
    else:
        step = torch_step(network, precision, last=way == "torch_last")
    return 1000 * NETWORKS[network]["batch"] / milliseconds(step)


def milliseconds(step: Callable[[], None]) -> float:
    """Time of a step, the first two left out."""
    for _ in range(2):
        step()
    count, start = 0, time.perf_counter()
    while count < 3 or time.perf_counter() - start < SECONDS:
        step()
        count += 1
    return 1000 * (time.perf_counter() - start) / count


def make_model(network: str, precision: str, augment=None):
    """A compiled MoCo, version 2."""
    import tensorflow as tf

    setting = NETWORKS[network]
    tf.keras.mixed_precision.set_global_policy(precision)
    model = moco_tf.MoCo(
        getattr(moco_tf.encoders, network)(stem=setting["stem"]),
        queue_size=setting["queue"],
        key_momentum=KEY_MOMENTUM,
        temperature=TEMPERATURE,
        augment=augment,
    )
    model.compile(moco_tf.optimizers.SGD(learning_rate=RATE, weight_decay=1e-4))
    return model


def measure_fit(network: str, precision: str) -> float:
    """Images a second of the second epoch, as the run's own log has it."""
    import tensorflow as tf

    from moco_tf import augment, callbacks

    setting = NETWORKS[network]
    recipe = augment.moco_v2() if network == "ResNet50" else augment.cifar()
    model = make_model(network, precision, recipe)
    shape = (setting["batch"], setting["size"], setting["size"], 3)
    noise = tf.cast(tf.random.uniform((2, *shape), 0, 256, tf.int32), tf.uint8)
    batch = {"query": noise[0], "key": noise[1]}
    batches = tf.data.Dataset.from_tensors(batch).repeat().prefetch(2)
    watchers = [
        callbacks.FiniteLoss(),
        callbacks.TrainingHealth(setting["batch"]),
        callbacks.Progress(bars=True),
    ]
    # An epoch to start, and one of some SECONDS.
    history = model.fit(
        batches,
        epochs=2,
        steps_per_epoch=8 if network == "ResNet50" else 16,
        callbacks=watchers,
        verbose=0,
    )
    return history.history["images_per_second"][-1]


def bare_step(network: str, precision: str) -> Callable[[], None]:
    """A step on views that are ready."""
    import tensorflow as tf

    setting = NETWORKS[network]
    model = make_model(network, precision)
    shape = (setting["batch"], setting["size"], setting["size"], 3)
    batch = {name: tf.random.normal(shape) for name in ("query", "key")}
    step = tf.function(model.train_step)
    return lambda: step(batch)["loss"].numpy()


def measure_parts(network: str, precision: str) -> dict[str, float]:
    """Milliseconds of a step and of what it consists of."""
    import tensorflow as tf

    from moco_tf import augment
    from moco_tf.contrast import contrast, move_towards
    from moco_tf.encoders.encode import encode

    setting = NETWORKS[network]
    model = make_model(network, precision)
    shape = (setting["batch"], setting["size"], setting["size"], 3)
    images = tf.random.normal(shape)
    grey = tf.cast(tf.random.uniform(shape, 0, 256, tf.int32), tf.uint8)
    recipe = augment.moco_v2() if network == "ResNet50" else augment.cifar()
    keys = tf.math.l2_normalize(tf.random.normal((setting["batch"], 128)), axis=1)
    ids = tf.range(setting["batch"], dtype=tf.int64)
    variables = model.trained_variables
    gradients = [tf.random.normal(variable.shape) for variable in variables]

    def query(backward):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(encode(model.query_encoder, images) * keys)
        return tape.gradient(loss, variables) if backward else loss

    def logits():
        with tf.GradientTape() as tape:
            tape.watch(keys)
            loss = contrast(keys, keys, model.queue.keys, TEMPERATURE).loss
        return tape.gradient(loss, keys)

    key_variables = model.key_encoder.trainable_variables
    parts = {
        "step": lambda: model.train_step({"query": images, "key": images}),
        "augmentation": lambda: (recipe(grey), recipe(grey)),
        "query forward": lambda: query(backward=False),
        "query forward and backward": lambda: query(backward=True),
        "keys": lambda: encode(model.key_encoder, images),
        "logits and their gradient": logits,
        "queue": lambda: model.queue.enqueue(keys, ids),
        "key encoder's update": lambda: move_towards(key_variables, variables, 0.999),
        "optimiser": lambda: model.optimizer.apply_gradients(zip(gradients, variables)),
    }
    times = {}
    for name, part in parts.items():
        step = tf.function(part)

        def run(step=step):
            # Waits for the device; what only writes gives nothing.
            for value in filter(tf.is_tensor, tf.nest.flatten(step())[-1:]):
                value.numpy()

        times[name] = milliseconds(run)
    return times


def torch_step(network: str, precision: str, last: bool) -> Callable[[], None]:
    """The same step in plain PyTorch: the key encoder's batch shuffled, a queue."""
    import torch

    from tests.networks import torch_resnet

    layout = torch.channels_last if last else torch.contiguous_format
    setting = NETWORKS[network]
    deep = network == "ResNet50"
    depths, block = ((3, 4, 6, 3), "bottleneck") if deep else ((2, 2, 2, 2), "basic")
    features = 2048 if deep else 512

    def encoder():
        backbone = torch_resnet(torch, depths, block, 64, setting["stem"])
        head = torch.nn.Sequential(
            torch.nn.Linear(features, features),
            torch.nn.ReLU(),
            torch.nn.Linear(features, 128),
        )
        network = torch.nn.Sequential(backbone, head)
        return network.to(memory_format=layout)

    query_encoder, key_encoder = encoder(), encoder()
    key_encoder.load_state_dict(query_encoder.state_dict())
    optimizer = torch.optim.SGD(
        query_encoder.parameters(), RATE, momentum=0.9, weight_decay=1e-4
    )
    unit = torch.nn.functional.normalize
    queue = unit(torch.randn(128, setting["queue"]), dim=0)
    shape = (setting["batch"], 3, setting["size"], setting["size"])
    views = torch.randn(2, *shape)
    query_images, key_images = (view.contiguous(memory_format=layout) for view in views)
    labels = torch.zeros(setting["batch"], dtype=torch.long)
    low = torch.autocast("cpu", torch.bfloat16, enabled=precision != "float32")
    cursor = 0

    def step():
        nonlocal cursor
        with low:
            query = query_encoder(query_images)
            with torch.no_grad():
                for key, source in zip(
                    key_encoder.parameters(), query_encoder.parameters()
                ):
                    key.mul_(KEY_MOMENTUM).add_(source, alpha=1 - KEY_MOMENTUM)
                order = torch.randperm(setting["batch"])
                keys = key_encoder(key_images[order])[torch.argsort(order)]
        query, keys = unit(query.float(), dim=1), unit(keys.float(), dim=1)
        own = (query * keys).sum(1, keepdim=True)
        logits = torch.cat([own, query @ queue.clone()], 1) / TEMPERATURE
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        queue[:, cursor : cursor + setting["batch"]] = keys.T
        cursor = (cursor + setting["batch"]) % setting["queue"]
        loss.item()

    return step


if __name__ == "__main__":
    main()
