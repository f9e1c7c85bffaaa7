from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from records import arrays, starting_state
from tensorflow import keras

from moco_tf.contrast import KeyQueue
from moco_tf.encoders import ResNet, ResNet18, ViT, projection_encoder
from moco_tf.interchange import (
    InterchangeError,
    load_torch_state_dict,
    to_torch_state_dict,
)
from moco_tf.methods.moco_v3 import MoCoV3


def small_encoder(projection="mlp", dim=6, width=2):
    backbone = ResNet((1, 1, 1, 1), "basic", width, "cifar")
    return projection_encoder(backbone, projection, dim)


def small_moco(size=16, dim=6, width=2):
    """What a MoCo model shows to the interchange."""
    return SimpleNamespace(
        name="moco",
        query_encoder=small_encoder(dim=dim, width=width),
        key_encoder=small_encoder(dim=dim, width=width),
        queue=KeyQueue(size, dim),
    )


def random_state(model, seed=0):
    """A state dict for the model with other values than it has, float32 exact."""
    rng = np.random.default_rng(seed)
    return {
        name: value
        if value.dtype.kind == "i"
        else rng.normal(size=value.shape).astype("float32")
        for name, value in to_torch_state_dict(model).items()
    }


def assert_same(got, expected):
    assert set(got) == set(expected)
    for name, value in expected.items():
        assert got[name].shape == value.shape, name
        np.testing.assert_array_equal(got[name], value, err_msg=name)


@pytest.mark.parametrize(("version", "head"), [("v1", "linear"), ("v2", "mlp")])
def test_reference_encoder_travels_to_the_bit(reference, version, head):
    record = arrays(reference / f"init_{version}.npz")
    prefix = "init/encoder_q."
    state = {n[len(prefix) :]: record[n] for n in record if n.startswith(prefix)}
    encoder = projection_encoder(ResNet((1, 1, 1, 1), width=8), head, dim=32)
    load_torch_state_dict(encoder, state)
    assert_same(to_torch_state_dict(encoder), state)


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_reference_model_travels_to_the_bit(reference, policy, name):
    policy(name)
    state = starting_state(reference, "v2")
    model = SimpleNamespace(
        name="moco",
        query_encoder=projection_encoder(ResNet((1, 1, 1, 1), width=8), dim=32),
        key_encoder=projection_encoder(ResNet((1, 1, 1, 1), width=8), dim=32),
        queue=KeyQueue(256, 32, dtype=name),
    )
    load_torch_state_dict(model, {f"module.{n}": v for n, v in state.items()})
    exported = to_torch_state_dict(model)
    assert_same(exported, state)
    assert exported["queue"].dtype == name
    assert exported["encoder_k.conv1.weight"].dtype == name
    np.testing.assert_array_equal(model.queue.keys, state["queue"].T)


def moco_v3_names(head, layers, backbone):
    """The reference's names of a MoCo v3, written down from its modules."""

    def sequence(prefix, norms, linears):
        names = {f"{prefix}.{n}.weight" for n in linears}
        for place, affine in norms.items():
            kept = ["running_mean", "running_var", "num_batches_tracked"]
            kept += ["weight", "bias"] if affine else []
            names |= {f"{prefix}.{place}.{value}" for value in kept}
        return names

    last = 3 * layers - 2
    norms = {3 * n + 1: True for n in range(layers - 1)} | {last: False}
    encoder = set(backbone) | sequence(head, norms, range(0, 3 * layers, 3))
    names = {f"base_encoder.{name}" for name in encoder}
    names |= {f"momentum_encoder.{name}" for name in encoder}
    vit = {4: False} if head == "head" else {}
    return names | sequence("predictor", {1: True, **vit}, (0, 3))


@pytest.mark.parametrize(
    ("head", "layers", "make"),
    [
        ("fc", 2, lambda: ResNet((1, 1, 1, 1), "basic", 2, "cifar")),
        ("head", 3, lambda: ViT(16, 8, width=12, depth=2, heads=3)),
    ],
    ids=["resnet", "vit"],
)
def test_whole_moco_v3_travels_under_the_references_names(head, layers, make):
    model = MoCoV3(make(), total_steps=10, dim=4, hidden=6)
    backbone = to_torch_state_dict(model.encoder)
    state = random_state(model)
    assert set(state) == moco_v3_names(head, layers, backbone)
    load_torch_state_dict(model, {f"module.{n}": v for n, v in state.items()})
    assert_same(to_torch_state_dict(model), state)
    assert state["predictor.0.weight"].shape == (6, 4)
    assert not set(to_torch_state_dict(model.key_encoder)) - {
        name.removeprefix("momentum_encoder.") for name in state
    }


def test_vit_has_timms_names_and_layouts():
    encoder = ViT(16, 8, width=12, depth=1, heads=3)
    state = random_state(encoder)
    load_torch_state_dict(encoder, state)
    modules = ["patch_embed.proj", "norm"]
    modules += [
        f"blocks.0.{name}"
        for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    ]
    names = {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}
    assert set(state) == names | {"cls_token", "pos_embed"}
    assert state["cls_token"].shape == (1, 1, 12)
    assert state["pos_embed"].shape == (1, 5, 12)
    assert state["patch_embed.proj.weight"].shape == (12, 3, 8, 8)
    np.testing.assert_array_equal(
        encoder.get_layer("blocks_0_attn_qkv").kernel[2, 30],
        state["blocks.0.attn.qkv.weight"][30, 2],
    )
    np.testing.assert_array_equal(encoder.get_layer("norm").gamma, state["norm.weight"])


def test_each_layout_is_the_one_that_torch_has():
    encoder = small_encoder("linear", dim=6)
    state = random_state(encoder)
    load_torch_state_dict(encoder, state)
    np.testing.assert_array_equal(
        encoder.get_layer("layer2_0_conv1").kernel[1, 2, 0, 3],
        state["layer2.0.conv1.weight"][3, 0, 1, 2],
    )
    np.testing.assert_array_equal(
        encoder.get_layer("fc").kernel[3, 5], state["fc.weight"][5, 3]
    )
    shortcut = encoder.get_layer("layer2_0_downsample_1")
    np.testing.assert_array_equal(
        shortcut.moving_variance, state["layer2.0.downsample.1.running_var"]
    )
    np.testing.assert_array_equal(shortcut.gamma, state["layer2.0.downsample.1.weight"])


def test_counters_are_optional_to_read_and_written_as_zero():
    encoder = ResNet18(width=2, stem="cifar")
    state = random_state(encoder)
    counter = state.pop("bn1.num_batches_tracked")
    assert counter.dtype == np.int64 and counter.shape == () and counter == 0
    state["layer1.0.bn1.num_batches_tracked"] = np.int64(7)
    load_torch_state_dict(encoder, state)
    exported = to_torch_state_dict(encoder)
    assert exported["layer1.0.bn1.num_batches_tracked"] == 0


def test_export_is_a_copy_that_training_does_not_change():
    encoder = small_encoder()
    exported = to_torch_state_dict(encoder)["bn1.weight"]
    encoder.get_layer("bn1").gamma.assign([5.0, 5.0])
    np.testing.assert_array_equal(exported, [1.0, 1.0])


def test_queue_wraps_on_from_the_loaded_pointer_and_forgets_its_images():
    model = small_moco(size=16)
    model.queue.enqueue(tf.zeros((4, 6)), tf.range(4, dtype=tf.int64))
    state = random_state(model)
    state["queue_ptr"] = np.array([12])
    load_torch_state_dict(model, state)
    assert model.queue.cursor.numpy() == 12
    np.testing.assert_array_equal(model.queue.ids, np.full(16, -1))
    assert_same(to_torch_state_dict(model), state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("bn1.weight"), "1 missing: bn1.weight"),
        (lambda s: s.update(extra=np.zeros(3)), "1 unexpected: extra"),
        (
            lambda s: s.update({"fc.0.bias": np.zeros(3)}),
            r"1 of another shape: fc.0.bias \(3,\) instead of \(16,\)",
        ),
        (
            lambda s: s.update({"conv1.weight": s["conv1.weight"].T}),
            r"conv1.weight \(3, 3, 3, 2\) instead of \(2, 3, 3, 3\)",
        ),
        (
            lambda s: [s.pop(name) for name in list(s) if name.startswith("layer")],
            r"55 missing: layer1.0.conv1.weight, .*layer4.*\); build the model",
        ),
    ],
)
def test_state_that_does_not_fit_is_refused_and_nothing_is_loaded(change, message):
    encoder = small_encoder()
    before = to_torch_state_dict(encoder)
    state = random_state(encoder)
    change(state)
    with pytest.raises(ValueError, match=message):
        load_torch_state_dict(encoder, state)
    assert_same(to_torch_state_dict(encoder), before)


def test_queue_of_another_size_is_refused():
    state = random_state(small_moco(size=16))
    model = small_moco(size=32)
    before = to_torch_state_dict(model)
    with pytest.raises(ValueError, match=r"queue \(6, 16\) instead of \(6, 32\)"):
        load_torch_state_dict(model, state)
    assert_same(to_torch_state_dict(model), before)


def test_head_of_the_other_version_is_refused():
    state = random_state(small_encoder("linear"))
    with pytest.raises(ValueError, match="4 missing: fc.0.weight.*2 unexpected: fc.w"):
        load_torch_state_dict(small_encoder("mlp"), state)


def test_backbone_that_torchvision_does_not_know_is_refused():
    x = inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="stem")(x)
    with pytest.raises(ValueError, match="layer 'stem' .* has no name in torch"):
        to_torch_state_dict(keras.Model(inputs, x))


def test_mirrored_weights_load_on_every_replica():
    strategy = mirrored(2)
    state = random_state(small_moco())
    state["queue_ptr"] = np.array([5])
    with strategy.scope():
        model = small_moco()
        load_torch_state_dict(model, state)
        assert_same(to_torch_state_dict(model), state)
    bn = model.query_encoder.get_layer("bn1")
    for variable, name in (
        (bn.gamma, "encoder_q.bn1.weight"),
        (bn.moving_mean, "encoder_q.bn1.running_mean"),
    ):
        for copy in strategy.experimental_local_results(variable):
            np.testing.assert_array_equal(copy, state[name])
    other = random_state(model, seed=1)  # outside the scope too
    load_torch_state_dict(model, other)
    assert_same(to_torch_state_dict(model), other)


def test_torch_tensors_are_taken_and_torch_takes_the_export():
    torch = pytest.importorskip("torch", reason="PyTorch is in the dev extra")
    encoder = small_encoder()
    state = {n: torch.from_numpy(v) for n, v in random_state(encoder).items()}
    load_torch_state_dict(encoder, state)
    exported = to_torch_state_dict(encoder)
    assert_same(exported, {n: v.numpy() for n, v in state.items()})
    norm = torch.nn.BatchNorm2d(2)
    norm.load_state_dict(
        {n[4:]: torch.from_numpy(v) for n, v in exported.items() if n[:4] == "bn1."}
    )
    np.testing.assert_array_equal(norm.weight.detach(), exported["bn1.weight"])


def test_method_without_a_reference_checkpoint_is_refused():
    model = SimpleNamespace(name="simclr", query_encoder=small_encoder())
    with pytest.raises(InterchangeError, match="model.encoder"):
        to_torch_state_dict(model)
