"""The classifier trained on frozen features, against a slow oracle."""

import numpy as np
import pytest
import tensorflow as tf
from clusters import clusters
from conftest import mirrored

from moco_tf.data.labelled import even_batches
from moco_tf.evaluation import Features
from moco_tf.evaluation.linear.classifier import LinearClassifier
from moco_tf.optimizers import SGD


def slow_epoch(features, labels, batches, rate, classes):
    """Softmax regression by SGD with momentum 0.9 in float64, an example at a time."""
    weights = np.zeros((features.shape[1] + 1, classes))
    velocity = np.zeros_like(weights)
    for batch in batches:
        gradient = np.zeros_like(weights)
        for row in batch:
            inputs = np.append(features[row], 1.0)
            scores = np.exp(inputs @ weights - np.max(inputs @ weights))
            error = scores / scores.sum()
            error[labels[row]] -= 1
            gradient += np.outer(inputs, error) / len(batch)
        velocity = 0.9 * velocity + gradient
        weights -= rate * velocity
    return weights


@pytest.mark.parametrize("replicas", [1, 2, 8])
def test_classifier_means_over_the_global_batch_whatever_fills_it(replicas, policy):
    policy("float64")
    features, labels = clusters(21, classes=3, dim=4)
    features = features.astype(np.float64)
    whole = tf.data.Dataset.from_tensor_slices(
        {"image": features, "label": labels, "id": np.arange(21)}
    )
    batches = even_batches(whole.batch(8), replicas)
    with mirrored(replicas).scope():
        model = LinearClassifier(lambda images, training: images, 3)
        model.compile(SGD(0.5, momentum=0.9, weight_decay=0.0))
        model.head.build((None, 4))
    model.head.set_weights([np.zeros((4, 3)), np.zeros(3)])
    logs = model.fit(batches, verbose=0).history
    rows = [range(8), range(8, 16), range(16, 21)]
    expected = slow_epoch(features, labels, rows, 0.5, 3)
    np.testing.assert_allclose(model.head.kernel, expected[:-1], rtol=1e-9)
    np.testing.assert_allclose(model.head.bias, expected[-1], rtol=1e-9)
    assert 1 / 3 < logs["top1"][0] < logs["top5"][0] == 1
    scored = model.evaluate(batches, verbose=0, return_dict=True)
    logits = features @ expected[:-1] + expected[-1]
    assert scored["top1"] == pytest.approx(np.mean(logits.argmax(1) == labels))
    assert scored == pytest.approx(model.score(Features(features, labels, labels)))


def test_equal_logits_are_no_hit_and_nan_hits_nothing():
    model = LinearClassifier(lambda images, training: images, 10)
    labels = np.arange(10)
    for value, top1, top5 in ((0.0, 0.1, 0.5), (np.nan, 0.0, 0.0)):
        features = np.full((10, 2), value, np.float32)
        score = model.score(Features(features, labels, labels))
        assert (score["top1"], score["top5"]) == pytest.approx((top1, top5))
