"""A finished run of a tiny encoder on a folder of tiny images, made in a second."""

from __future__ import annotations

import shutil

import numpy as np
from PIL import Image

import moco_tf
from moco_tf.config import dump, load_config
from moco_tf.interchange import export_saved_model

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def write_images(folder, per_class, classes=("blue", "green", "red"), seed=0):
    """Noisy 16 x 16 images whose colour is their class, and whose stripes are not."""
    rng = np.random.default_rng(seed)
    for number, name in enumerate(classes):
        place = folder / name
        place.mkdir(parents=True)
        for index in range(per_class):
            image = rng.normal(90, 25, (16, 16, 3))
            image[..., number % 3] += 120
            image[:: rng.integers(2, 5)] += rng.normal(0, 30)
            pixels = np.clip(image, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{index:03d}.png")


def tiny_encoder():
    """A ResNet of one block a stage; the same weights every time."""
    encoder = moco_tf.encoders.ResNet((1, 1, 1, 1), "basic", width=4, stem="cifar")
    rng = np.random.default_rng(5)
    weights = []
    for variable in encoder.variables:
        fan_in = np.prod(variable.shape[:-1])
        values = rng.normal(0, (2 / fan_in) ** 0.5, variable.shape)
        if variable.name.split("/")[-1].startswith(("gamma", "moving_variance")):
            values = rng.uniform(0.5, 1.5, variable.shape)
        elif len(variable.shape) == 1:
            values *= 0.1
        weights.append(values.astype(np.float32))
    encoder.set_weights(weights)
    return encoder


def write_run(folder, name="run", seed=0, encoder=None, overrides=()):
    """A run directory as train.py leaves it, without its checkpoints; returns it."""
    data = folder / "images"
    if not data.exists():
        write_images(data / "train", 20)
        write_images(data / "test", 10, seed=1)
    config = load_config(
        None,
        [
            f"runs_dir={folder}",
            f"name={name}",
            f"seed={seed}",
            "data.source=folder",
            f"data.data_dir={data}",
            "data.image_size=16",
            *overrides,
        ],
    )
    run = folder / name
    run.mkdir()
    (run / "config.yaml").write_text(dump(config))
    export_saved_model(
        encoder or tiny_encoder(),
        run / "saved_model",
        image_size=16,
        resize=16,
        mean=MEAN,
        std=STD,
        provenance={"recipe": name},
    )
    return run


def copy_run(run, folder):
    """A copy of a run and its images that a test may change; returns the run."""
    shutil.copytree(run.parent / "images", folder / "images")
    copy = folder / run.name
    shutil.copytree(run, copy)
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace(str(run.parent), str(folder)))
    return copy
