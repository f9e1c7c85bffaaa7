"""The map as one page for a browser, which needs no network."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np

from moco_tf.report.page.frame import document
from moco_tf.report.page.plane import atlas_of, jpeg_address, plane, plane_data

SIDE = 64


def page_of(
    places: np.ndarray,
    names: Sequence[str],
    classes: Sequence[str],
    images: Mapping[int, np.ndarray],
    title: str,
) -> str:
    """An HTML page: drag to move, the wheel to zoom, hover to see name and image.

    Args:
        places: float (images, 2), 0 to 1.
        names: of the images.
        classes: of the images, "" where they have none; give the points their colours.
        images: number of an image -> uint8 (SIDE, SIDE, C); may lack some.
        title: of the page.
    """
    shown = sorted(images)
    atlas, across = atlas_of([images[number] for number in shown], SIDE)
    data = plane_data(places, names, classes, shown, across, SIDE)
    data["atlas"] = jpeg_address(atlas)
    body = f"<h1>{html.escape(title)}</h1>{plane('whole')}"
    return document(title, body, {"map": data}, ("base.js", "map.js"))
