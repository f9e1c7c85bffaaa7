"""Runs in Weights & Biases and MLflow, offline: what is logged, and that it goes on."""

import importlib.util
import json
import time

import pytest
from run_files import history
from test_pretrain import small
from test_resuming import stop_after

from moco_tf.cluster import Cluster
from moco_tf.config import ConfigError, load_config
from moco_tf.config.checks import check_places
from moco_tf.pretrain import pretrain, tracking


def two_processes(folder, monkeypatch, tracker):
    """A run of two epochs that is stopped after the first, and continued."""
    config = small(
        folder, "monitor.every=1", f"log.tracker={tracker}", "log.project=tests"
    )
    stop_after(monkeypatch, config, 1)
    before = json.loads((config.run_dir / "tracker.json").read_text())
    pretrain(config)
    assert json.loads((config.run_dir / "tracker.json").read_text()) == before
    return config, before[tracker]


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_mlflow_has_every_epoch_of_a_run_that_went_on(tmp_path, monkeypatch, bare):
    mlflow = pytest.importorskip("mlflow", reason="moco_tf[mlflow] is not installed")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    config, name = two_processes(tmp_path, monkeypatch, "mlflow")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("tests")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.run_name) == (name, "run")
    assert run.info.status == "FINISHED"
    assert run.data.params["method.queue_size"] == str(config.method.queue_size)
    for figure in ("loss", "knn", "learning_rate"):
        logged = client.get_metric_history(name, figure)
        rows = history(config.run_dir)[1:]
        assert [one.step for one in logged] == [0, 1]
        assert [one.value for one in logged] == pytest.approx(
            [float(row[figure]) for row in rows], rel=1e-5
        )


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_wandb_has_one_run_of_one_that_went_on(tmp_path, monkeypatch, bare):
    pytest.importorskip("wandb", reason="moco_tf[wandb] is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config, name = two_processes(tmp_path, monkeypatch, "wandb")
    files = sorted((config.run_dir / "wandb").glob("offline-run-*/*.wandb"))
    assert [file.stem for file in files] == [f"run-{name}"] * 2
    words = (b"epoch/loss", b"epoch/knn", b"method.queue_size", b"tests")
    for file in files:
        # Written by a process of the library's own, which may still be at it.
        for _ in range(100):
            missing = [word for word in words if word not in file.read_bytes()]
            if not missing:
                break
            time.sleep(0.1)
        assert not missing


def test_missing_library_is_told_with_its_installation(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("wandb", "mlflow"):
        config = load_config(None, [f"log.tracker={name}", f"runs_dir={tmp_path}"])
        sentence = rf"tracker={name} needs .*pip install {name}` .*moco_tf\[{name}\]"
        with pytest.raises(ConfigError, match=sentence):
            check_places(config)
        with pytest.raises(ConfigError, match=sentence):
            with tracking.tracked(config, tmp_path, 0):
                pass
    with tracking.tracked(load_config(None), tmp_path, 0) as none:
        assert none == []


def test_only_the_first_host_logs_and_only_while_it_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "check_tracker", lambda config: None)
    config = load_config(None, ["log.tracker=wandb", "train.epochs=4"])
    with tracking.tracked(config, tmp_path, 4) as over:
        assert over == []
    other = Cluster(("a:1", "b:1"), 1)
    monkeypatch.setattr(tracking, "find_cluster", lambda: other)
    with tracking.tracked(config, tmp_path, 0) as second:
        assert second == []
