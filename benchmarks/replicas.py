"""What it costs to share a batch among replicas: 2, 4 and 8 logical CPUs over one.

    python -m benchmarks.replicas [--replicas 2 4 8] [--turns=3] [--seconds=2] \
        [--batch=128] [--width=16]

A step of MoCo v2 on ResNet-18 with CIFAR's stem (32 pixels, 4,096 keys) at the same
global batch, normalised in eight groups however many replicas there are, so that all
compute the same. Replicas exchange values on one device, as a rehearsal of train.py
does, or by TensorFlow's collectives, as GPUs do. With ShuffleBN the batch says where
its keys belong; without they are in order. A logical CPU is no processor of its own:
all share this machine's, so `ratio`, the time over that of one replica, is what the
sharing itself costs. `gathered kB` and `gradients kB` are what a replica hands over in
a step, counted in its graph by benchmarks/scaling.py. Each number of replicas runs in a
process of its own, where both settings take turns; medians count. Results go to
benchmarks/results/replicas.csv.
"""

from __future__ import annotations

import argparse
import json
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
    parser.add_argument("--turns", type=int, default=3, help="of each setting")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn")
    parser.add_argument("--batch", type=int, default=128, help="images of all replicas")
    parser.add_argument("--width", type=int, default=16, help="of the network")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(*json.loads(options.child))))
        return
    settings = (options.batch, options.width, options.turns, options.seconds)
    found = {}
    for replicas, kind in [(1, "none")] + [
        (n, k) for n in options.replicas for k in KINDS
    ]:
        words = json.dumps([replicas, kind, *settings])
        found[replicas, kind] = run_child("benchmarks.replicas", words)
        print(replicas, kind, found[replicas, kind], flush=True)
    write_results("replicas", rows_of(found))


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


def measure(
    replicas: int, kind: str, batch: int, width: int, turns: int, seconds: float
) -> dict:
    """What `rows_of` takes, in this process."""
    import moco_tf  # before TensorFlow, whose Keras it chooses
    from benchmarks import scaling
    from benchmarks.timing import in_turns
    from moco_tf.distribution import make_strategy, mirrored

    strategy = make_strategy(replicas)  # makes the devices as well
    if kind == "collectives":
        strategy = mirrored(tuple(f"CPU:{i}" for i in range(replicas)))

    def method():
        encoder = moco_tf.encoders.ResNet18(width=width, stem="cifar")
        groups = GROUPS // replicas
        return moco_tf.MoCo(encoder, dim=DIM, queue_size=QUEUE, bn_groups=groups)

    def step_of(model, shared) -> Callable[[], object]:
        model.make_train_function()
        run = model.train_tf_function
        return lambda: run(shared)["loss"].numpy()

    model, shared = scaling.shared_step(method(), IMAGE_SIZE, batch, strategy)
    ordered = {name: value for name, value in shared.items() if name != "position"}
    ways = {"on": step_of(model, shared), "off": step_of(model, ordered)}
    times = in_turns(ways, turns, seconds)
    moved = dict.fromkeys(scaling.moved(0, 0, 0), 0)
    if replicas > 1:  # collectives hand over what one device is handed
        moved = scaling.counted(method(), IMAGE_SIZE, batch // replicas, replicas)
    return {**times, "moved": moved}


if __name__ == "__main__":
    main()
