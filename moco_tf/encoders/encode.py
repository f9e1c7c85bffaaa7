"""How methods run an encoder: its batch norm in groups, over replicas, or in parts."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator

import tensorflow as tf
from tensorflow import keras

from moco_tf.encoders.batchnorm import BatchNormalization, Part, Settings, asked, split
from moco_tf.encoders.recompute import is_cut, recomputed

# Whether XLA is to compile the encoders that this thread runs.
_thread = threading.local()
# Keras's own layers that threads have joined: how many, and the settings of before.
_joined: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def encode(
    encoder: keras.Model,
    images: tf.Tensor,
    groups: int = 1,
    training: bool = True,
    sync: bool = False,
    part: Part | None = None,
) -> tf.Tensor:
    """Runs an encoder with batch-norm statistics of parts of the batch, or of more.

    Encoders made of this module's layers split inside the layers. Any other (KerasCV's
    backbones) is run once for each part: slower, with the same result but for the
    running statistics, which then follow the parts one after the other.

    Args:
        encoder: images -> (N, F), or a head (N, F) -> (N, dim).
        images: (N, H, W, C), or what the encoder takes.
        groups: number of contiguous equal parts; 1 means the whole batch.
        training: whether batch norm uses the batch's statistics.
        sync: take the statistics over all replicas, see `BatchNormalization`.
        part: which part of a batch `images` is; None: the whole.

    Returns:
        (N, F).
    """
    layers = [
        layer
        for layer in encoder._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    inside = all(isinstance(layer, BatchNormalization) for layer in layers)
    parts = [images] if inside else split(images, groups)
    others = [layer for layer in layers if not isinstance(layer, BatchNormalization)]
    settings = Settings(groups if inside else 1, sync, part)

    def run(parts):
        if training and is_cut(encoder):
            return recomputed(encoder, parts[0], settings)
        with asked(settings), _synchronised(others, sync):
            outputs = [encoder(each, training=training) for each in parts]
        return tf.concat(outputs, axis=0) if len(outputs) > 1 else outputs[0]

    if getattr(_thread, "compiles", False):
        run = tf.function(run, jit_compile=True)
    return run(parts)


@contextlib.contextmanager
def compiled() -> Iterator[None]:
    """Has XLA compile the encoders that this thread runs, and their gradients.

    For steps on several replicas, of which XLA cannot compile the whole: what replicas
    tell one another, and what they write to variables, stays outside. So must batch
    norm that is over replicas.
    """
    _thread.compiles = True
    try:
        yield
    finally:
        _thread.compiles = False


@contextlib.contextmanager
def _synchronised(layers, sync):
    """Keras's own layers joined over replicas, until the last thread has left.

    They have no other way than an attribute of the layer, which threads share.
    """
    if not sync:
        yield
        return
    settings = {"synchronized": True, "fused": False}  # that has no fused kernel
    with _lock:
        for layer in layers:
            count, before = _joined.get(layer, (0, None))
            before = before or {name: getattr(layer, name) for name in settings}
            _joined[layer] = count + 1, before
            for name, value in settings.items():
                setattr(layer, name, value)
    try:
        yield
    finally:
        with _lock:
            for layer in layers:
                count, before = _joined.pop(layer)
                if count > 1:
                    _joined[layer] = count - 1, before
                    continue
                for name, value in before.items():
                    setattr(layer, name, value)
