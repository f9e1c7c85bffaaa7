"""Which kinds of image file there are, by their endings, and what reads them."""

from __future__ import annotations

import functools
import importlib.util

from PIL import features

# What TensorFlow decodes.
DIRECT = (".jpg", ".jpeg", ".jpe", ".jfif", ".png")
# What Pillow makes a PNG of, of 8 bits.
CONVERTED = (".bmp", ".gif", ".webp", ".avif", ".heic", ".heif")
# What keeps its own numbers, of any depth and any number of channels.
ARRAYS = (".tif", ".tiff", ".npy", ".dcm", ".dicom")
# Images that are not read, of which a line tells.
UNKNOWN = (
    ".jp2", ".jxl", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf",
    ".rw2", ".svg",
)  # fmt: skip
EXTRA = "images"
# The packages of that extra, by what they read.
_PACKAGES = {
    ".tif": "tifffile", ".tiff": "tifffile", ".dcm": "pydicom", ".dicom": "pydicom",
    ".heic": "pillow_heif", ".heif": "pillow_heif",
}  # fmt: skip


@functools.cache
def is_readable(ending: str) -> bool:
    """Whether what reads a known kind of file is installed here."""
    if ending == ".avif":  # of older releases of Pillow some builds have it
        return bool(features.check("avif"))
    package = _PACKAGES.get(ending)
    return package is None or importlib.util.find_spec(package) is not None


def of_extra(ending: str) -> bool:
    """Whether it is the extra that reads such files."""
    return ending in _PACKAGES
