"""Time and memory of `embed` and `search`: `python -m benchmarks.search`.

Images a second of `embed` on made photographs, and, on made features of 128 numbers,
seconds and peak memory of the 20 nearest of 1,000 queries among 10^4, 10^5 and 10^6
rows on disk, beside scikit-learn's search on all rows in memory. Each is a process of
its own, whose memory is what it allocates at most: pages of the file that the system
keeps for it, and takes back when it likes, do not count.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

from benchmarks.writing import write_results

ROWS = (10_000, 100_000, 1_000_000)
DIM, QUERIES, NEAREST = 128, 1_000, 20
WAYS = ("moco_tf", "scikit-learn")
PHOTOS = 1_000
MEASURED = ("seconds", "a_second", "memory_mib")


def main() -> None:
    """Measures all, or what a parent process asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, *words = options.child.split(",")
        figures = {"search": search, "embed": embed}[kind](*words)
        print("measured", *(f"{figure:.2f}" for figure in figures))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in ROWS:
            path = pathlib.Path(folder) / f"{count}.npz"
            made(path, count)
            for way in WAYS:
                rows.append(measure(f"search,{way},{path}", "search", way, count))
            path.unlink()
        for depth in ("ResNet18", "ResNet50"):
            rows.append(measure(f"embed,{depth},{folder}", "embed", depth, PHOTOS))
    write_results("search", rows)


def measure(child: str, what: str, way: str, count: int) -> dict:
    """Runs a child and reads its figures."""
    words = [sys.executable, "-m", "benchmarks.search", f"--child={child}"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        words, stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    figures = dict(zip(MEASURED, done.stdout.splitlines()[-1].split()[1:]))
    row = {"what": what, "of": way, "rows": count, **figures}
    print(row, flush=True)
    return row


class Memory:
    """The most memory that a process allocates within a block, over what it had."""

    def __enter__(self) -> Memory:
        """Begins to look, some fifty times a second."""
        self.start = self.most = allocated()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self):
        while not self._done.wait(0.02):
            self.most = max(self.most, allocated())

    def __exit__(self, *error):
        """Ends."""
        self._done.set()
        self._thread.join()

    @property
    def grown(self) -> float:
        """In MiB."""
        return (self.most - self.start) / 1024


def allocated() -> int:
    """KiB of this process that are no file's."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("RssAnon"):
                return int(line.split()[1])
    raise RuntimeError("this needs Linux")


def made(path: pathlib.Path, count: int) -> None:
    """Writes a file of made embeddings, in parts."""
    import numpy as np

    from moco_tf.evaluation.embed.embeddings import Rows
    from moco_tf.evaluation.embed.writing import write_embeddings

    def parts():
        for start in range(0, count, 10_000):
            rng = np.random.default_rng(start)
            rows = rng.normal(size=(min(10_000, count - start), DIM))
            names = [f"photos/{start + row:07d}.jpg" for row in range(len(rows))]
            yield Rows(names, np.full(len(rows), -1), rows.astype(np.float32))

    write_embeddings(path, parts, (), {})


def search(way: str, path: str) -> tuple[float, float, float]:
    """Seconds, queries a second, and MiB that the process grew by."""
    import numpy as np
    from sklearn.neighbors import NearestNeighbors

    from moco_tf.evaluation.embed.reading import open_embeddings
    from moco_tf.evaluation.knn.vote import nearest_neighbours

    queries = np.random.default_rng(1).normal(size=(QUERIES, DIM)).astype(np.float32)
    nearest_neighbours(queries, queries[:10], NEAREST)  # warm up
    start = time.perf_counter()
    with Memory() as memory:
        features = open_embeddings([pathlib.Path(path)]).features
        if way == "moco_tf":
            nearest_neighbours(features, queries, NEAREST)
        else:
            found = NearestNeighbors(metric="cosine", algorithm="brute", n_jobs=-1)
            found.fit(np.array(features)).kneighbors(queries, NEAREST)
    seconds = time.perf_counter() - start
    return seconds, QUERIES / seconds, memory.grown


def embed(depth: str, folder: str) -> tuple[float, float, float]:
    """Seconds, images a second, and MiB, of an encoder of random weights at 224 px."""
    import moco_tf
    from moco_tf.cli.evaluate import parse_evaluation
    from moco_tf.evaluation import evaluate
    from moco_tf.interchange import export_saved_model

    place = pathlib.Path(folder) / depth
    export_saved_model(
        getattr(moco_tf.encoders, depth)(), place, image_size=224, resize=256,
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), provenance={},
    )  # fmt: skip
    photos = pathlib.Path(folder) / "photos"
    write_photos(photos)
    words = ["embed", str(place), str(photos), f"--out={place}.npz", "--batch_size=64"]
    start = time.perf_counter()
    with Memory() as memory:
        evaluate(parse_evaluation(words))
    seconds = time.perf_counter() - start
    return seconds, PHOTOS / seconds, memory.grown


def write_photos(folder: pathlib.Path) -> None:
    """Made photographs of 500 x 375, as JPEG files."""
    from moco_tf.data import open_source

    if folder.is_dir():
        return
    folder.mkdir()
    images = open_source("synthetic", "train").dataset.take(PHOTOS)
    for number, element in enumerate(images.as_numpy_iterator()):
        (folder / f"{number:05d}.jpg").write_bytes(element["image"])


if __name__ == "__main__":
    main()
