"""The package in somebody's own program: one way through, and what is not meant."""

import re

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras
from tiny import noise_batches, small_encoder

import moco_tf
from moco_tf.cli import evaluate
from moco_tf.data import DataError, from_arrays, labelled_batches, two_views
from moco_tf.interchange import InterchangeError, export_encoder, load_pretrained
from moco_tf.optimizers import LARS, SGD, make_schedule


def small_moco(**settings):
    model = moco_tf.MoCo(small_encoder(), dim=4, queue_size=32, **settings)
    model.compile(SGD(0.01))
    return model


@pytest.mark.parametrize("softmax", ["activation", "layer"])
def test_classifier_as_encoder_is_refused(softmax):
    images = keras.Input((32, 32, 3))
    logits = keras.layers.Dense(
        7, activation="softmax" if softmax == "activation" else None
    )(keras.layers.Flatten()(images))
    if softmax == "layer":
        logits = keras.layers.Softmax()(logits)
    network = keras.Model(images, logits, name="classifier")
    with pytest.raises(ValueError, match="'classifier' ends in a softmax over 7 cl"):
        moco_tf.MoCo(network, queue_size=32)


@pytest.mark.parametrize("make", [two_views, labelled_batches])
@pytest.mark.parametrize("source", ["/photos", tf.data.Dataset.range(3)])
def test_what_is_no_source_is_told_how_to_become_one(make, source):
    with pytest.raises(DataError, match="source of images is needed.*open_source"):
        make(source, batch_size=2, image_size=16)


@pytest.mark.parametrize("method", ["MoCo", "SimCLR", "MoCoV3", "EndToEnd"])
def test_batches_of_other_kinds_are_told_what_is_needed(method):
    settings = {"MoCo": {"queue_size": 32}, "MoCoV3": {"total_steps": 1}}
    model = getattr(moco_tf, method)(small_encoder(), **settings.get(method, {}))
    model.compile(SGD(0.01))
    images = tf.zeros((8, 32, 32, 3))
    pairs = (images, tf.zeros(8, tf.int64))  # as image_dataset_from_directory gives
    for batch, found in [(pairs, "no dict"), (images, "no dict"),
                         ({"image": images}, "a dict of image")]:  # fmt: skip
        dataset = tf.data.Dataset.from_tensors(batch)
        with pytest.raises(ValueError, match=f"dicts with .query.*{found}.*two_views"):
            model.fit(dataset, verbose=0)


@pytest.mark.parametrize("fitted", [False, True])
def test_summary_counts_the_key_encoder_as_not_trained(fitted, capsys):
    model = small_moco()
    if fitted:
        model.fit(noise_batches(1), verbose=0)
    model.summary()
    printed = capsys.readouterr().out
    trained, other = (
        int(re.search(rf"{kind} params: ([\d,]+)", printed)[1].replace(",", ""))
        for kind in ("\nTrainable", "Non-trainable")
    )
    moved = model.query_encoder.trainable_weights
    assert trained == sum(int(np.prod(weight.shape)) for weight in moved)
    queried = model.query_encoder.count_params() + model.key_encoder.count_params()
    assert trained + other >= queried
    assert len(model.weights) == len(model.trainable_weights) + len(
        model.non_trainable_weights
    )


def test_model_trained_in_python_goes_to_evaluate(tmp_path, capsys):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    model = small_moco(augment=moco_tf.augment.moco_v2())
    views = two_views(from_arrays(images), batch_size=16, image_size=32, epochs=1)
    model.fit(views, epochs=1, steps_per_epoch=2, verbose=0)
    out = export_encoder(model, tmp_path / "mine", image_size=32,
                         provenance={"data": "noise"})  # fmt: skip
    served = tf.saved_model.load(str(out))(images[:3])["features"]
    np.testing.assert_allclose(served, model.predict(images[:3], verbose=0), atol=1e-5)
    pretrained = load_pretrained(out)
    assert (pretrained.resize, pretrained.channels) == (32, 3)
    assert pretrained.provenance == {"method": "MoCo", "data": "noise"}
    words = ["knn", str(out), "--data.source=glyphs", "--k=[5]"]
    assert evaluate.main([*words, "--data.max_train=50", "--data.max_test=20"]) == 0
    assert (out / "report" / "knn" / "results.json").is_file()


def test_export_without_augmentation_needs_mean_and_std(tmp_path):
    model = small_moco()
    with pytest.raises(InterchangeError, match="has no augmentation .* give mean and"):
        export_encoder(model, tmp_path / "a", image_size=32)
    half = [0.5] * 3
    export_encoder(model, tmp_path / "a", image_size=32, mean=half, std=half)
    assert load_pretrained(tmp_path / "a").mean == (0.5, 0.5, 0.5)


def test_epochs_end_or_keras_asks_for_their_steps():
    images = np.zeros((64, 32, 32, 3), np.uint8)
    settings = dict(batch_size=16, image_size=32)
    views = two_views(from_arrays(images), epochs=2, start_step=3, **settings)
    assert int(views.cardinality()) == len(list(views)) == 5
    model = small_moco()
    assert len(model.fit(views, verbose=0).history["loss"]) == 1
    endless = two_views(from_arrays(images), **settings)
    with pytest.raises(ValueError, match="number of steps to run"):
        model.fit(endless, verbose=0)
    model.fit(endless, steps_per_epoch=4, epochs=2, verbose=0)


def test_images_of_0_to_1_are_refused_where_an_augmentation_takes_grey_levels():
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
    model = small_moco(augment=moco_tf.augment.moco_v2())
    right = model.predict(images, verbose=0)
    np.testing.assert_allclose(
        model.predict(images.astype(np.float32), verbose=0), right, atol=1e-5
    )
    shares = (images / 255).astype(np.float32)
    with pytest.raises(tf.errors.InvalidArgumentError, match="0..255 are meant"):
        model.predict(shares, verbose=0)
    views = tf.data.Dataset.from_tensors({"query": shares, "key": shares})
    with pytest.raises(tf.errors.InvalidArgumentError, match="0..255 are meant"):
        model.fit(views, verbose=0)
    plain = small_moco()  # without an augmentation the encoder takes what it gets
    assert plain.predict(shares, verbose=0).shape[0] == 16


METHODS = {
    "MoCo": ({"queue_size": 32}, lambda: SGD(0.01, weight_decay=1e-4)),
    "SimCLR": ({}, lambda: LARS(0.1)),
    "MoCoV3": ({"total_steps": 9}, lambda: keras.optimizers.AdamW(1e-3)),
    "EndToEnd": (
        {},
        lambda: SGD(make_schedule("cosine", 0.1, epochs=3, steps_per_epoch=2)),
    ),
    "MemoryBank": ({"num_examples": 64, "num_negatives": 8}, lambda: SGD(0.01)),
}


@pytest.mark.parametrize(
    "encoder",
    [
        moco_tf.encoders.ResNet((1, 1, 1, 1), "basic", width=2, stem="cifar"),
        moco_tf.encoders.ViT(image_size=16, patch_size=8, width=12, depth=1, heads=3),
    ],
    ids=["ResNet", "ViT"],
)
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_encoder_goes_through_hdf5(encoder, tmp_path):
    images = tf.random.normal((2, 16, 16, 3))
    encoder.save(tmp_path / "encoder.h5")
    loaded = keras.models.load_model(tmp_path / "encoder.h5", compile=False)
    np.testing.assert_array_equal(loaded(images), encoder(images))


def test_keras_average_of_weights_trains_to_its_end():
    model = moco_tf.MoCo(small_encoder(), dim=4, queue_size=32)
    model.compile(SGD(0.1, momentum=0.0, weight_decay=0.0, use_ema=True,
                      ema_momentum=0.0))  # fmt: skip
    before = model.trained_variables[0].numpy()
    model.fit(noise_batches(2), verbose=0)
    average = model.optimizer._model_variables_moving_average[0]
    assert not np.array_equal(average, before)
    np.testing.assert_array_equal(model.trained_variables[0], average)


@pytest.mark.parametrize("method", METHODS)
def test_saved_model_goes_on_as_if_it_had_never_stopped(method, tmp_path):
    settings, optimizer = METHODS[method]
    model = getattr(moco_tf, method)(small_encoder(), **settings)
    model.compile(optimizer())
    batches = noise_batches(2)
    model.fit(batches, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert int(loaded.optimizer.iterations) == 2
    for own, its in zip(model.optimizer.variables, loaded.optimizer.variables):
        np.testing.assert_array_equal(own, its)
    went_on, began_again = (
        each.fit(batches, verbose=0).history["loss"] for each in (model, loaded)
    )
    assert went_on == began_again


def test_optimizer_of_another_model_is_refused():
    model = small_moco()
    model.compile(model.optimizer)  # its own is fine
    with pytest.raises(ValueError, match="SGD has the state of another model"):
        moco_tf.MoCo(small_encoder(), queue_size=32).compile(model.optimizer)


def test_encoder_that_was_never_called_is_told():
    class Own(keras.Model):
        def call(self, images):
            return images

    with pytest.raises(ValueError, match="has not been called yet.*keras.Model"):
        moco_tf.MoCo(Own(), queue_size=32)


@pytest.mark.parametrize("augmented", [False, True])
def test_model_is_saved_as_savedmodel_before_a_first_call(augmented, tmp_path):
    augment = moco_tf.augment.moco_v2() if augmented else None
    model = moco_tf.MoCo(small_encoder(), queue_size=32, augment=augment)
    model.save(tmp_path / "saved", save_format="tf")
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    given = tf.constant(images) if augmented else tf.constant(images, tf.float32)
    np.testing.assert_allclose(
        loaded.signatures["serving_default"](given)["output_1"],
        model(given),
        rtol=1e-4,
        atol=1e-5,
    )
