"""MoCo v3 against loops and plain PyTorch on 1, 2 and 8 replicas; momentum, heads."""

import math

import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from tensorflow import keras
from tiny import EIGHT, central_differences, glyph_batches, noise_batches, small_encoder

from moco_tf import augment
from moco_tf.callbacks import Checkpoints
from moco_tf.contrast.queue import NO_IMAGE
from moco_tf.encoders import ResNet, ViT
from moco_tf.methods import MoCoV3
from moco_tf.methods.moco_v3 import rising_momentum
from moco_tf.optimizers import LARS, SGD

TINY = {"image_size": 12, "patch_size": 4, "width": 8, "depth": 1, "heads": 2}
RATE, DECAY, TEMPERATURE, STEPS = 2**-6, 2**-3, 0.5, 4
BETAS, EPSILON = (1 - 2**-3, 1 - 2**-9), 1e-8


@pytest.fixture(autouse=True)
def seed():
    """Now and then a draw gives a prediction of zeros, which has no direction."""
    keras.utils.set_random_seed(0)


def small_vit():
    return ViT(**TINY)


def small_moco(make=small_encoder, optimizer=None, **kwargs):
    arguments = {"total_steps": STEPS, "dim": 6, "hidden": 12, "key_momentum": 0.75}
    arguments |= {"temperature": TEMPERATURE, **kwargs}
    model = MoCoV3(make(), **arguments)
    model.compile(optimizer or SGD(0.05))
    return model


def adamw():
    return keras.optimizers.AdamW(RATE, DECAY, *BETAS, EPSILON)


def lars():
    return LARS(RATE, momentum=0.5, weight_decay=DECAY, trust=0.5)


class PlainMoCoV3:
    """The whole training, one process, one batch, in PyTorch."""

    def __init__(self, plain, model, is_vit):
        self.plain, self.is_vit, self.velocities = plain, is_vit, {}
        sizes = (8, 12, 12, 6) if is_vit else (12, 12, 6)
        self.query, self.key = (
            self._encoder(sizes, encoder)
            for encoder in (model.query_encoder, model.key_encoder)
        )
        self.predictor = plain.nn.Sequential()
        self.predictor.predictor = plain.plain_mlp((6, 12, 6), last_batch_norm=is_vit)
        self._load(self.predictor, model.predictor)
        self.trained = [
            parameter
            for part in (self.query, self.predictor)
            for parameter in part.parameters()
            if parameter.requires_grad
        ]
        self.adamw = plain.torch.optim.AdamW(
            self.trained, RATE, BETAS, weight_decay=DECAY
        )

    def _encoder(self, sizes, ours):
        backbone = self.plain.PlainViT(**TINY) if self.is_vit else None
        backbone = backbone or self.plain.PlainConvNet(12)
        head = self.plain.plain_mlp(sizes, last_batch_norm=True)
        backbone.add_module("head" if self.is_vit else "fc", head)
        return self._load(backbone, ours)

    def _load(self, module, ours):
        module.double().train()
        missing, unexpected = module.load_state_dict(
            self.plain.to_plain(ours), strict=False
        )
        assert not unexpected
        assert all("num_batches_tracked" in name for name in missing)
        return module

    def project(self, module, images):
        head = module.head if self.is_vit else module.fc
        return head(module(images))

    def step(self, number, batch):
        torch, loss_of = self.plain.torch, self.plain.plain_loss
        order = np.argsort(batch["position"])
        x1 = self.plain.images_to_torch(batch["query"])
        x2 = self.plain.images_to_torch(batch["key"][order])
        q1, q2 = (self.predictor(self.project(self.query, x)) for x in (x1, x2))
        momentum = 1 - 0.25 * (math.cos(math.pi * number / STEPS) + 1) / 2
        with torch.no_grad():
            for key, query in zip(self.key.parameters(), self.query.parameters()):
                key.copy_(momentum * key + (1 - momentum) * query)
            k1, k2 = (self.project(self.key, x) for x in (x1, x2))
        both = loss_of(q1, k2, TEMPERATURE) + loss_of(q2, k1, TEMPERATURE)
        loss = 2 * TEMPERATURE * both
        self.adamw.zero_grad()
        loss.backward()
        if self.is_vit:
            # Keras adds its epsilon to the second moment before correcting its bias.
            correction = math.sqrt(1 - BETAS[1] ** (number + 1))
            self.adamw.param_groups[0]["eps"] = EPSILON / correction
            self.adamw.step()
        else:
            self.plain.plain_lars_step(
                self.trained, self.velocities, RATE, 0.5, DECAY, 0.5
            )
        return both.item() / 2, momentum


@pytest.mark.parametrize(
    ("make", "optimizer", "replicas"),
    [
        (small_encoder, lars, 1),
        (small_encoder, lars, 2),
        (small_vit, adamw, 1),
        (small_vit, adamw, 2),
        # Eight traces take minutes; the loop below has eight replicas too.
        pytest.param(small_encoder, lars, 8, marks=pytest.mark.slow),
        pytest.param(small_vit, adamw, 8, marks=pytest.mark.slow),
    ],
)
def test_training_equals_plain_torch(policy, make, optimizer, replicas):
    plain = pytest.importorskip("plain_torch")
    policy("float64")
    with mirrored(replicas).scope():
        model = small_moco(make, optimizer())
    theirs = PlainMoCoV3(plain, model, is_vit=make is small_vit)
    data = noise_batches(steps=3)
    for number, batch in enumerate(data.as_numpy_iterator()):
        history = model.fit(tf.data.Dataset.from_tensors(batch), verbose=0).history
        loss, momentum = theirs.step(number, batch)
        assert history["loss"] == pytest.approx([loss], rel=1e-6)
        assert history["key_momentum"] == pytest.approx([momentum], rel=1e-12)
    for ours, module in (
        (model.query_encoder, theirs.query),
        (model.key_encoder, theirs.key),
        (model.predictor, theirs.predictor),
    ):
        expected = module.state_dict()
        for name, array in plain.to_plain(ours).items():
            np.testing.assert_allclose(
                array, expected[name], rtol=1e-6, atol=1e-7, err_msg=name
            )


def slow_losses(query, key, temperature):
    """Loss of each query among all keys, one exponential at a time."""
    query, key = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, key))
    losses = []
    for n, row in enumerate(query):
        logits = [row @ other / temperature for other in key]
        losses.append(math.log(sum(math.exp(x) for x in logits)) - logits[n])
    return np.array(losses)


@pytest.mark.parametrize("replicas", [1, 2, EIGHT])
def test_step_follows_the_loss_of_a_loop_over_images(policy, replicas):
    policy("float64")
    temperature = 0.2
    (batch,) = noise_batches(1).as_numpy_iterator()
    with mirrored(replicas).scope():
        # At rate 1 without momentum a step is the gradient.
        model = small_moco(optimizer=SGD(1.0, 0.0, 0.0), temperature=temperature)
    plain = small_moco(temperature=temperature)
    random = np.random.default_rng(3)
    for variable in plain.trainable_variables:  # so that queries and keys differ
        variable.assign_add(0.1 * random.normal(size=variable.shape))
    model.set_weights(plain.get_weights())
    for key, query in zip(
        plain.key_encoder.trainable_variables, plain.query_encoder.trainable_variables
    ):
        key.assign(0.75 * key + 0.25 * query)
    own = [list(batch["position"]).index(n) for n in range(16)]
    views = [tf.cast(x, "float64") for x in (batch["query"], batch["key"][own])]
    first_keys, second_keys = (
        plain.key_encoder(view, training=True).numpy() for view in views
    )

    def losses(first, second):
        return [
            slow_losses(first, second_keys, temperature).mean(),
            slow_losses(second, first_keys, temperature).mean(),
        ]

    with tf.GradientTape() as tape:
        predictions = [
            plain.predictor(plain.query_encoder(view, training=True), training=True)
            for view in views
        ]
    values = [prediction.numpy() for prediction in predictions]
    mean = np.mean(losses(*values))
    slopes = central_differences(
        lambda *arrays: 2 * temperature * sum(losses(*arrays)), *values
    )
    expected = tape.gradient(
        predictions, plain.trained_variables, output_gradients=slopes
    )
    before = [variable.numpy() for variable in model.trained_variables]
    logs = model.fit(tf.data.Dataset.from_tensors(batch), verbose=0).history
    assert logs["loss"] == pytest.approx([mean], rel=1e-9)
    for old, new, gradient in zip(before, model.trained_variables, expected):
        assert np.abs(gradient).max() > 1e-5, new.name
        np.testing.assert_allclose(
            old - new.numpy(), gradient, atol=1e-6, err_msg=new.name
        )


def test_momentum_rises_by_half_a_cosine_and_stays_at_one():
    for step, expected in ((0, 0.9), (25, 0.9146447), (50, 0.95), (100, 1.0), (120, 1)):
        momentum = rising_momentum(0.9, tf.constant(step, tf.int64), 100)
        assert float(momentum) == pytest.approx(expected, abs=1e-6)
    steps = rising_momentum(0.996, tf.range(101), 100).numpy()
    assert (np.diff(steps) > 0).all()


def test_momentum_is_a_function_of_the_optimizers_step():
    model = small_moco(optimizer=SGD(0.5))
    batch = noise_batches(1)
    model.fit(batch, verbose=0)
    model.optimizer.iterations.assign(STEPS)
    before = [variable.numpy() for variable in model.key_encoder.trainable_variables]
    model.fit(batch, verbose=0)
    for old, new in zip(before, model.key_encoder.trainable_variables):
        np.testing.assert_array_equal(old, new)
    model.optimizer.iterations.assign(0)
    query = [variable.numpy() for variable in model.query_encoder.trainable_variables]
    model.fit(batch, verbose=0)
    for old, moved_by, new in zip(before, query, model.key_encoder.trainable_variables):
        np.testing.assert_allclose(new, 0.75 * old + 0.25 * moved_by, atol=1e-6)


def weights_by_layer(model):
    return {
        layer.name: [tuple(variable.shape) for variable in layer.weights]
        for layer in model.layers
        if layer.weights
    }


def test_heads_of_a_resnet_are_the_papers():
    encoder = ResNet((1, 1, 1, 1), "basic", width=4, stem="cifar")
    model = MoCoV3(encoder, total_steps=10)
    layers = weights_by_layer(model.query_encoder)
    assert {name: shapes for name, shapes in layers.items() if "fc" in name} == {
        "fc_0": [(32, 4096)],
        "fc_1": [(4096,)] * 4,
        "fc_3": [(4096, 256)],
        "fc_4": [(256,)] * 2,
    }
    assert weights_by_layer(model.predictor) == {
        "predictor_0": [(256, 4096)],
        "predictor_1": [(4096,)] * 4,
        "predictor_3": [(4096, 256)],
    }


def test_heads_of_a_vit_are_the_papers():
    model = MoCoV3(small_vit(), total_steps=10)
    layers = weights_by_layer(model.query_encoder)
    assert {name: shapes for name, shapes in layers.items() if "head" in name} == {
        "head_0": [(8, 4096)],
        "head_1": [(4096,)] * 4,
        "head_3": [(4096, 4096)],
        "head_4": [(4096,)] * 4,
        "head_6": [(4096, 256)],
        "head_7": [(256,)] * 2,
    }
    assert weights_by_layer(model.predictor) == {
        "predictor_0": [(256, 4096)],
        "predictor_1": [(4096,)] * 4,
        "predictor_3": [(4096, 256)],
        "predictor_4": [(256,)] * 2,
    }


def test_only_queries_have_a_gradient_and_a_predictor():
    model = small_moco(small_vit)
    names = {variable.name for variable in model.trained_variables}
    trained = {id(variable) for variable in model.trained_variables}
    assert len(names) == len(trained)
    assert not trained & {id(variable) for variable in model.key_encoder.weights}
    projection = model.encoder.get_layer("patch_embed_proj")
    assert id(projection.kernel) not in trained
    assert trained >= {id(v) for v in model.predictor.trainable_variables}
    assert model.query_encoder.output_shape == model.predictor.output_shape == (None, 6)


def test_resumed_run_goes_on_with_the_momentum_and_adamw_bit_exactly(tmp_path):
    data = [noise_batches(2, seed=seed) for seed in (0, 1)]
    whole, killed, resumed = (small_moco(small_vit, adamw()) for _ in range(3))
    killed.set_weights(whole.get_weights())
    killed.fit(data[0], verbose=0, callbacks=[Checkpoints(tmp_path)])
    for part in data:
        whole.fit(part, verbose=0)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.set_model(resumed)
    assert checkpoints.restore() == 1
    resumed.fit(data[1], verbose=0)
    for name, part in whole.parts().items():
        for ours, theirs in zip(resumed.parts()[name].weights, part.weights):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


def test_loss_of_a_vit_falls_on_glyphs():
    tf.random.set_seed(0)
    optimizer = keras.optimizers.AdamW(0.005, weight_decay=0.1)
    sizes = {"hidden": 32, "dim": 16, "total_steps": 40}
    model = small_moco(lambda: ViT(24, 8, 16, 1, 2), optimizer, **sizes)
    history = model.fit(glyph_batches(10), epochs=3, verbose=0).history
    assert all(np.isfinite(values).all() for values in history.values())
    assert history["loss"][-1] < history["loss"][0] - 0.2
    assert history["loss"][-1] < math.log(1 + model.negatives(32))


def test_newest_keys_are_kept_with_their_images():
    model = small_moco()
    (batch,) = noise_batches(1).as_numpy_iterator()
    model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    ids = model.recent.ids.numpy()
    np.testing.assert_array_equal(ids[:16], batch["id"])
    assert (ids[16:] == NO_IMAGE).all()
    assert model.embeddings().shape == (16, 6)
    np.testing.assert_allclose(np.linalg.norm(model.embeddings(), axis=1), 1, rtol=1e-5)


def test_key_views_get_their_own_recipe():
    model = small_moco(augment=augment.moco_v3())
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, 12, 12, 3)).astype(np.uint8)
    seeds = random.integers(-(2**31), 2**31, (2, 6, 2)).astype(np.int32)
    batch = {"query": images, "key": images}
    views = model.views({**batch, "query_seed": seeds[0], "key_seed": seeds[1]})
    recipe = model.augment
    np.testing.assert_array_equal(views.query, recipe(images, seeds[0]))
    np.testing.assert_array_equal(views.key, recipe.key(images, seeds[1]))
    assert np.abs(recipe(images, seeds[1]) - views.key).max() > 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key_momentum": 1.1}, "key_momentum=1.1"),
        ({"total_steps": 0}, "total_steps=0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"hidden": 0}, r"widths=\(0, 6\)"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        small_moco(**arguments)
