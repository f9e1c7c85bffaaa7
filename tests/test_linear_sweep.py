"""The sweep of linear classifiers: both solvers, and who chooses among them."""

import numpy as np
import pytest
from clusters import clusters

from moco_tf.evaluation import Candidate, Features, linear_sweep
from moco_tf.evaluation.linear.candidates import _lbfgs, _sgd


def sweep_data():
    scale = np.geomspace(0.01, 100, 24)  # standardisation must undo this
    train, train_labels = clusters(3000)
    test, test_labels = clusters(2000, seed=1)
    return (
        Features(train * scale + 5, train_labels, np.arange(3000)),
        Features(test * scale + 5, test_labels, np.arange(2000)),
    )


def test_both_solvers_are_within_0_3_points_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    train, test = sweep_data()
    tried, best = linear_sweep(train, test, [0.3], [1e-2], epochs=60)
    scaler = preprocessing.StandardScaler().fit(train.features)
    oracle = linear_model.LogisticRegression(C=1 / (1e-2 * 3000), max_iter=1000)
    oracle.fit(scaler.transform(train.features), train.labels)
    expected = oracle.score(scaler.transform(test.features), test.labels)
    assert [candidate.solver for candidate in tried] == ["sgd", "lbfgs"]
    for candidate in tried:
        assert candidate.top1 == pytest.approx(expected, abs=0.003), candidate
    assert best in tried


def test_penalty_of_two_classes_means_the_same_to_both_solvers():
    features, labels = clusters(400, classes=2, dim=3)
    data, decay = (features, labels), 0.3
    weights, bias = _lbfgs(data, decay, 2)
    candidate = Candidate("sgd", decay, 0.5)
    fitted = _sgd(data, [candidate], 2, 300, 400, 0, None)
    np.testing.assert_allclose(weights, fitted[0], atol=2e-4)
    np.testing.assert_allclose(bias, fitted[1], atol=2e-4)


def test_candidates_side_by_side_do_not_touch_each_other():
    train, test = sweep_data()
    rates, decays = [0.01, 1e9, 0.3], [1e-4, 1e-1]
    tried, _ = linear_sweep(train, test, rates, decays, epochs=3, lbfgs=False)
    assert [(c.learning_rate, c.weight_decay) for c in tried] == [
        (rate, decay) for rate in rates for decay in decays
    ]
    for candidate in tried:
        ((alone,), _) = linear_sweep(
            train,
            test,
            [candidate.learning_rate],
            [candidate.weight_decay],
            epochs=3,
            lbfgs=False,
        )
        assert alone.held_out == pytest.approx(candidate.held_out, abs=0.004)


def test_held_out_images_choose_and_the_test_images_do_not():
    train, test = sweep_data()
    options = dict(learning_rates=[1e-4, 0.1], weight_decays=[1e-3, 10.0], epochs=3)
    tried, best = linear_sweep(train, test, **options)
    rng = np.random.default_rng(0)
    noise = Features(test.features, rng.permutation(test.labels), test.ids)
    retried, rechosen = linear_sweep(train, noise, **options)
    for one, two in zip(tried, retried):
        assert one.held_out == two.held_out
        assert (one.top1 is None) == (two.top1 is None)
    settings = [(c.solver, c.learning_rate, c.weight_decay) for c in (best, rechosen)]
    assert settings[0] == settings[1]
    assert best.held_out == max(c.held_out for c in tried)
    assert rechosen.top1 < 0.3 < best.top1
    scored = [candidate for candidate in tried if candidate.top1 is not None]
    assert len(scored) == 2  # one a solver
    assert all(c.top1 < c.top5 == 1 for c in scored)  # five classes


def test_sweep_allows_classes_that_are_missing_in_training():
    train, test = sweep_data()
    known = train.labels < 2
    train = Features(train.features[known], train.labels[known], train.ids[known])
    tried, _ = linear_sweep(train, test, [0.1], [1e-2], epochs=20)
    seen = float(np.mean(test.labels < 2))
    for candidate in tried:
        assert 0.6 * seen < candidate.top1 <= seen


def test_sweep_explains_too_little_data():
    train, test = sweep_data()
    few = Features(train.features[:5], np.array([0, 1, 0, 1, 0]), train.ids[:5])
    with pytest.raises(ValueError, match="5 training images of 2 classes cannot be"):
        linear_sweep(few, test, [0.1], [1e-2])
    one = Features(train.features, np.zeros(3000, np.int64), train.ids)
    with pytest.raises(ValueError, match="of 1 classes"):
        linear_sweep(one, test, [0.1], [1e-2])
