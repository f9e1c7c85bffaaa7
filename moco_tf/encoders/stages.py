"""The stages of an encoder, counted from its input."""

from __future__ import annotations

from tensorflow import keras


def stage_layers(encoder: keras.Model, count: int) -> list[str]:
    """Names of the layers of an encoder's first stages.

    A ResNet has five: its stem and its four groups of blocks. A ViT has one for its
    patches and positions and one for each block, the last with the final norm.

    Args:
        encoder: of this package.
        count: of the stages, from the input on.

    Raises:
        ValueError: if its stages are not known, or it has fewer.
    """
    ends = getattr(encoder, "stage_ends", None)
    if ends is None:
        raise ValueError(
            f"the stages of encoder {encoder.name!r} are not known, so that none can "
            "be frozen; use one of moco_tf.encoders."
        )
    if not 0 <= count <= len(ends):
        raise ValueError(
            f"{count} stages of encoder {encoder.name!r} cannot be frozen; it has "
            f"{len(ends)}."
        )
    # All paths pass through a stage's end, which Keras lists behind what it is made of.
    names = [layer.name for layer in encoder.layers]
    return names[: names.index(ends[count - 1]) + 1] if count else []
