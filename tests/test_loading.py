"""What export prints: lines that load the file, and what no constructor can hold."""

from pathlib import Path

import keras_cv
import pytest

from moco_tf.encoders import ResNet, ResNet18, ResNet50, ViTSmall
from moco_tf.interchange.loading import how_to_load


@pytest.mark.parametrize(
    ("encoder", "to", "out", "lines"),
    [
        (ResNet50, "torchvision", "a.pth",
         ["model = torchvision.models.resnet50()", "model.fc = torch.nn.Identity()",
          "model.load_state_dict(torch.load('a.pth', weights_only=True))"]),
        (ResNet50, "timm", "a.safetensors",
         ['model = timm.create_model("resnet50", num_classes=0)',
          "model.load_state_dict(safetensors.torch.load_file('a.safetensors'))"]),
        (lambda: ResNet18(stem="cifar", channels=1), "timm", "a.pth",
         ['model = timm.create_model("resnet18", num_classes=0)',
          "model.conv1 = torch.nn.Conv2d(1, 64, 3, 1, 1, bias=False)",
          "model.maxpool = torch.nn.Identity()",
          "model.load_state_dict(torch.load('a.pth', weights_only=True))"]),
        (lambda: ResNet((1, 1, 1, 1), "basic", channels=4), "torchvision", "a.pt",
         ["model = torchvision.models.resnet.ResNet("
          "torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])",
          "model.fc = torch.nn.Identity()",
          "model.conv1 = torch.nn.Conv2d(4, 64, 7, 2, 3, bias=False)",
          "model.load_state_dict(torch.load('a.pt', weights_only=True))"]),
        (lambda: ViTSmall(image_size=32, patch_size=8), "timm", "a.pth",
         ["model = timm.models.VisionTransformer(",
          "img_size=32, patch_size=8, in_chans=3,",
          "embed_dim=384, depth=12, num_heads=12, num_classes=0)",
          "model.load_state_dict(torch.load('a.pth', weights_only=True))"]),
    ],
)  # fmt: skip
def test_lines_that_load_a_file_in_torch(encoder, to, out, lines):
    first, *printed = how_to_load(encoder(), to, Path(out)).splitlines()
    assert first == "Load it with"
    assert [line.strip() for line in printed] == lines


def test_width_that_no_constructor_has_is_told():
    told = how_to_load(ResNet18(width=16), "torchvision", Path("a.pth"))
    assert "no" in told and "width 16 (theirs have 64)" in " ".join(told.split())


@pytest.mark.parametrize(
    ("encoder", "package"),
    [
        (lambda: ResNet18(width=4), "moco_tf"),
        (lambda: keras_cv.models.ResNetBackbone(
            stackwise_filters=[8], stackwise_blocks=[1], stackwise_strides=[1],
            include_rescaling=False, input_shape=(32, 32, 3)), "keras_cv"),
    ],
)  # fmt: skip
def test_keras_file_says_what_it_needs(encoder, package):
    network = encoder()
    assert f"import {package}" in how_to_load(network, "keras", Path("a.keras"))
    assert not how_to_load(network, "keras", Path("a.weights.h5"))


def test_saved_model_says_how_it_is_checked():
    told = how_to_load(None, "savedmodel", Path("out"))
    assert told.endswith("python out/assets.extra/check.py")
