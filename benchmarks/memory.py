"""Peak memory and time of a step, whole processes: with and without what saves memory.

    python -m benchmarks.memory [--turns=2] [--batch=32] [--queues 65536 1048576]

MoCo v2 on ResNet-50 at 224 pixels in float32, in eight batch-norm groups: as it is, in
parts one after the other (`accumulate`), with activations computed again (`recompute`),
and both; ViT-S of MoCo v3 as it is and recomputed; and plain PyTorch in both layouts,
left out where it is not installed, whose batch norm takes the whole batch. Memory is
the process's largest resident one less what it had before the model was made. The ways
take turns in processes of their own; medians count. Results go to
benchmarks/results/memory.csv.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics

from benchmarks.step import NETWORKS, milliseconds, run_child, torch_step
from benchmarks.writing import write_results

PARTS = 4
OURS = {
    "as it is": {},
    f"accumulate={PARTS}": {"accumulate": PARTS},
    "recompute": {"recompute": True},
    f"accumulate={PARTS}, recompute": {"accumulate": PARTS, "recompute": True},
}
VIT = {"as it is": {}, "recompute": {"recompute": True}}
TORCH = ("torch", "torch_last")


def main() -> None:
    """Measures, or, as a child, measures one way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=2, help="of each way")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--queues", type=int, nargs="+", default=[65536, 1048576])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(*json.loads(options.child))))
        return
    torch = TORCH if importlib.util.find_spec("torch") else ()
    cases = [("ResNet50", options.queues[0], way) for way in (*OURS, *torch)]
    cases += [
        ("ResNet50", q, w) for q in options.queues[1:] for w in ("as it is", *torch)
    ]
    cases += [("ViTSmall", 0, way) for way in VIT]
    found: dict[tuple, list] = {case: [] for case in cases}
    for _ in range(options.turns):
        for case, turns in found.items():
            words = json.dumps([*case, options.batch])
            turns.append(run_child("benchmarks.memory", words))
    rows = []
    for (network, queue, way), turns in found.items():
        peak, time = (statistics.median(values) for values in zip(*turns))
        row = {"network": network, "batch": options.batch, "queue": queue, "way": way}
        rows.append({**row, "peak MiB": round(peak), "step ms": round(time)})
        print("  ".join(map(str, rows[-1].values())), flush=True)
    write_results("memory", rows)


def measure(network: str, queue: int, way: str, batch: int) -> tuple[float, float]:
    """Peak memory, MiB, and time of a step, ms, in this process."""
    from moco_tf.callbacks.health import peak_memory

    if way in TORCH:
        import torch

        NETWORKS["ResNet50"].update(batch=batch, queue=queue)
        torch.zeros(1)
        before = peak_memory()
        time = milliseconds(torch_step("ResNet50", "float32", last=way == "torch_last"))
        return peak_memory() - before, time
    import tensorflow as tf

    import moco_tf

    shape = (batch, 224, 224, 3)
    views = {name: tf.random.normal(shape) for name in ("query", "key")}
    before = peak_memory()
    settings = dict((OURS if network == "ResNet50" else VIT)[way])
    recompute = settings.pop("recompute", False)
    encoder = getattr(moco_tf.encoders, network)()
    if network == "ResNet50":
        model = moco_tf.MoCo(encoder, queue_size=queue, bn_groups=8, **settings)
    else:
        model = moco_tf.MoCoV3(encoder, total_steps=100)
    if recompute:
        model.recompute_activations()
    model.compile(moco_tf.optimizers.SGD(learning_rate=0.03, weight_decay=1e-4))
    step = tf.function(model.train_step)
    time = milliseconds(lambda: step(views)["loss"].numpy())
    return peak_memory() - before, time


if __name__ == "__main__":
    main()
