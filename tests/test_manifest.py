"""Manifests that name images, labels and groups; and several folders as one."""

import logging

import numpy as np
import pytest
from commands import run_train
from photo_folders import elements, open_folder, photos, save

from moco_tf.config import ConfigError, load_config
from moco_tf.config.checks import check_places
from moco_tf.data import DataError, open_source
from moco_tf.data.sources.places import places_fingerprint

NAMES = ["a b.jpg", "c,d.png", "ü [1].png", 'say "hi".png', "deep/e.jpg"]


@pytest.fixture
def images(tmp_path):
    for number, name in enumerate(NAMES):
        save(tmp_path / "images" / name, colour=(number, 0, 0))
    return tmp_path / "images"


def manifest(path, text):
    path.write_text(text, encoding="utf-8")
    return path


ROWS = (
    'images/a b.jpg,cat,one\n"images/c,d.png",dog,two\nimages/ü [1].png,cat,one\n'
    '"images/say ""hi"".png",dog,\n{absolute},,two\n'
)


@pytest.mark.parametrize("header", ["", "path,label,group\n", "Path, LABEL ,group\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_manifest_gives_images_labels_and_groups(images, tmp_path, header, mark):
    rows = ROWS.format(absolute=images / "deep/e.jpg")
    path = manifest(tmp_path / "list (1).csv", mark + header + rows)
    source = open_folder(path)
    expected = sorted(f"images/{name}" for name in NAMES)
    assert source.file_names == expected
    assert source.class_names == ("cat", "dog")
    facts = dict(zip(expected, zip(source.labels, source.groups)))
    assert [facts[f"images/{name}"][0] for name in NAMES] == [0, 1, 0, 1, -1]
    groups = [facts[f"images/{name}"][1] for name in NAMES]
    assert groups[0] == groups[2] != groups[1] == groups[4] and len(set(groups)) == 3
    by_id = [element["image"] for element in elements(source)]
    for name, data in zip(source.file_names, by_id):
        assert data == (tmp_path / name).read_bytes()
    assert [element["label"] for element in elements(source)] == list(source.labels)


def test_text_file_of_paths_is_a_manifest_without_labels(images, tmp_path):
    names = [name for name in NAMES if "," not in name and '"' not in name]
    path = manifest(images / "names.txt", "\n".join([*names, "", names[0]]) + "\n\n")
    source = open_folder(path)
    assert source.file_names == sorted(names)  # each once
    assert source.num_classes == 0 and source.groups is None
    with pytest.raises(DataError, match="has no labels"):
        open_source("folder", "train", data_dir=str(path), labelled=True)


def test_columns_come_in_any_order_and_splits_are_chosen(images, tmp_path):
    text = "label\tcamera\tpath\tsplit\n"
    for number, name in enumerate(NAMES[:3]):
        text += f"{10 * number}\tx\timages/{name}\t{'test' if number else 'train'}\n"
    path = manifest(tmp_path / "all.tsv", text)
    assert open_folder(path).file_names == [f"images/{NAMES[0]}"]
    test = open_folder(path, "test")
    assert test.num_examples == 2 and test.class_names == ("10", "20")
    with pytest.raises(DataError, match="'val' is not in the manifest.*test, train"):
        open_folder(path, "val")


def test_numbers_as_labels_keep_their_order(images, tmp_path):
    rows = zip(("10", "9", "2"), ("a b.jpg", "ü [1].png", "deep/e.jpg"))
    path = manifest(images / "x.csv", "".join(f"{p},{n}\n" for n, p in rows))
    assert open_folder(path).class_names == ("2", "9", "10")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "names no image"),
        ("path,label\n", "names no image"),
        (
            "a b.jpg\nnone.jpg\nno.png,x\n",
            "2 of the 3 .* missing: none.jpg, no.png; rel",
        ),
        ("a b.jpg,x,y,z\n", "line 1 of .* does not fit path,label,group; .* quotes"),
        ("path,label\n,x\n", "line 2 of .* does not fit path,label"),
        ("a b.jpg\0", "neither a folder nor a text file"),
        ("deep\n", "1 of the 1 images of .* missing: deep"),
    ],
)
def test_mistakes_in_a_manifest_are_told(images, text, sentence):
    path = manifest(images / "list.csv", text)
    with pytest.raises(DataError, match=sentence):
        open_folder(path)


def test_image_or_other_split_given_as_manifest_is_told(images):
    with pytest.raises(DataError, match="neither a folder nor a text file"):
        open_folder(images / "a b.jpg")
    path = manifest(images / "list.txt", "a b.jpg\n")
    with pytest.raises(DataError, match="'test' is not in the manifest.*column split"):
        open_folder(path, "test")


def test_broken_image_of_a_manifest_keeps_groups_with_their_images(images, caplog):
    text = "".join(f"{name},,{group}\n" for name, group in zip("abcde", "xyxyx"))
    for name in "abcde":
        save(images / name, format="PNG")
    (images / "b").write_bytes(b"none")
    with caplog.at_level(logging.WARNING):
        source = open_folder(manifest(images / "list", text), max_unreadable=0.5)
    assert source.file_names == list("acde")
    np.testing.assert_array_equal(source.groups, [0, 0, 1, 0])
    assert "list cannot be read and are left out: b" in caplog.text.replace("\n", " ")


def test_several_folders_are_one_set(tmp_path):
    photos(tmp_path / "A [1]" / "cat", 2)
    photos(tmp_path / "A [1]" / "dog", 1)
    photos(tmp_path / "B" / "b" / "dog", 1, start=7)
    places = [str(tmp_path / "A [1]"), str(tmp_path / "B" / "b")]
    source = open_source("folder", "train", data_dir=places)
    names = ["A [1]/cat/000.jpg", "A [1]/cat/001.jpg", "A [1]/dog/000.jpg"]
    assert source.file_names == [*names, "B/b/dog/007.jpg"]
    assert source.class_names == ("cat", "dog")
    np.testing.assert_array_equal(source.labels, [0, 0, 1, 1])
    for name, element in zip(source.file_names, elements(source)):
        assert element["image"] == (tmp_path / name).read_bytes()
    # A place that has no labels leaves its images without.
    photos(tmp_path / "C", 1, start=9)
    manifest(tmp_path / "list.txt", "C/009.jpg\nA [1]/cat/000.jpg,lion,pride")
    source = open_source(
        "folder", "train", data_dir=[*places, str(tmp_path / "list.txt")]
    )
    np.testing.assert_array_equal(source.labels, [0, 0, 1, 1, -1])
    assert len(set(source.file_names)) == 5  # one that two places have is taken once
    assert source.class_names == ("cat", "dog")  # what the first says of it is kept
    # A manifest labels what a folder alone does not.
    manifest(tmp_path / "labels.csv", "C/009.jpg,cat\nB/b/dog/007.jpg,dog\n")
    places = [str(tmp_path / "C"), str(tmp_path / "labels.csv")]
    source = open_source("folder", "train", data_dir=places)
    assert source.class_names == ("cat", "dog") and list(source.labels) == [1, 0]


def test_fingerprint_changes_with_a_manifest_and_its_images(images):
    path = manifest(images / "list.txt", "a b.jpg,x\n")
    before = places_fingerprint(str(path))
    assert places_fingerprint(str(path)) == before
    assert places_fingerprint([str(path), str(images / "deep")]) != before
    manifest(path, "a b.jpg,y\n")
    assert places_fingerprint(str(path)) != before


def test_places_are_plain_on_the_command_line_and_in_yaml(tmp_path):
    one, two = (photos(tmp_path / name, 1) for name in ("one x", "two"))
    base = ["data.source=folder", "monitor.every=0"]
    config = load_config(None, [*base, f"data.data_dir=[{one}, {two}]"])
    assert config.data.data_dir == (str(one), str(two))
    check_places(config)
    file = tmp_path / "c.yaml"
    file.write_text(f"data:\n  source: folder\n  data_dir:\n  - {one}\n  - {two}\n")
    assert load_config(file, base).data.data_dir == (str(one), str(two))
    file.write_text(f"data:\n  source: folder\n  data_dir: {one}\n")
    assert load_config(file, base).data.data_dir == str(one)
    assert load_config(None, [*base, "data.data_dir=a [1]"]).data.data_dir == "a [1]"
    with pytest.raises(ConfigError, match=f"'{two}x' is not a folder"):
        check_places(load_config(None, [*base, f"data.data_dir=[{one},{two}x]"]))
    with pytest.raises(ConfigError, match="several folders, which data.source=tfds"):
        load_config(None, ["data.source=tfds", "data.name=x", "data.data_dir=[a,b]"])


def test_missing_images_are_one_line_of_a_command(tmp_path):
    path = manifest(tmp_path / "list.csv", "path\nnone (1).jpg\n")
    done = run_train(
        "--data.source=folder", f"--data.data_dir={path}", "--monitor.every=0",
        f"--runs_dir={tmp_path / 'runs'}",
    )  # fmt: skip
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "1 of the 1 images" in errors[0]
    assert "Traceback" not in done.stderr
