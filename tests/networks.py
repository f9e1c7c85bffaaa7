"""Networks for tests: with telling weights, to export, and a ResNet in PyTorch."""

import pathlib

import numpy as np

from moco_tf.encoders import ResNet
from moco_tf.interchange import Pretrained

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def perturbed(encoder, seed=0):
    """Gives every weight a value that shows when it is used wrongly."""
    rng = np.random.default_rng(seed)
    encoder.set_weights(
        [
            w * rng.uniform(0.7, 1.3, w.shape) + 0.05 * rng.uniform(size=w.shape)
            for w in encoder.get_weights()
        ]
    )
    return encoder


def tiny(stem="imagenet", **kwargs):
    """A ResNet that is made in no time."""
    return perturbed(ResNet((1, 1, 1, 1), "basic", 4, stem, name="tiny", **kwargs))


def pretrained_of(encoder, size=32):
    """An encoder as if it came from a run, to export."""
    channels = encoder.input_shape[-1]
    return Pretrained(
        encoder=encoder,
        image_size=size,
        resize=size + 4,
        channels=channels,
        mean=MEAN[:channels],
        std=STD[:channels],
        provenance={"recipe": "demo", "data": "glyphs", "epochs": 3},
        config=None,
        digest="0" * 64,
        path=pathlib.Path("nowhere"),
    )


def torch_resnet(torch, depths, block, width, stem):
    """The same network written down in PyTorch, with torchvision's module names."""
    nn = torch.nn

    def conv(inputs, outputs, size, stride=1):
        return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)

    class Block(nn.Module):
        def __init__(self, inputs, filters, stride):
            super().__init__()
            outputs = filters * (4 if block == "bottleneck" else 1)
            if block == "bottleneck":
                self.conv1 = conv(inputs, filters, 1)
                self.conv2 = conv(filters, filters, 3, stride)
                self.conv3 = conv(filters, outputs, 1)
                self.bn3 = nn.BatchNorm2d(outputs)
            else:
                self.conv1 = conv(inputs, filters, 3, stride)
                self.conv2 = conv(filters, outputs, 3)
            self.bn1, self.bn2 = nn.BatchNorm2d(filters), nn.BatchNorm2d(filters)
            self.downsample = None
            if stride > 1 or inputs != outputs:
                self.downsample = nn.Sequential(
                    conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
                )

        def forward(self, x):
            shortcut = x if self.downsample is None else self.downsample(x)
            y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
            if block == "bottleneck":
                y = self.bn3(self.conv3(y.relu()))
            return (y + shortcut).relu()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            size, stride = (3, 1) if stem == "cifar" else (7, 2)
            self.conv1 = conv(3, width, size, stride)
            self.bn1 = nn.BatchNorm2d(width)
            inputs = width
            for stage, depth in enumerate(depths):
                blocks = []
                for index in range(depth):
                    stride = 2 if stage and not index else 1
                    blocks.append(Block(inputs, width * 2**stage, stride))
                    inputs = width * 2**stage * (4 if block == "bottleneck" else 1)
                setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))

        def forward(self, x):
            x = self.bn1(self.conv1(x)).relu()
            if stem == "imagenet":
                x = nn.functional.max_pool2d(x, 3, 2, 1)
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return x.mean((2, 3))

    return Net()
