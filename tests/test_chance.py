"""An accuracy at chance is explained by what the features show."""

import numpy as np
from clusters import some_features

from moco_tf.evaluation.chance import explain_chance


def test_accuracy_above_chance_needs_no_explanation():
    assert explain_chance(0.6, some_features(500).labels, "x") is None


def test_accuracy_at_chance_is_explained_by_what_the_features_show():
    test = some_features(500)
    labels, features = test.labels, {"features": test.features}
    chance = float(np.mean(labels == 0))
    assert "guessing" in explain_chance(chance, labels, "the rate is too high.")
    for known in ({}, features):
        assert explain_chance(chance, labels, "rate 30.", **known).endswith("rate 30.")
    sentence = explain_chance(chance, labels, "rate 30.", 0.9, **features)
    assert "90.0 % of the training images are right" in sentence
    for same in (np.ones((500, 4)), np.zeros((500, 4))):
        sentence = explain_chance(chance, labels, "rate 30.", 0.9, features=same)
        assert "has collapsed" in sentence
