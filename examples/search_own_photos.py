# %% [markdown]
"""Your own photos: look through a folder, learn from it, and search it.

    python examples/search_own_photos.py

No labels are needed. Without a folder of yours (`PHOTOS`) it draws one of shapes, to
see that all works: minutes on a CPU. Answers that mean something take hundreds of
photos and more epochs, best on a GPU.
"""

# %%
# %pip install -q moco_tf

import csv
import os
import pathlib

from moco_tf import cli  # before TensorFlow, whose Keras it chooses

# isort: split
import numpy as np
from PIL import Image, ImageDraw

PHOTOS = pathlib.Path(os.environ.get("PHOTOS", "shapes"))
RUNS = pathlib.Path(os.environ.get("RUNS", "runs"))
# Over what `inspect` suggests, such as "--train.epochs=50".
MORE = os.environ.get("MORE", "--train.epochs=5").split()


def run(*words):
    """Does what `moco-tf WORDS` does in a terminal."""
    words = [str(word) for word in words]
    print("$ moco-tf", *words)
    if code := cli.main(words):
        raise SystemExit(code)


# %% [markdown]
# Shapes of any colour on grey, where you have no photos at hand.


# %%
def draw_shapes(folder, count=120, side=64):
    """Discs, squares and triangles, each a file."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        image = Image.new("RGB", (side, side), (128, 128, 128))
        draw, size = ImageDraw.Draw(image), int(rng.integers(20, 36))
        x, y = (int(value) for value in rng.integers(4, side - 40, 2))
        box = (x, y, x + size, y + size)
        colour = tuple(rng.integers(0, 256, 3).tolist())
        kind = ("disc", "square", "triangle")[number % 3]
        if kind == "disc":
            draw.ellipse(box, fill=colour)
        elif kind == "square":
            draw.rectangle(box, fill=colour)
        else:
            draw.regular_polygon((x + size / 2, y + size / 2, size / 2), 3, fill=colour)
        image.save(folder / f"{kind}_{number:03d}.png")


if not PHOTOS.exists():
    draw_shapes(PHOTOS)
QUERY = next(file for file in sorted(PHOTOS.rglob("*")) if file.is_file())

# %% [markdown]
# What is in the folder, and which settings it suggests (`photos.yaml`, with reasons).
# Without `--no_measure` it also trains for some seconds, to tell how long that takes.

# %%
RUNS.mkdir(parents=True, exist_ok=True)
suggested = RUNS / "photos.yaml"
if not suggested.exists():
    run("inspect", PHOTOS, f"--out={suggested}", "--no_measure")
print(suggested.read_text())

# %% [markdown]
# Training. The same cell again goes on where it was stopped.

# %%
run("train", "--config", suggested, "--name=photos", f"--runs_dir={RUNS}", *MORE)

# %% [markdown]
# Features of every photo, for other programs, and the photos nearest to one of them.

# %%
run("evaluate", "embed", RUNS / "photos", PHOTOS, f"--out={RUNS / 'photos.npz'}")
found = RUNS / "found"
run("evaluate", "search", RUNS / "photos", PHOTOS, f"--query={QUERY}", "--k=8",
        f"--out={found}")  # fmt: skip

# %%
with open(found / "results.csv", newline="", encoding="utf-8") as file:
    for row in csv.DictReader(file):
        print(row)
Image.open(next(found.glob("*.png")))  # a notebook shows it
