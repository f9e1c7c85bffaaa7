"""Checkpoints of MoCo, timm, torchvision and TensorFlow 1 become encoders."""

import os
import pickle

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from networks import perturbed, tiny
from records import starting_state
from torch_saves import Payload, as_archive, write_torch

from moco_tf.encoders import ResNet, ViT
from moco_tf.interchange import InterchangeError, load_checkpoint, to_torch_state_dict


def vit(**kwargs):
    return perturbed(ViT(**{"image_size": 16, "patch_size": 8, **kwargs}))


def with_prefix(prefix, state):
    return {prefix + name: array for name, array in state.items()}


def assert_loaded(encoder, expected):
    state, wanted = to_torch_state_dict(encoder), to_torch_state_dict(expected)
    assert set(state) == set(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(state[name], array, err_msg=name)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_truncated_checkpoint_is_refused_wherever_it_is_cut(tmp_path, zipped):
    saved = {"state_dict": to_torch_state_dict(tiny("cifar"))}
    whole = write_torch(saved, tmp_path / "whole.pth", zipped).read_bytes()
    path = tmp_path / "cut.pth.tar"
    for share in (0, 0.001, 0.1, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InterchangeError, match="cut.pth.tar cannot be read"):
            load_checkpoint(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth"])
def test_other_files_by_a_checkpoints_name_are_refused(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    for content in (b"", b"not a checkpoint", b"PK\x03\x04" + bytes(50)):
        path.write_bytes(content)
        with pytest.raises(InterchangeError, match=f"file{suffix} cannot be read"):
            load_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_official_moco_gives_its_query_backbone(reference, tmp_path, version, zipped):
    state = with_prefix("module.", starting_state(reference, version))
    saved = {"epoch": 200, "arch": "resnet50", "state_dict": state}
    checkpoint = load_checkpoint(write_torch(saved, tmp_path / "m.pth.tar", zipped))
    assert checkpoint.kind == "MoCo v1 or v2"
    assert checkpoint.epochs == 200
    assert checkpoint.encoder.depths == (1, 1, 1, 1)
    assert (checkpoint.encoder.width, checkpoint.encoder.stem) == (8, "imagenet")
    loaded = to_torch_state_dict(checkpoint.encoder)
    for name, array in loaded.items():
        if not name.endswith("num_batches_tracked"):
            expected = state[f"module.encoder_q.{name}"].astype(np.float32)
            np.testing.assert_array_equal(array, expected)
    heads = {"v1": 2, "v2": 4}[version]
    assert len(checkpoint.left_out) == len(state) - len(loaded)
    assert sum(name.startswith("encoder_q.fc") for name in checkpoint.left_out) == heads
    assert {"queue", "queue_ptr"} <= set(checkpoint.left_out)


def test_names_beside_the_encoder_that_are_unknown_are_all_listed(tmp_path):
    state = with_prefix("encoder_q.", to_torch_state_dict(tiny("cifar")))
    state |= {"encoder_k.conv1.weight": np.ones(3), "queue": np.ones((4, 8))}
    state |= {f"mystery.{n}.weight": np.ones(3, np.float32) for n in range(12)}
    path = tmp_path / "moco.safetensors"
    safetensors.numpy.save_file(state, path)
    with pytest.raises(
        InterchangeError, match="12 names are no part of a MoCo v1 or"
    ) as c:
        load_checkpoint(path)
    assert all(f"mystery.{number}.weight" in str(c.value) for number in range(12))
    assert "encoder_k" not in str(c.value) and "queue" not in str(c.value)


def test_every_unmatched_name_is_listed(tmp_path):
    state = to_torch_state_dict(tiny("cifar"))
    state |= {f"layer2.0.extra{n}.weight": np.ones(3, np.float32) for n in range(12)}
    safetensors.numpy.save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(InterchangeError, match="12 unexpected: ") as caught:
        load_checkpoint(tmp_path / "weights.safetensors")
    assert all(f"extra{number}.weight" in str(caught.value) for number in range(12))


def moco_v3_state(encoder, head):
    state = to_torch_state_dict(encoder)
    ones = {f"{head}.0.weight": np.ones((4, 4)), f"{head}.1.running_var": np.ones(4)}
    other = with_prefix(
        "momentum_encoder.", {n: np.asarray(a + 1) for n, a in state.items()}
    )
    predictor = {"predictor.0.weight": np.ones((4, 4))}
    base = with_prefix("base_encoder.", {**state, **ones})
    return with_prefix("module.", {**base, **other, **predictor})


def test_moco_v3_gives_its_base_encoder(tmp_path):
    expected = tiny("cifar")
    saved = {"epoch": 100, "state_dict": moco_v3_state(expected, "fc")}
    checkpoint = load_checkpoint(write_torch(saved, tmp_path / "v3.pth.tar"))
    assert (checkpoint.kind, checkpoint.epochs) == ("MoCo v3", 100)
    assert_loaded(checkpoint.encoder, expected)


@pytest.mark.parametrize(
    ("nest", "wrapper", "prefix", "beside", "kind"),
    [
        ("net", "_orig_mod.", "", (), "torchvision or timm"),
        ("model", "module._orig_mod.", "encoder_q.", ("queue",), "MoCo v1 or v2"),
        ("state_dict", "", "encoder_q.0.", ("encoder_q.1.fc.b",), "MoCo v1 or v2"),
        ("state_dict", "module.", "encoder.", ("predictor.0.weight",), "SimSiam"),
        ("state_dict", "", "backbone.", ("encoder_k.module.0.x",), "MMSelfSup"),
        ("model_state_dict", "model.", "backbone.", ("neck.b",), "MMSelfSup"),
        ("model", "", "encoder_k.", ("queue",), "MoCo v1 or v2 (its key encoder"),
        ("net", "", "encoder_k.module.0.", ("encoder_k.1.b",), "its key encoder"),
        ("model", "module.", "momentum_encoder.", (), "MoCo v3 (its momentum encoder"),
    ],
)
def test_wrappers_and_other_projects_names_are_undone(
    tmp_path, nest, wrapper, prefix, beside, kind
):
    expected = tiny("cifar")
    state = with_prefix(wrapper + prefix, to_torch_state_dict(expected))
    state[f"{wrapper}{prefix}fc.weight"] = np.ones((4, 4), np.float32)
    state |= {wrapper + name: np.ones(3, np.float32) for name in beside}
    path = write_torch({"epoch": 7, nest: state}, tmp_path / "other.pth")
    checkpoint = load_checkpoint(path)
    assert kind in checkpoint.kind and checkpoint.epochs == 7
    assert_loaded(checkpoint.encoder, expected)
    assert len(checkpoint.left_out) == 1 + len(beside)


def test_query_encoder_is_taken_before_the_backbone_beside_it(tmp_path):
    expected = tiny("cifar")  # OpenSelfSup keeps its first part under two names
    state = to_torch_state_dict(expected)
    both = with_prefix("encoder_q.0.", state) | with_prefix("backbone.", state)
    checkpoint = load_checkpoint(write_torch(both, tmp_path / "open.pth"))
    assert checkpoint.kind == "MoCo v1 or v2"
    assert_loaded(checkpoint.encoder, expected)


def test_name_that_is_there_with_and_without_its_wrapper_is_refused(tmp_path):
    state = to_torch_state_dict(tiny("cifar"))
    state["module.conv1.weight"] = state["conv1.weight"] + 1
    path = write_torch(state, tmp_path / "twice.pth")
    with pytest.raises(InterchangeError, match="1 names are there twice"):
        load_checkpoint(path)


def test_vit_of_moco_v3_has_twelve_heads_at_small_width(tmp_path):
    expected = vit(width=384, depth=1, heads=12)
    saved = {"state_dict": moco_v3_state(expected, "head")}
    checkpoint = load_checkpoint(write_torch(saved, tmp_path / "vit.pth.tar"))
    assert_loaded(checkpoint.encoder, expected)
    assert checkpoint.encoder.heads == 12


def test_vit_of_moco_v3_without_prefix_is_known_by_its_positions(tmp_path):
    state = to_torch_state_dict(vit(width=384, depth=1, heads=12))
    state["pos_embed"] = to_torch_state_dict(ViT(16, 8, 384, 1, 12))["pos_embed"]
    path = tmp_path / "lincls.safetensors"
    for change, heads in ((0, 12), (1e-2, 6)):
        state["pos_embed"] = state["pos_embed"] + np.float32(change)
        safetensors.numpy.save_file(state, path)
        assert load_checkpoint(path).encoder.heads == heads


def test_number_in_a_name_asks_for_no_network_of_its_size(tmp_path):
    states = {
        "vit": to_torch_state_dict(vit(width=12, depth=1, heads=3)),
        "resnet": to_torch_state_dict(tiny("cifar")),
    }
    for (kind, state), name in zip(
        states.items(), ("blocks.9999999.norm1.weight", "layer1.9999999.bn1.weight")
    ):
        path = tmp_path / f"{kind}.safetensors"
        safetensors.numpy.save_file({**state, name: np.ones(3, np.float32)}, path)
        with pytest.raises(InterchangeError, match=f"1 unexpected: {name}"):
            load_checkpoint(path, heads=3)


def test_vit_in_timms_names_is_built_from_its_shapes(tmp_path):
    expected = vit(width=12, depth=2, heads=3, channels=2)
    path = tmp_path / "vit.safetensors"
    state = {**to_torch_state_dict(expected), "head.weight": np.ones((10, 12))}
    safetensors.numpy.save_file(state, path)
    encoder = load_checkpoint(path, heads=3).encoder
    assert_loaded(encoder, expected)
    images = tf.random.normal((2, 16, 16, 2))
    np.testing.assert_array_equal(encoder(images), expected(images))
    assert load_checkpoint(path).encoder.heads == 1


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"depths": (2, 2, 2, 2), "block": "basic", "width": 4, "name": "resnet18"},
        {"depths": (1, 2, 1, 3), "block": "bottleneck", "width": 2, "channels": 5},
        {"depths": (1, 1, 1, 1), "block": "basic", "width": 3, "stem": "cifar"},
    ],
)
@pytest.mark.parametrize("classifier", [True, False])
def test_any_resnet_is_built_from_its_shapes(tmp_path, suffix, arguments, classifier):
    expected = perturbed(ResNet(**{"name": "resnet", **arguments}))
    state = to_torch_state_dict(expected)
    if classifier:
        state["fc.weight"] = np.ones((10, 8), np.float32)
        state["fc.bias"] = np.ones(10, np.float32)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        write_torch(state, path)
    else:
        safetensors.numpy.save_file(state, path)
    checkpoint = load_checkpoint(path)
    assert_loaded(checkpoint.encoder, expected)
    assert checkpoint.encoder.get_config() == expected.get_config()
    classifier_names = {"fc.weight", "fc.bias"} if classifier else set()
    assert set(checkpoint.left_out) == classifier_names


def tf1_variables(encoder):
    """The port's variables for an encoder, written down layer by layer."""
    variables = {}

    def convolution(layer, conv, norm):
        kernel = encoder.get_layer(conv).kernel.numpy()
        if layer == "conv0":
            kernel = kernel[:, :, ::-1]  # blue comes first there
        bn = encoder.get_layer(norm)
        variables[f"{layer}/W:0"] = kernel
        variables[f"{layer}_bn/gamma:0"] = bn.gamma.numpy()
        variables[f"{layer}_bn/beta:0"] = bn.beta.numpy()
        variables[f"{layer}_bn/mean/EMA:0"] = bn.moving_mean.numpy()
        variables[f"{layer}_bn/variance/EMA:0"] = bn.moving_variance.numpy()

    convolution("conv0", "conv1", "bn1")
    for group, depth in enumerate(encoder.depths):
        for block in range(depth):
            here, there = f"group{group}/block{block}", f"layer{group + 1}_{block}"
            for number in (1, 2, 3):
                names = f"{there}_conv{number}", f"{there}_bn{number}"
                convolution(f"{here}/conv{number}", *names)
            if block == 0:
                names = f"{there}_downsample_0", f"{there}_downsample_1"
                convolution(f"{here}/convshortcut", *names)
    return variables


def test_tensorflow_1_port_gives_the_same_features_from_rgb(tmp_path):
    expected = perturbed(ResNet((1, 2, 1, 1), "bottleneck", 2))
    variables = tf1_variables(expected)
    others = {f"momentum_encoder/{name}": a + 1 for name, a in variables.items()}
    others |= {"linear0_128/W:0": np.ones((64, 128)), "queue:0": np.ones((8, 128))}
    others["conv0/W/Momentum:0"] = variables["conv0/W:0"]
    np.savez(tmp_path / "moco.npz", **variables, **others)
    checkpoint = load_checkpoint(tmp_path / "moco.npz")
    assert checkpoint.kind == "TensorFlow 1 port"
    assert set(checkpoint.left_out) == set(others)
    images = tf.random.normal((2, 40, 40, 3))
    np.testing.assert_allclose(
        checkpoint.encoder(images), expected(images), rtol=1e-4, atol=1e-5
    )
    variables["group0/block0/se_fc1/W:0"] = np.ones((4, 4))
    np.savez(tmp_path / "other.npz", **variables)
    with pytest.raises(InterchangeError, match="1 names .*: group0/block0/se_fc1/W:0;"):
        load_checkpoint(tmp_path / "other.npz")
    # Its batch norm has another epsilon, which the running variance takes over.
    variance = checkpoint.encoder.get_layer("bn1").moving_variance.numpy()
    original = variables["conv0_bn/variance/EMA:0"]
    np.testing.assert_array_equal(variance, original + np.float32(1e-8))


def test_pickled_arrays_in_an_npz_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([Payload(os.getcwd)], dtype=object))
    with pytest.raises(InterchangeError, match="cannot be read as an .npz of plain"):
        load_checkpoint(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.update({"layer2.0.extra.weight": np.ones(3, np.float32)}),
            "1 unexpected: layer2.0.extra.weight",
        ),
        (lambda s: s.pop("layer3.0.bn2.bias"), "1 missing: layer3.0.bn2.bias"),
        (
            lambda s: s.update({"layer4.0.conv1.weight": np.ones((9, 9, 3, 3))}),
            r"layer4.0.conv1.weight \(9, 9, 3, 3\) instead of \(32, 16, 3, 3\)",
        ),
        (lambda s: s.pop("conv1.weight"), "no ResNet in torchvision's names"),
        (
            lambda s: [s.pop(n) for n in list(s) if n.startswith("layer4")],
            "no ResNet in torchvision's names",
        ),
        (
            lambda s: s.update({"conv1.weight": np.ones((4, 3, 5, 5))}),
            "conv1.weight is 5x5",
        ),
        (lambda s: s.clear(), "no ResNet .* but nothing"),
    ],
)
def test_state_that_is_no_such_resnet_is_explained(tmp_path, change, message):
    state = to_torch_state_dict(tiny("cifar"))
    change(state)
    safetensors.numpy.save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(InterchangeError, match=message) as caught:
        load_checkpoint(tmp_path / "weights.safetensors")
    assert "weights.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("pos_embed"), "no square grid"),
        (lambda s: s.update(pos_embed=np.ones((1, 4, 12))), "pos_embed has 3 places"),
        (lambda s: s.pop("blocks.0.attn.qkv.bias"), "1 missing: blocks.0.attn.qkv"),
        (lambda s: s.update(dist_token=np.ones(3)), "1 unexpected: dist_token"),
    ],
)
def test_state_that_is_no_such_vit_is_explained(tmp_path, change, message):
    state = to_torch_state_dict(vit(width=12, depth=1, heads=3))
    change(state)
    safetensors.numpy.save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(InterchangeError, match=message):
        load_checkpoint(tmp_path / "weights.safetensors", heads=3)


def test_checkpoint_without_tensors_is_explained(tmp_path):
    for saved in ({"epoch": 3}, {"state_dict": [1, 2]}, [1, 2], {"model": {1: "a"}}):
        path = as_archive(tmp_path / "a.pth", pickle.dumps(saved))
        with pytest.raises(InterchangeError, match="no (state dict|ResNet)"):
            load_checkpoint(path)
    with pytest.raises(InterchangeError, match="is not a file"):
        load_checkpoint(tmp_path)
