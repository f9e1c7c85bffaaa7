"""An encoder on the Hugging Face hub, by its own library."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from moco_tf.interchange.card import CARD, write_card
from moco_tf.interchange.errors import InterchangeError
from moco_tf.interchange.formats import find_export
from moco_tf.interchange.handover import golden_deviation
from moco_tf.mistakes import reason
from moco_tf.paths import is_remote

# What a SavedModel is made of. Results and pictures beside it may show the images.
_PARTS = ("saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra")


def prepare(path: Path, license: str | None = None) -> dict[str, Path]:
    """Checks an encoder and writes its card anew.

    Args:
        path: a run directory or a SavedModel.
        license: of the weights; None leaves the card's.

    Returns:
        Name in the repository -> file. The card is its README.md.

    Raises:
        InterchangeError: there is no encoder, or it no longer gives the features of
            the day it was written.
    """
    saved = find_export(path)
    try:
        deviation, limit = golden_deviation(saved)
    except (OSError, ValueError, LookupError, tf.errors.OpError) as error:
        raise InterchangeError(
            f"{saved} is damaged ({reason(error)}); export the encoder again."
        ) from error
    if not deviation <= limit:  # also catches NaN
        raise InterchangeError(
            f"{saved} gives features that differ by {deviation:.2g} of their norm from "
            f"those of the day it was written (limit {limit:g}); export it again."
        )
    try:
        write_card(saved, license=license)
    except (OSError, ValueError, LookupError) as error:
        raise InterchangeError(
            f"{saved / CARD} cannot be written ({reason(error)}); its folder must be "
            "one that may be written."
        ) from error
    depth = len(saved.parts)
    files = {
        "/".join(file.parts[depth:]): file
        for file in sorted(saved.rglob("*"))
        if file.is_file() and file.parts[depth] in _PARTS
    }
    return {"README.md": saved / CARD, **files}


def upload(files: dict[str, Path], repo: str, private: bool = True) -> str:
    """Sends files to a repository in one commit, which is whole or not at all.

    Args:
        files: as `prepare` gives them.
        repo: USER/NAME, made where it is missing.
        private: whether a new one is; one that is there stays what it is.

    Returns:
        Where it is to be seen.

    Raises:
        InterchangeError: the hub cannot be reached or refuses it.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    operations = [
        CommitOperationAdd(name, file.read_bytes() if is_remote(file) else str(file))
        for name, file in files.items()
    ]
    api = HfApi()
    try:
        place = api.create_repo(repo, private=private, exist_ok=True)
        api.create_commit(repo, operations, commit_message="Encoder, and its card")
    except Exception as error:  # the network's, the hub's or its library's own
        raise InterchangeError(
            f"{repo} was not uploaded ({reason(error)}); check the network, the name "
            "and whether the token may write there."
        ) from error
    return str(place)
