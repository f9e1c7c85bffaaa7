"""A batch of two views as the networks see it, and its order over replicas."""

from __future__ import annotations

import inspect
from typing import NamedTuple

import tensorflow as tf
from tensorflow import keras

from moco_tf.exchange import gather


class Views(NamedTuple):
    """A batch as the networks see it.

    Attributes:
        query: float (N, S, S, C), the query view of each image.
        key: float (N, S, S, C), the key views, in the order of `position`.
        position: int32 (N,), whose key each row of `key` is, in the global batch.
        id: int64 (N,), the image of each query, or its group where the batch names
            groups; -1 where it names none.
        order: int32 (N,), where each query is in the global batch.
    """

    query: tf.Tensor
    key: tf.Tensor
    position: tf.Tensor
    id: tf.Tensor
    order: tf.Tensor

    def swapped(self) -> Views:
        """The other direction: keys as queries, queries as keys.

        No image moves between replicas, so the new queries keep the keys' order. Call
        it in replica context.
        """
        return Views(
            query=self.key,
            key=self.query,
            position=self.order,
            id=tf.gather(gather(self.id), self.position),
            order=self.position,
        )


def two_view_batch(batch: dict | tuple) -> dict:
    """The batch itself; Keras's `train_on_batch` wraps it into a tuple of one.

    Raises:
        ValueError: if it is not a batch of two views.
    """
    if isinstance(batch, tuple) and len(batch) == 1:
        batch = batch[0]
    if isinstance(batch, dict) and {"query", "key"} <= set(batch):
        return batch
    found = f"a dict of {', '.join(batch)}" if isinstance(batch, dict) else "no dict"
    raise ValueError(
        'training takes batches of two views, dicts with "query" and "key" '
        f"(uint8 or float, (N, H, W, C) each), and got {found}; make them with "
        "moco_tf.data.two_views, whose source is moco_tf.data.open_source of a folder "
        "or moco_tf.data.from_arrays of images in memory."
    )


def unit_rows(projections: tf.Tensor) -> tf.Tensor:
    """Rows divided by their norms, (N, dim); torch's `normalize`."""
    return tf.math.l2_normalize(projections, axis=1, epsilon=1e-24)


def own_positions(count: tf.Tensor) -> tf.Tensor:
    """Where a replica's `count` rows are in a global batch in the replicas' order."""
    context = tf.distribute.get_replica_context()
    if context is None:  # a whole batch, looked at outside of training
        return tf.range(count)
    start = tf.convert_to_tensor(context.replica_id_in_sync_group) * count
    return start + tf.range(count)


def grey_levels(images: tf.Tensor, augment: keras.layers.Layer) -> tf.Tensor:
    """Images of 0..255 as they are; float ones of 0..1 are refused.

    Augmentations take grey levels: of 0..1 they would make nearly constant images.
    Those that have a `value_range` take what that says.
    """
    has_range = getattr(augment, "value_range", None) is not None
    if has_range or not tf.as_dtype(images.dtype).is_floating:
        return images
    most = tf.reduce_max(images)
    check = tf.debugging.Assert(
        (most > 1) | (most <= 0),
        ["images of 0..1 where 0..255 are meant (this model's augment normalises "
         "them); give uint8 images, or multiply by 255. The greatest value is", most],
    )  # fmt: skip
    with tf.control_dependencies([check] if check is not None else []):
        return tf.identity(images)


def called(
    layer: keras.layers.Layer,
    images: tf.Tensor,
    seeds: tf.Tensor | None = None,
    training: bool = True,
) -> tf.Tensor:
    """Calls any layer with what its `call` takes of seeds and training."""
    takes = inspect.signature(layer.call).parameters
    given = {"seeds": seeds, "training": training}
    return layer(images, **{key: given[key] for key in given if key in takes})
