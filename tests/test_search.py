"""`evaluate.py search`: exact neighbours by blocks, tables and pictures of them."""

from __future__ import annotations

import csv
import os
import re
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from pretrained_runs import copy_run, write_run
from test_embed import FORMATS, _with_pyarrow, embed, slow_features  # noqa: F401

from moco_tf.cli.evaluate import parse_evaluation
from moco_tf.config import ConfigError
from moco_tf.data import DataError
from moco_tf.evaluation import evaluate, nearest_neighbours
from moco_tf.evaluation.embed.embeddings import Embeddings, Rows
from moco_tf.evaluation.embed.writing import write_embeddings
from moco_tf.evaluation.knn import vote
from moco_tf.evaluation.search import approximate, command
from moco_tf.evaluation.search.nearest import nearest_others


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def run(made, tmp_path):
    return copy_run(made, tmp_path)


@pytest.fixture
def photos(run):
    return run.parent / "images" / "train"


def search(*words):
    return evaluate(parse_evaluation(["search", *map(str, words)]))


def results(folder):
    with open(folder / "results.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def random_rows(count, dim=7, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def unit(rows):
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(("block", "k"), [(7, 3), (7, 20), (50, 50), (1, 4), (49, 2)])
def test_blocks_find_what_a_full_sort_finds(monkeypatch, block, k, tmp_path):
    features, queries = random_rows(50), random_rows(9, seed=1)
    np.save(tmp_path / "f.npy", features)
    mapped = np.load(tmp_path / "f.npy", mmap_mode="r")
    monkeypatch.setattr(vote, "_ROWS_PER_BLOCK", block)
    monkeypatch.setattr(vote, "_SIMILARITIES_PER_CHUNK", 4 * block)
    cosine = unit(queries) @ unit(features).T
    expected = np.argsort(-cosine, axis=1)[:, :k]
    index, similarity = nearest_neighbours(mapped, queries, k)
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_allclose(
        similarity, np.take_along_axis(cosine, expected, 1), atol=1e-6
    )


def test_of_equals_the_earlier_row_comes_first_whatever_the_blocks(monkeypatch):
    features = np.tile(np.eye(3, dtype=np.float32), (4, 1))  # exact in any block
    whole, _ = nearest_neighbours(features, features[:3], 6)
    monkeypatch.setattr(vote, "_ROWS_PER_BLOCK", 5)
    index, _ = nearest_neighbours(features, features[:3], 6)
    np.testing.assert_array_equal(index, whole)
    assert index[0, :4].tolist() == [0, 3, 6, 9]


def test_an_image_is_no_neighbour_of_itself_even_among_its_copies():
    features = np.concatenate(
        [random_rows(12), np.tile(random_rows(1, seed=2), (8, 1))]
    )
    embeddings = Embeddings([str(n) for n in range(20)], np.full(20, -1), features)
    index, cosine = nearest_others(embeddings, 5)
    assert index.shape == cosine.shape == (20, 5)
    assert not (index == np.arange(20)[:, None]).any()
    assert (index[12:] >= 12).all()
    some, _ = nearest_others(embeddings, 5, np.array([3, 19]))
    np.testing.assert_array_equal(some, index[[3, 19]])


def test_faiss_finds_nearly_all_that_an_exact_search_finds(monkeypatch, caplog):
    pytest.importorskip("faiss", reason="the extra faiss is not installed")
    middles = random_rows(40, 16)
    rows = np.repeat(middles, 100, axis=0) + 0.7 * random_rows(4000, 16, seed=1)
    embeddings = Embeddings(range(4000), np.full(4000, -1), rows)
    exact, _ = nearest_others(embeddings, 10)
    with caplog.at_level("INFO"):
        index, cosine = nearest_others(embeddings, 10, index="faiss")
    assert not (index == np.arange(4000)[:, None]).any()
    both = [len(set(one) & set(other)) for one, other in zip(index, exact)]
    assert np.mean(both) / 10 > 0.93
    found = np.einsum("ijk,ik->ij", unit(rows)[index], unit(rows))
    np.testing.assert_allclose(cosine, found, atol=1e-5)
    told = re.search(r"through (\d+) of 102 lists, and finds (\S+) %", caplog.text)
    assert 8 <= int(told[1]) < 102 and float(told[2]) >= 95
    # Where the lists hold fewer than asked for, the whole is searched.
    monkeypatch.setattr(approximate, "_FEWEST", 2)
    monkeypatch.setattr(approximate, "_SHARE", 0.0)
    index, _ = nearest_others(embeddings, 900, np.arange(5), index="faiss")
    assert index.min() >= 0 and all(len(set(row)) == 900 for row in index)


def test_faiss_serves_the_commands(run, photos, tmp_path):
    pytest.importorskip("faiss", reason="the extra faiss is not installed")
    out = tmp_path / "all.npz"
    embed(run, photos, f"--out={out}")
    for name in ("search", "duplicates", "outliers"):  # so few are searched whole
        found = []
        for index in ("exact", "faiss"):
            folder = tmp_path / index
            words = [name, str(out), f"--index={index}", f"--out={folder}"]
            evaluate(parse_evaluation(words))
            numbers = {"cosine", "distance"}  # whose last digit may differ
            rows = results(folder)
            found.append([{k: row[k] for k in row.keys() - numbers} for row in rows])
        assert found[0] == found[1]


@pytest.mark.parametrize("name", ["search", "duplicates", "outliers"])
def test_without_faiss_the_command_that_installs_it_is_told(
    run, photos, name, monkeypatch
):
    monkeypatch.setitem(sys.modules, "faiss", None)
    words = [name, str(run), str(photos), "--index=faiss"]
    with pytest.raises(ConfigError, match=r"`pip install faiss-cpu` \(the extra moco"):
        evaluate(parse_evaluation(words))
    assert not (run / "report").exists()


def test_query_file_finds_what_a_plain_comparison_finds(run, photos, tmp_path, capsys):
    query = tmp_path / "my query [1].bmp"
    Image.open(photos / "red" / "003.png").save(query)
    search(run, photos, f"--query={query}", "--k=5")
    rows = results(run / "report" / "search_on_train")
    names = [
        f"{kind}/{n:03d}.png" for kind in ("blue", "green", "red") for n in range(20)
    ]
    features = unit(slow_features(photos, names))
    cosine = features @ features[names.index("red/003.png")]
    expected = np.argsort(-cosine)[:5]
    assert [row["name"] for row in rows] == [names[n] for n in expected]
    assert rows[0]["name"] == "red/003.png" and rows[0]["label"] == "red"
    assert [float(row["cosine"]) for row in rows] == pytest.approx(
        cosine[expected], abs=1e-4
    )
    assert {row["query"] for row in rows} == {query.name}
    printed = capsys.readouterr().out
    assert "my query [1].bmp" in printed and names[expected[4]] in printed
    picture = run / "report" / "search_on_train" / "search.png"
    assert picture.stat().st_size > 5000


def test_folder_of_queries_has_all_in_the_table(run, photos, tmp_path, monkeypatch):
    sheets = []
    draw = command.draw_sheet
    monkeypatch.setattr(
        command,
        "draw_sheet",
        lambda rows, *a, **k: sheets.append(rows) or draw(rows, *a, **k),
    )
    queries = tmp_path / "queries"
    shutil.copytree(photos / "blue", queries)
    (queries / "broken.png").write_bytes(b"\x89PNG\r\n")
    out = tmp_path / "out"
    search(run, photos, f"--query={queries}", "--k=2", "--shown=3", f"--out={out}",
           "--data.max_unreadable=0.5")  # fmt: skip
    rows = results(out)
    assert len(rows) == 40 and rows[0]["name"] == "blue/000.png"
    assert [len(row) for row in sheets[0]] == [3, 3, 3]
    query, near, _ = sheets[0][0]
    assert near.caption == "blue/000.png\n1.000"
    np.testing.assert_array_equal(
        query.image, np.asarray(Image.open(photos / "blue" / "000.png"))
    )


def test_without_a_query_images_of_the_set_are_asked(run, tmp_path):
    search(run, "--k=3", "--shown=6")  # the run's own training images
    rows = results(run / "report" / "search")
    assert len(rows) == 18 and all(row["query"] != row["name"] for row in rows)
    assert {row["query"].split("/")[0] for row in rows} == {"blue", "green", "red"}


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_of_embeddings_stand_for_the_folder(run, photos, tmp_path, suffix):
    outs = [tmp_path / f"{number}.{suffix}" for number in (1, 2)]
    for number, out in enumerate(outs, 1):
        embed(run, photos, f"--out={out}", f"--shard={number}/2")
    query = f"--query={photos / 'green' / '005.png'}"
    search(run, photos, query, f"--out={tmp_path / 'folder'}")
    search(run, *outs, query, f"--out={tmp_path / 'files'}")
    folder, files = (results(tmp_path / name) for name in ("folder", "files"))
    for one, other in zip(folder, files):
        assert float(one.pop("cosine")) == pytest.approx(
            float(other.pop("cosine")), abs=1e-5
        )
        assert one == other
    # Without an encoder too, as long as nothing is to be encoded.
    search(*outs, "--shown=2")
    assert len(results(tmp_path / "1_search")) == 16


def test_features_of_a_folder_are_encoded_once(run, photos):
    search(run, photos, "--k=2")
    (kept,) = (run / "report" / "features").glob("images-*.npz")
    before = os.stat(kept).st_mtime_ns
    search(run, photos, "--k=3")
    assert os.stat(kept).st_mtime_ns == before
    search(run, photos, "--k=3", "--features.cache=false")
    assert len(list((run / "report" / "features").iterdir())) == 1


def test_pictures_are_empty_where_the_images_are_gone(run, photos, tmp_path, capsys):
    out = tmp_path / "all.npz"
    embed(run, photos, f"--out={out}")
    moved = shutil.move(photos, tmp_path / "moved")
    capsys.readouterr()
    search(out, "--k=2")
    assert results(tmp_path / "all_search")
    assert "Their pictures are not shown" in capsys.readouterr().out
    # Where they lie now can be said.
    search(out, "--k=2", "--data.source=folder", f"--data.data_dir={moved}")
    assert "not shown" not in capsys.readouterr().out


def test_mistakes_are_one_sentence_and_leave_nothing(run, photos, tmp_path):
    out = tmp_path / "all.npz"
    embed(run, photos, f"--out={out}")
    other = Rows(["a", "b", "c"], np.full(3, -1), np.eye(3, dtype=np.float32))
    note = {"encoder": {"weights": "x", "architecture": "y", "path": "runs/other"}}
    write_embeddings(tmp_path / "other.npz", lambda: [other], (), note)
    text = tmp_path / "text.txt"
    text.write_text("no image")
    query = f"--query={photos / 'red' / '000.png'}"
    cases = [
        ([run, photos, "--k=61", query], ConfigError, "k=61 is more than the 60"),
        ([run, photos, "--k=60"], ConfigError, "more than the 59 images"),
        ([out, query], ConfigError, "must be encoded; name the encoder before"),
        ([run, tmp_path / "other.npz"], ConfigError, r"another encoder \(runs/other"),
        ([run, photos, f"--query={text}"], DataError, "cannot be read as an image"),
        ([run, photos, "--query=gone.png"], DataError, "gone.png does not exist"),
        ([run, tmp_path / "gone.npz"], DataError, "gone.npz does not exist"),
    ]  # fmt: skip
    for words, kind, pattern in cases:
        with pytest.raises(kind, match=pattern) as caught:
            search(*words)
        assert "\n" not in str(caught.value)
    assert not list(run.glob("report/search*")) + list(tmp_path.glob("*_search"))
