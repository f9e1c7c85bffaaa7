"""Values over a recipe: what they do to images, how often, and what is left alone."""

import colorsys
import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from noise import images_of, seeds_of
from PIL import Image, ImageFilter
from tensorflow import keras

from moco_tf import augment
from moco_tf.augment.seeds import uniforms
from moco_tf.config import Augment, ConfigError, load_config
from moco_tf.config.checks import WITHOUT_BLUR
from moco_tf.pretrain import build
from moco_tf.pretrain.images import Images

COUNT = 2000
# Normalised so, images come out as they are.
AS_THEY_ARE = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}
NOTHING = {"jitter": 0, "grayscale": 0, "blur": 0, "horizontal_flip": 0}
GRADED = np.add.outer(np.arange(16) * 9, np.arange(16) * 5)[None, ..., None]


def views(images, recipe=augment.moco_v2, seed=1, **values):
    """Images after a recipe in which only `values` act, in whole grey levels."""
    own = augment.changed(recipe(**AS_THEY_ARE), **{**NOTHING, **values})
    return np.rint(own(images, seeds_of(len(images), seed)).numpy())


@pytest.mark.parametrize("recipe", [augment.moco_v2, augment.cifar])
@pytest.mark.parametrize(
    ("values", "oracle"),
    [
        ({"grayscale": 0.3}, lambda out, images: np.ptp(out, axis=-1).max((1, 2)) == 0),
        ({"solarize": 0.4}, lambda out, images: np.equal(
            out, np.where(images < 128, images, 255 - images)).all((1, 2, 3))),
        ({"horizontal_flip": 0.2}, lambda out, images: np.equal(
            out, images[:, :, ::-1]).all((1, 2, 3))),
        ({"vertical_flip": 0.35}, lambda out, images: np.equal(
            out, np.flip(images, 1)).all((1, 2, 3))),
        ({"blur": 0.7}, lambda out, images: (
            out.std((1, 2, 3)) < 0.99 * images.std((1, 2, 3)))),
        ({"jitter": 0.6}, lambda out, images: (out != images).any((1, 2, 3))),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)  # fmt: skip
def test_share_of_images_is_the_one_asked_for(recipe, values, oracle):
    images = images_of(COUNT, 8)
    if "blur" in values:  # a radius at which no image keeps its contrast
        values = {**values, "blur_sigma": (1.0, 2.0)}
    out = views(images, recipe, **values)
    (asked,) = [value for name, value in values.items() if name != "blur_sigma"]
    acted = oracle(out, images)
    assert abs(acted.mean() - asked) < 0.05
    others = (out == images).all((1, 2, 3))
    assert (acted ^ others).all()


def test_quarter_turns_are_those_of_rot90_each_as_often():
    images = images_of(COUNT, 8)
    out = views(images, quarter_turns=0.6)
    turned = np.stack(
        [(out == np.rot90(images, k, (1, 2))).all((1, 2, 3)) for k in range(4)], 1
    )
    np.testing.assert_array_equal(turned.sum(1), 1)
    np.testing.assert_allclose(turned.mean(0), [0.4, 0.2, 0.2, 0.2], atol=0.04)


def test_quarter_turns_of_images_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match="images of 8 x 12 pixels.*give square"):
        augment.RandomQuarterTurns()(images_of(4, 12)[:, :8])


@pytest.mark.parametrize("jit_compile", [True, False])
def test_flips_and_turns_are_numpys_compiled_or_not(jit_compile):
    images, seeds = images_of(64), seeds_of(64)
    flip, turn = augment.RandomVerticalFlip(0.5), augment.RandomQuarterTurns(0.75)
    for layer in (flip, turn):
        draws = uniforms(tf.constant(seeds), layer.draws)
        chosen = layer.chosen(draws).numpy()
        quarters = turn.turns(draws).numpy() if layer is turn else 2 * chosen
        expected = [
            np.rot90(image, k) if layer is turn else np.flip(image, 0) if k else image
            for image, k in zip(images, quarters)
        ]
        compiled = tf.function(layer, jit_compile=jit_compile)
        np.testing.assert_array_equal(compiled(images, seeds), expected)
        assert 0 < chosen.mean() < 1


def fires(values, low, high):
    """Whether values are spread evenly from low to high."""
    assert values.min() >= low - 0.02 and values.max() <= high + 0.02
    shares = np.histogram(values, 4, (low, high))[0] / len(values)
    np.testing.assert_allclose(shares, 0.25, atol=0.06)


def test_strengths_are_the_widths_of_factors():
    def alone(**strength):
        return {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "jitter": 1,
                **strength}  # fmt: skip

    plain = np.full((COUNT, 2, 2, 3), 100, np.uint8)
    fires(views(plain, **alone(brightness=0.9))[:, 0, 0, 0] / 100, 0.1, 1.9)

    halves = np.full((COUNT, 2, 2, 3), 110, np.uint8)
    halves[:, 0] = 90
    out = views(halves, **alone(contrast=0.7))
    fires((out[:, 1, 0, 0] - out[:, 0, 0, 0] + 0.5) / 20, 0.3, 1.7)

    coloured = np.full((COUNT, 2, 2, 3), 100, np.uint8)
    coloured[..., 0] = 160
    luma = 0.299 * 160 + 0.701 * 100
    out = views(coloured, **alone(saturation=0.5))
    fires((out[:, 0, 0, 0] - luma + 0.5) / (160 - luma), 0.5, 1.5)

    red = np.zeros((COUNT, 2, 2, 3), np.uint8)
    red[..., 0] = 255
    out = views(red, **alone(hue=0.3))[:, 0, 0] / 255
    turns = np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in out])
    fires((turns + 0.5) % 1 - 0.5, -0.3, 0.3)


def test_blur_has_the_radius_asked_for():
    images = np.repeat((GRADED % 256).astype(np.uint8), 3, axis=-1)
    images = np.concatenate([images, images_of(3, 16)])
    for sigma in (0.8, 5.0):
        out = views(images, blur=1, blur_sigma=(sigma, sigma))
        for image, blurred in zip(images, out):
            pillow = Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma))
            assert np.abs(np.asarray(pillow, float) - blurred).max() <= 1
    own = augment.changed(augment.moco_v2(), blur=1, blur_sigma=(2.0, 4.0))
    (layer,) = [x for x in own.layers if isinstance(x, augment.RandomGaussianBlur)]
    fires(layer.sigmas(uniforms(tf.constant(seeds_of(COUNT)), 2)).numpy(), 2, 4)


RECIPES = [
    augment.moco_v1, augment.moco_v2, augment.moco_v3, augment.simclr, augment.cifar,
]  # fmt: skip


@pytest.mark.parametrize("make", RECIPES, ids=lambda make: make.__name__)
def test_without_values_a_run_has_the_recipe_itself(make):
    recipe = make()
    assert augment.changed(recipe) is recipe
    config = load_config(None, [f"augment.recipe={make.__name__}"])
    own = build._augmentation(config)
    kinds = [type(layer) for layer in recipe.layers]
    assert [type(layer) for layer in own.layers] == kinds
    images, seeds = images_of(8), seeds_of(8)
    # Without XLA, which would compile the same thing twice.
    own, recipe = own.uncompiled(), recipe.uncompiled()
    np.testing.assert_array_equal(own(images, seeds), recipe(images, seeds))


def test_what_is_added_leaves_the_draws_of_the_recipe_alone():
    images = images_of(200, 8)
    recipe = augment.moco_v2(**AS_THEY_ARE).uncompiled()
    plain = np.rint(recipe(images, seeds_of(200)).numpy())
    added = augment.changed(recipe, vertical_flip=0.5)
    added = np.rint(added(images, seeds_of(200)).numpy())
    upright = np.equal(added, plain).all((1, 2, 3))
    flipped = np.equal(added, np.flip(plain, 1)).all((1, 2, 3))
    assert (upright | flipped).all() and 0.4 < flipped.mean() < 0.6


def test_values_keep_the_range_of_the_pixels():
    images, seeds = images_of(4), seeds_of(4)
    wide = tf.cast(images, tf.uint16) * 257
    given = {"vertical_flip": 1.0, "jitter": 0.0, "grayscale": 0.0, "blur": 0.0}
    for make in (augment.moco_v2, augment.moco_v3):
        plain = augment.changed(make(), solarize=0.0, **given).uncompiled()
        own = augment.changed(make(value_range=(0, 65535)), solarize=0.0, **given)
        assert own.value_range == (0, 65535)
        views = own.uncompiled()(wide, seeds)
        np.testing.assert_allclose(views, plain(images, seeds), atol=1e-5)


def test_values_are_read_back_and_survive_serialisation():
    given = {
        "brightness": 0.8,
        "hue": 0.05,
        "jitter": 0.9,
        "grayscale": 0.1,
        "blur": 0.25,
        "blur_sigma": (0.5, 3.0),
        "solarize": 0.3,
        "horizontal_flip": 0.4,
        "vertical_flip": 0.6,
        "quarter_turns": 0.7,
    }
    own = augment.changed(augment.cifar(), **given)
    found = augment.values(own)
    assert {name: found[name] for name in given} == given
    assert (found["contrast"], found["saturation"]) == (0.4, 0.4)
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(own)
    )
    images, seeds = images_of(8), seeds_of(8)
    np.testing.assert_array_equal(
        copy.uncompiled()(images, seeds), own.uncompiled()(images, seeds)
    )
    assert augment.values(augment.changed(own, blur=0))["blur_sigma"] == (0, 0)


def test_both_views_of_an_unequal_recipe_take_a_value():
    own = augment.changed(augment.moco_v3(), solarize=0.5, blur=0.4)
    for layer in (own, own.key):
        found = augment.values(layer)
        assert (found["solarize"], found["blur"], found["hue"]) == (0.5, 0.4, 0.1)


def test_fields_of_the_configuration_are_those_of_changed():
    fields = {field.name for field in dataclasses.fields(Augment)}
    own = fields - {"recipe", "mean", "std", "jit_compile"}
    assert own == set(augment.values(augment.moco_v2()))
    without = [make for make in RECIPES if not augment.values(make())["blur"]]
    assert {make.__name__ for make in without} == set(WITHOUT_BLUR)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["hue=0.6"], "augment.hue=0.6 is out of range; use a value from 0 to 0.5."),
        (["brightness=-1"], "augment.brightness=-1.0 must not be negative"),
        (["blur=1.5"], "augment.blur=1.5 is out of range; use a value from 0 to 1."),
        (["quarter_turns=90"], "augment.quarter_turns=90.0 is out of range"),
        (["blur_sigma=[2,1]"], r"\[2.0, 1.0\] must be two rising numbers of pixels"),
        (["blur_sigma=[0,99]"], "from 0 to 16; use for instance"),
        (["blur_sigma=[1,2]"], "has no effect without a blur; add .*augment.blur=0.5"),
        (["recipe=moco_v2", "blur=0", "blur_sigma=[1,2]"], "without a blur"),
        (["jitter=0", "hue=0.2"], "augment.jitter=0 leaves the jitter out"),
        (
            ["jitter=1", "brightness=0", "contrast=0", "saturation=0", "hue=0"],
            "augment.jitter=1.0 has no effect, as its strengths",
        ),
        (["vertical_flop=1"], "did you mean augment.vertical_flip?"),
    ],
)
def test_values_that_make_no_sense_are_refused(words, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_config(None, [f"augment.{word}" for word in words])


@pytest.mark.parametrize("name", ["hue", "jitter", "grayscale", "solarize"])
def test_colours_without_colours_are_refused(name):
    with pytest.raises(ConfigError, match=f"augment.{name}=0.2 has no effect on ima"):
        load_config(None, ["data.channels=1", f"augment.{name}=0.2"])
    assert load_config(None, ["data.channels=1", f"augment.{name}=0"])
    with pytest.raises(ValueError, match="moco_v2 of 1 channels got values of"):
        augment.changed(augment.moco_v2(channels=1), **{name: 0.2})
    with pytest.raises(ValueError, match="moco_v1 got a blur_sigma, but does not"):
        augment.changed(augment.moco_v1(), blur_sigma=(1, 2))


def test_grey_images_are_flipped_turned_and_blurred():
    images = images_of(64, 8, channels=1)
    none = {"blur": 0, "horizontal_flip": 0}
    recipe = augment.moco_v2(channels=1, mean=(0.0,), std=(1 / 255,))
    own = augment.changed(recipe, **none, vertical_flip=1)
    out = np.rint(own(images, seeds_of(64)).numpy())
    np.testing.assert_array_equal(out, np.flip(images, 1))


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(
        build.log, "info", lambda text, *values: lines.append(text % values)
    )
    return lines


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], None),
        (["augment.hue=0.1", "data.key_crop_scale=[0.2,1]"], None),
        (
            ["augment.hue=0.25", "augment.vertical_flip=0.5", "augment.jitter=0.8"],
            "Augmentation: cifar, but hue=0.25 (0.1), vertical_flip=0.5 (0); in",
        ),
        (
            ["augment.recipe=moco_v3", "augment.blur=0.5", "augment.blur_sigma=[1,2]"],
            "but blur=0.5 (1 and 0.1), blur_sigma=1 to 2 (0.1 to 2);",
        ),
        (
            ["augment.recipe=moco_v3", "augment.solarize=0"],
            "but solarize=0 (0 and 0.2);",
        ),
        (
            ["data.key_crop_scale=[0.05,0.25]"],
            "cifar, but crops of key views 0.05 to 0.25 of the area (0.2 to 1); in",
        ),
    ],
)
def test_what_differs_from_the_recipe_is_said_in_one_line(said, words, line):
    build._augmentation(load_config(None, words))
    if line is None:
        assert said == []
    else:
        (found,) = said
        assert line in found


def test_grid_of_views_shows_the_values(tmp_path, bare):
    """What the grid is drawn from: with nothing but a flip, the crops upside down."""
    words = [f"augment.{name}={value}" for name, value in NOTHING.items()]
    words += ["augment.vertical_flip=1", "data.crop_scale=[1,1]", "encoder.width=4",
              "data.crop_ratio=[1,1]", "data.key_crop_scale=[0.04,0.04]",
              "augment.mean=[0,0,0]", f"augment.std={[1 / 255] * 3}"]  # fmt: skip
    config = load_config(None, words)
    images = Images(config, tf.distribute.get_strategy())
    model = build.build_model(config, images.steps, 1, images.source.num_examples)
    crops = images.shown()
    shown = model.views(crops)
    query = crops["query"].numpy()
    np.testing.assert_array_equal(np.rint(shown.query.numpy()), np.flip(query, 1))
    wholes = [next(iter(images.source.dataset.skip(i)))["image"].numpy()
              for i in crops["id"].numpy()]  # fmt: skip
    np.testing.assert_array_equal(query, wholes)
    # A fifth of each side, enlarged: smooth where the whole image has its shapes.
    key = crops["key"].numpy().astype(float)
    assert (
        np.abs(np.diff(key, axis=2)).mean() < np.abs(np.diff(query / 1, axis=2)).mean()
    )
