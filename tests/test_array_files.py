"""TIFF, NumPy, DICOM, HEIC and AVIF files, read with the numbers that they hold."""

import io
import logging
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from commands import ROOT
from photo_folders import elements, open_folder, photos
from PIL import Image, features

from moco_tf.data import DataError, labelled_batches, two_views
from moco_tf.data.decoding import as_raw, decode
from moco_tf.data.sources import formats, readable
from moco_tf.data.sources.converted import convert, why_unreadable
from moco_tf.pixels import GREY_LEVELS, Pixels, to_unit

tifffile = pytest.importorskip("tifffile")
ODD = "möbius (1) [x].tif"


def array(dtype, channels, size=(12, 14), seed=0):
    random = np.random.default_rng(seed)
    shape = size if channels == 1 else (*size, channels)
    if np.dtype(dtype).kind == "f":
        return random.normal(0, 100, shape).astype(dtype)
    most = np.iinfo(dtype).max
    return random.integers(0, most, shape, endpoint=True).astype(dtype)


def decoded(data, channels, pixels, windowed=True):
    """What the pipeline makes of a file."""
    raw = convert(data, windowed)
    assert raw, why_unreadable(data)
    return decode(tf.constant(raw), channels, pixels, raw=True).numpy()


def tiff(image, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image, **options)
    return buffer.getvalue()


def npy(image):
    buffer = io.BytesIO()
    np.save(buffer, image)
    return buffer.getvalue()


@pytest.mark.parametrize("write", [tiff, npy])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", ">u2"])
def test_files_keep_their_numbers(write, dtype, channels):
    image = array(dtype, channels)
    name = {">u2": "uint16", "float64": "float32"}.get(dtype, dtype)
    most = 1e4 if name == "float32" else np.iinfo(name).max
    low = -1e4 if name == "float32" else 0
    more = {"photometric": "minisblack"} if write is tiff and channels > 1 else {}
    if more:
        more["planarconfig"] = "contig"
    found = decoded(write(image, **more), channels, Pixels(name, low, most))
    assert found.dtype == name
    np.testing.assert_array_equal(found, image.reshape(12, 14, channels).astype(name))


@pytest.mark.parametrize("how", ["planar", "big", "tiles", "deflate", "big-endian"])
def test_tiff_of_any_layout_is_read(how):
    image = array("uint16", 13)
    options = {
        "planar": {"planarconfig": "separate"},
        "big": {"bigtiff": True},
        "tiles": {"tile": (16, 16)},
        "deflate": {"compression": "zlib"},
        "big-endian": {"byteorder": ">"},
    }[how]
    given = np.moveaxis(image, -1, 0) if how == "planar" else image
    contig = {"planarconfig": "contig", "photometric": "minisblack"}
    data = tiff(given, **{**contig, **options})
    found = decoded(data, 13, Pixels("uint16", 0, 65535))
    np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16", "F", "1", "P"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_what_pillow_writes_is_what_pillow_reads(mode, compression):
    values = array("uint8", 3)
    if mode == "I;16":
        image = Image.fromarray(array("uint16", 1))
    elif mode == "F":
        image = Image.fromarray(array("float32", 1))
    elif mode == "P":
        image = Image.fromarray(values).quantize(16)
    else:
        image = Image.fromarray(values).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", compression=compression)
    expected = np.asarray(image.convert("RGB") if mode == "P" else image)
    expected = expected * np.uint8(255) if mode == "1" else expected
    expected = expected.reshape(12, 14, -1)
    pixels = {"I;16": Pixels("uint16", 0, 65535), "F": Pixels("float32", -1e4, 1e4)}
    channels = expected.shape[-1]
    found = decoded(buffer.getvalue(), channels, pixels.get(mode, GREY_LEVELS))
    np.testing.assert_array_equal(found, expected)


def test_white_may_be_zero():
    image = array("uint8", 1)
    found = decoded(tiff(image, photometric="miniswhite"), 1, GREY_LEVELS)
    np.testing.assert_array_equal(found[..., 0], 255 - image)


def test_first_page_is_read_and_that_said(tmp_path, caplog):
    pages = array("uint8", 3, (12, 14)).transpose(2, 0, 1)
    with tifffile.TiffWriter(tmp_path / "pages.tif") as file:
        for page in pages:
            file.write(page, photometric="minisblack", contiguous=False)
    tifffile.imwrite(tmp_path / ODD, pages[0], photometric="minisblack")
    with caplog.at_level(logging.WARNING):
        source = open_folder(tmp_path, channels=1)
    assert source.num_examples == 2 and source.file_names == [ODD, "pages.tif"]
    assert "1 of 2 images" in caplog.text and "pages.tif" in caplog.text
    assert ODD not in caplog.text
    (batch,) = labelled_batches(source, batch_size=2, image_size=12, channels=1)
    np.testing.assert_array_equal(batch["image"][0], batch["image"][1])


def test_other_channels_are_named_with_what_was_found_and_expected(tmp_path):
    for index in range(3):
        np.save(tmp_path / f"{index}.npy", array("uint8", 4))
    with pytest.raises(DataError) as caught:
        open_folder(tmp_path, channels=13)
    said = str(caught.value)
    assert "3 of 3 images" in said
    assert "0.npy (it has 4 channels and not channels=13)" in said
    assert "set channels to what the images have" in said
    assert open_folder(tmp_path, channels=4).num_examples == 3
    photos(tmp_path, 1)
    with pytest.raises(DataError, match=r"000.jpg \(such a file has no channels=13\)"):
        open_folder(tmp_path, channels=13)


def test_one_that_does_not_fit_is_left_out_and_named(tmp_path, caplog):
    for index in range(5):
        np.save(tmp_path / f"{index}.npy", array("uint8", 13))
    np.save(tmp_path / "features.npy", np.zeros((2, 3, 4, 5)))
    with caplog.at_level(logging.WARNING):
        source = open_folder(tmp_path, channels=13)
    assert source.num_examples == 5 and source.raw and not source.num_classes
    assert "features.npy (an array of shape (2, 3, 4, 5)" in caplog.text
    (batch,) = two_views(source, batch_size=5, image_size=8, channels=13, epochs=1)
    assert batch["query"].shape == (5, 8, 8, 13)


def test_array_that_is_no_image_beside_the_classes_leaves_their_labels(tmp_path):
    for name in ("cat", "dog"):
        photos(tmp_path / name, 2)
    np.save(tmp_path / "labels.npy", np.arange(4))
    source = open_folder(tmp_path)
    assert source.class_names == ("cat", "dog") and list(source.labels) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "content", [b"", b"II*\0", b"\x93NUMPY", b"\x93NUMPY\1\0v\0{'descr': '|O'}", None]
)
@pytest.mark.parametrize("suffix", ["tif", "npy", "dcm", "heic", "avif"])
def test_damaged_files_are_left_out(tmp_path, caplog, suffix, content):
    if not formats.is_readable(f".{suffix}"):
        pytest.skip("the extra 'images' is not whole")
    for index in range(3):
        np.save(tmp_path / f"{index}.npy", array("uint8", 3))
    content = tiff(array("uint8", 3))[:300] if content is None else content
    (tmp_path / f"bad.{suffix}").write_bytes(content)
    assert open_folder(tmp_path).num_examples == 3
    assert f"bad.{suffix}" in caplog.text


def test_pickles_are_not_opened(tmp_path):
    touched = tmp_path / "touched"

    class Evil:
        def __reduce__(self):
            return (open, (str(touched), "w"))

    objects = np.array([[Evil()]], dtype=object)
    assert convert(npy(objects)) == b"" and not touched.exists()


def test_mixed_numbers_have_one_range(tmp_path):
    ramp = np.linspace(0, 1, 16, dtype=np.float32)[None].repeat(16, axis=0)
    Image.fromarray(np.uint8(255 * ramp + 0.5)).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", np.uint16(65535 * ramp + 0.5))
    np.save(tmp_path / "c.npy", 10 * ramp - 5)
    np.save(tmp_path / "d.npy", np.int32(np.rint(10 * ramp - 5)))
    with pytest.raises(DataError, match=r"2 of 4 images.*c.npy, d.npy.*data.range"):
        open_folder(tmp_path, channels=1)
    source = open_folder(tmp_path, channels=1, value_range=(-5, 5))
    (batch,) = labelled_batches(source, batch_size=4, image_size=16, channels=1)
    unit = to_unit(batch["image"], source.pixels.value_range).numpy()[..., 0]
    for image, limit in zip(unit, (0.5 / 255, 1e-4, 1e-6, 0.051)):
        np.testing.assert_allclose(image, ramp, atol=limit)
    with pytest.raises(DataError, match="real numbers and not uint8"):
        open_folder(tmp_path, channels=1, pixels=GREY_LEVELS)


def dicom(path, stored, **more):
    pydicom = pytest.importorskip("pydicom")
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.SOPClassUID, file.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    if stored.ndim == 3:
        file.NumberOfFrames = len(stored)
    file.Rows, file.Columns = stored.shape[-2:]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
    file.PixelRepresentation = int(stored.dtype.kind == "i")
    file.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    for name, value in more.items():
        setattr(file, name, value)
    buffer = io.BytesIO()
    if pydicom.__version__.startswith("2"):
        file.is_little_endian, file.is_implicit_VR = True, False
        file.save_as(buffer, write_like_original=False)
    else:
        file.save_as(buffer, enforce_file_format=True)
    path.write_bytes(buffer.getvalue())


def test_dicom_has_its_own_window_or_the_range_given(tmp_path, caplog):
    stored = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)
    scaled = {"RescaleSlope": 2, "RescaleIntercept": -1024}
    window = {"WindowCenter": [40, 300], "WindowWidth": [400, 1500]}
    dicom(tmp_path / "a.dcm", stored, **scaled, **window)
    dicom(tmp_path / "b", np.stack([stored, 0 * stored]), **scaled)
    inverted = {"PhotometricInterpretation": "MONOCHROME1"}
    dicom(tmp_path / "c.dcm", stored, **scaled, **inverted)
    units = stored * 2.0 - 1024
    with caplog.at_level(logging.WARNING):
        source = open_folder(tmp_path, channels=1)
    assert source.file_names == ["a.dcm", "b", "c.dcm"]
    assert "more pages or frames than the first" in caplog.text
    assert source.pixels == Pixels("uint16", 0, 65535)
    (batch,) = labelled_batches(source, batch_size=3, image_size=16, channels=1)
    found = batch["image"].numpy()[..., 0] / 65535
    # PS3.3 C.11.2.1.2.1, pseudo code: ((x - (c - 0.5)) / (w - 1) + 0.5), cut off.
    windowed = np.clip((units - 39.5) / 399 + 0.5, 0, 1)
    whole = stored / 4095
    for image, expected in zip(found, (windowed, whole, 1 - whole)):
        np.testing.assert_allclose(image, expected, atol=1e-5)
    ranged = open_folder(tmp_path, channels=1, value_range=(-1000, 400))
    (batch,) = labelled_batches(ranged, batch_size=3, image_size=16, channels=1)
    for image in batch["image"].numpy()[..., 0]:
        np.testing.assert_allclose(image, np.clip(units, -1000, 400))


@pytest.mark.parametrize("suffix", ["heic", "avif"])
def test_heic_and_avif_are_photographs(tmp_path, suffix):
    if suffix == "heic":
        heif = pytest.importorskip("pillow_heif")
        save = lambda image, path: heif.from_pillow(image).save(path)  # noqa: E731
    elif not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    else:
        save = lambda image, path: image.save(path)  # noqa: E731
    save(Image.new("RGB", (32, 24), (200, 100, 50)), tmp_path / f"phone.{suffix}")
    source = open_folder(tmp_path)
    assert source.pixels == GREY_LEVELS and not source.raw
    (element,) = elements(source)
    image = decode(tf.constant(element["image"]), 3).numpy()
    assert image.shape == (24, 32, 3)
    assert np.abs(image.astype(int) - (200, 100, 50)).max() < 8


@pytest.fixture
def no_extra(monkeypatch):
    """As where the extra is not installed."""
    find = formats.importlib.util.find_spec
    absent = {"tifffile", "pydicom", "pillow_heif"}
    formats.is_readable.cache_clear()
    monkeypatch.setattr(
        formats.importlib.util,
        "find_spec",
        lambda name, *rest: None if name in absent else find(name, *rest),
    )
    yield
    formats.is_readable.cache_clear()


def test_absent_extra_is_named_with_how_many_need_it(tmp_path, caplog, no_extra):
    for name in ("a.tif", "b.TIFF", "c.dcm", "d.heic"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"1 .tif.*'images' reads them: `pip install"):
        open_folder(tmp_path)
    (tmp_path / "e.psd").write_bytes(b"")
    photos(tmp_path, 2)
    with caplog.at_level(logging.WARNING):
        assert open_folder(tmp_path).num_examples == 2
    assert "the 4 of them that it knows" in caplog.text
    assert "'images'" in caplog.text and "2 others are" in caplog.text


def test_raw_bytes_are_read_without_python():
    for image in (array("uint8", 3), array("uint16", 13), array("float32", 2)):
        channels, kind = image.shape[-1], image.dtype.name
        pixels = Pixels(kind, -1e4 if kind == "float32" else 0, 65535)
        read = tf.function(lambda d: decode(d, channels, pixels, raw=True))  # noqa: B023
        data = tf.constant(as_raw(image))
        np.testing.assert_array_equal(read(data), image)
        operations = {
            op.type for op in read.get_concrete_function(data).graph.get_operations()
        }
        assert not operations & {"PyFunc", "EagerPyFunc"}


def test_data_service_is_refused_where_only_python_reads(tmp_path):
    for index in range(2):
        np.save(tmp_path / f"{index}.npy", array("uint8", 3))
    source = open_folder(tmp_path)
    with pytest.raises(DataError, match="cannot read TIFF, NumPy and DICOM files"):
        two_views(source, batch_size=2, image_size=8, service="grpc://localhost:1")


def test_what_libraries_log_of_damaged_files_is_not_shown(tmp_path):
    for index in range(3):
        np.save(tmp_path / f"{index}.npy", array("uint8", 13))
    (tmp_path / "bad.tif").write_bytes(b"II*\0junk")
    script = (
        "from moco_tf.data import open_source\n"
        f"open_source('folder', 'train', data_dir={str(tmp_path)!r}, channels=13)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "bad.tif (a TIFF without a page)" in done.stderr
    assert "TiffPages" not in done.stderr and "Traceback" not in done.stderr


def test_unreadable_arrays_are_tried_again(tmp_path, monkeypatch):
    """A package that reads them may have been installed since."""
    for index in range(4):
        np.save(tmp_path / f"{index}.npy", array("uint8", 3))
    monkeypatch.setattr(readable, "convert", lambda data, windowed: b"")
    with pytest.raises(DataError, match="4 of 4 images"):
        open_folder(tmp_path)
    monkeypatch.undo()
    assert open_folder(tmp_path).num_examples == 4
