"""Fine-tuning: the optimiser, the classifier and the command."""

from __future__ import annotations

import dataclasses
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from coloured import coloured, source_of, streamed
from conftest import mirrored
from tensorflow import keras

import evaluate
import moco_tf
from moco_tf.augment import Normalize
from moco_tf.cli.evaluate import parse_evaluation
from moco_tf.evaluation.finetune.command import _name
from moco_tf.evaluation.finetune.settings import Finetune
from moco_tf.evaluation.finetune.training import (
    HeadSGD,
    build_classifier,
    classifier_accuracy,
    fit_classifier,
)
from moco_tf.interchange import load_pretrained

RECIPE = Finetune(batch_size=8, epochs=2, milestones=())


def normalise():
    return Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def resnet():
    return moco_tf.encoders.ResNet((1, 1, 1, 1), "basic", width=4, stem="cifar")


def plain_encoder(batch_norm=False):
    """Without batch norm, updates add up over replicas."""
    images = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, name="conv1")(images)
    if batch_norm:
        x = moco_tf.encoders.BatchNormalization(name="bn1")(x)
    x = keras.layers.ReLU()(x)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))


def batches_of(images, labels, batch):
    examples = {"image": images, "label": labels, "id": np.arange(len(labels))}
    return tf.data.Dataset.from_tensor_slices(examples).batch(batch)


def test_head_learns_as_torchs_parameter_group_does():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(3, 4)), rng.normal(size=4), rng.normal(size=(4, 2))]
    ours = [tf.Variable(value) for value in values]
    theirs = [torch.nn.Parameter(torch.tensor(value)) for value in values]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [3], [np.float64(0.1), np.float64(0.02)]
    )
    sgd = HeadSGD(schedule, ours[2:], 10.0, momentum=0.9, weight_decay=5e-2)
    groups = [
        {"params": theirs[:2], "lr": 0.1},
        {"params": theirs[2:], "lr": 1.0},
    ]
    oracle = torch.optim.SGD(groups, momentum=0.9, weight_decay=5e-2)
    for step in range(8):
        if step == 4:
            for group in oracle.param_groups:
                group["lr"] *= 0.2
        gradients = [rng.normal(size=value.shape) for value in values]
        sgd.apply_gradients(zip(map(tf.constant, gradients), ours))
        for parameter, gradient in zip(theirs, gradients):
            parameter.grad = torch.tensor(gradient)
        oracle.step()
        for own, parameter in zip(ours, theirs):
            np.testing.assert_allclose(own, parameter.detach().numpy(), rtol=1e-12)


def test_classifier_starts_from_the_encoder_or_from_new_weights():
    encoder = resnet()
    encoder.get_layer("bn1").groups = 8
    kernel = encoder.get_layer("conv1").get_weights()[0]
    kept = build_classifier(encoder, 3, normalise())
    fresh = build_classifier(encoder, 3, normalise(), pretrained=False)
    images = coloured(4)[0]
    features = encoder(normalise()(images, training=False))
    logits = features @ kept.layers[-1].kernel
    np.testing.assert_allclose(kept(images), logits, rtol=1e-4, atol=1e-6)
    for model, same in ((kept, True), (fresh, False)):
        twin = next(layer for layer in model.layers if isinstance(layer, keras.Model))
        assert twin is not encoder
        assert twin.get_layer("bn1").groups == 1
        assert np.array_equal(twin.get_layer("conv1").get_weights()[0], kernel) == same
        assert len(model.trainable_variables) == len(encoder.trainable_variables) + 2


@pytest.mark.parametrize("share, form", [(1.0, lambda same: same), (0.5, streamed)])
def test_all_layers_learn_and_the_encoder_itself_stays(share, form):
    keras.utils.set_random_seed(0)
    encoder = plain_encoder(batch_norm=True)
    before = encoder.get_weights()
    model = build_classifier(encoder, 3, normalise())
    start = model.get_weights()
    settings = dataclasses.replace(RECIPE, epochs=8, fraction=share)
    history = fit_classifier(
        model,
        form(source_of(43)),
        settings,
        image_size=16,
        channels=3,
        learning_rate=1.0,
        head_multiplier=3.0,
    )
    assert len(history["loss"]) == len(history["top1"]) == 8
    assert history["loss"][-1] < 0.3 < history["loss"][0]
    for old, new in zip(start, model.get_weights()):
        assert not np.array_equal(old, new)
    for old, new in zip(before, encoder.get_weights()):
        np.testing.assert_array_equal(old, new)
    # 43 images are 5 whole batches of 8.
    assert int(model.optimizer.iterations) == 40
    test = batches_of(*coloured(20, seed=1), 8)
    score = classifier_accuracy(model, test)
    assert score["top1"] > 0.9 and score["top5"] == 1.0


def test_two_replicas_train_as_one():
    results = []
    weights = plain_encoder().get_weights()
    for replicas in (1, 2):
        keras.utils.set_random_seed(1)
        with mirrored(replicas).scope():
            encoder = plain_encoder()
            encoder.set_weights(weights)
            model = build_classifier(encoder, 3, normalise())
            fit_classifier(
                model,
                source_of(17),
                RECIPE,
                image_size=16,
                channels=3,
                learning_rate=0.5,
                head_multiplier=2.0,
            )
            accuracy = classifier_accuracy(model, batches_of(*coloured(9), 4))
        results.append((model.get_weights(), accuracy))
    for one, two in zip(results[0][0], results[1][0]):
        np.testing.assert_allclose(one, two, atol=1e-6)
    assert results[0][1] == results[1][1]


@pytest.mark.parametrize("replicas", [1, 2])
def test_accuracy_equals_a_slow_count_on_partial_batches_too(replicas):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (21, 4, 4, 3), dtype=np.uint8)
    labels = rng.integers(0, 9, 21)
    with mirrored(replicas).scope():
        encoder = plain_encoder()
        model = build_classifier(encoder, 9, normalise())
    logits = model(images).numpy()
    expected = {}
    for k in (1, 5):
        hits = 0
        for row, label in zip(logits, labels):
            hits += label in sorted(range(9), key=lambda c, row=row: -row[c])[:k]
        expected[f"top{k}"] = hits / 21
    assert classifier_accuracy(model, batches_of(images, labels, 5)) == expected
    assert 0 < expected["top1"] < expected["top5"] < 1


def test_collapse_is_not_rewarded_and_missing_labels_are_an_error():
    model = build_classifier(plain_encoder(), 3, normalise())
    model.set_weights([0 * value for value in model.get_weights()])
    images, labels = coloured(6)
    assert classifier_accuracy(model, batches_of(images, labels, 6))["top1"] == 0
    with pytest.raises(ValueError, match="6 of 6 .*test set"):
        classifier_accuracy(model, batches_of(images, 0 * labels - 1, 6))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "saved"
    moco_tf.interchange.export_saved_model(
        plain_encoder(batch_norm=True),
        path,
        image_size=32,
        resize=32,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        provenance={"recipe": "test"},
    )
    return path


def words(saved, out, *more):
    small = ("--data.source=glyphs", "--data.max_train=120", "--data.max_test=50")
    quick = ("--epochs=1", "--milestones=[]", "--batch_size=16", f"--out={out}")
    return ["finetune", str(saved), *small, *quick, *more]


def test_command_writes_results_of_encoder_and_control(saved, tmp_path, capsys):
    out = tmp_path / "out"
    more = "--fraction=0.5", "--learning_rates=[0.1,0.01]", "--head_multipliers=[1]"
    more = (*more, "--precision=mixed_bfloat16")
    assert evaluate.main(words(saved, out, *more)) == 0
    document = json.loads((out / "results.json").read_text())
    assert document["protocol"] == "finetune_50pct"
    assert 50 < document["images"] <= 60
    assert [arm["start"] for arm in document["arms"]] == ["pretrained", "from scratch"]
    for arm in document["arms"]:
        tried = arm["candidates"]
        assert [one["learning_rate"] for one in tried] == [0.1, 0.01]
        best = max(tried, key=lambda one: one["held_out"])
        assert arm["learning_rate"] == best["learning_rate"]
        # Only the winner ever sees the test images.
        assert all(one["top1"] is None for one in tried)
        assert 0 <= arm["top1"] <= arm["top5"] <= 1
    assert len((out / "results.csv").read_text().splitlines()) == 7
    for name in ("curves", "accuracy"):
        assert (out / f"{name}.png").stat().st_size > 10_000
    shown = capsys.readouterr().out
    assert "from scratch" in shown and "test top-1" in shown


@pytest.mark.parametrize(
    "more, name",
    [
        ([], "finetune"),
        (["--fraction=0.01"], "finetune_1pct"),
        (["--data.name=imagenet2012_subset/1pct"], "finetune_1pct"),
        (["--data.name=imagenet2012_subset/10pct:5.1.0"], "finetune_10pct"),
        (["--data.name=a/b", "--fraction=0.5"], "finetune_b_50pct"),
    ],
)
def test_results_of_different_labels_have_folders_of_their_own(more, name):
    words = ["finetune", "x", "--data.source=tfds", "--data.name=cifar10", *more]
    settings = parse_evaluation(words).settings
    assert _name(settings, SimpleNamespace(config=None)) == name


@pytest.mark.parametrize("replicas", [1, 2])
def test_trained_encoders_are_saved_and_judged_like_any_other(
    tmp_path, capsys, replicas
):
    moco_tf.interchange.export_saved_model(
        resnet(),
        tmp_path / "saved",
        image_size=32,
        resize=32,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        provenance={"recipe": "test"},
    )
    save, out = tmp_path / "kept", tmp_path / "out"
    more = (f"--save={save}", f"--distribution.replicas={replicas}")
    assert evaluate.main(words(tmp_path / "saved", out, *more)) == 0
    one, two = (load_pretrained(save / kind) for kind in ("finetuned", "control"))
    digests = {load_pretrained(tmp_path / "saved").digest, one.digest, two.digest}
    assert len(digests) == 3
    assert (one.image_size, one.mean) == (32, (0.5, 0.5, 0.5))
    assert one.provenance["pretrained"] == {"recipe": "test"}
    assert (two.provenance["start"], two.provenance["images"]) == ("from scratch", 120)
    glyphs = ("--data.source=glyphs", "--data.max_train=60", "--data.max_test=50")
    assert evaluate.main(["knn", str(save / "control"), "--k=[5]", *glyphs]) == 0
    capsys.readouterr()
    assert evaluate.main(words(save / "control", out, *more)) == 2
    assert "kept/control, the encoder itself" in capsys.readouterr().err
    (save / "finetuned" / "saved_model.pb").unlink()
    assert evaluate.main(words(tmp_path / "saved", out, *more)) == 2
    assert "finetuned is a folder of other things" in capsys.readouterr().err
    more = f"--save={out / 'results.csv'}"
    assert evaluate.main(words(tmp_path / "saved", out, more)) == 2
    assert "choose another folder with --save" in capsys.readouterr().err


def test_accuracy_at_chance_is_explained(saved, tmp_path, capsys):
    out = tmp_path / "out"
    assert evaluate.main(words(saved, out, "--learning_rates=[1e-6]")) == 0
    warning = json.loads((out / "results.json").read_text())["warning"]
    one, two = warning.split("\n")
    assert one.startswith("Pretrained: The accuracy of ")
    assert two.startswith("From scratch: The accuracy of ")
    assert "too short or too slow" in one and "--learning_rates=[1e-05]" in one
    shown = " ".join(capsys.readouterr().out.split())
    assert " ".join(warning.split()) in shown


@pytest.mark.parametrize(
    "more, message",
    [
        (["--fraction=0"], "fraction=0.0 is out of range"),
        (["--fraction=0.01"], "fraction=0.01 of 120 images leaves"),
        (["--learning_rates=[]"], "learning_rates=.. is empty"),
        (["--milestones=[12,16]"], "between 0 and epochs=1"),
        (["--batch_size=500"], "batch_size=500 is more than the 120"),
        (["--learning_rates=[1e30]"], "learning_rates=1e.30 is too high"),
    ],
)
def test_command_explains_bad_input(saved, tmp_path, capsys, more, message):
    out = tmp_path / "out"
    assert evaluate.main(words(saved, out, "--control=false", *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(message, error)
    assert not out.exists()
