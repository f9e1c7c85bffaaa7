"""Parts of a labelled source in which every class keeps its share."""

from __future__ import annotations

import numpy as np

from moco_tf.data.labelled import labels_of, read_once, subset
from moco_tf.data.sources import DataError, Source


def balanced_subset(source: Source, fraction: float, seed: int) -> Source:
    """Draws equally many images of each class.

    Args:
        source: labelled images.
        fraction: share of the images, above 0 up to 1; 1 gives all, balanced or not.
        seed: decides which.

    Returns:
        A source of round(fraction x images / classes) images of each class; all of a
        class that has fewer. It holds them in memory, undecoded: a few images of a
        stream would be searched for in the whole of it every epoch.

    Raises:
        DataError: that is less than one image, or a class has none.
    """
    if fraction == 1:
        return source
    labels = labels_of(source)
    each = round(fraction * len(labels) / source.num_classes)
    if each < 1:
        least = source.num_classes / len(labels)
        raise DataError(
            f"fraction={fraction} of {len(labels)} images leaves some of the "
            f"{source.num_classes} classes without an image; use {least:.2g} or more."
        )
    rng = np.random.default_rng(seed)
    groups = [
        rng.permutation(np.flatnonzero(labels == label))[:each]
        for label in range(source.num_classes)
    ]
    empty = [name for name, group in zip(source.class_names, groups) if not len(group)]
    if empty:
        raise DataError(
            f"The training set has no image of the class {empty[0]!r} to draw a "
            "balanced subset from; add some, or take another split."
        )
    return read_once(subset(source, np.concatenate(groups)))


def held_out(source: Source, share: float, seed: int) -> tuple[Source, Source]:
    """Splits a source, class by class, into a part to learn from and one to choose by.

    Args:
        source: labelled images.
        share: of each class that is held out, between 0 and 1; at least one image.
        seed: decides which.

    Returns:
        (kept, held), both with images of every class that occurs.

    Raises:
        DataError: a class has a single image.
    """
    labels = labels_of(source)
    rng = np.random.default_rng([seed, 1])
    kept, held = [], []
    for label in np.unique(labels):
        group = rng.permutation(np.flatnonzero(labels == label))
        if len(group) < 2:
            raise DataError(
                f"The class {source.class_names[label]!r} has one training image, so "
                "none can be held out to choose among candidates; give a single "
                "learning_rates and head_multipliers, or a larger fraction."
            )
        count = min(max(1, round(share * len(group))), len(group) - 1)
        held.append(group[:count])
        kept.append(group[count:])
    return subset(source, np.concatenate(kept)), subset(source, np.concatenate(held))
