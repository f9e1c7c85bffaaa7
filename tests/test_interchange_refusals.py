"""Exports that cannot be made: one sentence, and nothing half-written or lost."""

import dataclasses
import sys

import pytest
from networks import pretrained_of, tiny

from moco_tf.encoders import ViT
from moco_tf.interchange import InterchangeError, export


@pytest.mark.parametrize(
    ("to", "name", "encoder", "message"),
    [
        ("pdf", "a.pdf", tiny, "format 'pdf' is unknown; use savedmodel, keras"),
        ("onnx", "a[1].onnx", tiny, "in it, which TensorFlow reads as a pattern"),
        ("onnx", "a.pth", tiny, "should end in .onnx; rename it"),
        ("torchvision", "a", tiny, "should end in .pth or .pt or .safetensors"),
        ("detectron2", "a.pkl", lambda: tiny("cifar"), "is no ResNet with the 7x7"),
        ("torchvision", "a.pth", lambda: ViT(16, 8, 12, 1, 3), "export to timm"),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(
    tmp_path, to, name, encoder, message
):
    with pytest.raises(InterchangeError, match=message):
        export(pretrained_of(encoder()), tmp_path / name, to)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("module", "to", "name", "message"),
    [
        ("torch", "timm", "a.pth", "torch, which is not installed.*safetensors"),
        ("tf2onnx", "onnx", "a.onnx", "tf2onnx, which is not installed"),
    ],
)
def test_missing_package_is_named(tmp_path, monkeypatch, module, to, name, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InterchangeError, match=message):
        export(pretrained_of(tiny()), tmp_path / name, to)
    assert not list(tmp_path.iterdir())


def test_file_is_not_written_without_its_note(tmp_path):
    path = tmp_path / "a.safetensors"
    (tmp_path / "a.safetensors.json").mkdir()
    with pytest.raises(InterchangeError, match="a.safetensors.json is a folder"):
        export(pretrained_of(tiny()), path, "timm")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors.json"]
    (tmp_path / "a.safetensors.json").rmdir()
    circular = {}
    circular["itself"] = circular
    pretrained = dataclasses.replace(pretrained_of(tiny()), provenance=circular)
    with pytest.raises(ValueError, match="Circular"):
        export(pretrained, path, "timm")
    assert not list(tmp_path.iterdir())


def test_earlier_file_is_replaced_only_by_a_sound_one(tmp_path):
    path = tmp_path / "a.safetensors"
    first = pretrained_of(tiny())
    export(first, path, "timm")
    before = path.read_bytes()
    with pytest.raises(InterchangeError):
        export(pretrained_of(ViT(16, 8, 12, 1, 3)), path, "torchvision")
    assert path.read_bytes() == before
    again = dataclasses.replace(first, encoder=tiny())
    export(again, path, "timm")
    assert path.read_bytes() != before
