"""A folder of made photographs as people have them: formats, sizes, copies, faults.

    python -m benchmarks.made_photos FOLDER [--count=2000]

Scenes of coloured things on textured grounds, in bursts of one to five shots of a
scene. Among them are 16-bit PNGs and TIFFs, files that cannot be read, copies of other
files, and near copies: cropped, made smaller, or compressed again. `photos/` has the
files, `manifest.csv` their labels (the kind of thing) and groups (the scene),
`planted.csv` which file was made of which, and how.
"""

from __future__ import annotations

import argparse
import colorsys
import csv
import io
import math
import pathlib

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw

KINDS = ("disc", "triangle", "square", "star", "cross", "ring", "stripes", "moon")
SIZES = ((320, 240), (240, 320), (400, 300), (500, 375), (256, 256))
# Shares of the files that are not JPEGs.
FORMATS = {"png": 0.1, "webp": 0.05, "bmp": 0.02, "gif": 0.02, "png16": 0.05,
           "tif16": 0.04, "npy": 0.02}  # fmt: skip
NEAR = ("cropped", "smaller", "compressed")
COPIES, NEAR_COPIES, BROKEN = 0.01, 0.03, 0.005  # of the count


def main() -> None:
    """Makes the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=2000)
    options = parser.parse_args()
    make_photos(options.folder, options.count)


def make_photos(folder: pathlib.Path, count: int, seed: int = 0) -> None:
    """Writes the folder; see the module.

    Args:
        folder: new, or empty.
        count: files in photos/, broken ones and copies among them.
        seed: another one makes other pictures.
    """
    random = np.random.default_rng(seed)
    place = folder / "photos"
    place.mkdir(parents=True)
    special = {name: round(share * count) for name, share in (
        ("copy", COPIES), ("near", NEAR_COPIES), ("broken", BROKEN))}  # fmt: skip
    rows, planted = [], []
    scene = shots = 0
    while len(rows) < count - sum(special.values()):
        if not shots:
            scene, shots = scene + 1, int(random.integers(1, 6))
            settings = _scene(random)
        shots -= 1
        image = _shot(settings, random)
        name = _save(place, f"{KINDS[settings['kind']]} {len(rows):05d}", image, random)
        rows.append({"path": f"photos/{name}", "label": KINDS[settings["kind"]],
                     "group": scene})  # fmt: skip
    originals = [row for row in rows if row["path"].endswith(".jpg")]
    chosen = random.permutation(len(originals))[: special["copy"] + special["near"]]
    for number, index in enumerate(chosen):
        row = originals[index]
        source = folder / row["path"]
        how = "copied" if number < special["copy"] else NEAR[number % len(NEAR)]
        name = f"{how} {number:04d}.jpg"
        if how == "copied":
            (place / name).write_bytes(source.read_bytes())
        else:
            _near(Image.open(source), how, random).save(
                place / name, quality=35 if how == "compressed" else 92
            )
        rows.append({**row, "path": f"photos/{name}"})
        planted.append({"path": f"photos/{name}", "of": row["path"], "how": how})
    for number in range(special["broken"]):
        whole = (folder / rows[number]["path"]).read_bytes()
        cut = whole[: len(whole) // 3] if number % 2 else b"\xff\xd8\xff\xe0 no image"
        (place / f"broken {number:02d}.jpg").write_bytes(cut)
    (place / "notes.txt").write_text("Not a picture.\n")
    for name, written in (("manifest", rows), ("planted", planted)):
        with open(folder / f"{name}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, list(written[0]))
            writer.writeheader()
            writer.writerows(written)


def _scene(random):
    """What the shots of a scene share: a thing, its colour, a ground."""
    hue = random.uniform()
    return {
        "kind": int(random.integers(len(KINDS))),
        "size": SIZES[random.integers(len(SIZES))],
        "colour": _colour(hue, random.uniform(0.5, 1), random.uniform(0.7, 1)),
        "ground": _colour(
            hue + random.uniform(0.2, 0.8), 0.5, random.uniform(0.2, 0.7)
        ),
        "cells": random.uniform(-1, 1, (int(random.integers(3, 12)), 9, 3)),
        "turn": random.uniform(0, 360),
        "extent": random.uniform(0.35, 0.6),
    }


def _colour(hue, saturation, value):
    return tuple(
        round(255 * c) for c in colorsys.hsv_to_rgb(hue % 1, saturation, value)
    )


def _shot(scene, random):
    """One picture of a scene, uint8 (height, width, 3)."""
    width, height = scene["size"]
    texture = np.clip(scene["cells"] * 40 + np.array(scene["ground"]), 0, 255)
    # A shot shows another part of the ground than the one before.
    whole = Image.fromarray(texture.astype(np.uint8)).resize(
        (width * 3 // 2, height * 3 // 2), Image.BICUBIC
    )
    left, top = (int(random.integers(side // 2)) for side in scene["size"])
    ground = whole.crop((left, top, left + width, top + height))
    side = 4 * round(scene["extent"] * min(width, height))  # drawn larger: no jags
    mask = _thing(scene["kind"], side).rotate(
        scene["turn"] + random.uniform(-12, 12), Image.BICUBIC
    )
    mask = mask.resize((side // 4, side // 4), Image.LANCZOS)
    room = width - mask.width, height - mask.height
    corner = [round(each * random.uniform(0.15, 0.85)) for each in room]
    ground.paste(Image.new("RGB", mask.size, scene["colour"]), corner, mask)
    pixels = np.asarray(ground, np.float32) * random.uniform(0.85, 1.15)
    pixels += random.normal(0, 5, pixels.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _thing(kind, side):
    """A mask of one kind of thing, of so many pixels."""
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)

    def polygon(radii):
        points = [
            (
                side / 2 + radius * side / 2 * math.sin(2 * math.pi * i / len(radii)),
                side / 2 - radius * side / 2 * math.cos(2 * math.pi * i / len(radii)),
            )
            for i, radius in enumerate(radii)
        ]
        draw.polygon(points, fill=255)

    def disc(left, top, right, bottom, fill):
        draw.ellipse([side * each for each in (left, top, right, bottom)], fill=fill)

    name = KINDS[kind]
    if name == "triangle":
        polygon([0.98] * 3)
    elif name == "square":
        polygon([0.98] * 4)
    elif name == "star":
        polygon([0.98, 0.4] * 5)
    elif name == "cross":
        draw.rectangle([side * 0.36, side * 0.03, side * 0.64, side * 0.97], fill=255)
        draw.rectangle([side * 0.03, side * 0.36, side * 0.97, side * 0.64], fill=255)
    elif name == "stripes":
        for start in np.arange(0.1, 0.9, 0.2):
            draw.rectangle([side * 0.1, side * start, side * 0.9, side * (start + 0.1)],
                           fill=255)  # fmt: skip
    else:
        disc(0.03, 0.03, 0.97, 0.97, 255)
        if name == "ring":
            disc(0.25, 0.25, 0.75, 0.75, 0)
        elif name == "moon":
            disc(0.3, 0.03, 1.24, 0.97, 0)
    return mask


def _save(place, name, image, random):
    """Writes a picture in one of the formats and returns the file's name."""
    kind = random.choice(
        [*FORMATS, "jpg"], p=[*FORMATS.values(), 1 - sum(FORMATS.values())]
    )
    if kind == "jpg":
        name = f"{name}.jpg"
        quality = int(random.integers(70, 96))
        Image.fromarray(image).save(place / name, quality=quality)
        return name
    if kind in ("png", "webp", "bmp", "gif"):
        name = f"{name}.{kind}"
        Image.fromarray(image).save(place / name)
        return name
    deep = image.astype(np.uint16) * 257
    if kind == "npy":
        name = f"{name}.npy"
        np.save(place / name, deep)
    elif kind == "png16":
        name = f"{name}.png"
        (place / name).write_bytes(tf.io.encode_png(deep).numpy())
    else:
        import tifffile

        name = f"{name}.tif"
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, deep, photometric="rgb")
        (place / name).write_bytes(buffer.getvalue())
    return name


def _near(image, how, random):
    width, height = image.size
    if how == "smaller":
        return image.resize((width // 2, height // 2), Image.LANCZOS)
    if how == "cropped":
        left, top = (round(random.uniform(0, 0.1) * each) for each in image.size)
        return image.crop(
            (left, top, left + round(0.9 * width), top + round(0.9 * height))
        )
    return image


if __name__ == "__main__":
    main()
