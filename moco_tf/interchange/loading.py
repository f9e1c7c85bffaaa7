"""The lines that load an exported file in the tool that it is for."""

from __future__ import annotations

import textwrap
from pathlib import Path

from tensorflow import keras

from moco_tf.encoders import ResNet, ViT
from moco_tf.interchange.checkpoints import DEPTHS


def how_to_load(encoder: keras.Model, to: str, out: Path) -> str:
    """What to type to load a file, for a person to read; empty where a page says it.

    Args:
        encoder: that was exported.
        to: a key of `FORMATS`.
        out: the file or folder.
    """
    if to == "savedmodel":
        return f"Check it wherever it goes: python {out}/assets.extra/check.py"
    if to == "keras":
        return _keras(encoder, out)
    if to in ("torchvision", "timm"):
        made = _vit(encoder) if isinstance(encoder, ViT) else _resnet(encoder, to)
        if made is None:
            return textwrap.fill(
                f"Neither torchvision nor timm has a constructor for a ResNet of width "
                f"{encoder.width} (theirs have 64): the file loads into a network of "
                "your own with torchvision's names.",
                80,
            )
        read = f"torch.load({str(out)!r}, weights_only=True)"
        if out.suffix == ".safetensors":
            read = f"safetensors.torch.load_file({str(out)!r})"
        lines = "\n".join(f"  {line}" for line in made)
        return f"Load it with\n{lines}\n  model.load_state_dict({read})"
    return ""


def _keras(encoder, out):
    if out.suffix != ".keras":
        return ""
    package = type(encoder).__module__.partition(".")[0]
    if package not in ("moco_tf", "keras_cv"):
        return ""
    return (
        f"keras.models.load_model needs `import {package}` before it; what loads "
        "without\nany is --to savedmodel."
    )


def _resnet(encoder: ResNet, library: str) -> list[str] | None:
    """Lines that make the ResNet in torch, or None where no constructor can."""
    if encoder.width != 64:
        return None
    config = encoder.get_config()
    channels, depths = config["channels"], config["depths"]
    depth = DEPTHS.get((config["block"], tuple(depths)))
    if library == "timm":
        start, end = "timm.create_model(", "num_classes=0)"
        made = f'"resnet{depth}", '
    else:
        start, end, made = "torchvision.models.", "()", f"resnet{depth}"
    if depth is None:
        block = {"basic": "BasicBlock", "bottleneck": "Bottleneck"}[config["block"]]
        module = f"{library}.models.resnet"
        start, made = f"{module}.ResNet(", f"{module}.{block}, {list(depths)}"
        end = ", num_classes=0)" if library == "timm" else ")"
    lines = [f"model = {start}{made}{end}"]
    if library == "torchvision":
        lines += ["model.fc = torch.nn.Identity()"]
    if encoder.stem == "cifar":
        lines += [f"model.conv1 = torch.nn.Conv2d({channels}, 64, 3, 1, 1, bias=False)"]
        lines += ["model.maxpool = torch.nn.Identity()"]
    elif channels != 3:
        lines += [f"model.conv1 = torch.nn.Conv2d({channels}, 64, 7, 2, 3, bias=False)"]
    return lines


def _vit(encoder: ViT) -> list[str]:
    config = encoder.get_config()
    size, patch = config["image_size"], config["patch_size"]
    return [
        "model = timm.models.VisionTransformer(",
        f"    img_size={size}, patch_size={patch}, in_chans={config['channels']},",
        f"    embed_dim={config['width']}, depth={config['depth']}, "
        f"num_heads={config['heads']}, num_classes=0)",
    ]
