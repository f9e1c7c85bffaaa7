from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from records import arrays
from tensorflow import keras

from moco_tf.interchange import InterchangeError, export_saved_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

LOAD_ALONE = """
import sys
import numpy as np
import tensorflow as tf
sys.modules["moco_tf"] = None  # an import of it would now raise
loaded = tf.saved_model.load(sys.argv[1])
image = np.load("image.npy")
png = tf.io.encode_png(image)
given = {
    "serving": loaded.signatures["serving_default"](
        images=tf.cast(image[None], tf.float32)),
    "encoded": loaded.signatures["encoded"](encoded=tf.stack([png, png])),
    "uint8": loaded(tf.constant(image[None])),
    "float": loaded(tf.cast(image[None], tf.float32)),
}
assert not any(name.startswith("moco_tf.") for name in sys.modules)
np.savez("out.npz", **{f"{way}_{key}": value.numpy()
                       for way, out in given.items() for key, value in out.items()})
"""


def tiny_encoder(channels=3, dtype=None):
    inputs = keras.Input((None, None, channels), dtype=dtype)
    x = keras.layers.Conv2D(6, 3, strides=2, dtype=dtype)(inputs)
    x = keras.layers.BatchNormalization(dtype=dtype)(x)
    x = keras.layers.GlobalAveragePooling2D(dtype=dtype)(x)
    encoder = keras.Model(inputs, x)
    rng = np.random.default_rng(0)
    shapes = [value.shape for value in encoder.get_weights()]
    # Positive, so that they serve as variances too.
    encoder.set_weights([rng.uniform(0.1, 1.0, shape) for shape in shapes])
    return encoder


def export(encoder, path, channels=3, **changes):
    arguments = dict(
        image_size=16,
        resize=16,
        mean=MEAN[:1] * channels,
        std=STD[:1] * channels,
        channels=channels,
        provenance={"recipe": "demo", "epochs": 3},
    )
    return export_saved_model(encoder, path, **{**arguments, **changes})


def features_of(encoder, images, mean=MEAN[:1], std=STD[:1]):
    return encoder((images / 255.0 - np.array(mean)) / np.array(std), training=False)


def random_images(count=2, size=16, channels=3):
    shape = (count, size, size, channels)
    return np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)


def test_loads_without_the_package_and_every_way_in_agrees(tmp_path):
    encoder = tiny_encoder()
    path = export(encoder, tmp_path / "model", mean=MEAN, std=STD)
    image = random_images(1)
    np.save(tmp_path / "image.npy", image[0])
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-c", LOAD_ALONE, str(path)],
        cwd=tmp_path,
        env=environment,
        check=True,
    )
    out = arrays(tmp_path / "out.npz")
    expected = np.asarray(features_of(encoder, image, MEAN, STD))
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    assert out["encoded_features"].shape == (2, 6)
    for way in ("serving", "encoded", "uint8", "float"):
        for row in out[f"{way}_features"]:
            np.testing.assert_allclose(row, expected[0], rtol=1e-4, atol=1e-4)
        for row in out[f"{way}_embedding"]:
            np.testing.assert_allclose(row, unit[0], rtol=1e-4, atol=1e-4)


def test_encoded_images_are_resized_cropped_and_decoded(tmp_path):
    encoder = tiny_encoder()
    loaded = tf.saved_model.load(str(export(encoder, tmp_path / "model", resize=20)))
    ramp = np.linspace(0, 255, 60 * 40 * 3).reshape(60, 40, 3).astype(np.uint8)
    files = [
        tf.io.encode_png(ramp),
        tf.io.encode_jpeg(ramp, quality=100, chroma_downsampling=False),
        tf.io.encode_png(ramp.transpose(1, 0, 2)),
    ]
    got = loaded.signatures["encoded"](encoded=tf.stack(files))["features"].numpy()
    resized = tf.image.resize(ramp, (30, 20), antialias=True).numpy().round()
    crop = resized[7:23, 2:18][None]
    expected = np.asarray(features_of(encoder, crop))[0]
    np.testing.assert_allclose(got[0], expected, atol=1e-3)
    np.testing.assert_allclose(got[1], expected, atol=0.02)
    turned = np.asarray(features_of(encoder, crop.transpose(0, 2, 1, 3)))[0]
    np.testing.assert_allclose(got[2], turned, atol=1e-3)


def test_bmp_and_the_first_frame_of_a_gif_are_read(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    encoder = tiny_encoder()
    loaded = tf.saved_model.load(str(export(encoder, tmp_path / "model")))
    flat = np.full((2, 16, 16, 3), [[[[200, 30, 60]]], [[[0, 0, 0]]]], np.uint8)
    first, second = (image_module.fromarray(frame) for frame in flat)
    first.save(tmp_path / "a.bmp")
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    files = [(tmp_path / name).read_bytes() for name in ("a.bmp", "a.gif")]
    got = loaded.signatures["encoded"](encoded=tf.constant(files))["features"].numpy()
    expected = np.asarray(features_of(encoder, flat[:1]))[0]
    np.testing.assert_allclose(got[0], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got[1], expected, rtol=1e-4, atol=1e-4)


def test_provenance_and_preprocessing_are_kept_beside_the_graph(tmp_path):
    path = export(tiny_encoder(), tmp_path / "deep" / "model")
    document = json.loads((path / "assets.extra" / "provenance.json").read_text())
    assert document["recipe"] == "demo"
    assert document["preprocessing"]["centre_crop"] == 16
    assert document["preprocessing"]["channels"] == 3


def test_other_channel_counts_have_no_encoded_signature(tmp_path):
    encoder = tiny_encoder(16)
    loaded = tf.saved_model.load(str(export(encoder, tmp_path / "m", channels=16)))
    assert list(loaded.signatures) == ["serving_default", "uint8"]
    images = random_images(channels=16)
    np.testing.assert_allclose(
        loaded(tf.constant(images))["features"], features_of(encoder, images), atol=1e-4
    )


@pytest.mark.parametrize("channels", [1, 4])
def test_gray_and_four_channel_images_can_be_encoded(tmp_path, channels):
    encoder = tiny_encoder(channels)
    path = export(encoder, tmp_path / "m", channels=channels)
    loaded = tf.saved_model.load(str(path))
    image = random_images(1, channels=channels)
    got = loaded.signatures["encoded"](encoded=tf.io.encode_png(image[0])[None])
    np.testing.assert_allclose(
        got["features"], features_of(encoder, image), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_other_policies_are_exported_as_float32(tmp_path, policy):
    keras.mixed_precision.set_global_policy(policy)
    try:
        encoder = tiny_encoder()
        loaded = tf.saved_model.load(str(export(encoder, tmp_path / "model")))
        assert keras.mixed_precision.global_policy().name == policy
    finally:
        keras.mixed_precision.set_global_policy("float32")
    reference = tiny_encoder()
    reference.set_weights(encoder.get_weights())
    images = random_images()
    got = loaded(tf.constant(images))["features"]
    assert got.dtype == tf.float32
    np.testing.assert_allclose(
        got, features_of(reference, images), rtol=1e-4, atol=1e-4
    )


def test_mirrored_encoder_is_exported(tmp_path):
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        encoder = tiny_encoder()
    loaded = tf.saved_model.load(str(export(encoder, tmp_path / "model")))
    images = random_images()
    np.testing.assert_allclose(
        loaded(tf.constant(images))["features"],
        features_of(encoder, images),
        rtol=1e-4,
        atol=1e-4,
    )


def test_new_export_replaces_the_old_and_leaves_nothing_behind(tmp_path):
    export(tiny_encoder(), tmp_path / "model")
    export(tiny_encoder(), tmp_path / "model", provenance={"epochs": 4})
    document = tmp_path / "model" / "assets.extra" / "provenance.json"
    assert json.loads(document.read_text())["epochs"] == 4
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


@keras.saving.register_keras_serializable("test")
class Forgetful(keras.layers.Layer):
    """Its config loses the factor, so a rebuilt encoder computes something else."""

    factor = 1.0

    def call(self, inputs):
        return inputs * self.factor


def test_export_that_disagrees_is_refused_and_the_old_one_survives(tmp_path):
    path = export(tiny_encoder(), tmp_path / "model")
    base = tiny_encoder()
    forgetful = Forgetful()
    forgetful.factor = 2.0
    encoder = keras.Model(base.input, forgetful(base.output))
    with pytest.raises(InterchangeError, match="differs from the encoder by"):
        export(encoder, path)
    tf.saved_model.load(str(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"resize": 8}, "resize=8 is smaller than image_size=16"),
        ({"mean": (0.5,)}, "mean has 1 values .* channels=3"),
        ({"std": (0.0, 1.0, 1.0)}, "must be positive"),
    ],
)
def test_contradictory_arguments_are_explained(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        export(tiny_encoder(), tmp_path / "model", **changes)
    assert not list(tmp_path.iterdir())
