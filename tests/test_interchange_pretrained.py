import json
import pathlib
import shutil

import keras_cv
import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from networks import MEAN, STD, perturbed, tiny
from tensorflow import keras

from moco_tf.config import dump, load_config
from moco_tf.encoders import ResNet, ViT, pooled
from moco_tf.interchange import InterchangeError, export_saved_model, load_pretrained


def export(encoder, path, size=16):
    channels = encoder.input_shape[-1]
    return export_saved_model(
        encoder,
        path,
        image_size=size,
        resize=size + 2,
        mean=MEAN[:channels],
        std=STD[:channels],
        channels=channels,
        provenance={"recipe": "demo", "epochs": 3},
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return export(tiny("cifar"), tmp_path_factory.mktemp("pretrained") / "saved_model")


def kerascv_densenet():
    return keras_cv.models.DenseNetBackbone(
        stackwise_num_repeats=[1, 1], growth_rate=4, include_rescaling=False
    )


def as_run(saved, run_dir):
    shutil.copytree(saved, run_dir / "saved_model")
    config = load_config(overrides=["name=before", "runs_dir=/elsewhere", "seed=7"])
    (run_dir / "config.yaml").write_text(dump(config))
    return run_dir


@pytest.mark.parametrize(
    "make",
    [
        lambda: tiny("cifar"),
        lambda: perturbed(ResNet((1, 2, 1, 1), "bottleneck", 2, channels=2)),
        lambda: perturbed(ViT(16, 8, width=12, depth=1, heads=3)),
        lambda: perturbed(pooled(kerascv_densenet())),
        lambda: perturbed(
            keras.Sequential(
                [
                    keras.Input((16, 16, 3)),
                    keras.layers.Conv2D(4, 3),
                    keras.layers.GlobalAveragePooling2D(),
                ]
            )
        ),
    ],
    ids=["basic", "bottleneck", "vit", "kerascv", "sequential"],
)
def test_encoder_is_rebuilt_to_the_bit_and_trainable(tmp_path, make):
    encoder = make()
    pretrained = load_pretrained(export(encoder, tmp_path / "model"))
    twin = pretrained.encoder
    assert type(twin) is type(encoder)
    if isinstance(encoder, (ResNet, ViT)):
        assert twin.get_config() == encoder.get_config()
    assert [w.name for w in twin.trainable_variables] == [
        w.name for w in encoder.trainable_variables
    ]
    for got, expected in zip(twin.get_weights(), encoder.get_weights()):
        np.testing.assert_array_equal(got, expected)
    images = tf.random.normal((2, 16, 16, encoder.input_shape[-1]))
    np.testing.assert_array_equal(twin(images), encoder(images))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(twin(images, training=True) ** 2)
    gradients = tape.gradient(loss, twin.trainable_variables)
    assert all(gradient is not None for gradient in gradients)


def test_preprocessing_and_provenance_come_along(saved):
    pretrained = load_pretrained(saved)
    assert (pretrained.image_size, pretrained.resize) == (16, 18)
    assert (pretrained.channels, pretrained.mean, pretrained.std) == (3, MEAN, STD)
    assert pretrained.provenance == {"recipe": "demo", "epochs": 3}
    assert pretrained.config is None
    assert pretrained.path == saved


def test_run_directory_brings_its_configuration_and_its_present_place(saved, tmp_path):
    pretrained = load_pretrained(as_run(saved, tmp_path / "moved"))
    assert pretrained.config.seed == 7
    assert pretrained.config.run_dir == tmp_path / "moved"
    assert pretrained.path == tmp_path / "moved"


def test_digest_tells_weights_apart(saved, tmp_path):
    encoder = load_pretrained(saved).encoder
    again = load_pretrained(export(encoder, tmp_path / "again"))
    assert again.digest == load_pretrained(saved).digest
    weight = encoder.trainable_variables[0]
    weight.assign(np.nextafter(weight.numpy(), 9.0))
    changed = load_pretrained(export(encoder, tmp_path / "changed"))
    assert changed.digest != again.digest


def test_frozen_encoder_comes_back_trainable(tmp_path):
    encoder = tiny("cifar")
    encoder.trainable = False
    twin = load_pretrained(export(encoder, tmp_path / "model")).encoder
    assert len(twin.trainable_variables) == len(tiny("cifar").trainable_variables)


def test_encoder_computes_in_the_policy_of_the_moment(saved, policy):
    expected = load_pretrained(saved).encoder
    policy("mixed_bfloat16")
    encoder = load_pretrained(saved).encoder
    assert encoder.get_layer("conv1").compute_dtype == "bfloat16"
    images = tf.random.normal((2, 16, 16, 3))
    assert encoder(images).dtype == tf.float32
    np.testing.assert_allclose(encoder(images), expected(images), rtol=0.1, atol=0.05)
    np.testing.assert_array_equal(encoder.weights[0], expected.weights[0])


def test_encoder_loads_in_a_strategy(saved):
    with mirrored(2).scope():
        encoder = load_pretrained(saved).encoder
    weight = encoder.trainable_variables[0]
    assert len(mirrored(2).experimental_local_results(weight)) in (1, 2)
    assert isinstance(weight, tf.distribute.DistributedValues)
    expected = load_pretrained(saved).encoder.get_weights()
    for got, value in zip(encoder.get_weights(), expected):
        np.testing.assert_array_equal(got, value)


def remove_description(path):
    (path / "assets.extra" / "encoder.json").unlink()


def cut_weights(path):
    data = path / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:100])


def mangle_provenance(path):
    (path / "assets.extra" / "provenance.json").write_text("{")


def name_a_foreign_layer(path):
    file = path / "assets.extra" / "encoder.json"
    description = json.loads(file.read_text())
    description.update(module="absent_module", registered_name="absent>Net")
    file.write_text(json.dumps(description))


def deepen(path):
    file = path / "assets.extra" / "encoder.json"
    file.write_text(file.read_text().replace("[\n      1,", "[\n      2,"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_description, "without assets.extra/encoder.json"),
        (cut_weights, "is damaged"),
        (mangle_provenance, "is damaged"),
        (name_a_foreign_layer, "cannot be rebuilt .*import the module"),
        (deepen, "cannot be rebuilt"),
    ],
)
def test_damaged_export_is_told_in_one_sentence(saved, tmp_path, damage, message):
    path = shutil.copytree(saved, tmp_path / "model")
    damage(path)
    with pytest.raises(InterchangeError, match=message) as caught:
        load_pretrained(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_encoder_is_told_in_one_sentence(saved, tmp_path):
    run = as_run(saved, tmp_path / "run")
    shutil.rmtree(run / "saved_model")
    checkpoint = tmp_path / "moco.pth.tar"
    checkpoint.write_bytes(b"")
    for path, message in (
        (tmp_path / "absent", "does not exist"),
        (checkpoint, "is a file; turn .* moco_tf import .*moco.pth.tar"),
        (run, "the run is not finished; continue it with"),
        (tmp_path, "neither a run directory .* nor a SavedModel"),
    ):
        with pytest.raises(InterchangeError, match=message):
            load_pretrained(path)


def test_folder_of_other_things_is_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(InterchangeError, match="folder of other things"):
        export(tiny("cifar"), tmp_path / "photos")
    assert [entry.name for entry in tmp_path.rglob("*")] == ["photos", "cat.jpg"]


def test_results_stay_when_their_saved_model_is_replaced(tmp_path):
    export(tiny("cifar"), tmp_path / "model")
    results = tmp_path / "model" / "report" / "knn" / "results.json"
    results.parent.mkdir(parents=True)
    results.write_text("{}")
    before = (tmp_path / "model" / "saved_model.pb").stat().st_mtime_ns
    export(tiny("cifar"), tmp_path / "model")
    assert (tmp_path / "model" / "saved_model.pb").stat().st_mtime_ns != before
    assert results.read_text() == "{}"


def test_foreign_saved_model_is_never_replaced(saved, tmp_path):
    path = shutil.copytree(saved, tmp_path / "model")
    (path / "assets.extra" / "encoder.json").unlink()
    with pytest.raises(InterchangeError, match="no SavedModel that this project wrote"):
        export(tiny("cifar"), path)
    assert (path / "saved_model.pb").is_file()


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_earlier_export_comes_back_when_the_new_one_cannot_take_its_place(
    saved, tmp_path, monkeypatch, error
):
    path = shutil.copytree(saved, tmp_path / "model")

    def broken(*args):
        raise error

    monkeypatch.setattr(pathlib.Path, "replace", broken)
    with pytest.raises(error):
        export(tiny("cifar"), path)
    assert load_pretrained(path).digest == load_pretrained(saved).digest
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_encoder_that_cannot_be_described_is_refused(tmp_path):
    inputs = keras.Input((16, 16, 3))
    outputs = keras.layers.GlobalAveragePooling2D()(inputs[..., :2])
    with pytest.raises(InterchangeError, match="cannot be described in JSON"):
        export(keras.Model(inputs, outputs), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_image_size_that_the_encoder_does_not_take_is_refused(tmp_path):
    with pytest.raises(InterchangeError, match="image_size=24, but .* 16 pixels"):
        export(ViT(16, 8, width=12, depth=1, heads=3), tmp_path / "model", size=24)


def test_saved_model_answers_by_tensor_names_as_serving_and_c_ask_it(saved):
    """What TF Serving and TF_LoadSessionFromSavedModel read: tag, names, session."""
    images = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), np.uint8)
    encoder = load_pretrained(saved).encoder
    expected = encoder((images / 255.0 - np.array(MEAN)) / np.array(STD))
    unit = expected / tf.norm(expected, axis=1, keepdims=True)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(saved))
        signature = meta.signature_def["serving_default"]
        assert signature.method_name == "tensorflow/serving/predict"
        features, embedding = session.run(
            [signature.outputs[key].name for key in ("features", "embedding")],
            {signature.inputs["images"].name: images.astype(np.float32)},
        )
        encoded = meta.signature_def["encoded"]
        assert list(encoded.inputs) == ["encoded"]
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(embedding, unit, rtol=1e-4, atol=1e-5)
