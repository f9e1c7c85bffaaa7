"""`evaluate.py embed`: its files, read by others' readers, and what a stop leaves."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pretrained_runs import MEAN, STD, copy_run, tiny_encoder, write_run

from moco_tf.cli.evaluate import parse_evaluation
from moco_tf.config import ConfigError
from moco_tf.data import DataError
from moco_tf.evaluation import FeatureExtractor, evaluate
from moco_tf.evaluation.embed import parts
from moco_tf.evaluation.embed.embeddings import Rows, unit_rows
from moco_tf.evaluation.embed.reading import open_embeddings
from moco_tf.evaluation.embed.writing import write_embeddings
from moco_tf.evaluation.given import sort_given
from moco_tf.paths import to_path

ODD = ("a b [1].png", "naïve, “quoted” 写真.png", 'comma,quote".png', "$x^2$ #1.png")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def run(made, tmp_path):
    return copy_run(made, tmp_path)


@pytest.fixture
def photos(tmp_path):
    """Flat, without labels, with odd names and a broken file."""
    folder, rng = tmp_path / "my photos", np.random.default_rng(3)
    folder.mkdir()
    for name in (*ODD, *(f"{number:03d}.png" for number in range(9))):
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n")
    return folder


def embed(*words):
    return evaluate(parse_evaluation(["embed", *map(str, words)]))


def slow_features(folder, names):
    """With Pillow and one plain call; the images are of the encoder's own size."""
    images = np.stack([np.asarray(Image.open(folder / name)) for name in names])
    images = (images.astype(np.float32) / 255 - MEAN) / STD
    return tiny_encoder()(images.astype(np.float32), training=False).numpy()


def read_plainly(path):
    """Names, labels and features of a file, without this project's readers."""
    if path.suffix == ".npz":
        with np.load(path) as found:
            kinds = [*found["class_names"], ""]
            labels = [kinds[label] for label in found["labels"]]
            return list(found["names"]), labels, found["features"]
    if path.suffix == ".csv":
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        names, labels = ([row[key] for row in rows] for key in ("name", "label"))
        columns = [key for key in rows[0] if key not in ("name", "label")]
        assert columns == [f"f{number}" for number in range(len(columns))]
        values = [[row[key] for key in columns] for row in rows]
        return names, labels, np.array(values, np.float32)
    if path.suffix == ".parquet":
        table = pytest.importorskip("pyarrow.parquet").read_table(path).to_pydict()
        labels = [label or "" for label in table["label"]]
        return table["name"], labels, np.array(table["features"], np.float32)
    names, labels, values = [], [], []
    spec = {
        "name": tf.io.FixedLenFeature((), tf.string),
        "label": tf.io.FixedLenFeature((), tf.string, ""),
        "features": tf.io.VarLenFeature(tf.float32),
    }
    for record in tf.data.TFRecordDataset(str(path)):
        found = tf.io.parse_single_example(record, spec)
        names.append(found["name"].numpy().decode())
        labels.append(found["label"].numpy().decode())
        values.append(found["features"].values.numpy())
    return names, labels, np.array(values)


FORMATS = ("npz", "csv", "parquet", "tfrecord")


@pytest.fixture(autouse=True)
def _with_pyarrow(request):
    """Not every Python has it, or one that fits its NumPy."""
    if "[parquet]" in request.node.name:
        pytest.importorskip("pyarrow", exc_type=ImportError)


@pytest.mark.parametrize("suffix", FORMATS)
def test_file_has_names_and_features_of_files_read_with_pillow(
    run, photos, tmp_path, suffix
):
    out = tmp_path / "deep er" / f"all [1].{suffix}"
    done = embed(run, photos, f"--out={out}", "--batch_size=5")
    assert done == {"file": str(out), "images": 13, "encoded": 13}
    names, labels, features = read_plainly(out)
    assert names == sorted({*os.listdir(photos)} - {"broken.png"})
    assert set(labels) == {""}
    np.testing.assert_allclose(features, slow_features(photos, names), 1e-5, 2e-5)
    found = open_embeddings([out])
    assert list(found.names) == names and (found.labels == -1).all()
    np.testing.assert_array_equal(found.features, features)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_labels_are_kept_where_the_folder_has_them(run, tmp_path, suffix):
    out = tmp_path / f"all.{suffix}"
    embed(run, f"--out={out}")  # the run's own training images
    names, labels, features = read_plainly(out)
    assert len(names) == 60 and labels == [name.split("/")[0] for name in names]
    found = open_embeddings([out])
    assert [found.class_names[label] for label in found.labels] == labels
    train = run.parent / "images" / "train"
    np.testing.assert_allclose(features, slow_features(train, names), 1e-5, 2e-5)


def test_unit_rows_have_length_one_and_zeros_stay():
    features = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    np.testing.assert_allclose(unit_rows(features), [[0.6, 0.8], [0, 0]], atol=1e-7)


def test_set_without_files_names_images_by_their_number(run, tmp_path):
    out = tmp_path / "glyphs.npz"
    embed(run, "--data.source=glyphs", "--data.split=test", f"--out={out}")
    found = open_embeddings([out])
    assert len(found) == 2048 and found.names[17] == "glyphs/test/17"


def test_features_are_mapped_and_not_read(run, tmp_path):
    out = tmp_path / "all.npz"
    embed(run, f"--out={out}")
    features = open_embeddings([out]).features
    assert isinstance(features, np.memmap) and str(features.filename) == str(out)


def test_shares_are_joined_to_the_whole(run, photos, tmp_path):
    outs = [tmp_path / f"{number}.npz" for number in range(3)]
    for number, out in enumerate(outs, 1):
        embed(run, photos, f"--out={out}", f"--shard={number}/3")
    embed(run, photos, f"--out={tmp_path / 'all.npz'}")
    whole, joined = open_embeddings([tmp_path / "all.npz"]), open_embeddings(outs)
    assert joined.names == whole.names
    np.testing.assert_allclose(joined.features, whole.features, atol=1e-5)
    assert [origin.count for origin in joined.origins] == [4, 4, 5]
    with pytest.raises(DataError, match="shard=1/20 has none of the 13 images"):
        embed(run, photos, f"--out={tmp_path / 'x.npz'}", "--shard=1/20")


def test_classes_of_joined_files_are_their_union(tmp_path):
    for name, kinds in (("a", ["cat", "dog"]), ("b", ["ape", "cat"])):
        rows = Rows([f"{name}{n}" for n in range(3)], np.array([0, 1, -1]),
                    np.eye(3, dtype=np.float32))  # fmt: skip
        write_embeddings(tmp_path / f"{name}.npz", lambda rows=rows: [rows], kinds, {})
    found = open_embeddings([tmp_path / "a.npz", tmp_path / "b.npz"])
    kinds = [found.class_names[n] if n >= 0 else None for n in found.labels]
    assert kinds == ["cat", "dog", None, "ape", "cat", None]


def test_replicas_share_the_images_and_change_nothing(run, photos, tmp_path):
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    embed(run, photos, f"--out={one}")
    embed(run, photos, f"--out={two}", "--distribution.replicas=2", "--batch_size=5")
    found = [open_embeddings([path]) for path in (one, two)]
    assert found[0].names == found[1].names
    np.testing.assert_allclose(*(part.features for part in found), atol=1e-5)


@pytest.fixture
def stopped(monkeypatch):
    """Extraction that is interrupted after two batches, once; counts batches."""
    batches, seen = FeatureExtractor.batches, []

    def some(self, dataset, progress=None):
        for number, features in enumerate(batches(self, dataset, progress)):
            if number == 2 and len(seen) == 2:
                raise KeyboardInterrupt
            seen.append(len(features))
            yield features

    monkeypatch.setattr(FeatureExtractor, "batches", some)
    return seen


def test_interrupted_command_goes_on_and_ends_with_the_same_file(
    run, photos, tmp_path, stopped
):
    out, words = tmp_path / "all.npz", ("--batch_size=4",)
    with pytest.raises(KeyboardInterrupt):
        embed(run, photos, f"--out={out}", *words)
    assert not out.exists() and (tmp_path / ".all.npz.parts").is_dir()
    done = embed(run, photos, f"--out={out}", *words)
    assert done["encoded"] == 5 and stopped == [4, 4, 4, 1]
    assert not (tmp_path / ".all.npz.parts").exists()
    unbroken = tmp_path / "unbroken.npz"
    embed(run, photos, f"--out={unbroken}", *words)
    assert out.read_bytes() == unbroken.read_bytes()
    assert embed(run, photos, f"--out={out}", *words)["encoded"] == 0


def test_parts_of_other_images_are_not_taken(run, photos, tmp_path, stopped):
    out = tmp_path / "all.npz"
    with pytest.raises(KeyboardInterrupt):
        embed(run, photos, f"--out={out}", "--batch_size=4")
    Image.new("RGB", (16, 16), (9, 200, 9)).save(photos / "000.png")
    assert embed(run, photos, f"--out={out}")["encoded"] == 13
    names, _, features = read_plainly(out)
    np.testing.assert_allclose(features, slow_features(photos, names), 1e-5, 2e-5)


def test_half_a_part_is_no_part(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_ROWS", 3)
    features = np.arange(8, dtype=np.float32)[:, None]
    kept = parts.Parts(tmp_path / "x.npz", "digest")
    for row in features[:7]:
        kept.add(parts.Features(row[None], np.array([-1]), np.array([0])))
    (kept.folder / ".passing").write_bytes(b"half")
    again = parts.Parts(tmp_path / "x.npz", "digest")
    assert again.rows == 6  # the seventh waited for two more
    np.testing.assert_array_equal(
        np.concatenate([part.features for part in again]), features[:6]
    )


def test_changed_images_are_encoded_again_over_a_finished_file(run, photos, tmp_path):
    out = tmp_path / "all.npz"
    assert embed(run, photos, f"--out={out}")["encoded"] == 13
    os.remove(photos / "003.png")
    assert embed(run, photos, f"--out={out}")["encoded"] == 12
    assert len(open_embeddings([out])) == 12


def test_file_of_ones_own_will_do(tmp_path):
    path = tmp_path / "own.npz"
    np.savez_compressed(path, names=["a", "b"], features=np.eye(2))
    found = open_embeddings([path])
    assert found.names == ["a", "b"] and found.features.dtype == np.float32


def broken_files(folder):
    np.savez(folder / "nameless.npz", features=np.eye(2, dtype=np.float32))
    np.savez(folder / "fewer.npz", names=["a"], features=np.eye(2, dtype=np.float32))
    nan = np.full((1, 2), np.nan, np.float32)
    np.savez(folder / "nan.npz", names=["a"], features=nan)
    np.savez(folder / "none.npz", names=[], features=np.zeros((0, 3), np.float32))
    (folder / "cut.npz").write_bytes((folder / "fewer.npz").read_bytes()[:200])
    (folder / "other.csv").write_text("id,x\n1,2\n")
    (folder / "ragged.csv").write_text("name,label,f0,f1\na,,1,2\nb,,1\n")
    (folder / "text.csv").write_text("name,label,f0\na,,much\n")
    (folder / "zeros.tfrecord").write_bytes(bytes(100))
    (folder / "zeros.parquet").write_bytes(bytes(100))


def test_broken_files_are_one_sentence(tmp_path):
    broken_files(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(DataError) as caught:
            open_embeddings([path])
        said = str(caught.value)
        assert "\n" not in said
        assert said.startswith((str(path), ".parquet needs"))
    with pytest.raises(DataError, match="gone.npz does not exist"):
        open_embeddings([tmp_path / "gone.npz"])
    for width in (2, 3):
        np.savez(tmp_path / f"{width}.npz", names=["a"], features=np.ones((1, width)))
    with pytest.raises(DataError, match="2 features of each image and .* 3; name"):
        open_embeddings([tmp_path / "2.npz", tmp_path / "3.npz"])


def test_parquet_without_its_package_is_one_sentence(
    run, photos, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="needs pyarrow; install it with `pip install"):
        embed(run, photos, f"--out={tmp_path / 'x.parquet'}")
    assert not list(tmp_path.glob("*x.parquet*"))


def test_mistakes_are_one_sentence_and_leave_nothing(run, photos, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    out = f"--out={tmp_path / 'x.npz'}"
    cases = [
        ([run, photos, "--out=x.txt"], ConfigError, "ends in none of .npz, .csv"),
        ([run, photos, "--shard=3/2"], ConfigError, "shard=3/2 is not such as 1/4"),
        ([run, photos, "--shard=half"], ConfigError, "shard=half is not such as 1/4"),
        ([run, photos, photos, out], ConfigError, "embed takes one encoder and one"),
        ([out], ConfigError, "needs an encoder and a folder of images, as in"),
        ([run, "all.npz"], ConfigError, "embed writes such files as all.npz, with"),
        ([run, photos, "--data.source=glyphs", out], ConfigError, "name images both"),
        ([run / "saved_model", out], ConfigError, "SavedModel, which knows no images"),
        ([run, empty, out], DataError, "has no images"),
        ([run, tmp_path / "gone", out], DataError, "is not a folder"),
        ([run, photos, f"--out={photos / '000.png' / 'x.npz'}"], ConfigError,
         "cannot be written .* choose another folder with --out"),
    ]  # fmt: skip
    for words, kind, pattern in cases:
        with pytest.raises(kind, match=pattern) as caught:
            embed(*words)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*x.npz*")) + list(tmp_path.glob(".*"))


def test_features_that_are_not_finite_are_refused(run, photos, tmp_path, monkeypatch):
    batches = FeatureExtractor.batches

    def overflowing(self, dataset, progress=None):
        for features in batches(self, dataset, progress):
            features.features[1:3, 0] = np.inf
            yield features

    monkeypatch.setattr(FeatureExtractor, "batches", overflowing)
    with pytest.raises(ConfigError, match="not finite for 2 of the 13 my photos"):
        embed(run, photos, f"--out={tmp_path / 'x.npz'}")
    assert not list(tmp_path.glob("*x.npz*"))


def test_default_place_is_beside_the_weights(run, photos, capsys):
    done = embed(run, photos)
    assert done["file"] == str(run / "report" / "embed" / "my_photos.npz")
    shown = " ".join(capsys.readouterr().out.split())
    assert f"are in {done['file']}." in shown and "duplicates" in shown


def test_paths_are_sorted_by_what_they_are(tmp_path):
    folder = tmp_path / "folder.npz"
    folder.mkdir()
    paths = [to_path(text) for text in ("runs/a", "1.npz", "2.CSV")]
    given = sort_given("search", paths)
    assert given.encoder == paths[0] and given.files == tuple(paths[1:])
    assert sort_given("map", paths[1:]).encoder is None
    assert sort_given("map", [paths[0], folder]).folder == folder
    for wrong, pattern in (
        ([paths[0], folder, paths[1]], "takes one encoder and files"),
        ([paths[1], paths[1]], "is named twice"),
        ([], "or files that embed wrote"),
    ):
        with pytest.raises(ConfigError, match=pattern):
            sort_given("map", wrong)


def test_files_of_two_encoders_do_not_go_together(run, photos, tmp_path):
    encoder = tiny_encoder()
    encoder.set_weights([1.5 * value for value in encoder.get_weights()])
    shutil.rmtree(tmp_path / "images")
    other = write_run(tmp_path, "other", encoder=encoder)
    outs = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for path, out in zip((run, other), outs):
        embed(path, photos, f"--out={out}")
    with pytest.raises(DataError, match="are of different encoders"):
        open_embeddings(outs)


def test_note_says_what_the_features_are_of(run, photos, tmp_path):
    out = tmp_path / "all.npz"
    embed(run, photos, f"--out={out}")
    with np.load(out) as found:
        about = json.loads(str(found["about"]))
    assert about["place"]["data_dir"] == [str(photos.resolve())]
    assert about["encoder"]["path"] == str(run) and about["images"]["images"] == 13
