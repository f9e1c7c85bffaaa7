"""A made VOC folder of bright shapes on dark noise, and an encoder to learn them with.

`python tests/voc_folder.py SHAPES SAVED` makes the two of docs/transfer.md.
"""

import pathlib
import sys

import numpy as np
from PIL import Image

FILL = (100, 110, 120)
NAMES = ("disc", "square", "stripes")


def draw(rng, objects):
    """An image of bright shapes on dark noise, and its (name, box) list."""
    height, width = rng.integers(80, 129, 2)
    image = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
    boxes = []
    for _ in range(objects):
        side = int(rng.integers(32, 48))
        left, top = rng.integers(0, (width - side, height - side))
        if any(abs(left - b[0]) < 48 and abs(top - b[1]) < 48 for _, b in boxes):
            continue
        name = NAMES[rng.integers(len(NAMES))]
        rows, columns = np.mgrid[:side, :side]
        middle = (side - 1) / 2
        mask = {
            "disc": (rows - middle) ** 2 + (columns - middle) ** 2 <= side**2 / 4,
            "square": rows >= 0,
            "stripes": rows // 4 % 2 == 0,
        }[name]
        part = image[top : top + side, left : left + side]
        part[mask] = {"disc": (250, 80, 80), "square": (80, 250, 80)}.get(
            name, (240, 240, 240)
        )
        boxes.append((name, (int(left), int(top), int(left) + side, int(top) + side)))
    return image, boxes


def annotation(objects, difficult=()):
    parts = [
        f"<object><name>{name}</name><difficult>{int(i in difficult)}</difficult>"
        f"<bndbox><xmin>{box[0] + 1}</xmin><ymin>{box[1] + 1}</ymin>"
        f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for i, (name, box) in enumerate(objects)
    ]
    return f"<annotation>{''.join(parts)}</annotation>"


def make_voc(root, train, test, seed=0):
    rng = np.random.default_rng(seed)
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    truth = {}
    for split, count in (("train", train), ("test", test)):
        ids = [f"{split}{number:03d}" for number in range(count)]
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(ids) + "\n")
        for key in ids:
            image, truth[key] = draw(rng, rng.integers(1, 3))
            file = root / "JPEGImages" / f"{key}.jpg"
            Image.fromarray(image).save(file, quality=95)
            text = annotation(truth[key])
            (root / "Annotations" / f"{key}.xml").write_text(text)
    return truth


def save_encoder(path, encoder=None):
    """A small ResNet with random weights, or another, as a SavedModel."""
    import moco_tf

    moco_tf.interchange.export_saved_model(
        encoder or moco_tf.encoders.ResNet((1, 1, 1, 1), "basic", width=8),
        path,
        image_size=64,
        resize=64,
        mean=(0.4, 0.4, 0.4),
        std=(0.25, 0.25, 0.25),
        provenance={"recipe": "untrained"},
    )


if __name__ == "__main__":
    from tensorflow import keras

    shapes, saved = map(pathlib.Path, sys.argv[1:])
    make_voc(shapes, 48, 24)
    keras.utils.set_random_seed(1)  # 0 gives the weights of detect's control
    save_encoder(saved)
