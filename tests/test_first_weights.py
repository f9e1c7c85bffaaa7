"""What a run's encoder starts from: whose weights, whether they fit, what is noted."""

import json
import shutil
import types

import keras_cv
import numpy as np
import pytest
import safetensors.numpy
from conftest import mirrored, strip_runs
from networks import perturbed
from pretrained_runs import tiny_encoder, write_run
from run_files import history, weights
from tensorflow import keras
from test_pretrain import small
from test_resuming import stop_after

from moco_tf.config import ConfigError, load_config
from moco_tf.config.checks import check_places
from moco_tf.encoders import ResNet, ResNet18, ViT
from moco_tf.interchange import (
    InterchangeError,
    export_saved_model,
    load_pretrained,
    to_torch_state_dict,
)
from moco_tf.interchange.pretrained import weights_digest
from moco_tf.pretrain import build, first_weights, pretrain
from moco_tf.pretrain.first_weights import noted_weights, take_first_weights


def like_tiny(**changed):
    settings = {"depths": (1, 1, 1, 1), "block": "basic", "width": 4, "stem": "cifar"}
    return ResNet(**{**settings, **changed})


@pytest.fixture
def encoder_of(monkeypatch):
    """Says what encoder runs build."""
    strip_runs(monkeypatch)

    def build_it(make):
        monkeypatch.setattr(build, "build_encoder", lambda config: make())

    build_it(like_tiny)
    return build_it


@pytest.fixture
def said(monkeypatch):
    lines = []
    for level in ("info", "warning"):
        monkeypatch.setattr(
            first_weights.log, level, lambda text, *values: lines.append(text % values)
        )
    return lines


def taken(folder, place, *overrides, replicas=1):
    """A model after it took weights, and the configuration."""
    config = small(folder, f"encoder.weights={place}", *overrides)
    config.run_dir.mkdir(exist_ok=True, parents=True)
    strategy = mirrored(replicas)
    with strategy.scope():
        model = build.build_model(config, 2, replicas, 64)
    take_first_weights(config, strategy, config.run_dir, model)
    return model, config


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The same encoder in every kind of place."""
    folder = tmp_path_factory.mktemp("odd names, with spaces and ümlauts")
    run = write_run(folder)
    state = to_torch_state_dict(tiny_encoder())
    safetensors.numpy.save_file(state, folder / "weights.safetensors")
    np.savez(folder / "not weights.npz", a=np.zeros(3))
    return types.SimpleNamespace(
        folder=folder, run=run, saved=run / "saved_model",
        file=folder / "weights.safetensors", other=folder / "not weights.npz",
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["run", "saved", "file"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_both_encoders_start_from_the_weights_to_the_bit(
    places, tmp_path, encoder_of, said, kind, replicas
):
    model, config = taken(tmp_path, getattr(places, kind), replicas=replicas)
    expected = tiny_encoder().get_weights()
    for own, key, value in zip(
        model.encoder.weights, model.key_encoder.weights, expected
    ):
        for variable in (own, key):
            copies = getattr(variable, "values", [variable])
            assert len(copies) == replicas
            for copy in copies:
                np.testing.assert_array_equal(copy.numpy(), value)
    heads = model.query_encoder.weights[len(expected) :]
    for own, key in zip(heads, model.key_encoder.weights[len(expected) :]):
        np.testing.assert_array_equal(own.numpy(), key.numpy())
    digest = weights_digest(expected)
    assert noted_weights(config.run_dir) == {
        "weights": str(getattr(places, kind)), "weights_sha256": digest,
    }  # fmt: skip
    assert f"starts from {getattr(places, kind)} (SHA-256 {digest[:12]}" in said[0]


def test_note_of_a_start_that_was_given_up_is_taken_away(places, tmp_path, encoder_of):
    _, config = taken(tmp_path, places.saved)
    assert noted_weights(config.run_dir)
    take_first_weights(small(tmp_path), mirrored(1), config.run_dir, None)
    assert noted_weights(config.run_dir) == {}


def test_other_normalisation_is_told_with_what_to_add(
    places, tmp_path, encoder_of, said
):
    taken(tmp_path, places.saved)
    words = "`--augment.mean=[0.5,0.5,0.5] --augment.std=[0.25,0.25,0.25]`."
    assert len(said) == 2 and words in said[-1]
    said.clear()
    same = ("augment.mean=[0.5,0.5,0.5]", "augment.std=[0.25,0.25,0.25]")
    taken(tmp_path, places.saved, *same)
    taken(tmp_path, places.file)  # of which nothing is known
    assert len(said) == 2


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: like_tiny(width=8),
            r"conv1/kernel is 3 x 3 x 3 x 4 there and 3 x 3 x 3 x 8 here, as conv1/ker"
            r".*holds a \w+, width 4, stem cifar, channels 3: set these fields",
        ),
        (
            lambda: like_tiny(stem="imagenet"),
            "conv1/kernel is 3 x 3 x 3 x 4 there and 7",
        ),
        (lambda: like_tiny(channels=1), "3 x 3 x 3 x 4 there and 3 x 3 x 1 x 4 here"),
        (
            lambda: like_tiny(depths=(1, 1, 1, 2)),
            "layer4_1_conv1/kernel is only here",
        ),
        (lambda: ResNet18(width=4, stem="cifar"), "layer.*there and .* here, as"),
    ],
)
def test_first_difference_is_named(places, tmp_path, encoder_of, make, sentence):
    encoder_of(make)
    with pytest.raises(ConfigError, match=sentence):
        taken(tmp_path, places.saved)
    assert noted_weights(tmp_path / "run") == {}


def test_heads_that_no_shape_tells_are_compared(tmp_path, encoder_of):
    def vit(heads):
        return ViT(16, 8, width=12, depth=1, heads=heads, name="vit")

    saved = export_saved_model(
        perturbed(vit(3)), tmp_path / "saved", image_size=16, resize=16,
        mean=[0.5] * 3, std=[0.5] * 3, provenance={},
    )  # fmt: skip
    encoder_of(lambda: vit(1))
    with pytest.raises(ConfigError, match="heads is 3 there and 1 here"):
        taken(tmp_path, saved)
    encoder_of(lambda: vit(3))
    model, _ = taken(tmp_path, saved)
    np.testing.assert_array_equal(
        model.encoder.get_weights()[0], load_pretrained(saved).encoder.get_weights()[0]
    )


def test_what_holds_no_encoder_is_refused(places, tmp_path, encoder_of):
    with pytest.raises(InterchangeError, match="not weights.npz"):
        taken(tmp_path, places.other)
    with pytest.raises(InterchangeError, match="neither a run directory"):
        taken(tmp_path, places.folder)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["encoder.weights=a", "train.start_from=b"],
            "encoder.weights=a and train.start_from=b both give the first weights",
        ),
        (
            ["encoder.weights=imagenet"],
            "imagenet does not go with encoder.name=resnet18.*resnet50.pth",
        ),
    ],
)
def test_contradictions_are_refused(words, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_config(None, words)


def test_place_that_is_not_there_is_told_at_once_but_not_when_a_run_goes_on(tmp_path):
    config = small(tmp_path, "encoder.weights=nowhere")
    with pytest.raises(ConfigError, match="weights=nowhere is neither a folder nor a"):
        check_places(config)
    (config.run_dir / "checkpoints").mkdir(parents=True)
    (config.run_dir / "checkpoints" / "epoch-1.index").write_bytes(b"")
    check_places(config)


def test_run_goes_on_without_what_it_started_from(
    places, tmp_path, monkeypatch, encoder_of
):
    copy = shutil.copytree(places.saved, tmp_path / "saved")
    words = ["monitor.every=0", f"encoder.weights={copy}", "train.deterministic=true"]
    whole = small(tmp_path, *words, name="whole")
    pretrain(whole)
    stopped = small(tmp_path, *words, name="stopped")
    stop_after(monkeypatch, stopped, 1)
    noted = noted_weights(stopped.run_dir)
    shutil.rmtree(copy)
    other = small(tmp_path, "monitor.every=0", f"encoder.weights={places.run}",
                  "train.deterministic=true", name="stopped")  # fmt: skip
    with pytest.raises(ConfigError, match="encoder.weights was .*saved and is .*run"):
        pretrain(other)
    pretrain(stopped)
    expected, found = weights(whole.run_dir), weights(stopped.run_dir)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert noted_weights(stopped.run_dir) == noted and noted["weights"] == str(copy)


def test_started_run_says_where_it_began_and_what_came_of_it(tmp_path, capsys):
    first = small(tmp_path, "train.epochs=1", name="first")
    trained = pretrain(first)["trained"]
    words = [
        "train.epochs=1",
        "optimizer.learning_rate=1e-12",
        "encoder.frozen_stages=5",
    ]
    second = small(tmp_path, *words, f"encoder.weights={first.run_dir}", name="second")
    capsys.readouterr()
    figures = pretrain(second)
    out = " ".join(capsys.readouterr().out.split())  # it wraps at 80 columns
    # All of it is frozen: what it was worth it still is.
    assert figures["untrained"] == pytest.approx(trained)
    assert figures["trained"] == pytest.approx(trained)
    assert float(history(second.run_dir)[0]["knn"]) == pytest.approx(trained["knn"])
    assert "encoder at the start" in out and "untrained" not in out
    assert "The first 5 stages of the encoder" in out and "for the whole run" in out
    before, after = (load_pretrained(r.run_dir) for r in (first, second))
    assert before.digest == after.digest
    document = json.loads(
        (second.run_dir / "saved_model/assets.extra/provenance.json").read_text()
    )
    assert document["started_from"] == {
        "weights": str(first.run_dir), "weights_sha256": before.digest,
    }  # fmt: skip


class Small(keras_cv.models.DenseNetBackbone):
    """A KerasCV class whose published weights are made up here."""

    presets_with_weights = {"small_imagenet": {}}
    fails = False

    def __init__(self, include_rescaling=False, input_shape=(None, None, 3), **kwargs):
        super().__init__(
            stackwise_num_repeats=[1, 1], growth_rate=4, input_shape=input_shape,
            include_rescaling=include_rescaling,
        )  # fmt: skip

    @classmethod
    def from_preset(cls, preset):
        if cls.fails:
            raise ConnectionError("Name or service not known\nmore lines")
        assert preset == "small_imagenet"
        keras.utils.set_random_seed(1)  # the same weights each time
        return perturbed(cls(include_rescaling=True))


def test_published_weights_are_taken_and_their_normalisation_told(
    tmp_path, monkeypatch, said
):
    monkeypatch.setattr(keras_cv.models, "SmallBackbone", Small, raising=False)
    model, config = taken(
        tmp_path, "imagenet", "encoder.name=SmallBackbone", "method.bn_groups=1"
    )
    expected = Small.from_preset("small_imagenet").get_weights()
    for value, found in zip(expected, model.encoder.get_weights()):
        np.testing.assert_array_equal(found, value)
    assert "--augment.mean=[0.0,0.0,0.0] --augment.std=[1.0,1.0,1.0]" in said[-1]
    assert noted_weights(config.run_dir)["weights"] == "imagenet"


def test_published_weights_that_cannot_be_fetched_are_one_sentence(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(keras_cv.models, "SmallBackbone", Small, raising=False)
    monkeypatch.setattr(Small, "fails", True)
    words = ("imagenet", "encoder.name=SmallBackbone", "method.bn_groups=1")
    sentence = "not fetch small_imagenet.*service not known"
    with pytest.raises(ConfigError, match=sentence) as raised:
        taken(tmp_path, *words)
    assert "\n" not in str(raised.value)
    monkeypatch.setattr(Small, "presets_with_weights", {})
    with pytest.raises(ConfigError, match="publishes no such weights of SmallBackbone"):
        taken(tmp_path, *words)
