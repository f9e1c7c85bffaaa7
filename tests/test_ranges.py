"""Images that are no 8-bit grey levels: 16 bits, real numbers, any channels."""

import colorsys

import numpy as np
import pytest
import tensorflow as tf
from photo_folders import open_folder, photos
from PIL import Image

import moco_tf
from moco_tf.augment import color, gaussian_blur
from moco_tf.data import (
    DataError,
    from_arrays,
    labelled_batches,
    open_source,
    two_views,
)
from moco_tf.data.crops import resized_crop
from moco_tf.data.decoding import decode
from moco_tf.pixels import GREY_LEVELS, Pixels, for_the_eye, to_unit


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 13])
def test_crops_are_pillows_of_real_numbers(dtype, channels):
    random = np.random.default_rng(channels)
    image = random.random((40, 53, channels)) * 65535
    image = image.astype(dtype)
    top, left, height, width = 3, 7, 31, 40
    crop = resized_crop(
        tf.constant(image),
        tf.constant([top, left, height, width]),
        16,
        pixels=Pixels(dtype, 0.0, 65535.0),
    ).numpy()
    assert crop.dtype == dtype
    part = image[top : top + height, left : left + width].astype(np.float32)
    for channel in range(channels):
        expected = Image.fromarray(part[..., channel]).resize((16, 16), Image.BILINEAR)
        # A rounding error of float32, or half a whole number more.
        limit = 0.05 if dtype == "float32" else 0.55
        difference = crop[..., channel].astype(np.float64) - np.asarray(expected)
        assert np.abs(difference).max() < limit


def test_two_views_keep_the_numbers():
    images = np.random.default_rng(0).normal(20, 5, (8, 12, 12, 4)).astype(np.float32)
    source = from_arrays(images, value_range=(-100, 100))
    whole = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}
    (batch,) = two_views(
        source, batch_size=8, image_size=12, channels=4, epochs=1, **whole
    )
    for view in (
        batch["query"],
        tf.gather(batch["key"], tf.argsort(batch["position"])),
    ):
        assert view.dtype == tf.float32
        np.testing.assert_allclose(view, images[batch["id"].numpy()], rtol=1e-6)
    (batch,) = labelled_batches(source, batch_size=8, image_size=12, channels=4)
    np.testing.assert_allclose(batch["image"], images, rtol=1e-6)


def test_beyond_the_range_is_cut_off_and_nan_is_its_low_end():
    image = np.array([-9999, np.nan, -1, 0.5, 3, np.inf, -np.inf], np.float32)
    image = image.reshape(1, -1, 1)
    source = from_arrays(image[None], value_range=(-1, 3))
    pixels = source.pixels
    decoded = decode(tf.constant(image), 1, pixels)
    expected = [-1, -1, -1, 0.5, 3, 3, -1]
    np.testing.assert_array_equal(decoded[0, :, 0], expected)
    unit = (np.array(expected) + 1) / 4
    np.testing.assert_allclose(to_unit(image, (-1, 3))[0, :, 0], unit)
    shown = for_the_eye(image, (-1, 3))
    np.testing.assert_array_equal(shown[0, :, 0], np.uint8(255 * unit + 0.5))


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [("uint8", "uint8"), ("uint16", "uint16"), (">u2", "uint16")]
    + [(other, "float32") for other in ("int16", "int32", "float64", "float16")],
)
def test_arrays_of_any_numbers_are_taken(dtype, kind):
    images = np.arange(64).reshape(1, 8, 8, 1).astype(dtype)
    source = from_arrays(images, value_range=(0, 63))
    assert source.pixels == Pixels(kind, 0, 63)
    (batch,) = labelled_batches(source, batch_size=1, image_size=8, channels=1)
    np.testing.assert_array_equal(batch["image"], images)
    if kind == "float32":
        with pytest.raises(DataError, match=f"dtype {dtype}, .*range.*such as"):
            from_arrays(images)


@pytest.mark.parametrize(
    ("dtype", "value_range"),
    [("uint8", (0, 1)), ("uint8", (0, 65535)), ("uint16", (-5, 100))],
)
def test_range_that_is_none_of_the_numbers_is_refused(dtype, value_range):
    with pytest.raises(
        DataError, match=rf"range=\[.*\] does not fit .*{dtype} numbers"
    ):
        from_arrays(np.zeros((1, 8, 8, 1), dtype), value_range=value_range)


@pytest.fixture
def mixed(tmp_path):
    """Eight files of 8 bits and one of 16, all of the same grey ramp."""
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    for index in range(8):
        Image.fromarray(ramp).save(tmp_path / f"{index}.png")
    Image.fromarray(ramp.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    return tmp_path, ramp


def test_each_file_of_a_mixed_folder_is_scaled_by_its_own_depth(mixed, caplog):
    folder, ramp = mixed
    source = open_folder(folder, channels=1)
    assert source.pixels == Pixels("uint16", 0, 65535)
    assert "1 of 9 images" in caplog.text and "deep.png" in caplog.text
    (batch,) = labelled_batches(source, batch_size=9, image_size=32, channels=1)
    assert batch["image"].dtype == tf.uint16
    expected = np.broadcast_to(ramp[..., None] / 255, batch["image"].shape)
    unit = to_unit(batch["image"], source.pixels.value_range)
    np.testing.assert_allclose(unit, expected, atol=1e-6)
    # A range of 12 bits is that of the deep file; the others keep their share.
    ranged = open_folder(folder, channels=1, value_range=(0, 4095))
    (batch,) = labelled_batches(ranged, batch_size=9, image_size=32, channels=1)
    unit = to_unit(batch["image"], (0, 4095))
    np.testing.assert_allclose(unit[:8], expected[:8], atol=0.5 / 4095)
    np.testing.assert_array_equal(unit[8, :, 8:], 1)


def test_folder_is_decoded_as_an_encoder_asks(mixed, caplog):
    folder, ramp = mixed
    source = open_folder(folder, channels=1, pixels=GREY_LEVELS)
    assert "only the higher 8 are used" in caplog.text
    (batch,) = labelled_batches(source, batch_size=9, image_size=32, channels=1)
    assert batch["image"].dtype == tf.uint8
    np.testing.assert_array_equal(batch["image"][8, ..., 0], ramp)
    (folder / "deep.png").unlink()
    (folder / "only 8 bits").mkdir()
    real = Pixels("float32", -1.0, 1.0)
    source = open_folder(folder, channels=1, pixels=real)
    (batch,) = labelled_batches(source, batch_size=8, image_size=32, channels=1)
    expected = np.broadcast_to(ramp[..., None] / 127.5 - 1, batch["image"].shape)
    np.testing.assert_allclose(batch["image"], expected, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_jpegs_beside_deep_files_keep_their_colours(tmp_path, channels):
    photos(tmp_path, 2, start=100)
    deep = np.full((10, 12), 40000, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    source = open_folder(tmp_path, channels=channels)
    grey = open_folder(tmp_path, channels=channels, pixels=GREY_LEVELS)
    views = [
        next(
            iter(two_views(each, batch_size=3, image_size=8, channels=channels, seed=1))
        )
        for each in (source, grey)
    ]
    for key in ("query", "key"):
        unit = to_unit(views[0][key], source.pixels.value_range)
        np.testing.assert_allclose(unit, views[1][key] / 255, atol=1.6 / 255)


def real_images(count=6, side=9):
    random = np.random.default_rng(4)
    return (255 * random.random((count, side, side, 3))).astype(np.float32)


def test_jitter_of_real_numbers_rounds_nothing():
    images = real_images()
    factors = np.array([0.7, 1.3, 0.6, 0.08], np.float32)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        found = color.color_jitter(
            images,
            tf.constant([order] * len(images)),
            tf.constant([factors] * len(images)),
            whole=False,
        )
        expected = np.stack([jittered(i, order, factors) for i in images / 255])
        np.testing.assert_allclose(found, 255 * expected, atol=2e-3)


def jittered(image, order, factors):
    """torchvision's operations on a float image of 0..1, in NumPy's float64."""
    image = image.astype(np.float64)
    weights = np.array([0.299, 0.587, 0.114])
    for kind in order:
        factor = float(factors[kind])
        if kind == 3:
            hsv = [colorsys.rgb_to_hsv(*pixel) for pixel in image.reshape(-1, 3)]
            rgb = [colorsys.hsv_to_rgb((h + factor) % 1, s, v) for h, s, v in hsv]
            image = np.reshape(rgb, image.shape)
            continue
        luma = (image @ weights)[..., None]
        base = (0, luma.mean(), luma)[kind]
        image = np.clip(base + factor * (image - base), 0, 1)
    return image


def test_blur_and_grey_of_real_numbers_round_nothing():
    images = real_images()
    luma = images @ np.array([0.299, 0.587, 0.114], np.float32)
    grey = color.grayscale(images, whole=False)
    np.testing.assert_allclose(grey, np.repeat(luma[..., None], 3, -1), atol=5e-3)
    rounded = np.rint(images)
    sigma = tf.constant([0.0, 0.3, 0.7, 1.0, 1.5, 2.0])
    blurred = gaussian_blur(rounded, sigma, whole=False).numpy()
    # Six filters that round differ by little from those that do not, and do differ.
    difference = blurred - gaussian_blur(rounded, sigma).numpy()
    assert 0.1 < np.abs(difference).max() < 3
    np.testing.assert_array_equal(blurred[0], rounded[0])
    # What is blurred keeps its mean but for the edges, to no grey level.
    flat = np.full((1, 9, 9, 13), 100.37, np.float32)
    np.testing.assert_allclose(gaussian_blur(flat, [2.0], whole=False), flat, rtol=1e-6)


@pytest.mark.parametrize("name", ["moco_v1", "moco_v2", "moco_v3", "cifar", "simclr"])
@pytest.mark.parametrize("channels", [3, 13])
def test_recipe_is_the_same_for_the_same_shares_of_any_range(name, channels):
    share = np.random.default_rng(1).random((8, 10, 10, channels))
    seeds = tf.reshape(tf.range(16), (8, 2))
    results = []
    for low, high in ((0.0, 1.0), (-1000.0, 3000.0)):
        recipe = getattr(moco_tf.augment, name)(channels, value_range=(low, high))
        recipe = recipe.uncompiled()
        images = (low + (high - low) * share).astype(np.float32)
        results.append([recipe(images, seeds), recipe(images, training=False)])
        again = moco_tf.augment.Recipe.from_config(recipe.get_config())
        np.testing.assert_array_equal(again(images, seeds), results[-1][0])
        normalise = recipe.layers[-1]
        expected = (share - normalise.mean) / normalise.std
        np.testing.assert_allclose(results[-1][1], expected, atol=2e-5)
    np.testing.assert_allclose(results[0][0], results[1][0], atol=2e-2)


def test_compiled_recipe_is_the_uncompiled_one():
    images = np.random.default_rng(0).integers(0, 65536, (4, 16, 16, 3), np.uint16)
    recipe = moco_tf.augment.moco_v2(value_range=(0, 65535))
    seeds = tf.reshape(tf.range(8), (4, 2))
    found, expected = recipe(images, seeds), recipe.uncompiled()(images, seeds)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_packed_set_keeps_16_bits(tmp_path):
    from moco_tf.data.pack import Packing, pack

    images = np.random.default_rng(0).integers(0, 65536, (5, 20, 24), np.uint16)
    (tmp_path / "scans").mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "scans" / f"{index}.png")
    source = open_folder(tmp_path / "scans", channels=1)
    pack({"train": source}, tmp_path / "packed", Packing(channels=1))
    place = {"name": "packed", "data_dir": str(tmp_path), "channels": 1}
    packed = open_source("tfds", "train", **place)
    assert packed.pixels == source.pixels == Pixels("uint16", 0, 65535)
    (batch,) = labelled_batches(packed, batch_size=5, image_size=20, channels=1)
    (asked,) = labelled_batches(source, batch_size=5, image_size=20, channels=1)
    found = {image.numpy().tobytes() for image in batch["image"]}
    assert found == {image.numpy().tobytes() for image in asked["image"]}


def test_packing_refuses_what_no_png_holds(tmp_path):
    from moco_tf.data.pack import Packing, pack

    real = from_arrays(np.zeros((2, 8, 8, 3)), value_range=(0, 1))
    with pytest.raises(DataError, match="cannot be packed"):
        pack({"train": real}, tmp_path / "real", Packing())
    bands = from_arrays(np.zeros((2, 8, 8, 13), np.uint8))
    with pytest.raises(DataError, match="channels=13 cannot be packed"):
        pack({"train": bands}, tmp_path / "bands", Packing(channels=13))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["image", "tensor"])
@pytest.mark.parametrize("dtype", ["uint16", "float32", "int32"])
def test_tfds_sets_of_other_numbers_are_taken(tmp_path, kind, dtype):
    import tensorflow_datasets as tfds

    if kind == "image" and dtype == "int32":
        pytest.skip("TFDS has no such images")
    images = np.random.default_rng(0).integers(0, 1000, (3, 8, 8, 1)).astype(dtype)
    make = tfds.features.Image if kind == "image" else tfds.features.Tensor
    feature = make(shape=(8, 8, 1), dtype=np.dtype(dtype))

    class Numbers(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = tmp_path

        def _info(self):
            features = tfds.features.FeaturesDict({"image": feature})
            return self.dataset_info_from_configs(features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for index, image in enumerate(images):
                yield index, {"image": image}

    Numbers(data_dir=tmp_path).download_and_prepare()
    place = {"name": "numbers", "data_dir": str(tmp_path), "channels": 1}
    source = open_source("tfds", "train", value_range=(0, 1000), **place)
    assert source.pixels.dtype == ("uint16" if dtype == "uint16" else "float32")
    (batch,) = labelled_batches(source, batch_size=3, image_size=8, channels=1)
    found = sorted(image.tobytes() for image in batch["image"].numpy())
    expected = images.astype(source.pixels.dtype)
    assert found == sorted(image.tobytes() for image in expected)
    if dtype != "uint16":
        with pytest.raises(DataError, match="The TFDS set 'numbers' is of .* range"):
            open_source("tfds", "train", **place)
