"""The embedded data set: ten shapes, drawn by arithmetic, nothing to fetch."""

from __future__ import annotations

import functools

import numpy as np

from moco_tf.data.sources.source import DataError, Source, from_arrays

NAMES = (
    "triangle", "square", "disc", "star", "cross",
    "L", "arrow", "heart", "bar", "crescent",
)  # fmt: skip
SIZE = 32
COUNTS = {"train": 6144, "test": 2048}

_GRID = 3
_SAMPLES = 2  # per pixel and axis, against jagged edges
_SLIDE = 3  # pixels
_CHUNK = 512


def glyphs(split: str, seed: int = 0) -> Source:
    """Images of 32 x 32 pixels, each a jittered 3 x 3 grid of one shape.

    The class is the shape and nothing else: place, size and slight rotation of the nine
    copies, their brightness on the dark ground, and the noise are random and
    independent of it. There is no colour, which would be a shortcut: an encoder that
    told images apart by colour would need to learn no shape. The ground is nearly
    black because brightness jitter scales it: on a mid-grey ground that jitter hides
    everything two views share, and training collapses. Crops, flips, jitter and
    grayscale leave the class recognisable.

    Args:
        split: "train" (6,144 images) or "test" (2,048); classes occur equally often,
            up to one image.
        seed: another seed is another set. The default is the embedded one.

    Returns:
        A source of uint8 (32, 32, 3) arrays, made in seconds and kept in memory.

    Raises:
        DataError: the split is another.
    """
    if split not in COUNTS:
        raise DataError(
            f"split={split!r} is not in the glyphs; use {' or '.join(COUNTS)}."
        )
    images, labels = draw_glyphs(split, seed)
    return from_arrays(images, labels, NAMES)


@functools.lru_cache(maxsize=4)
def draw_glyphs(split: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws a split; see `glyphs`.

    Returns:
        Images uint8 (count, 32, 32, 3) and labels int64 (count,), both read-only.
    """
    count = COUNTS[split]
    random = np.random.default_rng([seed, list(COUNTS).index(split)])
    labels = random.permutation(np.arange(count) % len(NAMES)).astype(np.int64)
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for label in range(len(NAMES)):
        where = np.flatnonzero(labels == label)
        for start in range(0, len(where), _CHUNK):
            chunk = where[start : start + _CHUNK]
            coverage = _slide(_coverage(label, len(chunk), random), random)
            images[chunk] = _paint(coverage, random)
    images.flags.writeable = labels.flags.writeable = False
    return images, labels


def _coverage(label: int, count: int, random: np.random.Generator) -> np.ndarray:
    """Share of each pixel that a shape covers, 0 to 1.

    Returns:
        float32 (count, SIZE, SIZE).
    """
    cell = SIZE / _GRID
    grid = (count, _GRID, _GRID)
    shift = random.uniform(-0.13, 0.13, (2, *grid)).astype(np.float32) * cell
    radius = random.uniform(0.36, 0.46, (count, 1, 1)) * random.uniform(0.9, 1.1, grid)
    radius = radius.astype(np.float32) * cell
    angle = random.normal(0.0, 0.1, grid).astype(np.float32)
    pixels = (np.arange(SIZE * _SAMPLES, dtype=np.float32) + 0.5) / _SAMPLES
    index = np.minimum((pixels / cell).astype(np.int64), _GRID - 1)
    centre = (np.arange(_GRID, dtype=np.float32) + 0.5) * cell
    within = pixels - centre[index]

    def per_pixel(values):
        return values[:, index][:, :, index]

    cosine, sine = per_pixel(np.cos(angle) / radius), per_pixel(np.sin(angle) / radius)
    down = within[:, None] - per_pixel(shift[0])
    right = within[None, :] - per_pixel(shift[1])
    x, y = cosine * right + sine * down, cosine * down - sine * right
    inside = _inside(NAMES[label], x, y)
    blocks = inside.reshape(count, SIZE, _SAMPLES, SIZE, _SAMPLES)
    return blocks.mean(axis=(2, 4), dtype=np.float32)


def _slide(coverage: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Moves each grid as a whole, round the edges: no pixel stands for a place."""
    count = len(coverage)
    slides = random.integers(-_SLIDE, _SLIDE + 1, (2, count, 1))
    rows, columns = (slides + np.arange(SIZE)) % SIZE
    return coverage[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None]]


def _inside(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points are in the shape of unit radius; y points down."""
    if name == "triangle":
        return (y < 0.75) & (2.0 * np.abs(x) < y + 1.0)
    if name == "square":
        return np.maximum(np.abs(x), np.abs(y)) < 0.78
    if name == "disc":
        return x * x + y * y < 0.85
    if name == "star":
        fifth = np.mod(np.arctan2(x, -y) + np.pi / 5, 2 * np.pi / 5) - np.pi / 5
        along = np.hypot(x, y)
        # An edge runs from the tip (1, 0) to the notch at radius 0.4.
        u, v = along * np.cos(fifth), along * np.abs(np.sin(fifth))
        notch_u, notch_v = 0.4 * np.cos(np.pi / 5), 0.4 * np.sin(np.pi / 5)
        return (u - 1.0) * notch_v + v * (1.0 - notch_u) < 0
    if name == "cross":
        ax, ay = np.abs(x), np.abs(y)
        return (np.minimum(ax, ay) < 0.28) & (np.maximum(ax, ay) < 0.95)
    if name == "L":
        upright = (x > -0.65) & (x < -0.1) & (np.abs(y) < 0.9)
        return upright | ((y > 0.4) & (y < 0.9) & (x > -0.65) & (x < 0.7))
    if name == "arrow":
        head = (y < 0.05) & (np.abs(x) < (y + 1.0) * 0.85)
        return head & (y > -1.0) | ((np.abs(x) < 0.25) & (y > 0.0) & (y < 0.95))
    if name == "heart":
        lobes = (np.abs(x) - 0.42) ** 2 + (y + 0.35) ** 2 < 0.22
        return lobes | ((np.abs(x) * 1.12 + y < 0.85) & (y > -0.3))
    if name == "bar":
        return (np.abs(x) < 0.98) & (np.abs(y) < 0.32)
    if name == "crescent":
        return (x * x + y * y < 0.92) & ((x - 0.45) ** 2 + y * y > 0.55)
    raise ValueError(f"No shape is called {name!r}.")


def _paint(coverage: np.ndarray, random: np.random.Generator) -> np.ndarray:
    count = len(coverage)
    # A free ground would tell images apart, and no shape would have to be learnt.
    ground = random.uniform(10.0, 20.0, (count, 1, 1))
    contrast = random.uniform(100.0, 220.0, (count, 1, 1))
    grey = (ground + contrast * coverage).astype(np.float32)[..., None]
    noise = random.standard_normal((*coverage.shape, 3), dtype=np.float32)
    return np.clip(np.rint(grey + 8.0 * noise), 0, 255).astype(np.uint8)
