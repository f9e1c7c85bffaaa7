import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from tensorflow import keras

from moco_tf.encoders import BatchNormalization, projection_encoder
from moco_tf.encoders.batchnorm import share_statistics
from moco_tf.encoders.encode import encode


def images(shape=(8, 5, 5, 3), seed=0):
    return np.random.default_rng(seed).normal(1.0, 2.0, shape)


def oracle(batch, groups, gamma, beta):
    """Outputs and running statistics, group by group, in float64."""
    outputs, means, variances = [], [], []
    for part in np.split(batch, groups):
        rows = part.reshape(-1, part.shape[-1])
        mean, variance = rows.mean(0), rows.var(0)
        outputs.append((part - mean) / np.sqrt(variance + 1e-5) * gamma + beta)
        means.append(mean)
        variances.append(rows.var(0, ddof=1))
    return (
        np.concatenate(outputs),
        0.1 * np.mean(means, axis=0),
        0.9 + 0.1 * np.mean(variances, axis=0),
    )


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("shape", [(16, 5, 5, 3), (16, 3)])
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("float64", 1e-12),
        ("float32", 2e-6),
        ("mixed_bfloat16", 3e-2),
        ("mixed_float16", 4e-3),
    ],
)
def test_groups_are_normalised_apart_and_statistics_follow_their_unbiased_mean(
    policy, name, tolerance, shape, groups
):
    policy(name)
    layer = BatchNormalization(
        groups=groups,
        gamma_initializer=keras.initializers.Constant(1.5),
        beta_initializer=keras.initializers.Constant(-0.5),
    )
    batch = images(shape)
    outputs = layer(tf.cast(batch, layer.compute_dtype), training=True)
    expected, mean, variance = oracle(batch, groups, 1.5, -0.5)
    assert outputs.dtype == layer.compute_dtype
    assert {weight.dtype.name for weight in layer.weights} == {layer.variable_dtype}
    np.testing.assert_allclose(
        np.float64(outputs), expected, rtol=tolerance, atol=tolerance
    )
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=tolerance)


@pytest.mark.parametrize("shape", [(8, 5, 5, 3), (64, 3)])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(("name", "tolerance"), [("float64", 1e-11), ("float32", 2e-5)])
def test_gradients_equal_those_of_plain_moments(policy, name, tolerance, shape, groups):
    policy(name)
    layer = BatchNormalization(groups=groups)
    batch = tf.constant(images(shape), name)
    weight = tf.constant(images(shape, seed=1), name)
    layer.build(batch.shape)
    layer.gamma.assign([0.5, 1.0, 2.0])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(batch)
        ours = tf.reduce_sum(weight * tf.square(layer(batch, training=True)))
        parts = []
        for part in tf.split(batch, groups):
            axes = list(range(len(shape) - 1))
            mean, variance = tf.nn.moments(part, axes)
            normal = (part - mean) / tf.sqrt(variance + 1e-5)
            parts.append(normal * layer.gamma + layer.beta)
        plain = tf.reduce_sum(weight * tf.square(tf.concat(parts, 0)))
    sources = [batch, layer.gamma, layer.beta]
    for got, expected in zip(
        tape.gradient(ours, sources), tape.gradient(plain, sources)
    ):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(got, expected, atol=tolerance * scale)


@pytest.mark.parametrize("compiled", [False, True])
def test_running_statistics_follow_several_batches_in_a_graph(compiled):
    # Where TensorFlow's optimiser joins the layer with the ReLU behind it.
    layer = BatchNormalization()
    layer.build((8, 5, 5, 3))
    step = tf.function(
        lambda batch: tf.nn.relu(layer(batch, training=True)), jit_compile=compiled
    )
    mean, variance = np.zeros(3), np.ones(3)
    for seed in range(3):
        batch = images(seed=seed)
        outputs = step(tf.constant(batch, tf.float32))
        expected, new_mean, new_variance = oracle(batch, 1, 1.0, 0.0)
        np.testing.assert_allclose(outputs, np.maximum(expected, 0), atol=1e-5)
        mean = 0.9 * mean + new_mean
        variance = 0.9 * variance + new_variance - 0.9
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-5)


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_inference_uses_and_keeps_the_running_statistics(policy, name):
    policy(name)
    layer = BatchNormalization(groups=3)  # 8 images: only training needs 3 to divide
    batch = images()
    layer.build(batch.shape)
    layer.moving_mean.assign([1.0, 2.0, 3.0])
    layer.moving_variance.assign([4.0, 5.0, 6.0])
    outputs = layer(tf.constant(batch, name), training=False)
    expected = (batch - [1.0, 2.0, 3.0]) / np.sqrt(np.array([4.0, 5.0, 6.0]) + 1e-5)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(layer.moving_mean, [1.0, 2.0, 3.0])


def test_batch_that_does_not_split_is_refused():
    layer = BatchNormalization(groups=3)
    with pytest.raises(ValueError, match="batch of 8 does not split into 3 batch-norm"):
        layer(tf.zeros((8, 3)), training=True)
    with pytest.raises(ValueError, match="into 0 batch-norm groups"):
        BatchNormalization(groups=0)(tf.zeros((8, 3)), training=True)


def test_settings_it_does_not_have_are_refused():
    with pytest.raises(ValueError, match=r"axis=\[1\].*only the last axis"):
        BatchNormalization(axis=1)(tf.zeros((2, 3, 4, 5)))
    with pytest.raises(ValueError, match="synchronized=True"):
        BatchNormalization(synchronized=True)(tf.zeros((2, 3, 4, 5)))


def test_layer_without_scale_and_centre_has_statistics_only():
    layer = BatchNormalization(scale=False, center=False)
    batch = images((16, 3))
    outputs = layer(tf.constant(batch, tf.float32), training=True)
    np.testing.assert_allclose(outputs, oracle(batch, 1, 1.0, 0.0)[0], atol=1e-5)
    assert [w.name.split("/")[-1] for w in layer.weights] == [
        "moving_mean:0",
        "moving_variance:0",
    ]


def test_groups_are_those_of_one_call():
    encoder = small_encoder(BatchNormalization)
    (layer,) = [x for x in encoder._flatten_layers() if type(x) is BatchNormalization]
    encode(encoder, tf.constant(images((8, 4, 4, 3)), tf.float32), 4, sync=True)
    assert (layer.groups, layer.sync) == (1, False)
    with pytest.raises(ValueError, match="does not split"):
        encode(encoder, tf.zeros((7, 4, 4, 3)), 4)
    assert layer.groups == 1
    assert encoder(tf.zeros((7, 4, 4, 3)), training=True).shape == (7, 4)


def test_config_makes_the_same_layer():
    layer = BatchNormalization(
        groups=2, sync=True, momentum=0.8, gamma_initializer="zeros"
    )
    layer.build((None, 4, 4, 3))
    config = keras.saving.serialize_keras_object(layer)
    twin = keras.saving.deserialize_keras_object(config)
    assert type(twin) is BatchNormalization
    assert (twin.groups, twin.sync, twin.momentum) == (2, True, 0.8)
    assert twin.epsilon == 1e-5
    assert isinstance(twin.gamma_initializer, keras.initializers.Zeros)


def small_encoder(layer):
    """An encoder around a batch-norm class; its statistics see 4x4 maps."""
    x = inputs = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(5, 3, padding="same")(x)
    x = layer(momentum=0.9, epsilon=1e-5)(x)
    x = keras.layers.ReLU()(x)
    return projection_encoder(keras.Model(inputs, x), "linear", dim=4)


def test_encoders_with_keras_own_batch_norm_run_part_by_part_with_the_same_result():
    ours = small_encoder(BatchNormalization)
    theirs = small_encoder(keras.layers.BatchNormalization)
    theirs.set_weights(ours.get_weights())
    batch = tf.constant(images((8, 4, 4, 3)), tf.float32)
    whole = encode(ours, batch, groups=1)
    grouped = encode(ours, batch, groups=4)
    np.testing.assert_allclose(encode(theirs, batch, groups=4), grouped, atol=2e-5)
    assert np.abs(whole - grouped).max() > 1e-2
    np.testing.assert_array_equal(encode(ours, batch, groups=1), whole)
    with pytest.raises(ValueError, match="batch of 8 does not split into 3"):
        encode(theirs, batch, groups=3)


def test_replicas_keep_their_own_statistics_and_the_first_ones_count():
    strategy = mirrored(2)
    batch = images((8, 5, 5, 3))
    with strategy.scope():
        layer = BatchNormalization()
        layer.build(batch.shape)
    model = keras.Sequential([layer])
    halves = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(
            np.split(batch, 2)[context.replica_id_in_sync_group], tf.float32
        )
    )

    @tf.function
    def step():
        strategy.run(lambda part: layer(part, training=True), args=(halves,))

    step()
    graph = step.get_concrete_function().graph.as_graph_def()
    operations = {node.op for node in graph.node}
    assert not {name for name in operations if "Collective" in name or "Nccl" in name}
    _, first, _ = oracle(batch[:4], 1, 1, 0)
    _, second, _ = oracle(batch[4:], 1, 1, 0)
    copies = strategy.experimental_local_results(layer.moving_mean)
    np.testing.assert_allclose(copies[0], first, atol=1e-6)
    np.testing.assert_allclose(copies[1], second, atol=1e-6)
    np.testing.assert_allclose(layer.moving_mean.numpy(), first, atol=1e-6)
    share_statistics(model)
    np.testing.assert_allclose(copies[1], first, atol=1e-6)


def test_two_replicas_equal_two_groups():
    strategy = mirrored(2)
    batch = images((8, 5, 5, 3)).astype("float32")
    with strategy.scope():
        layer = BatchNormalization()
    halves = strategy.experimental_distribute_values_from_function(
        lambda context: np.split(batch, 2)[context.replica_id_in_sync_group]
    )
    outputs = strategy.run(lambda part: layer(part, training=True), args=(halves,))
    outputs = tf.concat(strategy.experimental_local_results(outputs), 0)
    grouped = BatchNormalization(groups=2)(tf.constant(batch), training=True)
    np.testing.assert_array_equal(outputs, grouped)


def over_replicas(replicas, name, batch, weight, **settings):
    """Outputs, gradients and layers' statistics of one step on a split batch."""
    strategy = mirrored(replicas)
    with strategy.scope():
        layer = BatchNormalization(sync=True, **settings)
        layer.build((None, *batch.shape[1:]))
        layer.gamma.assign(np.linspace(0.5, 2.0, batch.shape[-1]))
    parts = [
        tf.split(tf.constant(array, layer.compute_dtype), replicas)
        for array in (batch, weight)
    ]
    inputs = [
        strategy.experimental_distribute_values_from_function(
            lambda context, part=part: part[context.replica_id_in_sync_group]
        )
        for part in parts
    ]

    @tf.function
    def step(batch, weight):
        def on_replica(batch, weight):
            with tf.GradientTape() as tape:
                tape.watch(batch)
                outputs = layer(batch, training=True)
                loss = tf.reduce_sum(
                    tf.cast(weight, "float64") * tf.cast(outputs, "float64") ** 2
                )
            return outputs, tape.gradient(loss, [batch, layer.gamma, layer.beta])

        return strategy.run(on_replica, args=(batch, weight))

    outputs, (inner, *affine) = step(*inputs)
    local = strategy.experimental_local_results
    rows = [tf.concat(local(value), 0).numpy() for value in (outputs, inner)]
    sums = [np.sum([part.numpy() for part in local(value)], 0) for value in affine]
    statistics = [
        [copy.numpy() for copy in local(variable)]
        for variable in (layer.moving_mean, layer.moving_variance)
    ]
    return rows[0], [rows[1], *sums], statistics


@pytest.mark.parametrize("replicas", [2, 8])
@pytest.mark.parametrize("shape", [(16, 3, 3, 3), (16, 3)])
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("float64", 1e-10),
        ("float32", 1e-4),
        ("mixed_bfloat16", 5e-2),
        ("mixed_float16", 8e-3),
    ],
)
def test_sync_over_replicas_equals_one_replica_with_the_whole_batch(
    policy, name, tolerance, shape, replicas
):
    policy(name)
    batch, weight = images(shape), images(shape, seed=1)
    outputs, gradients, statistics = over_replicas(replicas, name, batch, weight)
    whole, whole_gradients, (mean, variance) = over_replicas(1, name, batch, weight)
    expected, *_ = oracle(batch, 1, np.linspace(0.5, 2.0, 3), 0.0)
    for got, wanted in zip([outputs, *gradients], [expected, *whole_gradients]):
        scale = np.abs(np.float64(wanted)).max()
        np.testing.assert_allclose(
            np.float64(got), np.float64(wanted), atol=tolerance * scale
        )
    np.testing.assert_allclose(
        np.float64(outputs), np.float64(whole), atol=tolerance * 5
    )
    for copies, (alone,) in zip(statistics, (mean, variance)):
        assert len(copies) == replicas
        for copy in copies:
            np.testing.assert_allclose(copy, alone, rtol=tolerance)


@pytest.mark.parametrize("shape", [(64, 3), (16, 2, 2, 3)])
def test_sync_keeps_a_small_variance_around_a_large_mean(policy, shape):
    policy("float32")
    batch = 1000 + 0.1 * images(shape)
    outputs, *_ = over_replicas(2, "float32", batch, np.ones_like(batch))
    given = np.float64(np.float32(batch))
    expected, *_ = oracle(given, 1, np.linspace(0.5, 2.0, 3), 0.0)
    np.testing.assert_allclose(outputs, expected, atol=5e-3)


def test_sync_with_groups_joins_the_same_group_of_every_replica(policy):
    policy("float64")
    batch = images((8, 3))
    outputs, *_ = over_replicas(2, "float64", batch, np.ones_like(batch), groups=2)
    joined = batch[[0, 1, 4, 5, 2, 3, 6, 7]]
    expected, *_ = oracle(joined, 2, np.linspace(0.5, 2.0, 3), 0.0)
    np.testing.assert_allclose(outputs[[0, 1, 4, 5, 2, 3, 6, 7]], expected, rtol=1e-9)


@pytest.mark.parametrize("layer", [BatchNormalization, keras.layers.BatchNormalization])
def test_encoding_in_sync_serves_our_layers_and_keras_own(layer):
    strategy = mirrored(2)
    batch = images((8, 4, 4, 3)).astype("float32")
    with strategy.scope():
        encoder = small_encoder(layer)
    halves = strategy.experimental_distribute_values_from_function(
        lambda context: np.split(batch, 2)[context.replica_id_in_sync_group]
    )

    @tf.function
    def run(sync):
        return strategy.run(
            lambda part: encode(encoder, part, sync=sync), args=(halves,)
        )

    apart, joined = (
        tf.concat(strategy.experimental_local_results(run(sync)), 0).numpy()
        for sync in (False, True)
    )
    whole = encode(encoder, tf.constant(batch))
    np.testing.assert_allclose(joined, whole, atol=2e-5)
    assert np.abs(apart - whole).max() > 1e-3
    # Threads that share the layers leave them as they were.
    layers = [
        x for x in encoder.layers if isinstance(x, keras.layers.BatchNormalization)
    ]
    assert layers
    for own in layers:
        assert not own.synchronized and not getattr(own, "sync", False)
        assert own.get_config() == layer.from_config(own.get_config()).get_config()
