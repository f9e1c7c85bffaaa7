import json
import pickle

import numpy as np
import pytest
import safetensors
import tensorflow as tf
from networks import MEAN, STD, perturbed, pretrained_of, tiny, torch_resnet
from tensorflow import keras

from moco_tf.encoders import ResNet, ResNet50, ViT
from moco_tf.interchange import (
    FORMATS,
    InterchangeError,
    export,
    load_checkpoint,
    load_pretrained,
    to_torch_state_dict,
)
from moco_tf.interchange.detectron2 import write_detectron2
from moco_tf.interchange.exports import _READ, _WRITE

FILES = {
    "savedmodel": ["folder"],
    "keras": ["a.keras", "a.weights.h5"],
    "torchvision": ["a.pth", "a.safetensors"],
    "timm": ["a.pt"],
    "detectron2": ["a.pkl"],
    "tflite": ["a.tflite"],
    "tflite_int8": ["a.tflite"],
    "onnx": ["a.onnx"],
}


def pixels(size=32, channels=3):
    shape = (2, size, size, channels)
    return np.random.default_rng(9).integers(0, 256, shape, np.uint8)


def normalised(images):
    return ((images / 255.0 - np.array(MEAN)) / np.array(STD)).astype(np.float32)


def torch_features(torch, network, images):
    nchw = torch.from_numpy(normalised(images).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        return network.eval()(nchw).numpy()


@pytest.mark.parametrize(
    ("to", "name"), [(to, name) for to, names in FILES.items() for name in names]
)
def test_every_format_is_written_verified_and_noted(tmp_path, to, name):
    if to == "onnx":
        pytest.importorskip("tf2onnx", reason="tf2onnx is in the onnx extra")
    if name.endswith((".pth", ".pt")):
        pytest.importorskip("torch", reason="PyTorch is in the dev extra")
    path = tmp_path / name
    deviation = export(pretrained_of(tiny()), path, to)
    assert 0 <= deviation <= FORMATS[to].tolerance
    if path.is_dir():
        assert load_pretrained(path).provenance["recipe"] == "demo"
        return
    assert {entry.name for entry in tmp_path.iterdir()} == {name, f"{name}.json"}
    document = json.loads((tmp_path / f"{name}.json").read_text())
    assert (document["recipe"], document["epochs"]) == ("demo", 3)
    assert document["preprocessing"]["centre_crop"] == 32
    assert document["preprocessing"]["mean"] == list(MEAN)
    assert document["encoder"]["class"] == "ResNet"
    assert document["encoder"]["width"] == 4
    assert document.pop("verified")["deviation_of_features"] == deviation
    inside = None
    if name.endswith(".safetensors"):
        with safetensors.safe_open(path, "numpy") as file:
            assert file.metadata()["format"] == "pt"  # else timm refuses it
            inside = file.metadata()["moco_tf"]
    elif to == "onnx":
        (entry,) = pytest.importorskip("onnx").load(path).metadata_props
        inside = entry.value
    assert inside is None or json.loads(inside) == document


def test_every_format_has_a_writer_and_a_reader():
    assert set(FORMATS) == set(_WRITE) == set(_READ) == set(FILES)


@pytest.mark.parametrize("to", FILES)
def test_weights_that_did_not_arrive_are_noticed(tmp_path, monkeypatch, to):
    """The check reads the file itself, so a file of another encoder fails it."""
    if to == "onnx":
        pytest.importorskip("tf2onnx", reason="tf2onnx is in the onnx extra")
    other = pretrained_of(tiny())
    write = _WRITE[to]
    monkeypatch.setitem(_WRITE, to, lambda pretrained, path: write(other, path))
    name = FILES[to][-1]
    if name.endswith(".pt"):
        pytest.importorskip("torch", reason="PyTorch is in the dev extra")
    with pytest.raises(InterchangeError, match=f"the {to} file read back differs"):
        export(pretrained_of(tiny()), tmp_path / name, to)
    assert not list(tmp_path.iterdir())


def test_encoder_without_finite_features_is_refused(tmp_path):
    encoder = tiny()
    # Behind the pooling, which makes a number of NaN.
    last = encoder.trainable_weights[-1]
    last.assign(last * np.nan)
    with pytest.raises(InterchangeError, match="differs from the encoder by nan"):
        export(pretrained_of(encoder), tmp_path / "a.safetensors", "torchvision")


@pytest.fixture(scope="module")
def resnet50():
    return perturbed_gently(ResNet50())


def perturbed_gently(encoder):
    """As `perturbed`, without growing from block to block."""
    rng = np.random.default_rng(3)
    encoder.set_weights(
        [w * rng.uniform(0.9, 1.1, w.shape) for w in encoder.get_weights()]
    )
    for layer in encoder.layers:
        if layer.name.endswith("bn3"):
            layer.gamma.assign(layer.gamma * 0.3)
    return encoder


def test_pytorch_resnet50_with_the_exported_weights_gives_the_features(
    tmp_path, resnet50
):
    torch = pytest.importorskip("torch", reason="PyTorch is in the dev extra")
    pretrained = pretrained_of(resnet50, size=64)
    export(pretrained, tmp_path / "resnet50.pth", "torchvision")
    state = torch.load(tmp_path / "resnet50.pth", weights_only=True)
    network = torch_resnet(torch, (3, 4, 6, 3), "bottleneck", 64, "imagenet")
    network.load_state_dict(state, strict=True)
    got = torch_features(torch, network, pixels(64))
    expected = resnet50(normalised(pixels(64)), training=False).numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_weights_return_from_torch_to_the_bit(tmp_path, name):
    torch = pytest.importorskip("torch", reason="PyTorch is in the dev extra")
    encoder = tiny()
    export(pretrained_of(encoder), tmp_path / name, "timm")
    network = torch_resnet(torch, (1, 1, 1, 1), "basic", 4, "imagenet")
    if name.endswith(".pth"):
        network.load_state_dict(torch.load(tmp_path / name, weights_only=True))
    else:
        from safetensors.torch import load_file

        network.load_state_dict(load_file(tmp_path / name))
        with safetensors.safe_open(tmp_path / name, "numpy") as file:
            assert file.metadata()["format"] == "pt"  # else timm refuses it
    torch.save(network.state_dict(), tmp_path / "back.pth")
    back = load_checkpoint(tmp_path / "back.pth").encoder
    assert len(back.weights) == len(encoder.weights)
    for got, expected in zip(back.get_weights(), encoder.get_weights()):
        np.testing.assert_array_equal(got, expected)


def detectron2_shapes(stages, width=64, depths=(3, 4, 6, 3)):
    """Names and shapes of Detectron2's bottleneck stages, without their prefix."""
    shapes = {}

    def convolution(name, outputs, inputs, size):
        shapes[f"{name}.weight"] = (outputs, inputs, size, size)
        for value in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.norm.{value}"] = (outputs,)

    if "stem" in stages:
        convolution("stem.conv1", width, 3, 7)
    for number, depth in zip((2, 3, 4, 5), depths):
        inner = width * 2 ** (number - 2)
        for block in range(depth) if f"res{number}" in stages else ():
            before = 2 * inner if number > 2 else width
            inputs = 4 * inner if block else before
            name = f"res{number}.{block}"
            if block == 0:
                convolution(f"{name}.shortcut", 4 * inner, inputs, 1)
            convolution(f"{name}.conv1", inner, inputs, 1)
            convolution(f"{name}.conv2", inner, inner, 3)
            convolution(f"{name}.conv3", 4 * inner, inner, 1)
    return shapes


@pytest.mark.parametrize("neck", ["C4", "FPN"])
def test_detectron2_finds_each_tensor_of_its_resnet50(tmp_path, resnet50, neck):
    """Its checkpointer takes, for each name, the longest one that is a suffix of it."""
    write_detectron2(resnet50, tmp_path / "a.pkl")
    content = pickle.loads((tmp_path / "a.pkl").read_bytes())
    assert content["matching_heuristics"] is True
    assert content["__author__"] != "Caffe2"  # whose names would be converted
    tensors = content["model"]
    assert all(isinstance(array, np.ndarray) for array in tensors.values())
    if neck == "C4":
        parts = {"backbone.": ["stem", "res2", "res3", "res4"], "roi_heads.": ["res5"]}
    else:
        parts = {"backbone.bottom_up.": ["stem", "res2", "res3", "res4", "res5"]}
    matched = set()
    for prefix, stages in parts.items():
        for name, shape in detectron2_shapes(stages).items():
            found = [n for n in tensors if f".{prefix}{name}".endswith(f".{n}")]
            assert found, name
            best = max(found, key=len)
            assert tensors[best].shape == shape, name
            assert best not in matched
            matched.add(best)
    spare = set(tensors) - matched
    assert len(matched) == 265
    assert all(name.endswith("num_batches_tracked") for name in spare)


def test_detectron2_file_holds_each_tensor_under_its_own_name(tmp_path, resnet50):
    write_detectron2(resnet50, tmp_path / "a.pkl")
    tensors = pickle.loads((tmp_path / "a.pkl").read_bytes())["model"]
    state = to_torch_state_dict(resnet50)
    for there, here in {
        "stem.conv1.weight": "conv1.weight",
        "stem.conv1.norm.running_var": "bn1.running_var",
        "res2.0.shortcut.weight": "layer1.0.downsample.0.weight",
        "res2.0.shortcut.norm.bias": "layer1.0.downsample.1.bias",
        "res4.5.conv2.weight": "layer3.5.conv2.weight",
        "res5.2.conv3.norm.weight": "layer4.2.bn3.weight",
    }.items():
        np.testing.assert_array_equal(tensors[there], state[here])
    # The order of colours is kept: RGB, as INPUT.FORMAT has to say.
    kernel = resnet50.get_layer("conv1").kernel.numpy()
    np.testing.assert_array_equal(
        tensors["stem.conv1.weight"][:, 0], kernel[:, :, 0].transpose(2, 0, 1)
    )


def test_keras_file_is_the_network_itself(tmp_path):
    encoder = tiny()
    export(pretrained_of(encoder), tmp_path / "a.keras", "keras")
    with pytest.warns(UserWarning, match="updates` will be removed"):
        loaded = keras.models.load_model(tmp_path / "a.keras")
    images = normalised(pixels())
    np.testing.assert_array_equal(loaded(images), encoder(images))


def test_tflite_takes_pixels_and_int8_is_smaller(tmp_path):
    encoder = perturbed(ResNet((1, 1, 1, 1), "basic", 16, "cifar"))
    expected = encoder(normalised(pixels())[:1]).numpy()
    sizes = []
    for to, limit in (("tflite", 1e-4), ("tflite_int8", 0.1)):
        path = tmp_path / f"{to}.tflite"
        export(pretrained_of(encoder), path, to)
        run = tf.lite.Interpreter(str(path)).get_signature_runner("serving_default")
        out = run(images=pixels()[:1].astype(np.float32))
        error = np.linalg.norm(out["features"] - expected) / np.linalg.norm(expected)
        assert error < limit
        np.testing.assert_allclose(np.linalg.norm(out["embedding"]), 1, atol=1e-5)
        sizes.append(path.stat().st_size)
    assert sizes[1] < 0.4 * sizes[0]


def test_onnx_takes_pixels_of_any_number_of_images(tmp_path):
    pytest.importorskip("tf2onnx", reason="tf2onnx is in the onnx extra")
    reference = pytest.importorskip("onnx.reference")
    encoder = tiny()
    export(pretrained_of(encoder), tmp_path / "a.onnx", "onnx")
    session = reference.ReferenceEvaluator(str(tmp_path / "a.onnx"))
    for count in (1, 2):
        images = pixels()[:count]
        feed = {"images": images.astype(np.float32)}
        features, embedding = session.run(["features", "embedding"], feed)
        np.testing.assert_allclose(
            features, encoder(normalised(images)), rtol=1e-3, atol=1e-4
        )
        np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("to", ["savedmodel", "keras", "timm", "tflite", "onnx"])
def test_vit_travels_too(tmp_path, to):
    if to == "onnx":
        pytest.importorskip("tf2onnx", reason="tf2onnx is in the onnx extra")
    encoder = perturbed(ViT(16, 8, width=12, depth=1, heads=3))
    name = "a.safetensors" if to == "timm" else FILES[to][0]
    deviation = export(pretrained_of(encoder, 16), tmp_path / name, to)
    assert deviation <= FORMATS[to].tolerance
    if to == "timm":
        document = json.loads((tmp_path / f"{name}.json").read_text())
        assert document["encoder"]["heads"] == 3
        with safetensors.safe_open(tmp_path / name, "numpy") as file:
            assert file.get_tensor("blocks.0.attn.qkv.weight").shape == (36, 12)
