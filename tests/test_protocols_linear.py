"""The linear protocols: lock-step with the reference, and against scikit-learn."""

from __future__ import annotations

import csv
import hashlib
import json

import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from pretrained_runs import copy_run, tiny_encoder, write_run
from records import arrays, views
from tensorflow import keras

import moco_tf
from moco_tf.cli.evaluate import parse_evaluation
from moco_tf.config import ConfigError
from moco_tf.data import DataError
from moco_tf.evaluation import FeatureExtractor, Features, LinearClassifier, evaluate
from moco_tf.evaluation.linear import on_crops
from moco_tf.interchange import load_pretrained


class StepLogs(keras.callbacks.Callback):
    def __init__(self, snapshots=()):
        super().__init__()
        self.logs, self.heads, self.snapshots = [], {}, snapshots

    def on_train_batch_end(self, batch, logs=None):
        self.logs.append([float(logs[name]) for name in ("loss", "top1", "top5")])
        self.model.reset_metrics()
        if batch + 1 in self.snapshots:
            self.heads[batch + 1] = self.model.head.get_weights()


def replay(trace, encoder, images, replicas=1):
    """Train a head on the recorded batches; return the model and its step logs."""
    labels = trace["labels"].astype(np.int64)
    dataset = tf.data.Dataset.from_tensor_slices({"image": images, "label": labels})
    with mirrored(replicas).scope():
        model = LinearClassifier(encoder(), int(trace["meta/classes"]))
        model.compile(
            moco_tf.optimizers.SGD(
                float(trace["meta/lr"]),
                float(trace["meta/momentum"]),
                float(trace["meta/weight_decay"]),
            )
        )
        model.head.build((None, trace["features"].shape[-1]))
    model.head.set_weights([trace["head_init_weight"].T, trace["head_init_bias"]])
    steps = StepLogs((1, 30, 64))
    model.fit(dataset, verbose=0, callbacks=[steps])
    return model, np.array(steps.logs), steps.heads


def identity():
    return lambda images, training: images


@pytest.mark.parametrize("replicas", [1, 2])
def test_head_equals_the_reference_in_float64(reference, policy, replicas):
    policy("float64")
    trace = arrays(reference / "lincls.npz")
    features = trace["features"].astype(np.float64)
    model, logs, heads = replay(trace, identity, features, replicas)
    np.testing.assert_allclose(logs[:, 0], trace["f64_loss"], rtol=1e-7)
    np.testing.assert_allclose(100 * logs[:, 1], trace["f64_acc1"], rtol=1e-12)
    np.testing.assert_allclose(100 * logs[:, 2], trace["f64_acc5"], rtol=1e-12)
    for step, (weight, bias) in heads.items():
        expected = trace[f"f64_head_weight_after_{step}"]
        np.testing.assert_allclose(weight.T, expected, rtol=1e-6, atol=1e-6)
        expected = trace[f"f64_head_bias_after_{step}"]
        np.testing.assert_allclose(bias, expected, rtol=1e-6, atol=1e-6)
    labels = trace["val_labels"]
    score = model.score(Features(trace["val_features"], labels, np.arange(320)))
    assert 100 * score["top1"] == pytest.approx(trace["f64_val_acc1"], rel=1e-12)
    assert score["loss"] == pytest.approx(trace["f64_val_loss"], rel=1e-7)


def test_images_to_head_equal_the_reference_in_float32(reference):
    trace = arrays(reference / "lincls.npz")
    inputs = arrays(reference / "inputs_train.npz")
    prefix = "encoder/"
    weights = {
        name[len(prefix) :]: trace[name] for name in trace if name.startswith(prefix)
    }

    def encoder():
        net = moco_tf.encoders.ResNet((1, 1, 1, 1), "bottleneck", width=8)
        moco_tf.interchange.load_torch_state_dict(net, weights)
        return net

    images = np.stack(
        [
            views(inputs, index, crop, np.float32)
            for index, crop in zip(trace["index"], trace["crop"])
        ]
    )
    model, logs, heads = replay(trace, encoder, images)
    before = weights["layer4.0.bn3.running_var"]
    after = model.encoder.get_layer("layer4_0_bn3").moving_variance
    np.testing.assert_array_equal(after, before)
    # The rate of 30 makes losses of thousands and magnifies rounding in the features;
    # the reference's own float32 and float64 differ by 35 after 64 steps.
    np.testing.assert_allclose(logs[:30, 0], trace["loss"][:30], rtol=5e-4)
    np.testing.assert_allclose(100 * logs[:30, 1], trace["acc1"][:30], atol=1e-4)
    np.testing.assert_allclose(heads[1][0].T, trace["head_weight_after_1"], atol=1e-4)
    np.testing.assert_allclose(heads[30][0].T, trace["head_weight_after_30"], atol=5e-2)
    central = views(inputs, trace["val_index"], trace["val_crop"], np.float32)
    features = moco_tf.evaluation.extract_features(
        model.encoder,
        tf.data.Dataset.from_tensor_slices(
            {"image": central, "label": trace["val_labels"], "id": trace["val_index"]}
        ).batch(48),
    )
    np.testing.assert_allclose(features.features, trace["val_features"], atol=1e-5)
    weight, bias = trace["head_weight_after_64"].T, trace["head_bias_after_64"]
    model.head.set_weights([weight, bias])
    score = model.score(features)
    assert 100 * score["top1"] == pytest.approx(trace["val_acc1"], abs=1e-4)
    assert score["loss"] == pytest.approx(trace["val_loss"], rel=1e-4)


# The commands


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def run(made, tmp_path):
    return copy_run(made, tmp_path)


def linear_of(path, *words):
    return evaluate(parse_evaluation(["linear", str(path), *words]))


def folder_digest(folder):
    """Of all files but the model card, which has the new figures, and its notes."""
    own = {"MODEL_CARD.md", "card.json"}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digest = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return {path: value for path, value in digest.items() if path.name not in own}


def test_official_protocol_follows_its_recipe_and_leaves_the_encoder(run, capsys):
    before = folder_digest(run / "saved_model")
    assert before
    words = ["--epochs=5", "--batch_size=16", "--learning_rate=0.1"]
    results = linear_of(run, *words)
    rates = [row["learning_rate"] for row in results["epochs"]]
    peak = 0.1 * 16 / 256
    expected = [peak, peak, peak, peak / 10, peak / 100]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    assert results["recipe"] == {
        "schedule": "step",
        "epochs": 5,
        "batch_size": 16,
        "learning_rate": 0.1,
    }
    assert results["encoder_unchanged"] is True
    assert results["encoder"]["weights"] == load_pretrained(run).digest
    assert folder_digest(run / "saved_model") == before
    assert results["figures"]["top1"] == results["epochs"][-1]["test_top1"] > 0.5
    assert results["figures"]["top5"] == 1.0  # three classes
    folder = run / "report" / "linear_official"
    assert {path.name for path in folder.iterdir()} == {
        "results.json",
        "results.csv",
        "curves.png",
    }
    with open(folder / "results.csv", newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == list("12345")
    assert "linear, official" in capsys.readouterr().out
    assert linear_of(run, *words)["epochs"] == results["epochs"]


def test_defaults_are_the_published_recipes(run):
    def recipe(*words):
        settings = parse_evaluation(["linear", "x", *words]).settings
        made = on_crops.recipe_of(settings, load_pretrained(run).encoder)
        return made.schedule, made.epochs, made.batch_size, made.learning_rate

    assert recipe() == ("step", 100, 256, 30.0)
    assert recipe("--protocol=mocov3") == ("cosine", 90, 1024, 0.1)
    assert parse_evaluation(["linear", "x"]).settings.crop_scale == (0.08, 1.0)
    schedule = on_crops.Recipe("step", 100, 512, 30.0).make_schedule(10)
    for epoch, rate in ((0, 60), (59, 60), (60, 6), (79, 6), (80, 0.6), (99, 0.6)):
        for step in (10 * epoch, 10 * epoch + 9):
            got = float(schedule(tf.constant(step, tf.int64)))
            assert got == pytest.approx(rate, rel=1e-6), (epoch, step)


def test_mocov3_protocol_follows_a_cosine_held_within_an_epoch(run):
    results = linear_of(run, "--protocol=mocov3", "--epochs=4", "--batch_size=64")
    rates = [row["learning_rate"] for row in results["epochs"]]
    cosine = [0.1 * 64 / 256 * 0.5 * (1 + np.cos(np.pi * e / 4)) for e in range(4)]
    np.testing.assert_allclose(rates, cosine, rtol=1e-6)
    assert (run / "report" / "linear_mocov3" / "results.json").exists()


def test_replicas_train_the_same_classifier(run):
    words = ["--epochs=2", "--batch_size=28", "--learning_rate=1"]
    alone = linear_of(run, *words)
    shared = linear_of(run, *words, "--distribution.replicas=2")
    for one, two in zip(alone["epochs"], shared["epochs"]):
        assert two == pytest.approx(one, rel=1e-3)


def test_changed_encoder_is_noticed(run, monkeypatch):
    def meddle(self, epoch, logs=None):
        bias = self.model.encoder.weights[-1]
        bias.assign(bias + 1)

    monkeypatch.setattr(on_crops.keras.callbacks.TerminateOnNaN,
                        "on_epoch_end", meddle, raising=False)  # fmt: skip
    with pytest.raises(RuntimeError, match="weights changed"):
        linear_of(run, "--epochs=1", "--batch_size=32")
    assert not (run / "report" / "linear_official").exists()


def test_diverged_training_is_one_sentence_and_leaves_nothing(run):
    with pytest.raises(ConfigError) as caught:
        linear_of(run, "--epochs=2", "--learning_rate=1e38")
    assert "learning_rate=1e+38 is too high for these features" in str(caught.value)
    assert "try --learning_rate=1e+37" in str(caught.value)
    assert not (run / "report" / "linear_official").exists()


@pytest.mark.parametrize("protocol", ["official", "cached"])
def test_features_that_are_not_finite_are_the_encoders_fault(
    tmp_path, monkeypatch, protocol
):
    encoder = tiny_encoder()
    gamma = encoder.get_layer("bn1").gamma
    gamma.assign(1e6 * gamma)  # too much for float16
    run = write_run(tmp_path, encoder=encoder)
    words = [f"--protocol={protocol}", "--epochs=1"]
    with pytest.raises(ConfigError, match="overflow in mixed_float16; use") as caught:
        linear_of(run, *words, "--precision=mixed_float16")
    assert "\n" not in str(caught.value)

    def broken(self, dataset, progress=None):
        return Features(np.full((5, 3), np.nan), np.arange(5), np.arange(5))

    monkeypatch.setattr(FeatureExtractor, "extract", broken)
    with pytest.raises(ConfigError, match="not finite for 5 of the 5 test .* diverged"):
        linear_of(run, *words)
    assert {path.name for path in (run / "report").iterdir()} <= {"features"}


def test_accuracy_at_chance_names_a_rate_too_high_or_too_little_training():
    recipe = on_crops.Recipe("step", 2, 256, 30.0)
    high = on_crops.cause_of_chance(recipe, {"loss": 400.0}, 10)
    assert "learning_rate=30 is probably too high" in high
    assert "try --learning_rate=3," in high
    low = on_crops.cause_of_chance(recipe, {"loss": 2.29}, 10)
    assert "too short or too slow" in low
    assert "--learning_rate=300" in low


def test_loss_worse_than_guessing_is_remarked_on_though_accuracy_beats_chance(
    run, capsys, monkeypatch
):
    monkeypatch.setattr(on_crops, "explain_chance", lambda *_: None)
    words = ["--protocol=official", "--epochs=2", "--learning_rate=3e4"]
    results = linear_of(run, *words)
    assert "is worse than guessing (1.1)" in results["warning"]
    assert "--protocol=cached" in capsys.readouterr().out
    recipe = on_crops.Recipe("step", 2, 256, 30.0)
    assert on_crops.explain_loss(recipe, {"loss": 2.2}, 10) is None


def test_cached_protocol_writes_its_sweep_and_its_choice(run, capsys):
    words = ["--protocol=cached", "--epochs=10", "--sweep.learning_rates=[0.1,1]"]
    results = linear_of(run, *words, "--sweep.weight_decays=[1e-3,1e-2]")
    folder = run / "report" / "linear_cached"
    with open(folder / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["solver"] for row in rows] == ["sgd"] * 4 + ["lbfgs"] * 2
    best = max(float(row["held_out"]) for row in rows)
    assert results["chosen"]["held_out"] == best
    assert results["figures"]["top1"] == results["chosen"]["top1"] > 0.5
    assert (folder / "sweep.png").stat().st_size > 5000
    assert "(chosen)" in capsys.readouterr().out
    assert results == json.loads((folder / "results.json").read_text())


def test_cached_protocol_explains_too_few_images(run):
    with pytest.raises(DataError, match="5 training images .* cannot be split"):
        linear_of(run, "--protocol=cached", "--data.max_train=5")
    assert not (run / "report" / "linear_cached").exists()
