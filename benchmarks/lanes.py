"""The same code on several TensorFlows: images a second, side by side.

    python -m benchmarks.lanes .venv-classic/bin/python .venv-current/bin/python \
        [--turns=3] [--only ResNet50,float32 input]

Measured are the bare step of `benchmarks.step` for each of its networks and precisions,
and `input`, two views of JPEG photographs of 500 x 375 pixels as
`benchmarks/input_pipeline.py` makes them. The interpreters take turns, each in a
process of its own; the median turn counts, and the ratio is to the first interpreter.
Results go to benchmarks/results/lanes.csv.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile

from benchmarks.step import NETWORKS, PRECISIONS, run_child
from benchmarks.writing import write_results

STEPS = [f"{network},{kind}" for network in NETWORKS for kind in PRECISIONS]
INPUT = "input"
SECONDS = 10.0


def main() -> None:
    """Measures, or, as a child, measures one thing in this interpreter."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pythons", nargs="*", help="interpreters of the environments")
    parser.add_argument("--turns", type=int, default=3, help="of each")
    parser.add_argument(
        "--only", nargs="+", choices=[*STEPS, INPUT], default=[*STEPS, INPUT]
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child)))
        return
    if not options.pythons:
        parser.error("name the interpreters of the environments to compare")
    rows = []
    for what in options.only:
        turns = [
            [run_child("benchmarks.lanes", what, python) for python in options.pythons]
            for _ in range(options.turns)
        ]
        rates = [statistics.median(t["rate"] for t in one) for one in zip(*turns)]
        for rate, (child, *_) in zip(rates, zip(*turns)):
            row = {
                "what": what.replace(",", " "),
                "tensorflow": child["tensorflow"],
                "python": child["python"],
                "images/s": f"{rate:.2f}",
                "ratio": f"{rate / rates[0]:.2f}",
                "turns": options.turns,
            }
            rows.append(row)
            print("  ".join(map(str, row.values())), flush=True)
    write_results("lanes", rows)


def measure(what: str) -> dict:
    """Images a second in this process, and what it runs on."""
    if what == INPUT:
        rate = measure_input()
    else:
        from benchmarks.step import measure as measure_step

        rate = measure_step("bare", *what.split(","))
    import tensorflow as tf

    python = platform.python_version()
    return {"rate": rate, "tensorflow": tf.__version__, "python": python}


def measure_input() -> float:
    """Images a second that the host makes into two views of 224 pixels."""
    from benchmarks import input_pipeline

    with tempfile.TemporaryDirectory() as folder:
        input_pipeline.save_photographs(folder, 256, 375, 500)
        batches = input_pipeline.views(folder, 224)
        return input_pipeline.images_per_second(batches, SECONDS)


if __name__ == "__main__":
    main()
