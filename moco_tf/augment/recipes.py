"""Published augmentation recipes as one Keras layer each.

The random resized crop, which comes first in all of them, is made on the host by the
input pipeline. A recipe is a layer from uint8 or float32 0..255 (or what `value_range`
says, of any type) to float32; its `key` is the layer of key views where these are
treated differently. All are made from

    channels: of the images. Colour operations exist for RGB only: with another number
        the recipes leave them out, and log it; blur, flip and normalisation remain.
    mean: per channel, for values 0..1; None is that of the data set named (ImageNet
        unless said), or 0.5 unless RGB.
    std: as mean; None is 0.25 unless RGB.
    value_range: low and high of images that are no 8-bit grey levels, mapped first to
        0..1, to which mean and std refer; what is beyond is cut off. Blur and colour
        operations then round to no grey levels.

and raise ValueError for no channels or another number of values than channels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Optional

from moco_tf.augment.layers import (
    ColorJitter,
    Normalize,
    RandomGaussianBlur,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomSolarize,
)
from moco_tf.augment.recipe import Recipe
from moco_tf.pixels import ValueRange

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2023, 0.1994, 0.2010)

_Values = Optional[Sequence[float]]
COLOR_LAYERS = (ColorJitter, RandomGrayscale, RandomSolarize)
_logger = logging.getLogger(__name__)


def _recipe(
    name,
    layers,
    channels,
    mean,
    std,
    value_range,
    rgb_statistics=(IMAGENET_MEAN, IMAGENET_STD),
) -> Recipe:
    if channels < 1:
        raise ValueError(f"{name} got channels={channels}; give 1 or more.")
    if channels != 3:
        left_out = [
            type(item).__name__ for item in layers if type(item) in COLOR_LAYERS
        ]
        layers = [item for item in layers if type(item) not in COLOR_LAYERS]
        _logger.info(
            "%s: %s left out, images have %d channels and colour operations are "
            "defined for 3 (RGB) only.",
            name,
            " and ".join(left_out),
            channels,
        )
        rgb_statistics = ((0.5,) * channels, (0.25,) * channels)
    mean = rgb_statistics[0] if mean is None else tuple(mean)
    std = rgb_statistics[1] if std is None else tuple(std)
    for key, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise ValueError(
                f"{name} got {len(values)} values of {key} for {channels} channels; "
                "give one per channel."
            )
    return Recipe([*layers, Normalize(mean, std)], value_range=value_range, name=name)


def moco_v1(
    channels: int = 3,
    mean: _Values = None,
    std: _Values = None,
    value_range: ValueRange = None,
) -> Recipe:
    """MoCo v1: grayscale, jitter of everything by 0.4 always, flip, normalisation.

    Source: He et al. 2020; the official code's default augmentation.
    """
    layers = [
        RandomGrayscale(0.2),
        ColorJitter(0.4, 0.4, 0.4, 0.4),
        RandomHorizontalFlip(0.5),
    ]
    return _recipe("moco_v1", layers, channels, mean, std, value_range)


def moco_v2(
    channels: int = 3,
    mean: _Values = None,
    std: _Values = None,
    value_range: ValueRange = None,
) -> Recipe:
    """MoCo v2 ("aug+"): jitter of 0.8 of the images, grayscale, blur of half, flip.

    Source: Chen et al. 2020 (MoCo v2); the official code's `--aug-plus`.
    """
    layers = [
        ColorJitter(0.4, 0.4, 0.4, 0.1, probability=0.8),
        RandomGrayscale(0.2),
        RandomGaussianBlur((0.1, 2.0), 0.5),
        RandomHorizontalFlip(0.5),
    ]
    return _recipe("moco_v2", layers, channels, mean, std, value_range)


def cifar(
    channels: int = 3,
    mean: _Values = None,
    std: _Values = None,
    value_range: ValueRange = None,
) -> Recipe:
    """The official CIFAR-10 demo: flip, jitter of 0.8 of the images, grayscale.

    Normalised by the statistics of CIFAR-10.

    Source: the official CIFAR-10 demo of MoCo.
    """
    layers = [
        RandomHorizontalFlip(0.5),
        ColorJitter(0.4, 0.4, 0.4, 0.1, probability=0.8),
        RandomGrayscale(0.2),
    ]
    statistics = (CIFAR_MEAN, CIFAR_STD)
    return _recipe("cifar", layers, channels, mean, std, value_range, statistics)


def moco_v3(
    channels: int = 3,
    mean: _Values = None,
    std: _Values = None,
    value_range: ValueRange = None,
) -> Recipe:
    """MoCo v3: as v2 with a weaker jitter, and the two views treated differently.

    Query views are all blurred; of key views a tenth is blurred and a fifth solarised.

    Source: Chen et al. 2021 (arXiv 2104.02057), section 4 and its code; Grill et al.
    2020 (BYOL, arXiv 2006.07733).
    """
    views = {
        "moco_v3": [RandomGaussianBlur((0.1, 2.0), 1.0)],
        "moco_v3_key": [RandomGaussianBlur((0.1, 2.0), 0.1), RandomSolarize(0.2)],
    }
    query, key = (
        _recipe(
            name,
            [
                ColorJitter(0.4, 0.4, 0.2, 0.1, probability=0.8),
                RandomGrayscale(0.2),
                *blur,
                RandomHorizontalFlip(0.5),
            ],
            channels,
            mean,
            std,
            value_range,
        )
        for name, blur in views.items()
    )
    return Recipe(query.layers, key=key, value_range=value_range, name="moco_v3")


def simclr(
    channels: int = 3,
    mean: _Values = None,
    std: _Values = None,
    value_range: ValueRange = None,
) -> Recipe:
    """SimCLR on ImageNet: flip, strong jitter of 0.8 of the images, grayscale, blur.

    The original crops bicubically (here bilinearly), has a kernel of a tenth of the
    image's side for the blur (here as long as sigma asks) and does not normalise;
    effects not measured.

    Source: Chen et al. 2020 (SimCLR, arXiv 2002.05709), appendix A.
    """
    layers = [
        RandomHorizontalFlip(0.5),
        ColorJitter(0.8, 0.8, 0.8, 0.2, probability=0.8),
        RandomGrayscale(0.2),
        RandomGaussianBlur((0.1, 2.0), 0.5),
    ]
    return _recipe("simclr", layers, channels, mean, std, value_range)
