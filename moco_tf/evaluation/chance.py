"""Why an accuracy is no better than guessing."""

from __future__ import annotations

import numpy as np

_COLLAPSED = 0.9999  # mean cosine between the features of two images


def explain_chance(
    top1: float,
    labels: np.ndarray,
    otherwise: str,
    train_top1: float | None = None,
    features: np.ndarray | None = None,
) -> str | None:
    """A sentence with the likely cause, where an accuracy is at chance.

    Args:
        top1: on the test images, 0 to 1.
        labels: int (examples,) of the test images.
        otherwise: the likely cause, and what to do, where it is neither of those that
            this function can see.
        train_top1: of the classifier on the training images, where it has one.
        features: (examples, dim) of a frozen encoder, finite.

    Returns:
        The sentence, or None where the accuracy is better than guessing: more than two
        standard deviations above the share of the commonest class.
    """
    _, counts = np.unique(labels, return_counts=True)
    chance = counts.max() / len(labels)
    limit = chance + 2 * np.sqrt(chance * (1 - chance) / len(labels))
    if top1 > limit:
        return None
    found = f"The accuracy of {100 * top1:.1f} % is no better than guessing"
    found += f" ({100 * chance:.1f} %)"
    cosine = 0.0 if features is None else _mean_cosine(features)
    if cosine > _COLLAPSED:
        return (
            f"{found}: the encoder has collapsed, its features of any two images are "
            f"nearly the same (mean cosine {cosine:.6f}); look at the curves of its "
            "training."
        )
    if train_top1 is not None and train_top1 > limit + 0.1:
        return (
            f"{found}, though {100 * train_top1:.1f} % of the training images are "
            "right: the classes of the two sets do not mean the same, or there are too "
            "few training images; check the splits."
        )
    return f"{found}: {otherwise}"


def _mean_cosine(features):
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.maximum(norms, 1e-12)
    if not norms.any():
        return 1.0
    return float(np.sum(np.mean(unit, axis=0, dtype=np.float64) ** 2))
