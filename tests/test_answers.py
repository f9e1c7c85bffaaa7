"""`evaluate.py cluster`, `outliers` and `map`, against plain computations."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from commands import ROOT
from PIL import Image
from pretrained_runs import copy_run, write_run

from moco_tf.cli.evaluate import parse_evaluation
from moco_tf.config import ConfigError
from moco_tf.data import DataError
from moco_tf.evaluation import evaluate
from moco_tf.evaluation.cluster import groups
from moco_tf.evaluation.commands import ON_IMAGES
from moco_tf.evaluation.embed.embeddings import Embeddings, Rows
from moco_tf.evaluation.embed.writing import write_embeddings
from moco_tf.evaluation.map.command import draw_map
from moco_tf.evaluation.map.page import SIDE, page_of
from moco_tf.evaluation.map.places import places_of


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def run(made, tmp_path):
    return copy_run(made, tmp_path)


def answer(*words):
    return evaluate(parse_evaluation(list(map(str, words))))


def results(folder):
    with open(folder / "results.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def blobs(count=90, kinds=3, dim=8, spread=0.1, seed=0):
    rng = np.random.default_rng(seed)
    middles = 2 * rng.normal(size=(kinds, dim))
    labels = np.arange(count) % kinds
    rows = middles[labels] + spread * rng.normal(size=(count, dim))
    return rows.astype(np.float32), labels


@pytest.fixture
def file(tmp_path):
    """Three blobs, without pictures, with odd names."""
    features, labels = blobs()
    names = [f"{n:02d} [x] </script> “{kind}”.png" for n, kind in enumerate(labels)]
    rows = Rows(names, labels, features)
    path = tmp_path / "my blobs.npz"
    write_embeddings(path, lambda: [rows], ["a", "b", "$c$"], {})
    return path


def same_partition(one, other):
    pairs = set(zip(one, other))
    return len(pairs) == len(set(one)) == len(set(other))


@pytest.mark.parametrize("words", [["--clusters=3"], ["--tried=[2,3,7,500]"]])
def test_clusters_are_the_blobs(file, tmp_path, words, capsys):
    found = answer("cluster", file, *words)
    rows = results(tmp_path / "my_blobs_cluster")
    assert found["clusters"] == 3 and found["sizes"] == [30, 30, 30]
    features, labels = blobs()
    cluster = np.array([int(row["cluster"]) for row in rows])
    assert same_partition(cluster, labels)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for number in (1, 2, 3):
        own = unit[cluster == number]
        apart = np.linalg.norm(own - own.mean(axis=0), axis=1)
        told = [float(row["distance"]) for row in rows if int(row["cluster"]) == number]
        assert told == pytest.approx(apart, abs=1e-4)
    printed = capsys.readouterr().out
    assert ("best silhouette" in printed) == ("--clusters=3" not in words)


def test_silhouettes_are_those_of_scikit_learn():
    from sklearn.metrics import silhouette_samples

    features, labels = blobs(spread=0.8)
    embeddings = Embeddings([""] * 90, labels, features)
    found = groups.silhouettes(embeddings, (3, 90, 1000))
    centres = groups.centres_of(embeddings, 3)
    cluster, _ = groups.assigned(embeddings, centres)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = silhouette_samples(unit, cluster, metric="cosine").mean()
    assert found == {3: pytest.approx(expected, abs=1e-4)}


def test_large_sets_are_grouped_by_blocks(monkeypatch):
    monkeypatch.setattr(groups, "_WHOLE", 100)
    monkeypatch.setattr(groups, "_BLOCK", 64)
    features, labels = blobs(600, kinds=5)
    embeddings = Embeddings([""] * 600, labels, features)
    cluster, distance = groups.assigned(embeddings, groups.centres_of(embeddings, 5))
    assert same_partition(cluster, labels)
    assert distance.max() < 0.5


def test_outliers_are_ranked_by_their_distance_to_the_nearest(file, tmp_path):
    features, _ = blobs()
    features[41] = -10 * features[41]
    rows = Rows([str(n) for n in range(90)], np.full(90, -1), features)
    write_embeddings(file, lambda: [rows], (), {})
    answer("outliers", file, "--k=4", "--shown=5")
    ranked = results(tmp_path / "my_blobs_outliers")
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -2)
    expected = 1 - np.sort(cosine, axis=1)[:, -4:].mean(axis=1)
    assert ranked[0]["name"] == "41" and len(ranked) == 90
    told = {int(row["name"]): float(row["distance"]) for row in ranked}
    np.testing.assert_allclose([told[n] for n in range(90)], expected, atol=1e-5)
    order = [float(row["distance"]) for row in ranked]
    assert order == sorted(order, reverse=True)
    nearest = {int(row["name"]): int(row["nearest"]) for row in ranked}
    assert all(nearest[n] == cosine[n].argmax() for n in range(90))


def test_like_images_are_close_together_on_the_map():
    features, labels = blobs(120)
    places = places_of(features, "tsne", 30)
    assert places.shape == (120, 2) and places.min() == 0 and places.max() == 1
    middles = np.stack([places[labels == kind].mean(axis=0) for kind in range(3)])
    nearest = np.linalg.norm(places[:, None] - middles, axis=2).argmin(axis=1)
    assert (nearest == labels).mean() > 0.98


@pytest.mark.parametrize("rows", [np.eye(4), np.ones((5, 3)), np.eye(12)[:, :2] + 1])
def test_a_few_rows_and_equal_ones_have_places(rows):
    assert np.isfinite(places_of(rows.astype(np.float32), "tsne", 30)).all()


def test_page_holds_all_names_and_images_and_asks_no_network():
    names = ["a </script> b.png", "“ü” 写真.png", "<b>$x$</b>", "plain"]
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    images = {1: image + 60, 3: image + 200}
    page = page_of(np.eye(4)[:, :2], names, ["x", "", "x", "y"], images, "a < b")
    assert not re.search('https?://|src="', page)
    (told,) = re.findall(r'id="data">(.*?)</script>', page)
    data = json.loads(told)["map"]
    assert [point[2] for point in data["points"]] == names
    assert [point[4] for point in data["points"]] == [-1, 0, -1, 1]
    assert set(data["colours"]) == {"x", "y"}
    assert page.count("</script>") == 2 and "a &lt; b" in page
    (atlas,) = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(atlas))))
    assert pixels.shape == (SIDE, 2 * SIDE, 3)
    assert abs(pixels[:, :SIDE].mean() - 60) < 3
    assert abs(pixels[:, SIDE:].mean() - 200) < 3


def test_map_of_points_has_a_colour_for_each_class():
    figure = draw_map(
        np.random.default_rng(0).random((30, 2)), list("abc") * 10, {}, "t"
    )
    (axes,) = figure.axes
    assert sum(len(marks.get_offsets()) for marks in axes.collections) == 30
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list("abc")


@pytest.mark.parametrize("name", ["cluster", "outliers", "map"])
def test_folder_of_photos_is_answered_with_pictures(run, name, capsys):
    folder = run.parent / "images" / "train"
    words = {"cluster": ["--tried=[2,3]"], "outliers": ["--k=3"],
             "map": ["--images=40", "--perplexity=5"]}[name]  # fmt: skip
    answer(name, run, folder, *words)
    out = run / "report" / f"{name}_on_train"
    held = {path.name for path in out.iterdir()}
    page = {"map.html"} if name == "map" else set()
    assert held == {"results.json", "results.csv", f"{name}.png"} | page
    assert len(results(out)) == (40 if name == "map" else 60)
    assert (out / f"{name}.png").stat().st_size > 8000
    assert f"Written to {out}" in capsys.readouterr().out
    # Of the run's own images: in a folder of their own.
    answer(name, run, *words)
    assert (run / "report" / name / "results.json").exists()


def test_mistakes_are_one_sentence_and_leave_nothing(file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    few = tmp_path / "few.npz"
    np.savez(few, names=["a", "b", "c"], features=np.eye(3))
    cases = [
        (["cluster", file, "--clusters=91"], ConfigError, "more than the 90 images"),
        (["cluster", file, "--tried=[]"], ConfigError, "tried=.. names no number"),
        (["cluster", few, "--tried=[5]"], ConfigError, "below the 3 images"),
        (["outliers", file, "--k=90"], ConfigError, "more than the 89 others"),
        (["map", few], DataError, "a map needs 4 images or more; there are 3"),
        (["map", file, "--method=umap"], ConfigError, "pip install umap-learn"),
    ]
    for words, kind, pattern in cases:
        with pytest.raises(kind, match=pattern) as caught:
            answer(*words)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*_*"))


@pytest.mark.parametrize("name", ON_IMAGES)
def test_help_needs_no_tensorflow(name):
    program = (
        "import sys\n"
        "from moco_tf.cli.evaluate import main\n"
        f"try: main(['{name}', '--help'])\n"
        "except SystemExit: pass\n"
        "slow = {'tensorflow', 'keras', 'sklearn', 'scipy', 'matplotlib', 'PIL'}\n"
        "print(slow & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.endswith("set()\n"), done.stdout[-200:] + done.stderr
    assert f"{name} RUN_DIR_OR_SAVED_MODEL [FOLDER" in done.stdout
