"""MoCo v3 and its encoders once more in plain PyTorch, as an oracle for tests."""

import math
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

# TensorFlow's GELU has it rounded; what follows is then equal to all digits.
ROOT_OF_2 = float(np.float32(math.sqrt(2)))


class PlainViT(nn.Module):
    """A vision transformer with timm's module names."""

    def __init__(self, image_size, patch_size, width, depth, heads):
        super().__init__()
        count = (image_size // patch_size) ** 2
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch_size, patch_size)
        self.patch_embed.requires_grad_(False)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + count, width), False)
        self.blocks = nn.ModuleList(PlainBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images):
        x = self.patch_embed.proj(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


class PlainBlock(nn.Module):
    """One block, with an attention that goes head by head."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.qkv = nn.Linear(width, 3 * width)
        self.attn.proj = nn.Linear(width, width)
        self.mlp.fc1 = nn.Linear(width, 4 * width)
        self.mlp.fc2 = nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.attn.proj(self.attend(self.attn.qkv(self.norm1(x))))
        hidden = self.mlp.fc1(self.norm2(x))
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / ROOT_OF_2))
        return x + self.mlp.fc2(hidden)

    def attend(self, tokens):
        queries, keys, values = tokens.chunk(3, dim=2)
        mixed = []
        for q, k, v in zip(*(t.chunk(self.heads, 2) for t in (queries, keys, values))):
            scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[2])
            mixed.append(scores.softmax(2) @ v)
        return torch.cat(mixed, 2)


class PlainConvNet(nn.Module):
    """One convolution with batch norm."""

    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 5, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)

    def forward(self, images):
        return self.bn1(self.conv1(images)).relu().mean((2, 3))


def plain_mlp(sizes, last_batch_norm):
    """Linear layers without bias, batch norm and ReLU between them."""
    layers = []
    for index, (inputs, outputs) in enumerate(zip(sizes, sizes[1:])):
        last = index == len(sizes) - 2
        layers.append(nn.Linear(inputs, outputs, bias=False))
        if not last:
            layers += [nn.BatchNorm1d(outputs), nn.ReLU()]
        elif last_batch_norm:
            layers.append(nn.BatchNorm1d(outputs, affine=False))
    return nn.Sequential(*layers)


def plain_loss(query, keys, temperature):
    """InfoNCE of each query, one similarity after the other."""
    losses = []
    for index in range(len(query)):
        logits = [
            torch.dot(query[index], key) / (query[index].norm() * key.norm())
            for key in keys
        ]
        logits = torch.stack(logits) / temperature
        losses.append(torch.log(torch.exp(logits).sum()) - logits[index])
    return torch.stack(losses).mean()


def plain_lars_step(parameters, velocities, rate, momentum, decay, trust):
    """One step of LARS; velocities is a dict that is filled."""
    with torch.no_grad():
        for parameter in parameters:
            update = parameter.grad
            if parameter.dim() > 1:
                update = update + decay * parameter
                if parameter.norm() > 0 and update.norm() > 0:
                    update = update * trust * parameter.norm() / update.norm()
            velocity = velocities.get(parameter, torch.zeros_like(parameter))
            velocities[parameter] = momentum * velocity + update
            parameter -= rate * velocities[parameter]


def to_plain(model):
    """The state dict of a Keras model whose layers have torch's names, "_" for "."."""
    state = {}
    for layer in model._flatten_layers(include_self=False, recursive=False):
        if not layer.weights:
            continue
        name = re.sub(r"^blocks_(\d+)_(attn|mlp)?_?", _block, layer.name)
        name = re.sub(r"^(patch_embed|head|fc|predictor)_", r"\1.", name)
        arrays = {v.name.split("/")[-1].split(":")[0]: v.numpy() for v in layer.weights}
        for ours, array in arrays.items():
            theirs = {
                "kernel": ".weight",
                "gamma": ".weight",
                "bias": ".bias",
                "beta": ".bias",
                "moving_mean": ".running_mean",
                "moving_variance": ".running_var",
                "token": "",
                "table": "",
            }[ours]
            if ours == "kernel":
                array = array.transpose((3, 2, 0, 1) if array.ndim == 4 else (1, 0))
            state[name + theirs] = torch.tensor(np.ascontiguousarray(array))
    return state


def _block(match):
    number, part = match.groups()
    return f"blocks.{number}." + (f"{part}." if part else "")


def images_to_torch(images):
    """Images (N, H, W, C) as torch's (N, C, H, W), in float64."""
    return torch.tensor(np.transpose(images, (0, 3, 1, 2)), dtype=torch.float64)
