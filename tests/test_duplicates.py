"""`evaluate.py duplicates`: planted copies are found, and few others."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image
from pretrained_runs import write_run
from test_embed import embed

from moco_tf.cli.evaluate import parse_evaluation
from moco_tf.data import DataError
from moco_tf.data.copies import exact_copies
from moco_tf.data.sources.glyphs import draw_glyphs
from moco_tf.evaluation import evaluate
from moco_tf.evaluation.duplicates.groups import groups_of
from moco_tf.evaluation.duplicates.threshold import choose, distances
from moco_tf.evaluation.embed.embeddings import Embeddings, Rows
from moco_tf.evaluation.embed.writing import write_embeddings
from moco_tf.evaluation.search.nearest import nearest_others


def duplicates(*words):
    return evaluate(parse_evaluation(["duplicates", *map(str, words)]))


def results(folder):
    with open(folder / "results.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def groups(folder):
    found = {}
    for row in results(folder):
        found.setdefault(row["group"], []).append(row)
    return list(found.values())


def test_groups_are_what_pairs_connect():
    found = groups_of(9, np.array([0, 4, 8, 3]), np.array([4, 7, 1, 3]))
    assert [members.tolist() for members in found] == [[0, 4, 7], [1, 8]]
    assert groups_of(3, np.array([], int), np.array([], int)) == []


def test_exact_copies_have_the_same_bytes_and_not_only_size(tmp_path):
    held = [b"abc", b"abd", b"abc", b"a", b"abd", b""]
    files = []
    for number, content in enumerate(held):
        path = tmp_path / f"{number} [x].jpg"
        path.write_bytes(content)
        files.append((path, len(content)))
    files += [None, (tmp_path / "gone.jpg", 3)]
    assert exact_copies(files).tolist() == [0, 1, 0, 3, 1, 5, 6, 7]


def cloud(count, dim, width=40, seed=0, copies=0, noise=0.02):
    """Points of a curved sheet of `dim` dimensions, some of them twice, moved a bit."""
    rng = np.random.default_rng(seed)
    plane = rng.normal(size=(count, dim)) @ rng.normal(size=(dim, width))
    points = np.tanh(plane / np.sqrt(dim)) + 0.5
    moved = points[:copies] + noise * rng.normal(size=(copies, width))
    return np.concatenate([points, moved]).astype(np.float32)


def found_pairs(features):
    count = len(features)
    embeddings = Embeddings([""] * count, np.full(count, -1), features)
    near, cosine = nearest_others(embeddings, 20)
    standing = choose(cosine)
    one = np.repeat(np.arange(count), near.shape[1])
    is_pair = standing.is_pair(one, near.ravel(), cosine.ravel())
    pairs = zip(one[is_pair], near.ravel()[is_pair])
    return {tuple(sorted(map(int, pair))) for pair in pairs}, standing


@pytest.mark.parametrize("dim", [4, 8, 16])
def test_even_clouds_have_no_copies_and_planted_ones_are_found(dim):
    invented = [len(found_pairs(cloud(1500, dim, seed=seed))[0]) for seed in range(4)]
    assert np.mean(invented) <= 2
    planted = {(n, 1500 + n) for n in range(60)}
    pairs, standing = found_pairs(cloud(1500, dim, copies=60))
    if dim > 4:  # where an even cloud is thin enough for so small a noise
        assert len(planted & pairs) >= 57
    assert len(pairs - planted) <= 2
    assert 0.6 * dim < standing.dimension < 1.6 * dim


def test_half_of_a_set_may_be_copies():
    planted = {(n, 800 + n) for n in range(800)}
    pairs, _ = found_pairs(cloud(800, 10, copies=800, noise=0.01))
    assert len(planted & pairs) > 760 and len(pairs - planted) < 10


def test_a_group_larger_than_the_neighbours_that_are_looked_at_is_found():
    features = cloud(1000, 10)
    features[:40] = features[0] + 0.01 * cloud(40, 10, seed=3)
    pairs, _ = found_pairs(features)
    found = groups_of(1000, *np.array(sorted(pairs)).T)
    assert found[0].tolist() == list(range(40))


def test_distances_are_those_of_unit_rows():
    rows = np.array([[3.0, 4.0], [1.0, 0.0]])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = np.linalg.norm(unit[0] - unit[1])
    assert distances(unit[0] @ unit[1]) == pytest.approx(expected)
    assert distances(1.0000001) == 0


def test_too_few_or_all_alike_choose_nothing():
    assert choose(np.ones((3, 2), np.float32)) is None
    assert choose(np.ones((30, 20), np.float32)) is None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def photos(tmp_path):
    """Glyphs, of which some lie there again: the same bytes, or compressed anew."""
    folder = tmp_path / "my photos"
    folder.mkdir()
    for number, pixels in enumerate(draw_glyphs("test")[0][:300]):
        image = Image.fromarray(np.kron(pixels[::2, ::2], np.ones((1, 1, 1), np.uint8)))
        image.save(folder / f"{number:03d}.png")
        if number < 5:
            copy = (folder / f"{number:03d}.png").read_bytes()
            (folder / f"copy {number}.png").write_bytes(copy)
    return folder


def test_exact_copies_are_told_and_nothing_is_deleted(run, photos, tmp_path, capsys):
    before = {path: path.read_bytes() for path in photos.iterdir()}
    out = tmp_path / "out"
    found = duplicates(run, photos, f"--out={out}")
    exact = [
        {row["name"] for row in group} for group in groups(out)
        if any(row["what"] == "exact copy" for row in group)
    ]  # fmt: skip
    assert len(exact) == 5
    for number in range(5):
        assert any({f"{number:03d}.png", f"copy {number}.png"} <= one for one in exact)
    assert found["exact"] == 5 and found["removable"] >= 5
    rows = results(out)
    firsts = [row for row in rows if row["what"] == "first"]
    assert len(firsts) == found["groups"]
    assert len(rows) - len(firsts) == found["removable"]
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{found['removable']} of 305 images could be removed" in printed
    assert "5 exact copies" in printed and "Nothing was deleted" in printed
    assert {path: path.read_bytes() for path in photos.iterdir()} == before
    assert json.loads((out / "results.json").read_text()) == found
    assert (out / "duplicates.png").stat().st_size > 5000


def test_threshold_of_ones_own_decides(tmp_path):
    angles = np.array([0.0, 0.1, 0.25, 2.0])
    features = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    rows = Rows(list("abcd"), np.full(4, -1), features)
    path = tmp_path / "f.npz"
    write_embeddings(path, lambda: [rows], (), {})
    for threshold, expected in (
        (0.999, []), (np.cos(0.12), ["ab"]), (np.cos(0.16), ["abc"]), (0, ["abc"]),
    ):  # fmt: skip
        found = duplicates(path, f"--threshold={threshold}")
        names = [
            "".join(r["name"] for r in g) for g in groups(tmp_path / "f_duplicates")
        ]
        assert names == expected
        assert found["groups"] == len(expected)
    assert "a cosine of 0 or more" in found["explained"]


def test_set_without_copies_says_so_and_has_an_empty_table(
    run, photos, tmp_path, capsys
):
    for path in photos.glob("copy*"):
        path.unlink()
    duplicates(run, photos, "--threshold=1", f"--out={tmp_path / 'out'}")
    assert results(tmp_path / "out") == []
    head = (tmp_path / "out" / "results.csv").read_text().strip()
    assert head == "group,name,what,cosine,bytes"
    assert "None of 300 images has a duplicate" in capsys.readouterr().out


def test_largest_file_of_a_group_comes_first(run, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    pixels = draw_glyphs("test")[0]
    for number in range(30):
        Image.fromarray(pixels[number]).save(photos / f"{number}.png")
    Image.fromarray(pixels[7]).resize((64, 64), 0).save(photos / "a large 7.bmp")
    duplicates(run, photos, "--threshold=0.999", f"--out={tmp_path / 'out'}")
    (group,) = (
        g for g in groups(tmp_path / "out") if "7.png" in {r["name"] for r in g}
    )
    assert group[0]["name"] == "a large 7.bmp" and group[0]["what"] == "first"
    assert int(group[0]["bytes"]) == (photos / "a large 7.bmp").stat().st_size


def test_one_image_is_refused_in_a_sentence(run, tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    Image.new("RGB", (16, 16)).save(folder / "a.png")
    with pytest.raises(DataError, match="one image alone has no duplicates"):
        duplicates(run, folder)
    out = tmp_path / "one.npz"
    embed(run, folder, f"--out={out}")
    with pytest.raises(DataError, match="one image alone"):
        duplicates(out)
