"""An accuracy at chance is explained by what the features show."""

import numpy as np
from clusters import some_features

from moco_tf.evaluation import Features
from moco_tf.evaluation.chance import explain_chance


def test_accuracy_above_chance_needs_no_explanation():
    assert explain_chance(0.6, some_features(500), "x") is None


def test_accuracy_at_chance_is_explained_by_what_the_features_show():
    test = some_features(500)
    chance = float(np.mean(test.labels == 0))
    assert "guessing" in explain_chance(chance, test, "the rate is too high.")
    assert explain_chance(chance, test, "rate 30.").endswith("rate 30.")
    sentence = explain_chance(chance, test, "rate 30.", train_top1=0.9)
    assert "90.0 % of the training images are right" in sentence
    for features, cause in (
        (np.ones((500, 4)), "has collapsed"),
        (np.zeros((500, 4)), "has collapsed"),
        (np.full((500, 4), np.nan), "not finite"),
    ):
        broken = Features(features, test.labels, test.ids)
        assert cause in explain_chance(chance, broken, "rate 30.", 0.9)
