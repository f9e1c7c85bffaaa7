"""From a folder of made photographs to answers, as its user types it, and timed.

    python -m benchmarks.own_photos FOLDER [--count=2000] [--epochs=20]

Makes the pictures of benchmarks/made_photos.py, then inspects them, trains with the
settings that this suggests (for fewer epochs, as --epochs says), embeds, searches,
finds duplicates and draws the map, each command in a process of its own. What of the
planted copies was found, and what else was called a copy, is counted. Times and counts
go to benchmarks/results/own_photos.csv and own_photos_duplicates.csv, pictures to
docs/images.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import pathlib
import shutil
import subprocess
import sys
import time

from benchmarks.made_photos import make_photos
from benchmarks.writing import write_results

ROOT = pathlib.Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"


def main() -> None:
    """Runs everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    folder = options.folder.absolute()
    if not folder.exists():
        make_photos(folder, options.count)
    photos, run = folder / "photos", folder / "runs" / "own"
    first = next(iter(rows_of(folder / "planted.csv")))
    commands = {
        "inspect": ["-m", "moco_tf", "inspect", photos, f"--out={folder / 'own.yaml'}"],
        "train": [
            "train.py", f"--config={folder / 'own.yaml'}", "--name=own",
            f"--runs_dir={folder / 'runs'}", f"--train.epochs={options.epochs}",
        ],
        "embed": ["evaluate.py", "embed", run, photos, f"--out={folder / 'own.npz'}"],
        "search": [
            "evaluate.py", "search", run, folder / "own.npz",
            f"--query={folder / first['of']}",
        ],
        "duplicates": ["evaluate.py", "duplicates", folder / "own.npz"],
        "map": ["evaluate.py", "map", folder / "own.npz"],
    }  # fmt: skip
    rows = [
        {"command": name, "images": options.count, "seconds": f"{timed(words):.1f}"}
        for name, words in commands.items()
    ]
    write_results("own_photos", rows)
    found = folder / "own_duplicates" / "results.csv"
    write_results("own_photos_duplicates", list(counted(folder, rows_of(found))))
    for name in ("duplicates", "map"):
        shutil.copy(folder / f"own_{name}" / f"{name}.png", IMAGES / f"own_{name}.png")


def timed(words: list) -> float:
    """Seconds of a command, whose words are shown as they would be typed."""
    words = [str(word) for word in words]
    print(f"\n$ python {' '.join(words)}", flush=True)
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True)
    return time.perf_counter() - start


def rows_of(path: pathlib.Path) -> list[dict]:
    """The rows of a CSV file."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def counted(folder: pathlib.Path, found: list[dict]) -> list[dict]:
    """How many planted copies were found, by kind, and what else was called a copy.

    Args:
        folder: with planted.csv and manifest.csv.
        found: rows of `evaluate.py duplicates`, with "group" and "name".
    """
    group_of = {pathlib.Path(row["name"]).name: row["group"] for row in found}
    planted = rows_of(folder / "planted.csv")
    pairs = [
        (row["how"], *(pathlib.Path(row[key]).name for key in ("path", "of")))
        for row in planted
    ]
    rows = []
    for how in sorted({how for how, *_ in pairs}):
        own = [pair for pair in pairs if pair[0] == how]
        together = sum(
            one in group_of and group_of[one] == group_of.get(other)
            for _, one, other in own
        )
        rows.append({"pairs": how, "planted": len(own), "called copies": together})
    root = {one: other for _, one, other in pairs}
    scenes = {
        pathlib.Path(row["path"]).name: row["group"]
        for row in rows_of(folder / "manifest.csv")
    }
    names = sorted(group_of, key=lambda name: group_of[name])
    others = {"other shots of a scene": 0, "of other scenes": 0}
    for _, members in itertools.groupby(names, key=lambda name: group_of[name]):
        for one, other in itertools.combinations(members, 2):
            if root.get(one, one) == root.get(other, other):
                continue
            same = scenes.get(one) == scenes.get(other)
            others["other shots of a scene" if same else "of other scenes"] += 1
    for kind, count in others.items():
        rows.append({"pairs": kind, "planted": 0, "called copies": count})
    return rows


if __name__ == "__main__":
    main()
