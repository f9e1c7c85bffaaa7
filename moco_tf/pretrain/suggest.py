"""Settings that a set of images and a machine suggest, each with its reason."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
import tempfile
import textwrap
from collections.abc import Sequence
from typing import Any

import yaml

from moco_tf.config import Config, load_config
from moco_tf.data.survey import Survey
from moco_tf.pretrain.trial import Machine, Trial

# Fewer give no batch that batch norm in eight groups could split.
FEWEST = 32
# A run that is started in the evening should be done in the morning.
_NIGHT = 12.0
_SIDES = (32, 48, 64, 96, 128, 160, 192, 224)
_BATCHES = (256, 128, 64, 32, 16)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A field, and why it has its value.

    Attributes:
        key: such as "data.image_size".
        value: as YAML has it.
        reason: a sentence or two; empty where it needs none.
    """

    key: str
    value: Any
    reason: str = ""


def hours(settings: Sequence[Setting], found: Survey, measured: Trial) -> float:
    """How long a run with such settings takes."""
    values = {setting.key: setting.value for setting in settings}
    images = values["train.epochs"] * len(found.readable)
    return images / measured.images_per_second / 3600


def suggest(
    folder: pathlib.Path, found: Survey, machine: Machine, measured: Trial | None
) -> list[Setting]:
    """Chooses the fields of a run.

    Args:
        folder: of the images.
        found: what it holds, at least `FEWEST` images.
        machine: that will train.
        measured: steps of this network at this size; None chooses without.
    """
    count = len(found.readable)
    size = _image_size(found, machine)
    batch = _batch_size(count, machine, measured)
    epochs = _epochs(count, measured)
    queue = _queue_size(count, batch.value)
    steps = epochs.value * (count // batch.value)
    return [
        Setting("name", re.sub(r"[^\w.-]+", "_", folder.name).strip("._-") or "photos"),
        Setting("data.source", "folder"),
        Setting("data.data_dir", str(folder)),
        size,
        *_channels(found),
        *_range(found),
        _crop_scale(found, size.value),
        *_max_unreadable(found),
        _recipe(size.value),
        _encoder(count, machine),
        Setting("encoder.width", 64),
        Setting(
            "encoder.stem",
            "cifar" if size.value <= 64 else "imagenet",
            "The first layers of imagenet's stem halve the image twice, which "
            + ("small images cannot spare." if size.value <= 64 else "saves time."),
        ),
        Setting("method.name", "moco"),
        queue,
        Setting(
            "method.mask_same_image",
            True,
            "What the queue holds of a query's own image is no negative.",
        ),
        Setting(
            "method.key_momentum",
            0.999 if steps >= 50_000 else 0.99,
            f"Of {steps:,} steps in all: "
            + (
                "the papers' value, for long runs."
                if steps >= 50_000
                else "a short run needs a key encoder that follows faster than 0.999."
            ),
        ),
        Setting("optimizer.learning_rate", 0.06, "For a batch of 256, as usual."),
        Setting("optimizer.schedule", "cosine"),
        epochs,
        batch,
        Setting("train.checkpoint_every", max(1, epochs.value // 40)),
        *_monitor(found, epochs.value, count),
    ]


def _image_size(found, machine):
    side = found.shorter_side
    most = 224 if machine.gpus else 96
    size = max(n for n in _SIDES if n <= max(min(side, most), _SIDES[0]))
    reason = f"Half of the images have a shorter side of {side} pixels or more"
    if side > most and not machine.gpus:
        reason += "; without a GPU, 224 would take five times as long as 96"
    return Setting("data.image_size", size, f"{reason}.")


def _channels(found):
    if found.channels not in (1, 3):
        reason = "What the files have; a recipe's operations on colours are left out."
        return [Setting("data.channels", found.channels, reason)]
    if found.grey < 0.99 and found.channels == 3:
        return []
    reason = "The images are grey; a recipe's operations on colours are left out."
    return [Setting("data.channels", 1, reason)]


def _range(found):
    if found.span is None:
        return []
    return [
        Setting(
            "data.range",
            list(found.span),
            "Some numbers are not of 8 or 16 bits; these are the least and the "
            "greatest in some of their files. What is known to be black and white, "
            "such as [-1000, 400] of Hounsfield units, is better.",
        )
    ]


def _crop_scale(found, size):
    least = (size / 2 / found.shorter_side) ** 2
    least = min(0.5, max(0.2, math.ceil(100 * least) / 100))
    side = round(math.sqrt(least) * found.shorter_side)
    return Setting(
        "data.crop_scale",
        [least, 1.0],
        f"The smallest crops have about {side} pixels a side before they are resized. "
        "Objects that are small in their pictures want a larger least share.",
    )


def _max_unreadable(found):
    count, bad = len(found.listing.paths), len(found.unreadable)
    if bad <= max(1, 0.01 * count):
        return []
    share = math.ceil(100 * bad / count) / 100
    return [
        Setting(
            "data.max_unreadable",
            share,
            f"{bad} of {count} files cannot be read; a run stops above this share.",
        )
    ]


def _recipe(size):
    if size < 64:
        reason = "MoCo v2's without the blur, which takes what small images have."
        return Setting("augment.recipe", "cifar", reason)
    return Setting(
        "augment.recipe",
        "moco_v2",
        "Pictures without up and down (cells, the ground from above) want "
        "augment.vertical_flip: 0.5 and augment.quarter_turns: 0.75 too; where colour "
        "tells things apart, augment.hue: 0 and augment.grayscale: 0.",
    )


def _encoder(count, machine):
    if machine.gpus and count >= 20_000:
        reason = f"{count:,} images and a GPU are enough for it."
        return Setting("encoder.name", "resnet50", reason)
    reason = "" if machine.gpus else ", and without a GPU"
    reason = f"Small and fast: right for {count:,} images{reason}."
    if count < 5000:
        reason += (
            " So few teach a network little from scratch: where you have weights, name "
            "them by encoder.weights."
        )
    return Setting("encoder.name", "resnet18", reason)


def _batch_size(count, machine, measured):
    shared = [batch for batch in _BATCHES if batch % max(1, machine.gpus) == 0]
    fitting = [batch for batch in shared if 8 * batch <= count] or [_BATCHES[-1]]
    batch = fitting[0]
    reason = f"At least eight steps an epoch of {count:,} images"
    if batch == _BATCHES[0]:
        reason = "The papers' size"
    if measured is None or machine.free_bytes is None:
        return Setting("train.batch_size", batch, f"{reason}; memory was not measured.")
    need, free = measured.bytes_per_image / 2**20, machine.free_bytes / 2**20
    # Half: other programs, the monitor's batches and the cache want some too.
    room = [one for one in fitting if one * need <= free / 2] or [fitting[-1]]
    if room[0] < batch:
        batch = room[0]
        reason = "The largest that takes no more than half of the free memory"
    return Setting(
        "train.batch_size",
        batch,
        f"{reason}; a step takes about {need:.0f} MiB an image, and {free:,.0f} MiB "
        "are free.",
    )


def _queue_size(count, batch):
    share = 2 ** int(math.log2(max(1, count // 4)))
    size = min(65536, max(batch, share))
    reason = "A quarter of the set at most, so that few keys are of the query's image."
    if size == 65536:
        reason = "The papers' size."
    elif size > count // 4:
        reason = "As small as the batch allows: the set is small."
    return Setting("method.queue_size", size, reason)


def _epochs(count, measured):
    wanted = 400 if count < 5000 else 200 if count < 200_000 else 100
    reason = f"Usual for {count:,} images; few images want more passes."
    if measured is None:
        return Setting("train.epochs", wanted, reason)
    per_epoch = count / measured.images_per_second / 3600
    if wanted * per_epoch <= _NIGHT:
        return Setting("train.epochs", wanted, reason)
    affordable = max(1, int(_NIGHT / per_epoch))
    if affordable >= 100:
        affordable = affordable // 10 * 10
    return Setting(
        "train.epochs",
        affordable,
        f"What fits into a night of {_NIGHT:.0f} hours on this machine; {wanted} are "
        f"usual for {count:,} images and would take {wanted * per_epoch:,.0f} hours.",
    )


def _monitor(found, epochs, count):
    if found.test_split:
        return [
            Setting(
                "monitor.every",
                max(1, epochs // 20),
                f"{len(found.classes)} labelled sub-folders: kNN and a linear probe "
                "show as it trains what the features are worth.",
            ),
            Setting("monitor.test_split", found.test_split),
            Setting("monitor.knn_k", min(200, max(1, count // 10))),
        ]
    reason = "No labels, so nothing to measure accuracies on."
    if found.classes:
        reason = (
            f"The {len(found.classes)} sub-folders look like labels, but there is no "
            "part to test on: with train/CLASS/... and test/CLASS/... elsewhere, set "
            "every: 5 and data_dir to that folder."
        )
    return [Setting("monitor.every", 0, reason)]


def as_yaml(settings: Sequence[Setting], about: str, command: str) -> str:
    """A configuration file, with the reasons as comments.

    Args:
        settings: the fields, those of a section one after the other.
        about: what its header says.
        command: that runs it, which the header names.
    """
    lines = [*textwrap.wrap(about, 86), "#", f"Command: {command}"]
    text = "".join("#\n" if line == "#" else f"# {line}\n" for line in lines)
    section = ""
    for setting in settings:
        place, _, field = setting.key.rpartition(".")
        if place != section:
            text, section = text + f"{place}:\n", place
        indent = "  " if place else ""
        for line in textwrap.wrap(setting.reason, 84):
            text += f"{indent}# {line}\n"
        text += indent + _in_yaml(field, setting.value)
    return text


def _in_yaml(field, value):
    how: dict[str, Any] = {"allow_unicode": True, "width": 10**6}
    if isinstance(value, list):  # in brackets, on the same line
        return f"{field}: {yaml.safe_dump(value, default_flow_style=True, **how)}"
    return yaml.safe_dump({field: value}, **how)


def read_back(text: str) -> Config:
    """The configuration that a file of this text would be.

    Raises:
        ConfigError: one sentence on what is wrong.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "config.yaml"
        file.write_text(text, encoding="utf-8")
        return load_config(file)
