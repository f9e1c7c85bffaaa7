"""InfoNCE of queries against their keys and a shared set of negatives."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class Contrast(NamedTuple):
    """What one contrast of queries with keys and negatives gives.

    Attributes:
        loss: (batch,), nats; InfoNCE of each query.
        rank: int32 (batch,), how many negatives beat the positive; 0 is a hit
            of the (1 + count)-way task at 1, below 5 a hit at 5.
        positive_similarity: (batch,), cosine of query and key.
        negative_similarity: (), mean cosine of queries and negatives.
    """

    loss: tf.Tensor
    rank: tf.Tensor
    positive_similarity: tf.Tensor
    negative_similarity: tf.Tensor


def contrast(
    query: tf.Tensor,
    key: tf.Tensor,
    negatives: tf.Tensor,
    temperature: float,
    masked: tf.Tensor | None = None,
) -> Contrast:
    """Contrasts each query with its own key and with shared negatives.

    The positive and the negatives are never joined into one matrix of logits:
    at 65,536 negatives that copy would cost as much as the product itself.

    Args:
        query: float32 or float64 (batch, dim), unit rows.
        key: like query, unit rows, no gradient wanted through it.
        negatives: (count, dim), unit rows.
        temperature: positive float; 0.07 in MoCo v1, 0.2 in v2.
        masked: optional bool (batch, count); True leaves that negative out of
            that query's loss and rank.

    Returns:
        A `Contrast`. Its loss is ln(1 + count) for an uninformed encoder.

    Source: He et al. 2020 (arXiv 1911.05722), eq. 1 and algorithm 1.
    """
    positive = tf.reduce_sum(query * key, axis=1)
    negative = tf.matmul(query, negatives, transpose_b=True)
    negative_similarity = tf.reduce_mean(negative)
    if masked is not None:
        lowest = tf.constant(negative.dtype.min / 2, negative.dtype)
        negative = tf.where(masked, lowest, negative)
    positive_logit = positive / temperature
    negative_logits = negative / temperature
    # Logits are at most 1 / temperature for unit rows, so that bound stabilises
    # the exponentials without a pass over the matrix to find its maximum, as
    # long as the smallest one, exp(-2 / temperature), is still representable.
    if 2.0 / temperature < 80.0:
        bound = tf.cast(1.0 / temperature, query.dtype)
        total = tf.exp(positive_logit - bound) + tf.reduce_sum(
            tf.exp(negative_logits - bound), axis=1
        )
        log_normaliser = bound + tf.math.log(total)
    else:
        log_normaliser = tf.math.reduce_logsumexp(
            tf.concat([positive_logit[:, None], negative_logits], axis=1), axis=1
        )
    rank = tf.reduce_sum(tf.cast(negative > positive[:, None], tf.int32), axis=1)
    return Contrast(
        loss=log_normaliser - positive_logit,
        rank=rank,
        positive_similarity=positive,
        negative_similarity=negative_similarity,
    )


def info_nce(
    query: tf.Tensor, key: tf.Tensor, negatives: tf.Tensor, temperature: float
) -> tf.Tensor:
    """Contrastive loss of each query against its own key and shared negatives.

    Args:
        query: float32 (batch, dim), unit rows.
        key: float32 (batch, dim), unit rows, no gradient.
        negatives: float32 (count, dim), unit rows.
        temperature: positive float; 0.07 in MoCo v1, 0.2 in v2.

    Returns:
        float32 (batch,), nats; ln(1 + count) for an uninformed encoder.

    Source: He et al. 2020, eq. 1.
    """
    return contrast(query, key, negatives, temperature).loss
