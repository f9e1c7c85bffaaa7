"""Encoders whose activations are computed again, block by block, for the gradient.

Between the forward and the backward pass only what is between blocks stays in memory.

Source: Chen et al. 2016 (arXiv 1604.06174).
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import tensorflow as tf
from tensorflow import keras

from moco_tf.encoders.batchnorm import Settings, asked

# The blocks of each encoder that was cut; what is behind the last one is kept.
_blocks: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def cut(encoder: keras.Model, ends: Sequence[str]) -> None:
    """Has `encode` compute an encoder's activations again when it trains.

    Args:
        encoder: of this package's layers, none of which draws random numbers.
        ends: names of the layers that end a block: all that is behind one depends on
            nothing before it.
    """
    ends = [encoder.get_layer(name).get_output_at(0) for name in ends]
    starts = [encoder.input, *ends]
    _blocks[encoder] = [
        keras.Model(start, end) for start, end in zip(starts, [*ends, encoder.output])
    ]


def is_cut(encoder: keras.Model) -> bool:
    """Whether an encoder was `cut`."""
    return encoder in _blocks


def recomputed(
    encoder: keras.Model, images: tf.Tensor, settings: Settings
) -> tf.Tensor:
    """Runs an encoder that was `cut` in training; its running statistics move once.

    Args:
        encoder: images -> (N, F).
        images: what it takes.
        settings: of its batch norm.
    """
    *blocks, last = _blocks[encoder]
    for block in blocks:
        images = _forgetful(block, settings)(images)
    with asked(settings):
        return last(images, training=True)


def _forgetful(block, settings):
    settings = [settings, settings._replace(follow=False)]

    def run(x):
        # The first call is the forward pass, those after it serve the gradient.
        with asked(settings[0] if len(settings) == 1 else settings.pop(0)):
            return block(x, training=True)

    return tf.recompute_grad(run)
