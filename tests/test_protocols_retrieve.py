"""`evaluate.py retrieve`: ranks, figures and pictures against plain computations."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from pretrained_runs import copy_run, write_images, write_run
from sklearn.metrics import average_precision_score
from test_protocols_knn import folder_features

from moco_tf.cli.evaluate import parse_evaluation
from moco_tf.config import ConfigError
from moco_tf.data import DataError
from moco_tf.evaluation import evaluate
from moco_tf.evaluation.retrieval import command, ranking
from moco_tf.evaluation.retrieval.ranking import rank


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def run(made, tmp_path):
    return copy_run(made, tmp_path)


def retrieve(path, *words):
    return evaluate(parse_evaluation(["retrieve", str(path), *map(str, words)]))


def unit(rows):
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def slow_figures(queries, labels, gallery=None, gallery_labels=None, k=(1, 5)):
    """Query by query, as the definitions say; mAP is scikit-learn's."""
    is_own = gallery is None
    if is_own:
        gallery, gallery_labels = queries, labels
    found = {f"recall@{n}": [] for n in k}
    found.update({"R-precision": [], "MAP@R": [], "mAP": []})
    for number, query in enumerate(unit(queries)):
        cosine = unit(gallery) @ query
        same = gallery_labels == labels[number]
        if is_own:
            cosine, same = np.delete(cosine, number), np.delete(same, number)
        total = same.sum()
        if not total:
            continue
        hits = same[np.argsort(-cosine)]
        for n in k:
            found[f"recall@{n}"].append(hits[:n].any())
        found["R-precision"].append(hits[:total].mean())
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        found["MAP@R"].append((precision * hits)[:total].sum() / total)
        found["mAP"].append(average_precision_score(same, cosine))
    return {name: np.mean(values) for name, values in found.items()}


def made_rows(count, dim=6, classes=7, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    rows = rng.normal(size=(classes, dim))[labels] + rng.normal(size=(count, dim))
    return rows.astype(np.float32), labels


@pytest.mark.parametrize("chunk", [2**25, 7 * 60, 1])
def test_figures_equal_those_of_the_definitions(monkeypatch, chunk):
    monkeypatch.setattr(ranking, "_SIMILARITIES_PER_CHUNK", chunk)
    queries, labels = made_rows(60)
    labels[:2] = 50, 51  # alone in their classes
    own = rank(queries, labels)
    assert own.figures((5, 1)) == pytest.approx(slow_figures(queries, labels))
    assert (own.relevant == 0).sum() == 2
    gallery, others = made_rows(90, seed=1)
    across = rank(queries, labels, gallery, others).figures((1, 5))
    assert across == pytest.approx(slow_figures(queries, labels, gallery, others))


def test_of_equal_cosines_other_classes_come_first():
    same = np.ones((6, 3), np.float32)
    found = rank(same, np.array([0, 0, 0, 1, 1, 1]))
    assert found.first.tolist() == [4] * 6  # after three of another class
    assert found.figures((1, 3))["recall@3"] == 0
    # Copies of a query, of its class, are ahead of all others.
    rows = np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]
    assert rank(rows, np.array([5, 5, 6, 6])).first.tolist() == [1, 1, 3, 3]


def test_command_writes_figures_of_the_test_images_among_themselves(run, capsys):
    results = retrieve(run, "--k=[5,1]", "--shown=4")
    features, labels = folder_features(run.parent / "images" / "test")
    expected = slow_figures(features, labels)
    assert results["figures"] == pytest.approx(expected, abs=1e-6)
    folder = run / "report" / "retrieve"
    assert json.loads((folder / "results.json").read_text()) == results
    assert results["queries"] == results["searched"] == 30
    assert results["not_counted"] == 0 and "train" not in results["data"]
    assert (folder / "retrieve.png").stat().st_size > 5000
    with open(folder / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["", "blue", "green", "red"]
    assert float(rows[0]["mAP"]) == results["figures"]["mAP"]
    of_classes = [float(row["MAP@R"]) for row in rows[1:]]
    assert np.mean(of_classes) == pytest.approx(expected["MAP@R"])
    printed = capsys.readouterr().out
    for share in results["figures"].values():
        assert f"{100 * share:.1f} %" in printed
    assert "not counted" not in printed
    evaluate(parse_evaluation(["compare", str(run), f"--out={run / 'out'}"]))
    assert "retrieve MAP@R" in capsys.readouterr().out


def test_training_images_are_searched_and_hits_are_framed(run, monkeypatch):
    sheets = []
    draw = command.draw_sheet
    monkeypatch.setattr(
        command,
        "draw_sheet",
        lambda rows, *a, **k: sheets.append(rows) or draw(rows, *a, **k),
    )
    results = retrieve(run, "--gallery=train", "--k=[3]", "--shown=5")
    train, test = (
        folder_features(run.parent / "images" / s) for s in ("train", "test")
    )
    assert results["figures"] == pytest.approx(
        slow_figures(*test, *train, k=(3,)), abs=1e-6
    )
    assert results["searched"] == 60
    (rows,) = sheets
    assert [len(row) for row in rows] == [9] * 5
    for query, *near in rows:
        assert query.is_right is None
        for tile in near:
            name, cosine = tile.caption.split("\n")
            assert tile.is_right == (name == query.caption) and float(cosine) <= 1


def test_classes_of_one_image_and_new_classes_are_told(run, tmp_path, capsys):
    images = run.parent / "images"
    write_images(tmp_path / "one", 1, classes=("grey",), seed=4)
    shutil.move(tmp_path / "one" / "grey", images / "test" / "grey")
    # Among the test images a class may be new, as the metric learning protocol wants.
    results = retrieve(run, "--k=[1]")
    assert (results["queries"], results["not_counted"]) == (30, 1)
    assert results["not_counted_classes"] == ["grey"]
    assert (
        "1 of 31 queries have no other image of their label" in capsys.readouterr().out
    )
    with pytest.raises(DataError, match="grey in only one of them"):
        retrieve(run, "--k=[1]", "--gallery=train")


def test_groups_of_a_manifest_are_retrieved(run, tmp_path):
    place = run.parent / "images" / "test"
    files = sorted(place.rglob("*.png"))
    labels = [file.parent.name for file in files]
    lines = [f"{file},,{label}" for file, label in zip(files, labels)]
    lines[0] = f"{files[0]},,"  # without a group
    manifest = tmp_path / "photos.csv"
    manifest.write_text("\n".join(lines))
    words = ["--data.source=folder", f"--data.data_dir={manifest}", "--k=[1,5]"]
    words.append("--data.test_split=train")
    results = retrieve(run, *words, "--by=group")
    features, numbers = folder_features(place)
    numbers[0] = 9
    assert results["figures"] == pytest.approx(
        slow_figures(features, numbers), abs=1e-6
    )
    assert results["not_counted"] == 1
    with pytest.raises(DataError, match="'images test' has no groups to retrieve by"):
        retrieve(run, "--by=group")


def test_mistakes_are_one_sentence_and_leave_nothing(run, tmp_path):
    alone = tmp_path / "alone"
    write_images(alone / "test", 1)
    cases = [
        (["--k=[30]"], ConfigError, "k=30 is more than the 29 images"),
        (["--k=[]"], ConfigError, "names no number of images"),
        (["--by=group", "--gallery=train"], ConfigError, "use --gallery=test"),
        (["--data.max_train=5"], ConfigError, "max_train=5 has no effect with gallery"),
        (["--k=[1]", f"--data.data_dir={alone}"], DataError, "nothing to retrieve"),
    ]
    for words, kind, pattern in cases:
        with pytest.raises(kind, match=pattern) as caught:
            retrieve(run, *words)
        assert "\n" not in str(caught.value)
    assert not list(run.glob("report/retrieve*"))
