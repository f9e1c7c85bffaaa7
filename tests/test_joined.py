"""Packed sets as places, alone, several of them, and beside folders."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from photo_folders import elements, open_folder, photos
from PIL import Image

from moco_tf.config import load_config
from moco_tf.config.checks import check_places
from moco_tf.config.packing import Packing
from moco_tf.data import DataError, from_arrays, open_source, two_views
from moco_tf.data.pack import pack
from moco_tf.data.sources.joined import joined
from moco_tf.data.sources.places import is_packed, places_fingerprint


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A set in four files, one in a single file, and a folder, of shades."""
    root = tmp_path_factory.mktemp("places")

    def shades(folder, classes, first):
        for number, name in enumerate(classes):
            place = root / folder / name
            place.mkdir(parents=True, exist_ok=True)
            level = np.full((9, 9, 3), 3 * (first + number), np.uint8)
            Image.fromarray(level).save(place / f"{number}.png")

    shades("first", ["ox", "ant"] * 7, 0)
    shades("second", ["bee", "ox"] * 4, 20)
    shades("plain", ["cat", "ant"] * 3, 40)
    for name, shards in (("first", 4), ("second", 100)):
        source = open_folder(root / name)
        packing = Packing(shard_images=shards)
        pack({"train": source}, root / "packed" / name, packing)
    return root


def opened(root, *places, **options):
    places = [str(root / place) for place in places]
    return open_source("folder", "train", data_dir=places, **options)


def level(element):
    return int(tf.io.decode_image(element["image"])[0, 0, 0]) // 3


ALL = ("packed/first", "plain", "packed/second")


def test_places_of_all_kinds_are_one_set(root):
    source = opened(root, *ALL)
    assert source.class_names == ("ant", "bee", "cat", "ox")
    found = elements(source)
    assert source.num_examples == len(found) == 14 + 8 + 6
    assert [element["id"] for element in found] == list(range(28))
    kinds = {0: "ox ant", 20: "bee ox", 40: "cat ant"}
    for element in found:
        shade = level(element)
        pair = kinds[20 * (shade // 20)].split()
        assert source.class_names[element["label"]] == pair[shade % 2]
    shades = [level(element) for element in found]
    assert set(shades[:6]) == set(range(40, 46))  # folders come first
    assert len(set(shades)) == 28
    assert source.origin and source.origin != opened(root, *ALL[:2]).origin
    assert source.num_bytes > 0


def test_one_packed_set_is_what_tfds_opens(root):
    alone = opened(root, "packed/first")
    same = open_source("tfds", "train", name="first", data_dir=str(root / "packed"))
    assert alone.origin == same.origin and alone.class_names == ("ant", "ox")
    assert is_packed(root / "packed/first") and not is_packed(root / "packed")
    with pytest.raises(DataError, match="split='val' is not in the TFDS set 'first'"):
        open_source("folder", "val", data_dir=str(root / "packed/first"))


def test_epochs_are_shuffled_through_all_and_go_on_where_they_stopped(root):
    source = opened(root, *ALL)
    options = {"batch_size": 4, "image_size": 8, "seed": 3, "shuffle_buffer": 1}
    batches = list(two_views(source, epochs=2, **options))
    assert len(batches) == 14
    ids = np.concatenate([batch["id"] for batch in batches])
    for epoch in (ids[:28], ids[28:]):
        assert sorted(epoch) == list(range(28))
        of_sets = np.digitize(epoch, [6, 20])
        assert (np.diff(of_sets) != 0).sum() > 6  # not one place after the other
    assert list(ids[:28]) != list(ids[28:])
    later = list(two_views(source, epochs=2, start_step=9, **options))
    for batch, again in zip(batches[9:], later):
        for name in batch:
            np.testing.assert_array_equal(batch[name], again[name])
    # Two hosts have each image once between them.
    hosts = [
        np.concatenate([b["id"] for b in two_views(source, epochs=1, shards=(2, n),
                                                   **options)])
        for n in (0, 1)
    ]  # fmt: skip
    assert sorted(np.concatenate(hosts)) == list(range(28))


def test_places_have_a_digest_and_are_found_before_a_run_starts(root, tmp_path):
    places = [str(root / place) for place in ALL]
    assert places_fingerprint(places) != places_fingerprint(places[:2])
    words = f"[{','.join(places)}]"
    check_places(load_config(None, ["data.source=folder", f"data.data_dir={words}"]))
    # Unlabelled ones leave their images without.
    photos(tmp_path / "flat", 2)
    source = opened(root, str(tmp_path / "flat"), "packed/first")
    assert [element["label"] for element in elements(source)][:2] == [-1, -1]
    assert source.class_names == ("ant", "ox")


def test_images_of_several_kinds_are_told(root, tmp_path):
    encoded = open_folder(root / "plain")
    arrays = from_arrays(np.zeros((3, 8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="several kinds, .*one: encoded, .*other: 3 ch"):
        joined({"one": encoded, "other": arrays})
    deep = tmp_path / "deep"
    deep.mkdir()
    Image.fromarray(np.full((9, 9), 40000, np.uint16)).save(deep / "x.png")
    # As in a folder all are then read in 16 bits.
    source = opened(root, str(deep), "packed/first")
    assert source.pixels.dtype == "uint16" and source.num_examples == 15
