"""Contrast among the embeddings of one global batch: InfoNCE and NT-Xent."""

from __future__ import annotations

import tensorflow as tf

from moco_tf.contrast.loss import Contrast


def in_batch(
    query: tf.Tensor,
    candidates: tf.Tensor,
    positive: tf.Tensor,
    temperature: float,
    ignored: tf.Tensor | None = None,
) -> Contrast:
    """Contrasts each query with one candidate against all other candidates.

    Gradients reach queries and candidates.

    Args:
        query: float32 or float64 (batch, dim), unit rows.
        candidates: (count, dim), unit rows, the same for all queries.
        positive: int32 (batch,), the candidate that each query should find.
        temperature: positive float.
        ignored: int32 (batch,), a candidate that each query leaves out, such as
            itself; never its positive.

    Returns:
        A `Contrast`. Its loss is the logarithm of the number of candidates (those
        ignored not counted) for an uninformed encoder.

    Source: the end-to-end mechanism of He et al. 2020 (arXiv 1911.05722), section 3.2.
    """
    count = tf.shape(candidates)[0]
    similarity = tf.matmul(query, candidates, transpose_b=True)
    logits = similarity / temperature
    own = tf.gather(similarity, positive, batch_dims=1)
    is_negative = tf.one_hot(positive, count, False, True, dtype=tf.bool)
    if ignored is not None:
        is_ignored = tf.one_hot(ignored, count, True, False, dtype=tf.bool)
        lowest = tf.constant(logits.dtype.min / 2, logits.dtype)
        logits = tf.where(is_ignored, lowest, logits)
        is_negative &= ~is_ignored
    beats = is_negative & (similarity > own[:, None])
    share = tf.cast(is_negative, similarity.dtype)
    return Contrast(
        loss=tf.nn.sparse_softmax_cross_entropy_with_logits(positive, logits),
        rank=tf.reduce_sum(tf.cast(beats, tf.int32), axis=1),
        positive_similarity=own,
        negative_similarity=tf.math.divide_no_nan(
            tf.reduce_sum(share * similarity), tf.reduce_sum(share)
        ),
    )


def nt_xent(
    embeddings: tf.Tensor,
    everything: tf.Tensor,
    own: tf.Tensor,
    other: tf.Tensor,
    temperature: float,
) -> Contrast:
    """Contrasts each view with the other view of its image among both views of all.

    Args:
        embeddings: float32 or float64 (rows, dim), unit rows: a replica's views.
        everything: (2N, dim), unit rows: both views of the N images of the global
            batch, through which gradients flow too.
        own: int32 (rows,), which row of `everything` each embedding is; left out.
        other: int32 (rows,), which one is the other view of its image.
        temperature: positive float; 0.1 at SimCLR's batch of 4096, 0.5 on CIFAR-10.

    Returns:
        A `Contrast` over 2N - 2 negatives; ln(2N - 1) for an uninformed encoder.

    Source: Chen et al. 2020 (arXiv 2002.05709), eq. 1.
    """
    return in_batch(embeddings, everything, other, temperature, ignored=own)
