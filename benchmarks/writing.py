"""Where figures go: a table in benchmarks/results, and what they were measured with."""

from __future__ import annotations

import csv
import os
import pathlib
import platform
import shlex
import sys
from importlib import metadata

RESULTS = pathlib.Path(__file__).parent / "results"


def write_results(name: str, rows: list[dict]) -> None:
    """Writes rows to results/NAME.csv, each with the machine, versions and command."""
    about = {
        "tensorflow": metadata.version("tensorflow"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "machine": processor(),
        "command": command(),
    }
    path = RESULTS / f"{name}.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *about])
        writer.writeheader()
        writer.writerows({**row, **about} for row in rows)
    print(f"written to {path}")


def command() -> str:
    """What was typed."""
    main = sys.modules["__main__"].__spec__
    words = ["-m", main.name] if main else [sys.argv[0]]
    return shlex.join(["python", *words, *sys.argv[1:]])


def processor() -> str:
    """The processor's name."""
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
