"""Vision transformers: values, gradients, initialisation, positions, precision."""

import math

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

import moco_tf
from moco_tf.encoders import ViT, ViTBase, ViTSmall, clone, projection_encoder
from moco_tf.encoders.vit import sin_cos_positions

TINY = {"image_size": 12, "patch_size": 4, "width": 16, "depth": 2, "heads": 4}


def images_of(count=3, size=12, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(count, size, size, 3)).astype(np.float32)


def randomised(model, seed=1):
    """Gives every weight but the positions values that matter."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if layer.name != "pos_embed":
            layer.set_weights(
                [w + 0.2 * random.normal(size=w.shape) for w in layer.get_weights()]
            )
    return model


def test_features_and_gradients_equal_plain_torch(policy):
    plain_torch = pytest.importorskip("plain_torch")
    torch = plain_torch.torch
    policy("float64")
    ours = randomised(ViT(**TINY))
    theirs = plain_torch.PlainViT(**TINY).double()
    theirs.load_state_dict(plain_torch.to_plain(ours), strict=True)
    images, weight = images_of(), np.random.default_rng(2).normal(size=(3, 16))
    with tf.GradientTape() as tape:
        features = ours(images)
        total = tf.reduce_sum(features * weight)
    gradients = tape.gradient(total, ours.trainable_variables)
    expected = theirs(plain_torch.images_to_torch(images))
    np.testing.assert_allclose(features, expected.detach().numpy(), atol=1e-12)
    (expected * torch.tensor(weight)).sum().backward()
    for variable, gradient in zip(ours.trainable_variables, gradients):
        variable.assign(gradient)
    found = plain_torch.to_plain(ours)
    trained = [(n, p) for n, p in theirs.named_parameters() if p.requires_grad]
    assert len(trained) == len(gradients)
    for name, parameter in trained:
        np.testing.assert_allclose(
            found[name].numpy(), parameter.grad.numpy(), atol=1e-11, err_msg=name
        )


def test_vit_small_equals_plain_torch_in_float32():
    plain_torch = pytest.importorskip("plain_torch")
    ours = ViTSmall(image_size=32, patch_size=16, depth=3)
    theirs = plain_torch.PlainViT(32, 16, 384, 3, 12)
    theirs.load_state_dict(plain_torch.to_plain(ours), strict=True)
    images = images_of(2, 32)
    expected = theirs(plain_torch.images_to_torch(images).float())
    np.testing.assert_allclose(ours(images), expected.detach().numpy(), atol=1e-4)


def test_positions_are_sines_and_cosines_of_row_and_column(policy):
    policy("float64")
    model = ViT(**TINY)
    table = model.get_layer("pos_embed").table
    assert not table.trainable
    assert table.shape == (1, 10, 16)
    np.testing.assert_array_equal(table[0, 0], np.zeros(16))
    for row in range(3):
        for column in range(3):
            expected = [
                wave(place / 10000 ** (index / 4))
                for place in (row, column)
                for wave in (math.sin, math.cos)
                for index in range(4)
            ]
            code = table[0, 1 + 3 * row + column]
            np.testing.assert_allclose(code, expected, atol=1e-12)


def test_positions_differ_everywhere():
    codes = sin_cos_positions(14, 384)
    assert codes.shape == (196, 384)
    assert len(np.unique(codes.round(6), axis=0)) == 196


@pytest.mark.parametrize(
    ("make", "heads", "count"),
    [
        (ViTSmall, 12, 21_665_664),
        pytest.param(ViTBase, 12, 85_798_656, marks=pytest.mark.slow),
    ],
)
def test_standard_sizes(make, heads, count):
    model = make()
    assert model.count_params() == count
    assert model.input_shape == (None, 224, 224, 3)
    assert model.get_layer("blocks_11_attn").heads == heads


@pytest.mark.parametrize(("size", "patch"), [(8, 8), (24, 4), (32, 16)])
def test_any_multiple_of_the_patch_is_an_image_size(size, patch):
    model = ViT(size, patch, width=8, depth=1, heads=2)
    assert model(images_of(2, size)).shape == (2, 8)


def test_initial_weights_are_the_papers():
    tf.random.set_seed(0)
    model = ViT(16, 4, width=96, depth=1, heads=3)
    limits = {
        "patch_embed_proj": math.sqrt(6 / (3 * 4 * 4 + 96)),
        "blocks_0_attn_qkv": math.sqrt(6 / (96 + 96)),
        "blocks_0_attn_proj": math.sqrt(6 / (96 + 96)),
        "blocks_0_mlp_fc1": math.sqrt(6 / (96 + 4 * 96)),
        "blocks_0_mlp_fc2": math.sqrt(6 / (96 + 4 * 96)),
    }
    for name, limit in limits.items():
        kernel, bias = model.get_layer(name).get_weights()
        assert 0.98 * limit < np.abs(kernel).max() <= limit, name
        assert kernel.std() == pytest.approx(limit / math.sqrt(3), rel=0.03), name
        assert not bias.any(), name
    assert 0 < np.abs(model.get_layer("cls_token").token).max() < 1e-5


def test_patch_projection_stays_at_its_random_start_unless_freed():
    model = ViT(**{**TINY, "depth": 1})
    layer = model.get_layer("patch_embed_proj")

    def is_trained():
        return any(variable is layer.kernel for variable in model.trainable_variables)

    assert not is_trained()
    before = layer.kernel.numpy()
    moco = moco_tf.MoCo(model, dim=4, queue_size=16)
    moco.compile(moco_tf.optimizers.SGD(0.1, weight_decay=0.1))
    views = {"query": images_of(4), "key": images_of(4, seed=1)}
    moco.fit(tf.data.Dataset.from_tensors(views), verbose=0)
    np.testing.assert_array_equal(layer.kernel.numpy(), before)
    np.testing.assert_array_equal(
        moco.key_encoder.get_layer("patch_embed_proj").kernel.numpy(), before
    )
    model.trainable = True
    assert is_trained()
    assert not model.get_layer("pos_embed").trainable_weights


def test_copy_learns_what_its_model_learns():
    model = ViT(**TINY)
    model.trainable = True
    freed = clone(projection_encoder(model, "mlp", 8))
    (layer,) = [x for x in freed._flatten_layers() if x.name == "patch_embed_proj"]
    assert layer.trainable
    model.trainable = False
    assert not clone(model).trainable_weights


def test_copies_are_equal_and_independent():
    model = randomised(ViT(**TINY, name="small"))
    images = images_of()
    twin = clone(model)
    with_head = projection_encoder(model, "mlp", 8)
    np.testing.assert_array_equal(twin(images), model(images))
    np.testing.assert_array_equal(clone(with_head)(images), with_head(images))
    assert not twin.get_layer("patch_embed_proj").trainable
    config = keras.saving.serialize_keras_object(model)
    revived = keras.saving.deserialize_keras_object(config)
    assert isinstance(revived, ViT)
    assert (
        revived.get_config()
        == model.get_config()
        == {**TINY}
        | {
            "channels": 3,
            "name": "small",
        }
    )
    revived.set_weights(model.get_weights())
    np.testing.assert_array_equal(revived(images), model(images))
    for layer in model.layers:
        layer.set_weights([0 * weight for weight in layer.get_weights()])
    assert np.abs(twin(images)).max() > 0
    np.testing.assert_array_equal(revived(images), twin(images))


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_low_precision_stays_close_and_gives_float32(policy, precision):
    expected = randomised(ViT(**TINY))
    images = images_of()
    policy(precision)
    model = ViT(**TINY)
    model.set_weights(expected.get_weights())
    assert model.get_layer("blocks_0_attn_qkv").compute_dtype != "float32"
    features = model(images)
    assert features.dtype == tf.float32
    np.testing.assert_allclose(features, expected(images), atol=0.1)


def test_attention_is_finite_in_float16_at_great_scores(policy):
    policy("mixed_float16")
    layer = moco_tf.encoders.vit.Attention(1)
    tokens = np.full((1, 5, 12), 150.0, np.float16)
    np.testing.assert_allclose(layer(tokens), np.full((1, 5, 4), 150.0), rtol=1e-2)


def test_travels_through_a_saved_model(tmp_path):
    model = randomised(ViT(**TINY))
    images = images_of()
    expected = model(images).numpy()
    model.export(str(tmp_path / "vit"))
    served = tf.saved_model.load(str(tmp_path / "vit"))
    np.testing.assert_allclose(served.serve(images), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 30}, "image_size=30 is not a multiple of patch_size=4"),
        ({"width": 18, "heads": 3}, "width=18 must be a multiple of 4"),
        ({"heads": 3}, "width=16 must be .* and of heads=3"),
        ({"depth": 0}, "depth=0"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ViT(**{**TINY, **arguments})
