"""What a command on unlabelled images works on: opened, or encoded first."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from matplotlib.figure import Figure

from moco_tf.config import ConfigError
from moco_tf.config.reader import plain
from moco_tf.evaluation.cache import digest_of
from moco_tf.evaluation.embed.embeddings import Embeddings
from moco_tf.evaluation.embed.making import asked_images, embed_images
from moco_tf.evaluation.embed.pictures import Pictures
from moco_tf.evaluation.embed.reading import open_embeddings
from moco_tf.evaluation.given import Given
from moco_tf.evaluation.results.output import (
    of_images,
    plain_name,
    results_folder,
    write_results,
)
from moco_tf.evaluation.settings import AnyData, Extraction
from moco_tf.interchange import Pretrained
from moco_tf.log import say
from moco_tf.paths import is_remote

log = logging.getLogger("moco_tf")


class Settings(Protocol):
    """What the settings of all these commands have."""

    @property
    def out(self) -> str | None:
        """Folder for the results."""

    @property
    def precision(self) -> str:
        """Of the encoder."""

    @property
    def data(self) -> AnyData:
        """The images."""

    @property
    def features(self) -> Extraction:
        """How the encoder is run."""


@dataclass(frozen=True)
class Collection:
    """Embedded images, their pictures, and where results on them go.

    Attributes:
        embeddings: of the images.
        pictures: of the same.
        called: what the images are called.
        folder: for the results.
    """

    embeddings: Embeddings
    pictures: Pictures
    called: str
    folder: pathlib.Path

    def __len__(self) -> int:
        """Number of images."""
        return len(self.embeddings)


def open_collection(
    name: str, settings: Settings, given: Given, pretrained: Pretrained | None
) -> Collection:
    """Opens the embeddings that were given, or encodes the images that were.

    Args:
        name: of the command, and of its results' folder.
        settings: where the images and the results are.
        given: what was typed.
        pretrained: the encoder; None where only files were given.

    Raises:
        ConfigError: no images named, files of another encoder, nowhere to write.
        DataError: images or files cannot be had.
    """
    if given.files:
        embeddings = open_embeddings(given.files)
        _require_same_encoder(embeddings, given, pretrained)
        images = embeddings.origins[0].about.get("called", given.files[0].stem)
        first = given.files[0].absolute()
        if pretrained is None:
            base = first.with_name(f"{plain_name(first.stem)}_{name}")
        else:
            base = _beside(pretrained, name, images)
        folder = results_folder(base, settings.out)
        log.info("Images: %s, embedded before.", f"{len(embeddings):,}")
        pictures = Pictures(embeddings, settings.data)
        return Collection(embeddings, pictures, images, folder)
    assert pretrained is not None  # sort_given wants one of the two
    data = asked_images(settings.data, given, pretrained)
    images = data.called
    folder = results_folder(_beside(pretrained, name, images), settings.out)
    place, is_passing = _place_of_features(settings.features, pretrained)
    key = [data.place, pretrained.digest, pretrained.architecture, settings.precision]
    file = place / f"images-{digest_of(key)[:16]}.npz"
    embed_images(data, pretrained, file, settings.precision,
                 settings.features.batch_size)  # fmt: skip
    embeddings = open_embeddings([file])
    pictures = Pictures(embeddings, AnyData())
    collection = Collection(embeddings, pictures, images, folder)
    if is_passing:
        weakref.finalize(collection, shutil.rmtree, place, ignore_errors=True)
    return collection


def _beside(pretrained, name, images):
    config = pretrained.config
    own = None if config is None else config.data.called
    return of_images(pretrained.path / "report" / name, images, own)


def _require_same_encoder(embeddings, given, pretrained):
    if pretrained is None:
        return
    now = {"weights": pretrained.digest, "architecture": pretrained.architecture}
    for origin, file in zip(embeddings.origins, given.files):
        noted = origin.about.get("encoder", now)
        if any(noted[key] != now[key] for key in now):
            raise ConfigError(
                f"{file} is of another encoder ({noted.get('path')}) than "
                f"{pretrained.path}, so their features do not compare; embed the "
                "images again, or name that one."
            )


def _place_of_features(features: Extraction, pretrained: Pretrained):
    """A folder for embeddings, and whether it is a passing one."""
    place = pretrained.path / "report" / "features"
    if features.cache and not is_remote(place):
        try:
            return results_folder(place, None), False
        except ConfigError:
            log.warning(
                "The features are not kept, as %s cannot be written; each command "
                "encodes the images again.",
                place,
            )
    return pathlib.Path(tempfile.mkdtemp(prefix="moco_tf-")), True


def conclude(
    name: str,
    collection: Collection,
    settings: Any,
    facts: Mapping[str, object],
    rows: Iterable[Mapping[str, object]],
    pictures: Mapping[str, Figure],
    text: str,
    texts: Mapping[str, str] | None = None,
    header: Sequence[str] = (),
) -> dict:
    """Writes the results of a command, and says what was found and where it lies.

    Args:
        name: of the command.
        collection: what it worked on.
        settings: its own.
        facts: whatever else results.json should hold, JSON-serialisable.
        rows: of results.csv.
        pictures: name of a PNG without suffix -> picture.
        text: what the terminal shows.
        texts: name of another file -> what it holds.
        header: of results.csv, where there may be no rows.

    Returns:
        What results.json holds.
    """
    document = {
        "protocol": name,
        **facts,
        "images": len(collection),
        "data_set": collection.called,
        "of": [origin.about for origin in collection.embeddings.origins],
        "settings": plain(dataclasses.asdict(settings)),
    }
    folder = collection.folder
    write_results(folder, document, rows, pictures, texts, header)
    say(f"\n{text}")
    files = ["results.csv", *(f"{picture}.png" for picture in pictures), *(texts or {})]
    print(f"\nWritten to {folder}: {', '.join(files)}.")
    return document
