"""`evaluate.py knn`: its figures, its files, and the features that it keeps."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pretrained_runs import MEAN, STD, copy_run, tiny_encoder, write_images, write_run
from records import arrays

import moco_tf
from moco_tf.cli.evaluate import parse_evaluation
from moco_tf.config import ConfigError
from moco_tf.data import DataError
from moco_tf.evaluation import FeatureExtractor, evaluate
from moco_tf.interchange import export_saved_model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def run(made, tmp_path):
    return copy_run(made, tmp_path)


def knn_of(path, *words):
    return evaluate(parse_evaluation(["knn", str(path), "--k=[1,5,9]", *words]))


def folder_features(folder):
    """Features and labels of a folder, with Pillow, NumPy and one plain call."""
    images, labels = [], []
    for label, place in enumerate(sorted(folder.iterdir())):
        for file in sorted(place.iterdir()):
            images.append(np.asarray(Image.open(file)))
            labels.append(label)
    images = (np.stack(images).astype(np.float32) / 255 - MEAN) / STD
    features = tiny_encoder()(images.astype(np.float32), training=False).numpy()
    return features, np.array(labels)


def slow_knn(train, train_labels, test, k, weigh):
    train = train / np.linalg.norm(train, axis=1, keepdims=True)
    test = test / np.linalg.norm(test, axis=1, keepdims=True)
    predicted = []
    for row in test:
        cosine = train @ row
        nearest = np.argsort(-cosine)[:k]
        votes = np.zeros(train_labels.max() + 1)
        for index in nearest:
            votes[train_labels[index]] += weigh(cosine[index])
        predicted.append(np.argmax(votes))
    return np.array(predicted)


def test_figures_equal_a_slow_vote_on_files_read_with_pillow(run):
    results = knn_of(run)
    train, train_labels = folder_features(run.parent / "images" / "train")
    test, test_labels = folder_features(run.parent / "images" / "test")
    assert len(results["rows"]) == 9
    for row in results["rows"]:
        if row["temperature"] == "uniform":
            weigh = np.ones_like
        else:
            weigh = lambda s, t=row["temperature"]: np.exp(s / t)  # noqa: E731
        expected = slow_knn(train, train_labels, test, row["k"], weigh)
        assert row["top1"] == pytest.approx(np.mean(expected == test_labels)), row
    best = slow_knn(train, train_labels, test, 9, lambda s: np.exp(s / 0.07))
    assert results["figures"]["top1"] == pytest.approx(np.mean(best == test_labels))
    assert 1 / 3 < results["figures"]["top1"]
    confusion = np.zeros((3, 3), int)
    for label, guess in zip(test_labels, best):
        confusion[label, guess] += 1
    assert results["confusion"] == confusion.tolist()
    assert results["per_class"] == {
        name: confusion[i, i] / 10 for i, name in enumerate(("blue", "green", "red"))
    }


def test_results_are_files_beside_the_weights_and_one_table(run, capsys):
    results = knn_of(run)
    folder = run / "report" / "knn"
    assert json.loads((folder / "results.json").read_text()) == results
    with open(folder / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["top1"]) for row in rows] == [
        row["top1"] for row in results["rows"]
    ]
    assert (folder / "confusion.png").stat().st_size > 5000
    assert {path.name for path in folder.iterdir()} == {
        "results.json",
        "results.csv",
        "confusion.png",
    }
    assert results["encoder"]["recipe"] == "run"
    assert results["settings"]["k"] == [1, 5, 9]
    text = capsys.readouterr().out
    assert text.count("kNN top-1") == 1
    for row in results["rows"]:
        assert f"{100 * row['top1']:.1f} %" in text


def test_out_takes_the_results_and_leaves_other_files_alone(run, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "notes.txt").write_text("keep")
    knn_of(run, f"--out={out}")
    assert (out / "results.json").exists()
    assert (out / "notes.txt").read_text() == "keep"
    assert not (run / "report" / "knn").exists()


@pytest.fixture
def extractions(monkeypatch):
    """Titles of the sets whose features were extracted, as it happens."""
    done, extract = [], FeatureExtractor.extract

    def counted(self, dataset, progress=None):
        done.append(progress)
        return extract(self, dataset, progress)

    monkeypatch.setattr(FeatureExtractor, "extract", counted)
    return done


def test_features_are_extracted_once_and_again_when_anything_changes(run, extractions):
    first = knn_of(run)
    assert extractions == ["training", "test"]
    assert knn_of(run)["rows"] == first["rows"]
    assert len(extractions) == 2
    knn_of(run, "--data.max_test=12")
    assert extractions[2:] == ["test"]
    knn_of(run, "--precision=mixed_bfloat16")
    assert extractions[3:] == ["training", "test"]
    image = run.parent / "images" / "test" / "red" / "000.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(image)
    knn_of(run)
    assert len(extractions) == 7  # one fingerprint serves the folder as a whole


def test_other_weights_and_no_cache_extract_again(run, tmp_path, extractions):
    knn_of(run)
    knn_of(run, "--features.cache=false")
    assert len(extractions) == 4
    kept = len(list((run / "report" / "features").iterdir()))
    assert kept == 2
    encoder = tiny_encoder()
    encoder.set_weights([1.5 * value for value in encoder.get_weights()])
    other = write_run(tmp_path, "other", encoder=encoder)
    shutil.copytree(run / "report", other / "report")
    knn_of(other)
    assert len(extractions) == 6


def test_same_weights_of_another_architecture_extract_again(tmp_path, extractions):
    encoder = moco_tf.encoders.ViT(16, 8, width=12, depth=1, heads=3)
    run = write_run(tmp_path, encoder=encoder)
    knn_of(run)
    other = moco_tf.encoders.ViT(16, 8, width=12, depth=1, heads=2)
    other.set_weights(encoder.get_weights())
    export_saved_model(
        other,
        run / "saved_model",
        image_size=16,
        resize=16,
        mean=MEAN,
        std=STD,
        provenance={},
    )
    knn_of(run)
    assert len(extractions) == 4


def test_damaged_cache_is_made_again(run, extractions):
    first = knn_of(run)
    for path in (run / "report" / "features").iterdir():
        path.write_bytes(path.read_bytes()[:300])
    assert knn_of(run)["rows"] == first["rows"]
    assert len(extractions) == 4


def test_moved_run_and_moved_images_are_found(run, tmp_path):
    first = knn_of(run)
    place = tmp_path / "elsewhere"
    shutil.move(run.parent / "images", place)
    moved = shutil.move(run, tmp_path / "renamed")
    with pytest.raises(DataError, match="is not a folder"):
        knn_of(moved)
    again = knn_of(moved, f"--data.data_dir={place}")
    assert again["rows"] == first["rows"]


def test_saved_model_alone_needs_to_be_told_its_images(run):
    saved = run / "saved_model"
    with pytest.raises(ConfigError, match="names no labelled images; add"):
        knn_of(saved)
    data = run.parent / "images"
    words = ["--data.source=folder", f"--data.data_dir={data}"]
    assert knn_of(saved, *words)["rows"] == knn_of(run)["rows"]
    assert (saved / "report" / "knn" / "results.json").exists()


def test_figures_on_other_images_keep_out_of_the_runs_own(run, tmp_path, capsys):
    own = knn_of(run)
    others = tmp_path / "other photos"
    write_images(others / "train", 12, seed=2)
    write_images(others / "test", 6, seed=3)
    words = ["--data.source=folder", f"--data.data_dir={others}"]
    there = knn_of(run, *words)
    folder = run / "report" / "knn_on_other_photos"
    assert json.loads((folder / "results.json").read_text()) == there
    assert json.loads((run / "report/knn/results.json").read_text()) == own
    assert (own["data_set"], there["data_set"]) == ("images", "other photos")
    evaluate(parse_evaluation(["compare", str(run), f"--out={tmp_path / 'out'}"]))
    assert "knn on other photos" in capsys.readouterr().out
    # A SavedModel has no images of its own: those that it was judged on first.
    saved = run / "saved_model"
    for place in (run.parent / "images", others):
        knn_of(saved, "--data.source=folder", f"--data.data_dir={place}")
    names = {path.name for path in (saved / "report").glob("knn*")}
    assert names == {"knn", "knn_on_other_photos"}


def test_replicas_share_the_images_and_change_nothing(run):
    alone = knn_of(run, "--features.cache=false")
    words = ["--features.cache=false", "--features.batch_size=27"]
    shared = knn_of(run, *words, "--distribution.replicas=2")
    assert shared["confusion"] == alone["confusion"]


def test_mixed_precision_reaches_the_encoder(run, policy):
    plain = knn_of(run)
    mixed = knn_of(run, "--precision=mixed_bfloat16")
    assert mixed["figures"]["top1"] == pytest.approx(plain["figures"]["top1"], abs=0.15)
    files = sorted((run / "report" / "features").iterdir())
    features = [arrays(file)["features"] for file in files]
    train = [part for part in features if len(part) == 60]
    assert 0 < np.abs(train[0] - train[1]).max() < 0.1 * np.abs(train[0]).max()
    assert tf.keras.mixed_precision.global_policy().name == "float32"


def test_collapsed_encoder_is_named_as_the_cause_of_chance(tmp_path, capsys):
    encoder = tiny_encoder()
    weights = encoder.get_weights()
    # The last batch norm: no gain, so the bias alone is left.
    names = [variable.name for variable in encoder.variables]
    for index, name in enumerate(names):
        if name.startswith("layer4_0") and "gamma" in name:
            weights[index][:] = 0
    encoder.set_weights(weights)
    results = knn_of(write_run(tmp_path, encoder=encoder))
    assert "the encoder has collapsed" in results["warning"]
    assert results["warning"] in " ".join(capsys.readouterr().out.split())


def nothing_written(run):
    return not (run / "report" / "knn").exists()


def test_bad_data_is_one_sentence_and_leaves_nothing(run, tmp_path):
    data = run.parent / "images"
    unlabelled = tmp_path / "flat"
    unlabelled.mkdir()
    for number, file in enumerate(sorted((data / "test" / "red").iterdir())):
        shutil.copy(file, unlabelled / f"{number}.png")
    fewer = tmp_path / "fewer"
    shutil.copytree(data, fewer)
    shutil.rmtree(fewer / "test" / "green")
    cases = [
        (["--k=[61]"], ConfigError, "k=61 is more than the 60 training images"),
        (["--data.max_train=4"], ConfigError, "k=9 is more than the 4 training"),
        ([f"--data.data_dir={unlabelled}", "--data.test_split=train"], DataError,
         "has no labels"),
        ([f"--data.data_dir={fewer}"], DataError,
         r"3 classes and the test set 2 \(green in only one"),
        (["--data.test_split=val"], DataError, "split='val' is not a sub-folder"),
        (["--data.source=tfds"], ConfigError, "add --data.name=cifar10"),
        ([f"--out={data / 'test' / 'red' / '000.png' / 'x'}"], ConfigError,
         "cannot be written .* choose another folder with --out"),
    ]  # fmt: skip
    for words, error, pattern in cases:
        with pytest.raises(error, match=pattern) as caught:
            knn_of(run, *words)
        assert "\n" not in str(caught.value)
        assert nothing_written(run), words


def test_other_number_of_classes_is_refused_in_either_direction(run, tmp_path):
    more = tmp_path / "more"
    shutil.copytree(run.parent / "images", more)
    write_images(more / "new", 3, classes=("yellow",))
    shutil.move(more / "new" / "yellow", more / "test" / "yellow")
    shutil.rmtree(more / "new")
    with pytest.raises(DataError, match="yellow in only one of them"):
        knn_of(run, f"--data.data_dir={more}")
