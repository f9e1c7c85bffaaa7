"""Folders of made pictures, and how they are opened."""

from PIL import Image

from moco_tf.data import open_source


def save(path, mode="RGB", colour=(200, 100, 50), size=(12, 10), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def photos(root, count, start=0):
    for index in range(start, start + count):
        save(root / f"{index:03d}.jpg", colour=(index, 0, 0))
    return root


def open_folder(path, split="train", **options):
    return open_source("folder", split, data_dir=str(path), **options)


def elements(source):
    return list(source.dataset.as_numpy_iterator())
