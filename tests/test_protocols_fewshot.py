"""`evaluate.py fewshot`: draws, accuracies and mistakes."""

import csv

import numpy as np
import pytest
from pretrained_runs import write_run

from moco_tf.cli.evaluate import parse_evaluation
from moco_tf.config import ConfigError
from moco_tf.evaluation import evaluate
from moco_tf.evaluation.fewshot.accuracy import accuracies, draw


def test_each_class_is_drawn_equally_often():
    labels = np.array([2, 0, 2, 7, 7, 0, 2, 7, 0, 0])
    seen = set()
    for seed in range(40):
        rows = draw(labels, 2, np.random.default_rng(seed))
        assert labels[rows].tolist() == [0, 0, 2, 2, 7, 7]
        assert len(set(rows)) == 6
        seen.update(rows.tolist())
    assert seen == set(range(10))


def test_accuracy_is_that_of_the_boundary_between_two_examples():
    # One example a class: by symmetry the boundary is halfway, at 45 degrees.
    train = np.array([[3.0, 0.0], [0.0, 0.5]]), np.array([0, 1])
    angles = np.radians([0, 30, 40, 50, 80])
    queries = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 7
    test = queries, np.array([0, 0, 1, 1, 0])  # three lie on their class's side
    assert list(accuracies(train, [test], 1, 2, 1.0, 0)) == [[0.6], [0.6]]


def test_more_labels_help_and_seeds_repeat():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 40)
    features = np.eye(3)[labels] + random.normal(0, 0.8, (120, 3))
    train, test = ((features[half::2], labels[half::2]) for half in (0, 1))
    sets = train, [test]
    few, many = (list(accuracies(*sets, shots, 30, 1.0, 0)) for shots in (1, 15))
    assert np.mean(many) > np.mean(few) + 0.05
    assert np.std(few) > np.std(many)
    assert few == list(accuracies(*sets, 1, 30, 1.0, 0))
    assert few != list(accuracies(*sets, 1, 30, 1.0, 1))


def test_command_writes_a_row_for_every_draw(tmp_path, capsys):
    run = write_run(tmp_path)
    words = ["fewshot", str(run), "--shots=[1,3]", "--draws=4"]
    results = evaluate(parse_evaluation(words))
    with open(run / "report" / "fewshot" / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["shots"], row["draw"]) for row in rows] == [
        (shots, str(number)) for shots in "13" for number in range(4)
    ]
    threes = [float(row["top1"]) for row in rows if row["shots"] == "3"]
    assert results["figures"]["3 a class"] == pytest.approx(np.mean(threes))
    assert (run / "report" / "fewshot" / "fewshot.png").stat().st_size > 5000
    assert "3 a class" in capsys.readouterr().out
    with pytest.raises(
        ConfigError, match=r"shots=\[1, 99\] asks for 99 .* 'blue' has 20"
    ):
        evaluate(parse_evaluation(["fewshot", str(run), "--shots=[1,99]"]))
    with pytest.raises(ConfigError, match=r"shots=\[\] names no number"):
        parse_evaluation(["fewshot", str(run), "--shots=[]"])
