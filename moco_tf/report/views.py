"""The two augmented views of images, side by side for the eye."""

from __future__ import annotations

import numpy as np


def view_grid(
    query_views: np.ndarray,
    key_views: np.ndarray,
    columns: int = 4,
) -> np.ndarray:
    """The two augmented views of some images side by side, for TensorBoard.

    Args:
        query_views: uint8 (N,H,W,C), or float as normalised for the encoder.
        key_views: the same images' other views, of the same shape.
        columns: pairs in a row.

    Returns:
        uint8 (height, width, 3): pairs in rows, a thin gap inside a pair and a wide
        one between pairs. A channel count other than 3 shows the first, grey.
    """
    left, right = (coloured(_displayable(v)) for v in (query_views, key_views))
    count, height, width, _ = left.shape
    thin, wide = max(1, width // 32), max(4, width // 8)
    columns = min(columns, count)
    rows = -(-count // columns)
    step_y, step_x = height + wide, 2 * width + thin + wide
    grid = np.full((rows * step_y + wide, columns * step_x + wide, 3), 255, np.uint8)
    for i in range(count):
        top = wide + (i // columns) * step_y
        start = wide + (i % columns) * step_x
        middle = start + width + thin
        grid[top : top + height, start : start + width] = left[i]
        grid[top : top + height, middle : middle + width] = right[i]
    return grid


def _displayable(views):
    """Normalised views as uint8: 2.2 deviations either way fill the range."""
    if views.dtype == np.uint8:
        return views
    return np.clip(127.5 + views / 2.2 * 127.5, 0, 255).astype(np.uint8)


def coloured(images: np.ndarray) -> np.ndarray:
    """With three channels, (...,H,W,3): as they are, or the first of them, grey."""
    return images if images.shape[-1] == 3 else np.repeat(images[..., :1], 3, axis=-1)
