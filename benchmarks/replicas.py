"""What it costs to share a batch among replicas: 2, 4 and 8 logical CPUs over one.

    python -m benchmarks.replicas [--replicas 2 4 8] [--turns=3] [--seconds=1] \
        [--batch=128] [--width=16]

A step of MoCo v2 on a ResNet of four blocks with CIFAR's stem (32 pixels, 4,096 keys)
at the same global batch, normalised in eight groups however many replicas there are, so
that all compute the same. Replicas exchange values on one device, as a rehearsal of
train.py does, or by TensorFlow's collectives, as GPUs do. With ShuffleBN the batch says
where its keys belong; without they are in order. A logical CPU is no processor of its
own: all share this machine's, so `ratio`, the time over that of one replica, is what
the sharing itself costs. `gathered kB` and `gradients kB` are what a replica hands over
in a step, by the arithmetic of benchmarks/scaling.py, which tests hold to the graph.
Each setting runs in a process of its own, with ShuffleBN and without in three turns;
the processes take turns. Medians count. Results go to benchmarks/results/replicas.csv.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Callable

from benchmarks.step import run_child
from benchmarks.writing import write_results

COUNTS = (2, 4, 8)
KINDS = ("one device", "collectives")
SHUFFLES = ("on", "off")
GROUPS, IMAGE_SIZE, DIM, QUEUE = 8, 32, 128, 4096


def main() -> None:
    """Measures, or, as a child, measures one number of replicas."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, nargs="+", choices=COUNTS,
                        default=COUNTS, help="beside one")  # fmt: skip
    parser.add_argument("--turns", type=int, default=3, help="of each process")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    parser.add_argument("--batch", type=int, default=128, help="images of all replicas")
    parser.add_argument("--width", type=int, default=16, help="of the network")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(*json.loads(options.child))))
        return
    settings = (options.batch, options.width, options.seconds)
    cases = [(1, "none"), *itertools.product(options.replicas, KINDS)]
    turns: dict[tuple[int, str], list] = {case: [] for case in cases}
    for _ in range(options.turns):
        for case, found in turns.items():
            words = json.dumps([*case, *settings])
            found.append(run_child("benchmarks.replicas", words))
            print(*case, found[-1], flush=True)
    rows = rows_of({case: medians(found) for case, found in turns.items()})
    write_results("replicas", rows)


def medians(found: list[dict]) -> dict:
    """Of a child's turns; what it hands over is the same in all."""
    times = {name: statistics.median(turn[name] for turn in found) for name in SHUFFLES}
    return {**times, "moved": found[0]["moved"]}


def rows_of(found: dict[tuple[int, str], dict]) -> list[dict]:
    """The table's rows, of what each child has measured.

    Args:
        found: (replicas, kind) -> "on" and "off", milliseconds of a step with
            ShuffleBN and without, and "moved", bytes by kind; a single replica first.
    """
    rows = []
    for (replicas, kind), child in found.items():
        moved = child["moved"]
        for shuffle in SHUFFLES:
            ratio = child[shuffle] / found[1, "none"][shuffle]
            rows.append({
                "replicas": replicas,
                "exchange": kind,
                "ShuffleBN": shuffle,
                "step ms": f"{child[shuffle]:.1f}",
                "ratio": f"{ratio:.2f}",
                "gathered kB": f"{(moved['embeddings'] + moved['ids']) / 1e3:.1f}",
                "gradients kB": f"{moved['gradients'] / 1e3:.1f}",
            })  # fmt: skip
    return rows


def method(replicas: int, width: int):
    """What is trained, not compiled."""
    import moco_tf

    encoder = moco_tf.encoders.ResNet((1, 1, 1, 1), "basic", width, "cifar")
    groups = GROUPS // replicas
    return moco_tf.MoCo(encoder, dim=DIM, queue_size=QUEUE, bn_groups=groups)


def measure(replicas: int, kind: str, batch: int, width: int, seconds: float) -> dict:
    """What `rows_of` takes, in this process."""
    import moco_tf  # noqa: F401  before TensorFlow, whose Keras it chooses
    from benchmarks import scaling
    from benchmarks.timing import in_turns
    from moco_tf.distribution import make_strategy, mirrored

    strategy = make_strategy(replicas)  # makes the devices as well
    if kind == "collectives":
        strategy = mirrored(tuple(f"CPU:{i}" for i in range(replicas)))

    def step_of(model, shared) -> Callable[[], object]:
        model.make_train_function()
        run = model.train_tf_function
        return lambda: run(shared)["loss"].numpy()

    fresh = method(replicas, width)
    model, shared = scaling.shared_step(fresh, IMAGE_SIZE, batch, strategy)
    ordered = {name: value for name, value in shared.items() if name != "position"}
    ways = {"on": step_of(model, shared), "off": step_of(model, ordered)}
    times = in_turns(ways, turns=3, seconds=seconds)
    moved = dict.fromkeys(scaling.moved(0, 0, 0), 0)
    if replicas > 1:
        moved = scaling.moved(scaling.parameters_of(model), DIM, batch)
    return {**times, "moved": moved}


if __name__ == "__main__":
    main()
