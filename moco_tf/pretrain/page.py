"""A run's page, written while it trains."""

from __future__ import annotations

import contextlib
import json
import logging
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Callable

import numpy as np
from PIL import Image
from tensorflow import keras

from moco_tf.cluster import find_cluster
from moco_tf.config import Config
from moco_tf.data.labelled import evenly_spread
from moco_tf.evaluation.knn.gallery import Album
from moco_tf.evaluation.map.places import principal_places
from moco_tf.mistakes import Mistake, reason
from moco_tf.report.page.facts import PARTS
from moco_tf.report.page.plane import as_jpeg, atlas_of, plane_data
from moco_tf.report.page.run import (
    FINISHED,
    STOPPED,
    UNDER_WAY,
    page_path,
    write_run_page,
)
from moco_tf.report.views import coloured
from moco_tf.stops import Stopped

log = logging.getLogger("moco_tf")

# Seconds after which the page of a run with long epochs is written again.
_SOON = 60.0
# Images on the map, and the side of one of them in pixels.
_PLACED, _SIDE = 500, 32

Pictures = Mapping[str, Callable[[int], "np.ndarray | None"]]


@contextlib.contextmanager
def page_kept(config: Config, run_dir: pathlib.Path) -> Iterator[RunPage]:
    """Keeps a run's page: written at its start, and when it stops.

    Args:
        config: the run.
        run_dir: where it is, held by this process.
    """
    cluster = find_cluster()
    page = RunPage(config, run_dir, is_first_host=not (cluster and cluster.index))
    page.write(UNDER_WAY)
    try:
        yield page
    except Stopped as stop:
        saved = f", saved up to {stop.saved}" if stop.saved else ""
        page.write(STOPPED, f"It was asked to stop{saved}.")
        raise
    except BaseException as error:
        said = str(error) if isinstance(error, Mistake) else reason(error)
        page.write(STOPPED, said)
        raise


class RunPage(keras.callbacks.Callback):
    """Writes the page when an epoch has new pictures, or has taken long.

    What goes wrong with it is said once, and never ends a run. Put it behind what draws
    the pictures and writes the history.

    Args:
        config: the run.
        run_dir: where it is.
        is_first_host: whether this is the host that writes.
    """

    def __init__(self, config: Config, run_dir: pathlib.Path, is_first_host: bool):
        super().__init__()
        self.config, self.run_dir = config, run_dir
        self.is_first_host = is_first_host
        self._said = self._has_new = False
        self._written = 0.0
        self._atlas: tuple[bytes, int] | None = None
        # Otherwise Keras turns the logs into numbers for it.
        self._supports_tf_logs = True

    @property
    def path(self) -> pathlib.Path:
        """Where the page is."""
        return page_path(self.run_dir)

    def keeping(self, pictures: Pictures, album: Album) -> Pictures:
        """The same pictures; whatever of them is drawn is on the page too.

        Args:
            pictures: as `moco_tf.pretrain.watch.board_pictures` gives them.
            album: whose features are on the page's map whenever neighbours are drawn.
        """
        if not self.is_first_host:
            return pictures

        def kept(tag, draw):
            def drawn(epochs):
                picture = draw(epochs)
                if picture is not None:
                    # Their features are at hand then: nothing is encoded for the map.
                    self._keep(tag, picture, album if tag == "neighbours" else None)
                return picture

            return drawn

        return {tag: kept(tag, draw) for tag, draw in pictures.items()}

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Writes the page where there are pictures of before training."""
        if self._has_new:
            self.write(UNDER_WAY)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Writes the page when its turn has come."""
        if self._has_new or time.monotonic() - self._written > _SOON:
            self.write(UNDER_WAY)

    def write(self, state: str, why: str = "") -> None:
        """Writes the page, or says once why that cannot be done.

        Args:
            state: `UNDER_WAY`, `STOPPED` or `FINISHED`.
            why: it stopped, a sentence.
        """
        if self.is_first_host:
            with self._harmless():
                write_run_page(self.run_dir, self.config, state, why)
            self._has_new, self._written = False, time.monotonic()

    def finish(self) -> None:
        """Writes the page of a finished run."""
        self.write(FINISHED)

    def _keep(self, tag, picture, album):
        with self._harmless():
            folder = self.run_dir / "report" / PARTS
            folder.mkdir(exist_ok=True)
            name = tag.partition("/")[0]
            (folder / f"{name}.jpg").write_bytes(as_jpeg(picture))
            if album is not None:
                self._place(album, folder)
            self._has_new = True

    def _place(self, album, folder):
        images, labels = album.load()
        rows = evenly_spread(len(images), _PLACED)
        places = principal_places(album.features()[rows])
        kinds = [
            album.class_names[label] if 0 <= label < len(album.class_names) else ""
            for label in labels[rows]
        ]
        names = [
            album.file_names[row] if len(album.file_names) else f"image {row}"
            for row in rows
        ]
        if self._atlas is None:  # the images stay the same
            small = [_reduced(images[row]) for row in rows]
            self._atlas = atlas_of(small, _SIDE)
            (folder / "map.jpg").write_bytes(self._atlas[0])
        shown, across = range(len(rows)), self._atlas[1]
        data = plane_data(places, names, kinds, shown, across, _SIDE)
        text = json.dumps(data, ensure_ascii=False)
        (folder / "map.json").write_text(text, encoding="utf-8")

    @contextlib.contextmanager
    def _harmless(self):
        try:
            yield
        except Exception as error:  # a run of days must not end for its page
            if not self._said:
                log.warning(
                    "The run's page is not written (%s); the run goes on without it.",
                    reason(error),
                )
            self._said = True


def _reduced(image):
    """A small copy of an image, uint8 (_SIDE, _SIDE, 3)."""
    image = Image.fromarray(np.ascontiguousarray(coloured(image)))
    return np.asarray(image.resize((_SIDE, _SIDE), Image.BOX))
