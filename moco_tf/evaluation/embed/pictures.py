"""The pictures behind embeddings, a few at a time, for the eye."""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
from collections.abc import Iterable

import numpy as np

from moco_tf.data.labelled import subset
from moco_tf.data.pipeline import labelled_batches
from moco_tf.data.sources import DataError, Source, open_source
from moco_tf.data.sources.listing import shown_name
from moco_tf.data.sources.places import find_images
from moco_tf.evaluation.embed.embeddings import Embeddings
from moco_tf.evaluation.settings import AnyData
from moco_tf.pixels import Pixels, for_the_eye

log = logging.getLogger("moco_tf")

_SIDE = 128


class Pictures:
    """Finds the images of embeddings where they lie, or where the user says.

    Args:
        embeddings: whose files note where their images are.
        data: fields that are not null are of where the images lie now.
    """

    def __init__(self, embeddings: Embeddings, data: AnyData):
        self._names = embeddings.names
        self._origins: list[tuple[int, int, dict]] = []
        start = 0
        given = dataclasses.asdict(data)
        given["kind"] = given.pop("source")
        changed = {key: value for key, value in given.items() if value is not None}
        for origin in embeddings.origins:
            # Those of a file that notes none may yet be told.
            place = origin.about.get("place", {"split": "train"})
            about = {**origin.about, "place": {**place, **changed}}
            self._origins.append((start, start + origin.count, about))
            start += origin.count
        self._opened: dict[str, tuple[Source | None, dict[str, int]]] = {}

    def load(self, rows: Iterable[int], side: int = _SIDE) -> dict[int, np.ndarray]:
        """Central squares of some images.

        Args:
            rows: which.
            side: in pixels.

        Returns:
            row -> uint8 (side, side, C); rows whose image cannot be had are left out.
        """
        wanted = sorted({int(row) for row in rows})
        found: dict[int, np.ndarray] = {}
        for start, end, about in self._origins:
            here = [row for row in wanted if start <= row < end]
            if not here:
                continue
            source, places = self._open(about)
            if source is None:
                continue
            ids: dict[int, list[int]] = {}
            for row in here:
                number = row - start + about.get("first", 0)
                if places:
                    number = places.get(self._names[row], -1)
                if 0 <= number < source.num_examples:
                    ids.setdefault(number, []).append(row)
            if not ids:
                continue
            images = thumbnails(source, ids, about.get("channels", 3), side)
            for number, image in images.items():
                for row in ids[number]:
                    found[row] = image
        return found

    def files(self) -> list[tuple[pathlib.Path, int] | None]:
        """Path and size in bytes of each image, None where it is no file."""
        found: list[tuple[pathlib.Path, int] | None] = [None] * len(self._names)
        for start, end, about in self._origins:
            place = about["place"]
            if place.get("kind") != "folder":
                continue
            try:
                listing = find_images(place["data_dir"], place["split"])
            except DataError as error:
                log.warning("Copies of files are not looked for: %s", error)
                continue
            known = {
                shown_name(path): (listing.root / path, int(size))
                for path, size in zip(listing.paths, listing.sizes)
            }
            for row in range(start, end):
                found[row] = known.get(self._names[row])
        return found

    def _open(self, about):
        """The source of some rows, and the ids of its files' names; None: none."""
        place = about["place"]
        key = json.dumps(place, sort_keys=True)
        if key not in self._opened:
            source, names = None, {}
            if "kind" in place:
                try:
                    channels = about.get("channels", 3)
                    source = open_source(
                        **place, channels=channels, pixels=_pixels(about)
                    )
                    names = {n: number for number, n in enumerate(source.file_names)}
                except DataError as error:
                    log.warning("Their pictures are not shown: %s", error)
            else:
                log.warning(
                    "Their pictures are not shown, as the file does not say where they "
                    "are; add --data.source=folder --data.data_dir=FOLDER."
                )
            self._opened[key] = source, names
        return self._opened[key]


def thumbnails(
    source: Source, ids: Iterable[int], channels: int = 3, side: int = _SIDE
) -> dict[int, np.ndarray]:
    """Central squares of some images of a source, for the eye.

    Args:
        source: the images.
        ids: of which of them; at least one.
        channels: of the images.
        side: in pixels.

    Returns:
        id -> uint8 (side, side, C).
    """
    wanted = sorted({int(number) for number in ids})
    few = subset(source, np.array(wanted))
    batches = labelled_batches(
        few, batch_size=64, image_size=side, resize=side, channels=channels
    )
    images = (image for batch in batches for image in batch["image"].numpy())
    value_range = few.pixels.value_range
    return {n: for_the_eye(image, value_range) for n, image in zip(wanted, images)}


def _pixels(about):
    """The numbers that the images were decoded to; None where nobody noted them."""
    return Pixels.from_note(about["pixels"]) if "pixels" in about else None
