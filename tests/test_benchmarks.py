"""The benchmarks' arithmetic and tables, against counts by hand; no time is judged."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from commands import ROOT

import moco_tf
from benchmarks import (
    augment,
    evaluate,
    gpu,
    replicas,
    roofline,
    scaling,
    start,
    step,
    writing,
)
from benchmarks.timing import in_turns

TIMES = {"graph ms": 3.0, "xla ms": 0.5}


def test_ways_take_turns():
    called = []
    ways = {name: lambda name=name: called.append(name) for name in "ab"}
    times = in_turns(ways, turns=2, seconds=0)
    assert "".join(called) == "aabb" + 2 * "ab"
    assert list(times) == ["a", "b"] and min(times.values()) >= 0


# augment


def test_ratio_is_of_the_better_stock_way_to_the_compiled_one():
    stock = {"keras_cv graph ms": 4.0, "keras_cv xla ms": 2.0}
    row = augment.cells({**TIMES, **stock})
    assert row["ratio"] == "4.0" and row["keras_cv graph ms"] == "4.0000"
    alone = augment.cells(TIMES)
    assert list(alone) == list(row)
    assert alone["ratio"] == alone["keras_cv xla ms"] == ""


def test_every_recipe_and_layer_has_its_ways():
    cases = augment.cases()
    assert len(cases["jitter and blur"][0].layers) == 2
    assert "recipe moco_v3, keys" in cases
    recipe, stock = cases["flip"]
    images = augment.grey_images(2, 8)
    for way in augment.ways_of(recipe, stock, images).values():
        views = way().numpy()
        for view, image in zip(views, images.numpy()):
            assert (view == image).all() or (view == image[:, ::-1]).all()


# replicas


def test_replicas_are_compared_with_one():
    moved = {"gradients": 2000, "embeddings": 600, "ids": 100, "statistics": 0}
    none = dict.fromkeys(moved, 0)
    found = {
        (1, "none"): {"on": 10.0, "off": 8.0, "moved": none},
        (2, "one device"): {"on": 15.0, "off": 16.0, "moved": moved},
    }
    rows = replicas.rows_of(found)
    assert [row["ratio"] for row in rows] == ["1.00", "1.00", "1.50", "2.00"]
    assert [row["gathered kB"] for row in rows] == ["0.0", "0.0", "0.7", "0.7"]
    assert rows[2]["gradients kB"] == "2.0"


def test_replicas_hand_over_what_the_arithmetic_says():
    found = replicas.measure(2, "collectives", 16, 4, seconds=0)
    assert found["moved"] == scaling.counted(replicas.method(2, 4), 16, 8, 2)
    assert found["on"] > 0 and found["off"] > 0


# evaluate


def test_rates_are_of_the_number():
    ours, other = evaluate.rows_of("x", 30, {"moco_tf": 500.0, "other": 2000.0})
    assert ours["a second"] == "60.0" and ours["ratio"] == ""
    assert other["a second"] == "15.0" and other["ratio"] == "4.00"


def test_ways_to_vote_agree(monkeypatch):
    monkeypatch.setattr(evaluate, "NEIGHBOURS", 20)
    train = evaluate.made_features(200, 64, seed=0)
    test = evaluate.made_features(50, 64, seed=1)
    votes = [way() for way in evaluate.voting(train, test).values()]
    np.testing.assert_array_equal(*votes)
    assert 0.5 < np.mean(votes[0] == test.labels) <= 1


def test_ways_to_encode_agree():
    encoder = moco_tf.encoders.ResNet((1, 1, 1, 1), "basic", 4, "cifar")
    images = augment.grey_images(5, 8)
    ours, keras = (way() for way in evaluate.encoding(encoder, images, 2).values())
    np.testing.assert_allclose(ours.features, keras, rtol=1e-4, atol=1e-5)


# start


def test_import_of_tensorflow_is_seen(tmp_path):
    (tmp_path / "tensorflow.py").write_text("")
    (tmp_path / "tensorflow_like.py").write_text("")
    path = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import "
    assert start.imports_tensorflow(["-c", path + "tensorflow"])
    assert not start.imports_tensorflow(["-c", path + "tensorflow_like"])


@pytest.mark.parametrize("words", [["train.py", "--help"], ["evaluate.py", "--help"]])
def test_help_imports_no_tensorflow(words):
    assert words in start.WAYS.values()
    assert not start.imports_tensorflow(words)


# roofline


def operations_of(function, *shapes):
    specs = [tf.TensorSpec(shape) for shape in shapes]
    graph = tf.function(function).get_concrete_function(*specs).graph
    return list(scaling.operations(graph))


def test_flops_of_a_convolution_and_its_gradients():
    def gradients(images, kernel):
        with tf.GradientTape() as tape:
            tape.watch((images, kernel))
            result = tf.nn.conv2d(images, kernel, 2, "VALID")
        return tape.gradient(result, (images, kernel))

    found = operations_of(gradients, (2, 9, 11, 3), (3, 3, 3, 5))
    # (9 - 3) / 2 + 1 = 4 rows, 5 columns; a multiplication and an addition each.
    once = 2 * (2 * 4 * 5 * 5) * (3 * 3 * 3)
    counts = {op.type: roofline.flops(op) for op in found if roofline.flops(op)}
    assert counts["Conv2DBackpropInput"] == counts["Conv2DBackpropFilter"] == once
    assert set(counts.values()) == {once}


@pytest.mark.parametrize("transposed", [False, True])
def test_flops_and_bytes_of_a_matrix_product(transposed):
    left = (7, 4) if transposed else (4, 7)

    def product(a, b):
        return tf.matmul(a, b, transpose_a=transposed)

    found = operations_of(product, left, (7, 5))
    assert sum(map(roofline.flops, found)) == 2 * 4 * 7 * 5
    assert sum(map(roofline.moved_bytes, found)) == 4 * (28 + 35 + 20)


def test_flops_of_resnet_50_are_the_published_ones():
    encoder = moco_tf.encoders.ResNet50()
    found = operations_of(lambda images: encoder(images), (1, 224, 224, 3))
    # He et al. 2016 and torchvision's documentation: 4.09 G multiply-adds, 2.05 M of
    # them the classifier's.
    assert sum(map(roofline.flops, found)) / 2 == pytest.approx(4.09e9, rel=2e-3)


def test_step_is_two_passes_forward_and_one_back(monkeypatch):
    setting = {"batch": 4, "size": 32, "stem": "cifar", "queue": 64}
    monkeypatch.setitem(step.NETWORKS, roofline.NETWORK, setting)
    small = moco_tf.encoders.ResNet
    monkeypatch.setattr(
        moco_tf.encoders,
        roofline.NETWORK,
        lambda stem: small((1, 1, 1, 1), "bottleneck", 4, stem),
    )
    total, size = roofline.counted_step("float32")
    model = step.make_model(roofline.NETWORK, "float32")
    found = operations_of(lambda x: model.query_encoder(x), (4, 32, 32, 3))
    forward = sum(map(roofline.flops, found))
    first = 2 * (4 * 32 * 32 * 4) * (3 * 3 * 3)  # images get no gradient
    logits = 2 * 4 * 128 * 64
    assert total == 4 * forward - first + 2 * logits
    assert size > 4 * 2 * 4 * 32 * 32 * 4


ROWS = roofline.rows_of(
    {"float32": 200.0, "mixed_bfloat16": 400.0},
    20.0,
    {"float32": (32e9, 1e9), "mixed_bfloat16": (32e9, 5e8)},
    2,
    {("fit", "float32"): 5.0, ("torch_last", "mixed_bfloat16"): 10.0},
)


def test_share_of_the_roof():
    roof, _, fit, torch = ROWS
    assert roof["FLOP a byte"] == "10.0"  # where the slope meets the roof
    assert fit["GFLOP an image"] == "16.0" and fit["FLOP a byte"] == "32.0"
    assert fit["GFLOP/s"] == "80" and fit["of the roof"] == "0.40"
    assert torch["of the roof"] == "0.40" and torch["FLOP a byte"] == "64.0"


@pytest.mark.parametrize("rows", [ROWS, ROWS[:2]])
def test_roofline_is_drawn(rows, tmp_path):
    path = roofline.draw(rows, tmp_path / "new" / "roof line.png")
    assert path.stat().st_size > 10_000


# gpu

TINY = ["--network=ResNet18", "--size=16", "--batches=8", "--seconds=0"]


@pytest.mark.parametrize(
    "words",
    [
        ["step", "--precision=float32"],
        ["step", "--precision=mixed_bfloat16"],
        pytest.param(["step", "--xla"], marks=pytest.mark.slow),
        ["torch", "--precision=mixed_bfloat16"],
        ["augment"],
    ],
    ids=" ".join,
)
def test_parts_of_the_gpu_script_run(words, tmp_path, monkeypatch, capsys, policy):
    if words[0] == "torch":
        pytest.importorskip("torch")
    monkeypatch.setattr(step, "NETWORKS", {k: {**v} for k, v in step.NETWORKS.items()})
    monkeypatch.setattr(gpu, "NETWORKS", step.NETWORKS)
    monkeypatch.setattr(writing, "RESULTS", tmp_path)
    found = f"--found={tmp_path / 'found'}"
    options = gpu.parse([*words, found, *TINY])
    gpu.PARTS[options.part](options)
    gpu.table(gpu.parse(["table", found]))
    printed = capsys.readouterr().out
    assert "images/s" in printed and "grey levels" in printed
    table = writing.table("gpu").splitlines()
    assert table[0].startswith("| what | precision | xla | batch | images/s |")
    rows = [dict(zip(gpu.COLUMNS, line.strip("| ").split(" | "))) for line in table[2:]]
    assert rows[0]["batch"] == "8"
    if words[0] != "augment":
        assert float(rows[0]["images/s"]) > 0


def test_nothing_found_is_a_sentence(tmp_path):
    with pytest.raises(SystemExit, match="has nothing that was measured"):
        gpu.table(gpu.parse(["table", f"--found={tmp_path / 'none'}"]))


def gpu_script(**environment):
    return subprocess.run(
        [ROOT / "benchmarks" / "gpu.sh"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
    )


def test_script_asks_for_parts_that_exist(tmp_path):
    python = tmp_path / "py thon"
    python.write_text(f'#!/bin/bash\necho "$*" >>"{tmp_path}/words"\n')
    python.chmod(0o755)
    done = gpu_script(PYTHON=str(python))
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "words").read_text().splitlines()
    parts = [line.split()[2:] for line in asked if "benchmarks.gpu" in line]
    named = {gpu.parse(words).part for words in parts}
    assert named == set(gpu.PARTS)
    tests = next(line for line in asked if "pytest" in line)
    assert (ROOT / tests.split()[3]).is_file()


@pytest.mark.skipif(
    bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU"
)
def test_script_refuses_without_a_gpu():
    done = gpu_script(PYTHON=sys.executable)
    assert done.returncode == 1
    assert "error: TensorFlow finds no GPU here" in done.stderr
    assert "Traceback" not in done.stderr
