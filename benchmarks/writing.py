"""Where figures go: benchmarks/results, with what they were measured with, and a page.

    python -m benchmarks.writing

puts the results into docs/performance.md, between `<!-- NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import csv
import os
import pathlib
import platform
import re
import shlex
import sys
from importlib import metadata

RESULTS = pathlib.Path(__file__).parent / "results"
ABOUT = ("tensorflow", "python", "cores", "machine", "command")
PAGE = pathlib.Path(__file__).parents[1] / "docs" / "performance.md"


def write_results(name: str, rows: list[dict]) -> None:
    """Writes rows to results/NAME.csv, each with the machine, versions and command."""
    values = (
        metadata.version("tensorflow"),
        platform.python_version(),
        os.cpu_count(),
        processor(),
        command(),
    )
    about = dict(zip(ABOUT, values))
    path = RESULTS / f"{name}.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *about])
        writer.writeheader()
        writer.writerows({**row, **about} for row in rows)
    print(f"written to {path}")


def filled(page: str) -> str:
    """The page with the tables that the results have now."""
    place = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return place.sub(lambda found: found[1] + table(found[2]) + found[3], page)


def table(name: str) -> str:
    """The figures of results/NAME.csv in Markdown, and a line on what they are of."""
    with open(RESULTS / f"{name}.csv", newline="") as file:
        head, *rows = csv.reader(file)
    figures = len(head) - len(ABOUT)
    about = dict(zip(head[figures:], rows[0][figures:]))
    lines = [head[:figures], ["---"] * figures, *(row[:figures] for row in rows)]
    said = f"`{about['command']}` on {about['machine']}, {about['cores']} cores, "
    said += f"TensorFlow {about['tensorflow']}, Python {about['python']}."
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{said}\n\n"


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


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
