"""Files as people have them: formats, damage, names, depth."""

import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from commands import ROOT
from photo_folders import elements, open_folder, photos, save
from PIL import Image

from moco_tf.data import DataError, two_views
from moco_tf.data.decoding import decode
from moco_tf.data.sources import listing
from moco_tf.data.sources.formats import DIRECT


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_format_is_read_with_its_first_frame(tmp_path, channels):
    for suffix in ("jpg", "JPEG", "png", "bmp", "webp"):
        save(tmp_path / f"one.{suffix}")
    frames = [Image.new("RGB", (12, 10), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    save(tmp_path / "three.png", mode="L", colour=90)
    save(tmp_path / "three.bmp", mode="L", colour=90)
    source = open_folder(tmp_path, channels=channels)
    assert source.num_examples == 8
    images = [decode(e["image"], channels).numpy() for e in source.dataset]
    assert {image.shape for image in images} == {(10, 12, channels)}
    names = sorted(path.name for path in tmp_path.iterdir())
    expected = {"one": (200, 100, 50), "two": (255, 0, 0), "three": (90, 90, 90)}
    for name, image in zip(names, images):
        colour = expected[name.split(".")[0]]
        if channels == 1:
            colour = (np.dot(colour, (0.299, 0.587, 0.114)),)
        np.testing.assert_allclose(image[5, 5, :3], colour[:3], atol=4, err_msg=name)
        if channels == 4:
            assert (image[..., 3] == 255).all()


def test_name_that_belies_the_format_is_no_matter(tmp_path):
    save(tmp_path / "a.jpg", format="PNG")
    assert open_folder(tmp_path).num_examples == 1


def test_one_unreadable_image_is_left_out_counted_and_named(tmp_path, caplog):
    photos(tmp_path, 30)
    broken = tmp_path / "007.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    with caplog.at_level(logging.WARNING):
        source = open_folder(tmp_path)
    assert "1 of 30 images" in caplog.text and "007.jpg" in caplog.text
    assert source.num_examples == 29
    assert [element["id"] for element in elements(source)] == list(range(29))
    batches = two_views(source, batch_size=29, image_size=16, epochs=1)
    assert len(list(batches)) == 1


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif"])
def test_files_that_are_no_images_are_unreadable(tmp_path, caplog, suffix, content):
    photos(tmp_path, 3)
    (tmp_path / f"bad.{suffix}").write_bytes(content)
    assert open_folder(tmp_path).num_examples == 3
    assert f"bad.{suffix}" in caplog.text


def test_damaged_files_print_nothing_of_libraries(tmp_path):
    photos(tmp_path, 3)
    save(tmp_path / "kept.webp")
    whole = (tmp_path / "000.jpg").read_bytes()
    (tmp_path / "marker.jpg").write_bytes(whole[:20] + b"\xff\xf0" + whole[30:])
    (tmp_path / "short.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bad.webp").write_bytes(b"RIFF1234WEBPVP8 none")
    script = (
        "from moco_tf.data import open_source\n"
        f"print(open_source('folder', 'train', data_dir={str(tmp_path)!r},"
        " max_unreadable=0.9).num_examples)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout == "4\n", done.stderr
    left = [line for line in done.stderr.splitlines() if "left out" in line]
    assert len(left) == 1 and "bad.webp, marker.jpg" in left[0]
    for word in ("Traceback", "PIL", "marker type", "UNKNOWN", "Corrupt"):
        assert word not in done.stderr


def test_too_many_unreadable_images_stop_the_run(tmp_path):
    photos(tmp_path, 20)
    for index in range(15):
        (tmp_path / f"bad{index:02d}.jpg").write_bytes(b"none")
    with pytest.raises(DataError) as caught:
        open_folder(tmp_path)
    assert "15 of 35 images" in str(caught.value)
    assert "bad00.jpg" in str(caught.value) and "and 5 more" in str(caught.value)
    assert open_folder(tmp_path, max_unreadable=0.5).num_examples == 20


def test_folder_of_nothing_readable_stops_the_run(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"none")
    with pytest.raises(DataError, match="1 of 1 images"):
        open_folder(tmp_path)


def test_content_decides_what_is_an_image(tmp_path, caplog):
    save(tmp_path / "a.jfif", format="JPEG")
    save(tmp_path / "b", format="PNG")
    save(tmp_path / "c.dat", format="WEBP")
    save(tmp_path / "d.jpg")
    (tmp_path / "notes.txt").write_text("no image")
    with caplog.at_level(logging.WARNING):
        source = open_folder(tmp_path)
    assert source.file_names == ["a.jfif", "b", "c.dat", "d.jpg"]
    assert len(elements(source)) == 4
    assert not caplog.text


def test_other_kinds_of_images_are_counted(tmp_path, caplog, monkeypatch):
    # As where the extra that reads them is not installed.
    monkeypatch.setattr(listing, "is_readable", lambda ending: ending in DIRECT)
    photos(tmp_path, 3)
    for number in range(4):
        (tmp_path / f"{number}.TIF").write_bytes(b"II*\0")
    (tmp_path / "phone.heic").write_bytes(b"ftypheic")
    with caplog.at_level(logging.WARNING):
        assert open_folder(tmp_path).num_examples == 3
    assert "4 .tif, 1 .heic; 3 others are" in caplog.text


def test_names_that_are_not_utf8_are_read_and_shown(tmp_path, caplog):
    photos(tmp_path, 1)
    name = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    try:
        shutil.copy(tmp_path / "000.jpg", name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with open(os.fsencode(tmp_path) + b"/\xe9.png", "wb") as file:
        file.write(b"none")
    with caplog.at_level(logging.WARNING):
        source = open_folder(tmp_path)
    assert source.file_names == ["000.jpg", "caf\\xe9.jpg"]
    assert len(elements(source)) == 2
    assert "\\xe9.png" in caplog.text


def test_images_of_16_bits_are_told(tmp_path, caplog):
    photos(tmp_path, 2)
    Image.fromarray(np.full((8, 8), 4095, np.uint16)).save(tmp_path / "xray.png")
    with caplog.at_level(logging.WARNING):
        source = open_folder(tmp_path, channels=1)
    assert source.num_examples == 3
    assert "1 of 3 images" in caplog.text and "16 bits" in caplog.text
    assert caplog.text.count("xray.png") == 1 and "000.jpg" not in caplog.text
