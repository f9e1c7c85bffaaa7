"""What commands on unlabelled images are given: an encoder, a folder, or files."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

from moco_tf.config.limits import ConfigError
from moco_tf.evaluation.embed.settings import SUFFIXES
from moco_tf.paths import to_path
from moco_tf.shell import command


@dataclass(frozen=True)
class Given:
    """The paths that were typed, sorted.

    Attributes:
        encoder: run directory or SavedModel; None where embeddings suffice.
        folder: of images; None for the run's own, or the settings'.
        files: embeddings that `evaluate.py embed` wrote.
    """

    encoder: pathlib.Path | None
    folder: pathlib.Path | None
    files: tuple[pathlib.Path, ...]


def sort_given(protocol: str, paths: Sequence[pathlib.Path]) -> Given:
    """Sorts paths by what they are.

    Args:
        protocol: the command.
        paths: an encoder, then a folder or files, or files alone.

    Raises:
        ConfigError: too many, none, or files where they do not belong.
    """
    files = tuple(path for path in paths if is_embeddings(path))
    others = [path for path in paths if path not in files]
    example = command("evaluate", protocol, "runs/demo", "PHOTOS")
    if protocol == "embed" and files:
        raise ConfigError(
            f"embed writes such files as {files[0]}, with --out={files[0]}; name an "
            f"encoder and a folder, as in {example}."
        )
    if not paths:
        more = "" if protocol == "embed" else ", or files that embed wrote"
        raise ConfigError(
            f"{protocol} needs an encoder and a folder of images{more}, as in "
            f"{example}."
        )
    if len(others) > 2 - bool(files):
        allowed = "files" if files else "one folder of images"
        raise ConfigError(
            f"{protocol} takes one encoder and {allowed}, and was given "
            f"{' '.join(map(str, others))}; name them as in {example}."
        )
    if len(set(files)) < len(files):
        raise ConfigError("a file of embeddings is named twice; name each once.")
    encoder, folder = (*others, None, None)[:2]
    return Given(encoder, folder, files)


def is_embeddings(path: pathlib.Path) -> bool:
    """Whether a path is that of embeddings, by its ending; folders are none."""
    return to_path(path).suffix.lower() in SUFFIXES and not path.is_dir()
