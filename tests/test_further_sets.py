"""Several test sets in one command: a row for each, of one gallery or classifier."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
from pretrained_runs import write_images, write_run
from test_labelled_sets import write_tfds
from test_protocols_knn import folder_features, slow_knn

from moco_tf.cli.evaluate import parse_evaluation
from moco_tf.config import ConfigError
from moco_tf.data import DataError
from moco_tf.evaluation import FeatureExtractor, evaluate


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run, and beside it other photographs, flat and divided, and two shades."""
    folder = tmp_path_factory.mktemp("runs")
    write_images(folder / "photos", 6, seed=2)
    write_images(folder / "more" / "train", 4, seed=3)
    write_images(folder / "more" / "test", 5, seed=4)
    return write_run(folder)


def measured(protocol, run, *words):
    return evaluate(parse_evaluation([protocol, str(run), *map(str, words)]))


def also(*places):
    return f"--data.also_test=[{','.join(map(str, places))}]"


def test_each_set_has_its_row_and_the_gallery_is_encoded_once(run, monkeypatch, capsys):
    done, extract = [], FeatureExtractor.extract

    def counted(self, dataset, progress=None):
        done.append(progress)
        return extract(self, dataset, progress)

    monkeypatch.setattr(FeatureExtractor, "extract", counted)
    photos, more = run.parent / "photos", run.parent / "more"
    places = (photos, more, f"{more}@train")
    words = ["--k=[5]", "--features.cache=false", also(*places)]
    results = measured("knn", run, *words)
    names = ["images test", "photos train", "more test", "more train"]
    assert done == ["training", "test", *names[1:]]
    train, labels = folder_features(run.parent / "images" / "train")
    folders = [run.parent / "images" / "test", photos, more / "test", more / "train"]
    for row, name, folder in zip(results["tests"], names, folders):
        test, own = folder_features(folder)
        guess = slow_knn(train, labels, test, 5, lambda s: np.exp(s / 0.07))
        expected = {"test_set": name, "images": len(own)}
        assert row == {**expected, "top1": pytest.approx(np.mean(guess == own))}
    assert results["figures"]["top1"] == results["tests"][0]["top1"]
    assert list(results["data"]["also_test"]) == names[1:]
    with open(run / "report" / "knn" / "tests.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["test_set"] for row in rows] == names
    assert "more train" in capsys.readouterr().out
    evaluate(parse_evaluation(["compare", str(run), f"--out={run.parent / 'out'}"]))
    assert "knn tested on photos train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ("linear", ["--protocol=cached", "--epochs=5"]),
        ("linear", ["--epochs=1", "--batch_size=32", "--learning_rate=0.1"]),
        ("fewshot", ["--shots=[1,3]", "--draws=3"]),
        ("finetune", ["--epochs=1", "--batch_size=20", "--milestones=[]"]),
        ("retrieve", ["--k=[1]"]),
        ("retrieve", ["--k=[1]", "--gallery=train"]),
    ],
)
def test_the_own_images_named_again_have_the_same_figures(run, protocol, words):
    again = f"{run.parent / 'images'}@test"
    linked = run.parent / "photos"
    results = measured(protocol, run, *words, also(again, linked))
    # Both are "images test" by name, so that further ones go by what was typed.
    names = [row["test_set"] for row in results["tests"]]
    assert names == ["images test", again, str(linked)]
    own, same, other = (
        {k: v for k, v in row.items() if k != "test_set"} for row in results["tests"]
    )
    assert own == same != other
    assert own == {"images": 30, **results["figures"]}


def test_tfds_sets_are_named_with_their_split(run, tmp_path):
    root = write_tfds(tmp_path / "sets", "png")
    words = ["--data.source=tfds", "--data.name=shades", f"--data.data_dir={root}"]
    words += ["--k=[1]", "--data.test_split=train", also("tfds:shades")]
    results = measured("knn", run, *words)
    names = [row["test_set"] for row in results["tests"]]
    assert names == ["shades train", "shades test"]


def test_sets_that_do_not_fit_are_told_before_anything_is_encoded(
    run, tmp_path, monkeypatch
):
    def work(*args, **kwargs):
        raise AssertionError("work before the check")

    monkeypatch.setattr(FeatureExtractor, "extract", work)
    fewer = tmp_path / "fewer"
    shutil.copytree(run.parent / "photos", fewer)
    shutil.rmtree(fewer / "green")
    flat = tmp_path / "flat"
    shutil.copytree(run.parent / "photos" / "red", flat)
    more = run.parent / "more"
    cases = [
        (also(fewer), DataError, "the test set 2|'fewer train' 2"),
        (also(flat), DataError, "has no labels"),
        (also(f"{more}@val"), DataError, "split='val' is not a sub-folder"),
        (also("nowhere"), DataError, "'nowhere' is not a folder"),
        (also("tfds:no_such_set"), DataError, "no_such_set"),
        (also(more, more), ConfigError, "names a set twice"),
    ]
    for word, kind, pattern in cases:
        with pytest.raises(kind, match=pattern) as caught:
            measured("knn", run, "--k=[5]", "--features.cache=false", word)
        assert "\n" not in str(caught.value)
