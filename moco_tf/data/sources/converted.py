"""Files that TensorFlow does not decode, read by Python libraries: a call for each."""

from __future__ import annotations

import io
import logging
import re

import numpy as np
from PIL import Image

from moco_tf.data.decoding import MAX_PIXELS, as_raw

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NPY = b"\x93NUMPY"


def convert(data: bytes, windowed: bool = True) -> bytes:
    """A file that is neither JPEG nor PNG, as what `decode` takes.

    Args:
        data: the file.
        windowed: of a DICOM file, whether to map its own window to 16 bits; False
            keeps the numbers that it stands for, such as Hounsfield units.

    Returns:
        TIFF, NumPy and DICOM as `as_raw` makes it, all others as PNG; b"" where it
        cannot be read, as TensorFlow would print a traceback of an error.
    """
    try:
        return _convert(data, windowed)
    except Exception:  # of many types, in many libraries
        return b""


def why_unreadable(data: bytes) -> str:
    """What hinders reading a file, in some words; empty where nothing does."""
    try:
        _convert(data, True)
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        # Pillow names the object in memory that it was given.
        return re.sub(r" <_io.BytesIO object.*", "", said[0])[:160]
    return ""


def array_of(data: bytes) -> np.ndarray:
    """Numbers of such a file, uint8, uint16 or float32 (height, width, channels)."""
    raw = _convert(data, True)
    kind = {b"1": "u1", b"2": "<u2", b"4": "<f4"}[raw[3:4]]
    return np.frombuffer(raw[17:], kind).reshape(np.frombuffer(raw[5:17], "<i4"))


def _convert(data, windowed):
    if data.startswith(_NPY):
        return as_raw(_image(np.load(io.BytesIO(data), allow_pickle=False)))
    if data[128:132] == b"DICM":
        return _dicom(data, windowed)
    if data.startswith(_TIFF):
        return _tiff(data)
    return _png(data)


def _image(array):
    """Any array of numbers as uint8, uint16 or float32 (height, width, channels)."""
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or not array.size:
        raise ValueError(
            f"an array of shape {array.shape}, not (height, width[, channels])"
        )
    _require_size(*array.shape[:2])
    if array.dtype == bool:
        return np.uint8(255) * array
    if array.dtype.kind not in "uif":
        raise ValueError(f"an array of {array.dtype}, not of numbers")
    is_whole = array.dtype.kind == "u" and array.dtype.itemsize <= 2
    return array.astype(f"u{array.dtype.itemsize}" if is_whole else np.float32)


def _require_size(height, width):
    if height * width > MAX_PIXELS:
        raise ValueError(f"an image of {height} x {width} pixels")


def _tiff(data):
    """The first page of a TIFF, its bands as channels."""
    import tifffile

    # What it logs of damaged files is said in a sentence of our own.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        if not len(file.pages):
            raise ValueError("a TIFF without a page")
        page = file.pages[0]
        _require_size(page.imagelength, page.imagewidth)
        has_more = len(file.pages) > 1
        try:
            array = page.asarray()
        except Exception:
            # Without imagecodecs: Pillow knows LZW and others, of the plainer kinds.
            try:
                return as_raw(_image(_by_pillow(data)), has_more)
            except OSError:
                pass
            raise
        if page.axes.startswith("S"):  # bands one after the other
            array = np.moveaxis(array, 0, -1)
        kind = int(page.photometric)
        if kind == tifffile.PHOTOMETRIC.PALETTE:
            array = np.moveaxis(page.colormap[:, array] >> 8, 0, -1).astype(np.uint8)
        if kind == tifffile.PHOTOMETRIC.MINISWHITE and array.dtype.kind in "bu":
            array = ~array
        return as_raw(_image(array), has_more)


def _by_pillow(data):
    with Image.open(io.BytesIO(data)) as image:
        if image.mode in ("P", "CMYK", "YCbCr", "LAB"):
            image = image.convert("RGB")
        return np.asarray(image)


def _dicom(data, windowed):
    """The first frame of a DICOM file, after its rescale slope and its window."""
    import pydicom

    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    file = pydicom.dcmread(io.BytesIO(data))
    _require_size(file.Rows, file.Columns)
    frames = int(file.get("NumberOfFrames", 1) or 1)
    array = file.pixel_array
    if frames > 1:
        array = array[0]
    if file.SamplesPerPixel > 1:
        return as_raw(_image(array), frames > 1)
    slope = float(file.get("RescaleSlope", 1))
    start = float(file.get("RescaleIntercept", 0))
    values = array.astype(np.float64) * slope + start
    if not windowed:
        return as_raw(_image(values), frames > 1)
    if file.get("WindowCenter") is not None and file.get("WindowWidth") is not None:
        centre, width = (_first(file[k].value) for k in ("WindowCenter", "WindowWidth"))
        # The standard's LINEAR function, PS3.3 C.11.2.1.2.
        low, high = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    else:  # all that its bits can say
        bits = int(file.BitsStored)
        first = -(2 ** (bits - 1)) if file.PixelRepresentation else 0
        low, high = sorted(slope * n + start for n in (first, first + 2**bits - 1))
    share = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    if file.get("PhotometricInterpretation") == "MONOCHROME1":
        share = 1 - share
    return as_raw(_image(np.uint16(65535 * share + 0.5)), frames > 1)


def _first(value):
    """Of several windows the first."""
    return float(value[0] if hasattr(value, "__len__") else value)


def _png(data):
    with _opened(data) as image:
        has_alpha = "A" in image.getbands() or "transparency" in image.info
        converted = image.convert("RGBA" if has_alpha else "RGB")
    buffer = io.BytesIO()
    converted.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _opened(data):
    if data[4:8] == b"ftyp" and data[8:12] not in (b"avif", b"avis"):
        import pillow_heif

        return pillow_heif.open_heif(data).to_pillow()
    return Image.open(io.BytesIO(data))
