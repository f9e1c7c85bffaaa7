"""What was found out about a folder's files holds until they change."""

import os

import numpy as np
import pytest
from pretrained_runs import write_images

from moco_tf.data import open_source
from moco_tf.data.sources import readable


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of 12 images, one of them broken, with an index folder of its own."""
    monkeypatch.setenv("MOCO_TF_CACHE", str(tmp_path / "cache"))
    write_images(tmp_path / "photos", 4)
    next((tmp_path / "photos" / "red").glob("*.png")).write_bytes(b"\x89PNG\r\n")
    return tmp_path / "photos"


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files that were decoded to be checked."""
    names, check = [], readable._checked

    def spied(files, *args):
        names.extend(os.path.basename(file).decode() for file in files.numpy())
        return check(files, *args)

    monkeypatch.setattr(readable, "_checked", spied)
    return names


def opened(photos, channels=3):
    return open_source(
        "folder", "train", data_dir=str(photos), channels=channels, max_unreadable=0.5
    )


def test_second_opening_decodes_nothing_and_finds_the_same(photos, decoded):
    first = opened(photos)
    assert len(decoded) == 12 and first.num_examples == 11
    decoded.clear()
    second = opened(photos)
    assert not decoded
    assert second.file_names == first.file_names and second.origin == first.origin
    np.testing.assert_array_equal(second.labels, first.labels)
    images = [
        [element["image"] for element in source.dataset.as_numpy_iterator()]
        for source in (first, second)
    ]
    assert images[0] == images[1]


def test_only_new_and_changed_files_are_decoded(photos, decoded):
    opened(photos)
    decoded.clear()
    changed, mended, gone, *_ = sorted(photos.rglob("*.png"))
    before = changed.stat()
    content = bytearray(changed.read_bytes())
    content[40:] = bytes(len(content) - 40)
    changed.write_bytes(content)  # of the same size
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    new = photos / "blue" / "a new one.png"
    new.write_bytes(mended.read_bytes())
    gone.unlink()
    source = opened(photos)
    assert sorted(decoded) == sorted([changed.name, new.name])
    assert source.num_examples == 10
    assert str(changed.relative_to(photos)) not in source.file_names
    assert str(new.relative_to(photos)) in source.file_names


def test_other_channels_are_found_out_apart(photos, decoded):
    opened(photos)
    opened(photos, channels=1)
    assert len(decoded) == 24


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"\x00" * 1000])
def test_broken_index_is_made_again(photos, decoded, damage):
    opened(photos)
    (index,) = readable.index_folder().glob("*.npz")
    index.write_bytes(damage)
    decoded.clear()
    assert opened(photos).num_examples == 11 and len(decoded) == 12
    decoded.clear()
    assert opened(photos).num_examples == 11 and not decoded


def test_place_that_cannot_be_written_is_done_without(photos, decoded, monkeypatch):
    a_file = next(photos.rglob("*.png"))
    monkeypatch.setenv("MOCO_TF_CACHE", str(a_file))
    for _ in range(2):
        assert opened(photos).num_examples == 11
    assert len(decoded) == 24


def test_index_is_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("MOCO_TF_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert readable.index_folder() == tmp_path / "moco_tf" / "folders"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert readable.index_folder() == tmp_path / ".cache" / "moco_tf" / "folders"
