"""A run directory that version 0.1 left (revision 75c19c1, trained for two epochs)."""

import json
import pathlib
import shutil

import pytest
from run_files import history

from moco_tf.callbacks import RunError
from moco_tf.cli.evaluate import parse_evaluation
from moco_tf.cli.train import parse_args
from moco_tf.evaluation import evaluate
from moco_tf.pretrain import pretrain

KEPT = pathlib.Path(__file__).parent / "data" / "version_0_1"


@pytest.fixture
def run(tmp_path):
    return pathlib.Path(shutil.copytree(KEPT, tmp_path / "version_0_1"))


def stop_after_first_epoch(run):
    """Undoes what the second epoch and the end of the run wrote."""
    for file in run.glob("checkpoints/epoch-2.*"):
        file.unlink()
    names = (run / "checkpoints" / "checkpoint").read_text().splitlines()
    kept = [line.replace("epoch-2", "epoch-1") for line in names if "all_" not in line]
    (run / "checkpoints" / "checkpoint").write_text("\n".join(kept))
    lines = (run / "history.csv").read_text().splitlines()
    (run / "history.csv").write_text("\n".join(lines[:-1]) + "\n")
    (run / "report" / "summary.json").unlink()


def test_it_goes_on_to_what_version_0_1_came_to(run):
    stop_after_first_epoch(run)
    pretrain(parse_args([f"--resume={run}"]), guide=False)
    ours, its = history(run), history(KEPT)
    assert [row["epoch"] for row in ours] == ["0", "1", "2"]
    # Colours are rounded better since, by a grey level on few pixels.
    for name in ("loss", "positive_similarity", "feature_std", "learning_rate"):
        value = float(its[2][name])
        assert float(ours[2][name]) == pytest.approx(value, rel=1e-3), name
    assert (run / "report" / "summary.json").is_file()


def test_finished_it_stays_as_it_is(run):
    before = (run / "history.csv").read_bytes()
    figures = pretrain(parse_args([f"--resume={run}"]), guide=False)
    assert (run / "history.csv").read_bytes() == before
    kept = json.loads((KEPT / "report" / "summary.json").read_text())
    assert figures["trained"] == kept["trained"]


def test_its_encoder_is_evaluated(run):
    words = ["knn", str(run), "--k=[5]", "--data.max_train=50", "--data.max_test=20"]
    evaluate(parse_evaluation(words))
    results = json.loads((run / "report" / "knn" / "results.json").read_text())
    kept = json.loads((KEPT / "report" / "summary.json").read_text())
    # The monitor's figure is of the same images, by its temperature.
    assert results["figures"]["top1"] == kept["trained"]["knn"]


def test_it_is_not_overwritten_without_its_checkpoints(run):
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(RunError, match="the checkpoints are gone"):
        pretrain(parse_args([f"--resume={run}"]), guide=False)
