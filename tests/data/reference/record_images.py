"""What torchvision and Pillow make of given images, for `record.py`."""

from __future__ import annotations

import functools

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision import transforms
from torchvision.transforms import functional as images_of

NORMAL = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def augmented(given):
    """What torchvision makes of images with given draws."""
    inputs = (
        "images", "brightness_factor", "contrast_factor", "saturation_factor",
        "hue_factor", "blur_sigma", "crop_box", "jitter_order", "jitter_factor",
        "chain_box", "chain_order", "chain_v1_factor", "chain_v2_factor", "chain_gray",
        "chain_v2_jitter", "chain_v2_blur", "chain_v2_sigma", "chain_flip", "eval_in_0",
        "eval_in_1", "eval_in_2", "eval_resize", "eval_crop", "rrc_image_hw",
    )  # fmt: skip
    record = {name: given[name] for name in inputs}
    pictures = [Image.fromarray(image) for image in given["images"]]

    def each(function, *parameters):
        """(images, draws, ...) of a function of a picture and one of each parameter."""
        made = [[function(p, *draw) for draw in zip(*parameters)] for p in pictures]
        return np.stack([[np.asarray(one) for one in row] for row in made])

    for name in ("brightness", "contrast", "saturation", "hue"):
        adjust = getattr(images_of, f"adjust_{name}")
        record[f"{name}_out"] = each(adjust, given[f"{name}_factor"])
    grey = functools.partial(images_of.to_grayscale, num_output_channels=3)
    record["gray_out"] = np.stack([np.asarray(grey(picture)) for picture in pictures])
    record["hflip_out"] = np.stack([np.asarray(images_of.hflip(p)) for p in pictures])
    record["blur_out"] = each(blurred, given["blur_sigma"])
    record["crop_out"] = each(cropped, given["crop_box"])
    record["jitter_out"] = each(jittered, given["jitter_order"], given["jitter_factor"])
    draws = range(len(given["chain_box"]))
    record["chain_v1_out"] = each(functools.partial(chain_v1, given), draws)
    record["chain_v2_out"] = each(functools.partial(chain_v2, given), draws)
    record["chain_v2_normalised"] = np.stack(
        [
            NORMAL(images_of.to_tensor(image)).permute(1, 2, 0).numpy()
            for image in record["chain_v2_out"][:, 0]
        ]
    )
    for i, (shorter, size) in enumerate(zip(given["eval_resize"], given["eval_crop"])):
        resized = images_of.resize(Image.fromarray(given[f"eval_in_{i}"]), int(shorter))
        record[f"eval_resize_out_{i}"] = np.asarray(resized)
        cut = images_of.center_crop(resized, int(size))
        record[f"eval_out_{i}"] = np.asarray(cut)
    torch.manual_seed(7)
    for name, least in (("pretrain", 0.2), ("lincls", 0.08)):
        record[f"rrc_draws_{name}"] = np.array(
            [
                [
                    transforms.RandomResizedCrop.get_params(
                        torch.empty(3, *sides), (least, 1.0), (3 / 4, 4 / 3)
                    )
                    for _ in range(4000)
                ]
                for sides in given["rrc_image_hw"]
            ],
            np.int16,
        )
    return record


def blurred(picture, sigma):
    """As the official `GaussianBlur`, with a given sigma."""
    return picture.filter(ImageFilter.GaussianBlur(radius=float(sigma)))


def cropped(picture, box):
    """The box (top, left, height, width) on 64 x 64 pixels."""
    return images_of.resized_crop(picture, *map(int, box), [64, 64])


def jittered(picture, order, factors):
    """Brightness, contrast, saturation and hue in a given order."""
    adjust = (
        images_of.adjust_brightness, images_of.adjust_contrast,
        images_of.adjust_saturation, images_of.adjust_hue,
    )  # fmt: skip
    for operation in order:
        picture = adjust[operation](picture, float(factors[operation]))
    return picture


def chain_v1(given, picture, draw):
    """MoCo v1's augmentation with given draws."""
    picture = cropped(picture, given["chain_box"][draw])
    if given["chain_gray"][draw]:
        picture = images_of.to_grayscale(picture, 3)
    factors = given["chain_v1_factor"][draw]
    picture = jittered(picture, given["chain_order"][draw], factors)
    return images_of.hflip(picture) if given["chain_flip"][draw] else picture


def chain_v2(given, picture, draw):
    """MoCo v2's augmentation with given draws."""
    picture = cropped(picture, given["chain_box"][draw])
    if given["chain_v2_jitter"][draw]:
        factors = given["chain_v2_factor"][draw]
        picture = jittered(picture, given["chain_order"][draw], factors)
    if given["chain_gray"][draw]:
        picture = images_of.to_grayscale(picture, 3)
    if given["chain_v2_blur"][draw]:
        picture = blurred(picture, given["chain_v2_sigma"][draw])
    return images_of.hflip(picture) if given["chain_flip"][draw] else picture
