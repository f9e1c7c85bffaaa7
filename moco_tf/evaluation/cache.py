"""Features on disk, found again by what they were made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from moco_tf.evaluation.features import Features
from moco_tf.paths import to_path

log = logging.getLogger("moco_tf")


def digest_of(facts: Any) -> str:
    """SHA-256 of JSON-serialisable facts, in hexadecimal."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def cached_features(
    folder: str | os.PathLike, key: dict, extract: Callable[[], Features]
) -> Features:
    """Features from disk where they are, else extracted and kept.

    Args:
        folder: where the files are; made when there is something to keep. Where it
            cannot be written, a warning says so and nothing is kept.
        key: JSON-serialisable facts that decide the features: weights,
            architecture, data, preprocessing. Any other key is another file.
        extract: makes the features.

    Returns:
        The features, to the bit the same whether read or made.
    """
    text = json.dumps(key, sort_keys=True)
    name = digest_of(key)[:16]
    path = to_path(folder) / f"{name}.npz"
    features = _read(path, text)
    if features is None:
        features = extract()
        try:
            _write(path, text, features)
        except OSError as error:
            log.warning(
                "The features are not kept, as %s cannot be written (%s); each "
                "protocol extracts them again.",
                folder,
                (error.strerror or "no access").lower(),
            )
    return features


def _read(path, text):
    try:
        # np.load leaves a broken file open unless it was given an open one.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if str(arrays["key"]) != text:
                return None
            return Features(arrays["features"], arrays["labels"], arrays["ids"])
    # Absent or broken: made again.
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(path, text, features):
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".features-{os.getpid()}-{path.name}")
    try:
        with staging.open("wb") as file:
            np.savez(
                file,
                key=text,
                features=features.features,
                labels=features.labels,
                ids=features.ids,
            )
        staging.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            staging.unlink()
        raise
