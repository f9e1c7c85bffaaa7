"""Images on a plane, to be explored in a browser."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from moco_tf.report import look
from moco_tf.report.views import coloured


def plane(kind: str = "") -> str:
    """The HTML that map.js fills with what `plane_data` gave.

    Args:
        kind: "whole" where it is all that a page shows.
    """
    hint = "wheel or double click" if kind else "Ctrl and wheel, or double click,"
    return (
        f'<div class="plane {html.escape(kind)}"><p>'
        '<label><input type="checkbox" name="pictures" checked> pictures</label> '
        '<input name="find" placeholder="part of a name" aria-label="part of a name"> '
        f"<small>drag; {hint} zooms; hover</small></p>"
        '<canvas></canvas><div class="legend"></div></div>'
    )


def plane_data(
    places: np.ndarray,
    names: Sequence[str],
    classes: Sequence[str],
    shown: Sequence[int],
    across: int,
    side: int,
) -> dict[str, Any]:
    """What map.js draws, but for the images, which are "atlas".

    Args:
        places: float (images, 2), 0 to 1.
        names: of the images.
        classes: of the images, "" where they have none; give the points their colours.
        shown: numbers of the images that are in the atlas, in its order.
        across: images in a row of the atlas.
        side: of one of them, in pixels.
    """
    kinds = sorted(set(classes) - {""})
    colours = {
        kind: f"var(--c{number % len(look.COLOURS)})"
        for number, kind in enumerate(kinds)
    }
    place_of = {number: place for place, number in enumerate(shown)}
    return {
        "points": [
            [round(float(x), 4), round(float(y), 4), name, kind, place_of.get(i, -1)]
            for i, ((x, y), name, kind) in enumerate(zip(places, names, classes))
        ],
        "colours": colours,
        "colour": "var(--c0)",
        "across": across,
        "side": side,
    }


def atlas_of(images: Sequence[np.ndarray], side: int) -> tuple[bytes, int]:
    """All images in one JPEG, in rows that make it a square, and how many a row has.

    Args:
        images: uint8 (side, side, C); of none the JPEG is empty.
        side: of each.
    """
    if not len(images):
        return b"", 1
    across = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // across)
    whole = np.full((rows * side, across * side, 3), 255, np.uint8)
    for place, image in enumerate(images):
        top, left = (side * part for part in divmod(place, across))
        whole[top : top + side, left : left + side] = coloured(image)
    return as_jpeg(whole, 80), across


def as_jpeg(image: np.ndarray, quality: int = 90) -> bytes:
    """A picture as a file.

    Args:
        image: uint8 (height, width, 3).
        quality: from 90 on letters and edges keep their colours.
    """
    held = io.BytesIO()
    finer = {"subsampling": 0} if quality >= 90 else {}
    Image.fromarray(image).save(held, "JPEG", quality=quality, **finer)
    return held.getvalue()


def jpeg_address(held: bytes) -> str:
    """A JPEG as an address that holds it; "" of none."""
    if not held:
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(held).decode()
