"""A recipe with values of one's own: how strong, how often, and what is added."""

from __future__ import annotations

import collections
from typing import Any

from moco_tf.augment.base import OccasionalLayer
from moco_tf.augment.layers import (
    ColorJitter,
    Normalize,
    RandomGaussianBlur,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomQuarterTurns,
    RandomSolarize,
    RandomVerticalFlip,
)
from moco_tf.augment.recipe import Recipe
from moco_tf.augment.recipes import COLOR_LAYERS

# Value -> the layer that has it, and as which argument; layers in the order in which
# those that a recipe lacks come after its own.
_PLACES: dict[str, tuple[type[OccasionalLayer], str]] = {
    "brightness": (ColorJitter, "brightness"),
    "contrast": (ColorJitter, "contrast"),
    "saturation": (ColorJitter, "saturation"),
    "hue": (ColorJitter, "hue"),
    "jitter": (ColorJitter, "probability"),
    "grayscale": (RandomGrayscale, "probability"),
    "blur": (RandomGaussianBlur, "probability"),
    "blur_sigma": (RandomGaussianBlur, "sigma"),
    "solarize": (RandomSolarize, "probability"),
    "horizontal_flip": (RandomHorizontalFlip, "probability"),
    "vertical_flip": (RandomVerticalFlip, "probability"),
    "quarter_turns": (RandomQuarterTurns, "probability"),
}


def changed(
    recipe: Recipe,
    *,
    brightness: float | None = None,
    contrast: float | None = None,
    saturation: float | None = None,
    hue: float | None = None,
    jitter: float | None = None,
    grayscale: float | None = None,
    blur: float | None = None,
    blur_sigma: tuple[float, float] | None = None,
    solarize: float | None = None,
    horizontal_flip: float | None = None,
    vertical_flip: float | None = None,
    quarter_turns: float | None = None,
) -> Recipe:
    """Makes a recipe with other values; None, for all of them, is the recipe's own.

    What the recipe has stays in its place there; what it lacks comes after that,
    before the normalisation. An operation that never acts is left out. Where the
    recipe treats the two views differently, a value is for both.

    Args:
        recipe: such as `moco_v2()`.
        brightness: strength of the jitter, see `ColorJitter`.
        contrast: the same.
        saturation: the same.
        hue: the same, 0 to 0.5.
        jitter: probability of it, as of all below.
        grayscale: see `RandomGrayscale`.
        blur: see `RandomGaussianBlur`.
        blur_sigma: least and greatest radius of it, in pixels.
        solarize: see `RandomSolarize`.
        horizontal_flip: see `RandomHorizontalFlip`.
        vertical_flip: see `RandomVerticalFlip`.
        quarter_turns: see `RandomQuarterTurns`.

    Returns:
        A recipe of its own, or `recipe` itself where no value is given.

    Raises:
        ValueError: a value is out of range, is of colours where there are other than
            3 channels, or is the radius of a blur that never acts.
    """
    asked = {**locals()}
    given = {name: asked[name] for name in _PLACES if asked[name] is not None}
    if not given:
        return recipe
    arguments: dict[type, dict[str, Any]] = collections.defaultdict(dict)
    for name, value in given.items():
        kind, argument = _PLACES[name]
        arguments[kind][argument] = value
    layers = []
    for layer in recipe.layers:
        if own := arguments.pop(type(layer), None):
            layer = type(layer).from_config({**layer.get_config(), **own})
        layers.append(layer)
    _check_added(recipe, arguments)
    place = next((n for n, x in enumerate(layers) if type(x) is Normalize), len(layers))
    layers[place:place] = [kind(**own) for kind, own in arguments.items()]
    key = None if recipe.key is None else changed(recipe.key, **given)
    return Recipe(
        [layer for layer in layers if _acts(layer)],
        key,
        recipe.jit_compile,
        value_range=recipe.value_range,
        seed=recipe.seed,
        name=recipe.name,
    )


def _check_added(recipe, arguments):
    """Refuses what cannot be added to a recipe."""
    channels = next(
        (len(layer.mean) for layer in recipe.layers if type(layer) is Normalize), 3
    )
    for kind in COLOR_LAYERS:
        if channels != 3 and any(arguments.get(kind, {}).values()):
            raise ValueError(
                f"{recipe.name} of {channels} channels got values of {kind.__name__}, "
                "which is defined for 3 (RGB) only; leave them out."
            )
    if "probability" not in arguments.get(RandomGaussianBlur, {"probability": 0}):
        raise ValueError(
            f"{recipe.name} got a blur_sigma, but does not blur; give blur, its "
            "probability, too."
        )


def _acts(layer):
    if isinstance(layer, ColorJitter) and not any(layer.ranges.values()):
        return False
    return not isinstance(layer, OccasionalLayer) or layer.probability > 0


def values(recipe: Recipe) -> dict[str, Any]:
    """The values that `changed` takes, as a recipe has them; 0 for what it lacks.

    Args:
        recipe: whose own layers are meant, not those of its `key`.

    Returns:
        name -> float, or a pair of them for "blur_sigma", which is (0, 0) without blur.
    """
    settings = {type(layer): layer.get_config() for layer in recipe.layers}
    found: dict[str, Any] = {}
    for name, (kind, argument) in _PLACES.items():
        found[name] = settings.get(kind, {}).get(argument, 0.0)
    found["blur_sigma"] = tuple(found["blur_sigma"] or (0.0, 0.0))
    return found
