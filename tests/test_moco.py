"""The MoCo model: who learns, who follows, and the same on any number of replicas."""

import keras_cv
import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from tensorflow import keras

import moco_tf
from moco_tf.optimizers import SGD


def small_encoder():
    """Two convolutions with batch norm; a ResNet takes long to trace on 8 replicas."""
    dtype = keras.mixed_precision.global_policy().variable_dtype
    x = images = keras.Input((None, None, 3), dtype=dtype)
    for number, width in enumerate((6, 10), start=1):
        x = keras.layers.Conv2D(width, 3, 2, use_bias=False, name=f"conv{number}")(x)
        x = moco_tf.encoders.BatchNormalization(name=f"bn{number}")(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D(dtype=dtype)(x)
    return keras.Model(images, x)


def small_moco(groups=1, **kwargs):
    arguments = {"dim": 8, "queue_size": 48, "key_momentum": 0.9, **kwargs}
    model = moco_tf.MoCo(small_encoder(), bn_groups=groups, **arguments)
    model.compile(SGD(0.05))
    return model


def batches(steps=2, count=16, size=12, seed=0):
    random = np.random.default_rng(seed)
    images = random.normal(size=(2, steps, count, size, size, 3)).astype(np.float32)
    position = np.stack([random.permutation(count) for _ in range(steps)])
    return tf.data.Dataset.from_tensor_slices(
        {
            "query": images[0],
            "key": images[1],
            "position": position.astype(np.int32),
            "id": np.arange(steps * count).reshape(steps, count),
        }
    )


def test_key_encoder_receives_momentum_and_no_gradient():
    model = small_moco()
    before = [v.numpy() for v in model.query_encoder.trainable_variables]
    model.fit(batches(1), verbose=0)
    keys = [v.numpy() for v in model.key_encoder.trainable_variables]
    # In the first step both encoders are equal, so the keys' must not have moved.
    for old, key in zip(before, keys):
        np.testing.assert_allclose(key, old, rtol=1e-6, atol=1e-7)
    moved = [v.numpy() for v in model.query_encoder.trainable_variables]
    assert all(np.abs(a - b).max() > 0 for a, b in zip(moved, before))
    model.fit(batches(1, seed=1), verbose=0)
    for old, query, key in zip(
        before, moved, (v.numpy() for v in model.key_encoder.trainable_variables)
    ):
        np.testing.assert_allclose(key, 0.9 * old + 0.1 * query, rtol=1e-4, atol=1e-6)


def test_batch_norm_statistics_are_gathered_and_not_averaged():
    model = small_moco(key_momentum=1.0)
    name = "bn1"
    model.fit(batches(1), verbose=0)
    query = model.query_encoder.get_layer(name).moving_mean.numpy()
    key = model.key_encoder.get_layer(name).moving_mean.numpy()
    assert np.abs(key).max() > 0 and np.abs(key - query).max() > 0


def test_query_encoder_is_the_encoder_with_a_head():
    model = small_moco()
    weight = model.encoder.get_layer("conv1").kernel
    assert weight is model.query_encoder.get_layer("conv1").kernel
    assert weight is not model.key_encoder.get_layer("conv1").kernel


@pytest.mark.parametrize("replicas", [2, 8])
def test_replicas_match_one_replica_with_as_many_groups(policy, replicas):
    policy("float64")
    one = small_moco(groups=replicas)
    with mirrored(replicas).scope():
        many = small_moco()
    many.set_weights(one.get_weights())
    for model in (one, many):
        model.history_ = model.fit(batches(3), epochs=1, verbose=0).history
    assert many.history_["loss"] == pytest.approx(one.history_["loss"], rel=1e-10)
    for ours, theirs in zip(
        many.query_encoder.trainable_variables + many.key_encoder.trainable_variables,
        one.query_encoder.trainable_variables + one.key_encoder.trainable_variables,
    ):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(
        many.queue.keys.numpy(), one.queue.keys.numpy(), rtol=1e-8, atol=1e-12
    )
    np.testing.assert_array_equal(many.queue.ids.numpy(), one.queue.ids.numpy())
    assert many.queue.cursor.numpy() == one.queue.cursor.numpy()


def test_queue_holds_the_keys_in_the_order_of_the_ids():
    model = small_moco(groups=2)
    batch = next(iter(batches(1)))
    model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    np.testing.assert_array_equal(model.queue.ids.numpy()[:16], batch["id"])
    shuffled = batch["position"].numpy()
    assert list(shuffled) != sorted(shuffled)


def test_same_image_keys_are_counted_and_masked():
    data = tf.data.Dataset.from_tensors(next(iter(batches(1)))).repeat(2)
    plain = small_moco().fit(data, verbose=0).history
    # Every query meets its own image once among 48 keys in the second of two steps.
    assert plain["false_negative_rate"][0] == pytest.approx(0.5 / 48, rel=1e-5)
    models = [small_moco(mask_same_image=mask) for mask in (False, True)]
    models[1].set_weights(models[0].get_weights())
    losses = [model.fit(data, verbose=0).history["loss"][0] for model in models]
    assert losses[1] < losses[0]


def test_step_is_traced_once_over_epochs():
    model = small_moco()
    model.fit(batches(3), epochs=3, verbose=0)
    assert model.train_tf_function.experimental_get_tracing_count() == 1


def test_step_graph_holds_no_python_function():
    model = small_moco()
    model.fit(batches(1), verbose=0)
    graph = model.train_tf_function.get_concrete_function(
        next(iter(batches(1)))
    ).graph.as_graph_def()
    names = {node.op for node in graph.node}
    names |= {node.op for f in graph.library.function for node in f.node_def}
    assert not names & {"PyFunc", "EagerPyFunc", "PyFuncStateless", "MapDataset"}


def test_evaluate_moves_nothing():
    model = small_moco()
    model.fit(batches(1), verbose=0)
    before = [w.numpy() for w in model.weights]
    loss = model.evaluate(batches(2, seed=3), return_dict=True, verbose=0)["loss"]
    assert 0 < loss < 20
    means = {id(v) for metric in model.metrics for v in metric.variables}
    for old, weight in zip(before, model.weights):
        if id(weight) not in means:
            np.testing.assert_array_equal(weight.numpy(), old)


def test_predict_gives_features():
    model = small_moco()
    images = np.random.default_rng(0).normal(size=(5, 12, 12, 3)).astype(np.float32)
    features = model.predict(images, verbose=0)
    np.testing.assert_allclose(
        features, model.encoder(images, training=False), rtol=1e-5, atol=1e-6
    )


def test_every_replica_predicts_with_the_first_ones_statistics():
    with mirrored(2).scope():
        model = small_moco()
    model.fit(batches(3), verbose=0)
    images = np.random.default_rng(0).normal(size=(8, 12, 12, 3)).astype(np.float32)
    expected = model.encoder(images, training=False)
    features = model.predict(images, batch_size=8, verbose=0)
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
    losses = [model.evaluate(batches(1), verbose=0)[0] for _ in range(2)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Rescaling(1 / 255),
        keras.layers.Lambda(lambda images: tf.cast(images, tf.float32) / 255),
        keras.Sequential(
            [keras.layers.Rescaling(1 / 255), keras.layers.RandomFlip("horizontal")]
        ),
        keras_cv.layers.RandomFlip("horizontal"),
        moco_tf.augment.cifar(),
    ],
    ids=["rescaling", "lambda", "sequential", "keras_cv", "recipe"],
)
def test_any_keras_layer_augments(layer):
    model = small_moco(augment=layer)
    random = np.random.default_rng(0)
    views = random.integers(0, 256, (2, 16, 12, 12, 3), np.uint8)
    batch = {"query": views[0], "key": views[1]}
    losses = model.fit(tf.data.Dataset.from_tensors(batch), verbose=0).history["loss"]
    assert np.isfinite(losses[0])
    assert model.predict(views[0], verbose=0).shape == (16, 10)


def test_single_batches_train_and_test():
    model = small_moco()
    batch = {key: value.numpy() for key, value in next(iter(batches(1))).items()}
    trained = model.train_on_batch(batch, return_dict=True)
    assert model.optimizer.iterations == 1 and np.isfinite(trained["loss"])
    assert np.isfinite(model.test_on_batch(batch, return_dict=True)["loss"])


def test_shares_of_different_sizes_are_refused():
    with mirrored(2).scope():
        model = small_moco()
    with pytest.raises(tf.errors.InvalidArgumentError, match="equally many"):
        model.evaluate(batches(1, count=9), verbose=0)


def test_optimiser_of_the_former_kind_is_refused():
    model = small_moco()
    with pytest.raises(ValueError, match="optimizer SGD is of Keras's former kind"):
        model.compile(keras.optimizers.legacy.SGD(0.05))


def test_several_steps_per_execution_are_refused():
    model = moco_tf.MoCo(small_encoder(), dim=8, queue_size=48)
    with pytest.raises(ValueError, match="steps_per_execution=4 is not supported"):
        model.compile(SGD(0.05), steps_per_execution=4)


@pytest.mark.parametrize("name", ["w.weights.h5", "checkpoint"])
def test_saved_weights_restore_encoders_and_queue(tmp_path, name):
    model, twin = small_moco(), small_moco()
    model.fit(batches(2), verbose=0)
    model.save_weights(tmp_path / name)
    twin.load_weights(tmp_path / name)
    for ours, theirs in (
        (twin.query_encoder, model.query_encoder),
        (twin.key_encoder, model.key_encoder),
        (twin.queue, model.queue),
    ):
        for a, b in zip(ours.get_weights(), theirs.get_weights()):
            np.testing.assert_array_equal(a, b)


def test_configuration_round_trip_keeps_every_argument():
    model = moco_tf.MoCo(
        moco_tf.encoders.ResNet18(width=4, stem="cifar"),
        projection="linear",
        dim=8,
        queue_size=32,
        key_momentum=0.5,
        temperature=0.3,
        augment=moco_tf.augment.cifar(),
        bn_groups=2,
        mask_same_image=True,
    )
    twin = moco_tf.MoCo.from_config(model.get_config())
    assert twin.get_config() == model.get_config()
    assert twin.query_encoder.count_params() == model.query_encoder.count_params()


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_similarities_and_weights_in_float32(policy, precision):
    policy(precision)
    model = small_moco(groups=2)
    history = model.fit(batches(3), verbose=0).history
    assert np.isfinite(history["loss"][0])
    assert model.query_encoder.output.dtype == tf.float32
    assert model.encoder.output.dtype == tf.float32
    assert model.queue.keys.dtype == tf.float32
    assert all(v.dtype == tf.float32 for v in model.query_encoder.trainable_variables)


def test_any_kerascv_backbone_serves_as_encoder():
    backbone = keras_cv.models.ResNetBackbone(
        stackwise_filters=[8, 16],
        stackwise_blocks=[1, 1],
        stackwise_strides=[1, 2],
        include_rescaling=False,
        input_shape=(None, None, 3),
    )
    model = moco_tf.MoCo(backbone, dim=8, queue_size=32, bn_groups=2)
    model.compile(SGD(0.01))
    history = model.fit(batches(1, count=4, size=32), verbose=0).history
    assert np.isfinite(history["loss"][0])
    assert model.encoder.output_shape[1:] == (backbone.output_shape[-1],)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"key_momentum": 1.5}, "key_momentum=1.5 is outside"),
        ({"temperature": 0}, "temperature=0 is not positive"),
        ({"projection": "deep"}, 'projection="deep" is unknown'),
        ({"queue_size": 0}, "size=0"),
        ({"bn_groups": 0}, "bn_groups=0"),
    ],
)
def test_values_out_of_range_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        small_moco(**{"groups": arguments.pop("bn_groups", 1), **arguments})


def test_queue_smaller_than_the_batch_is_refused():
    model = small_moco(queue_size=8)
    with pytest.raises(ValueError, match="queue_size=8 is smaller"):
        model.fit(batches(1), verbose=0)
