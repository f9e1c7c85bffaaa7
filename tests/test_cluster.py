"""Several hosts: how they are described, and what they do when one is lost."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from commands import ROOT
from run_files import history, newest_place, write_sweep
from test_pretrain import SMALL
from test_within_epoch import assert_same_end

from moco_tf.cluster import Cluster, ClusterError, find_cluster
from moco_tf.config import load_config
from moco_tf.interchange import load_pretrained
from moco_tf.pretrain import build_model
from moco_tf.pretrain.monitor import Monitor

ALONE = {"worker": ["a:1", "b:1"]}
WITH_CHIEF = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
LAUNCH = [sys.executable, "-m", "moco_tf", "launch", "--workers=2"]


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No description of a cluster, and none is left."""
    monkeypatch.setenv("TF_CONFIG", "")
    monkeypatch.delenv("TF_CONFIG")


@pytest.mark.parametrize(
    ("cluster", "kind", "index", "place"),
    [
        (ALONE, "worker", 0, 0),
        (ALONE, "worker", 1, 1),
        (WITH_CHIEF, "chief", 0, 0),
        (WITH_CHIEF, "worker", 0, 1),
        (WITH_CHIEF, "worker", "1", 2),
    ],
)
def test_workers_are_counted_from_the_chief(monkeypatch, cluster, kind, index, place):
    task = {"type": kind, "index": index}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    addresses = [*cluster.get("chief", ()), *cluster["worker"]]
    assert find_cluster() == Cluster(tuple(addresses), place)


def test_process_without_a_cluster_works_alone():
    assert find_cluster() is None


@pytest.mark.parametrize(
    "config",
    [
        "", "{", "[]", "{}", '{"cluster": {"worker": ["a:1"]}}',
        json.dumps({"cluster": ALONE, "task": {"type": "worker", "index": 2}}),
        json.dumps({"cluster": ALONE, "task": {"type": "worker", "index": "x"}}),
        json.dumps({"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}),
    ],
)  # fmt: skip
def test_description_that_is_none_is_told(monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ClusterError, match="does not say which worker.*like .*host1"):
        find_cluster()


def set_slurm(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


def test_tasks_of_slurm_are_the_hosts_in_its_order(monkeypatch):
    set_slurm(
        monkeypatch, PROCID="3", JOB_ID="500000", STEP_NUM_TASKS="4",
        STEP_NODELIST="node[2,10-12]", STEP_TASKS_PER_NODE="1(x4)",
    )  # fmt: skip
    cluster = find_cluster()
    names = [address.partition(":")[0] for address in cluster.addresses]
    assert names == ["node2", "node10", "node11", "node12"] and cluster.index == 3
    config = json.loads(os.environ["TF_CONFIG"])
    assert config["cluster"]["worker"] == list(cluster.addresses)


def test_tasks_of_slurm_on_one_node_have_their_own_ports(monkeypatch):
    set_slurm(
        monkeypatch, PROCID="2", STEP_NUM_TASKS="3", STEP_NODELIST="gpu-a,gpu-b",
        STEP_TASKS_PER_NODE="2,1",
    )  # fmt: skip
    assert find_cluster().addresses == ("gpu-a:20000", "gpu-a:20001", "gpu-b:20000")


def test_batch_script_of_slurm_works_alone(monkeypatch):
    set_slurm(monkeypatch, PROCID="0", NTASKS="2", JOB_NODELIST="a,b")
    assert find_cluster() is None


def launched(*words, **options):
    return subprocess.run(
        [*LAUNCH, *words], cwd=ROOT, capture_output=True, text=True, timeout=500,
        check=False, **options,
    )  # fmt: skip


def test_output_of_the_first_worker_is_shown_and_mistakes_of_all():
    done = launched("--", "train", "--list")
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.count("moco_v2_resnet50_200ep") == 1
    done = launched("train", "--seed=x")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.count("error: ") == 2
    assert done.stderr.count("[worker 1] error: ") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--"], "no command to start; for instance: .* train --config demo"),
        (["--workers=0", "--", "train"], "--workers=0 is too small"),
        (["--workers=x", "--", "train"], "invalid int value"),
    ],
)
def test_mistakes_of_launch_are_told(words, sentence):
    done = launched(*words)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert re.search(sentence, done.stderr)


TRAIN = [f"--{word}" for word in SMALL] + [
    "--train.steps_per_epoch=150", "--train.checkpoint_minutes=1e-9",
    "--monitor.every=0", "--train.deterministic=true",
]  # fmt: skip


def workers_of(launcher):
    """Process numbers of the workers, the first one's first."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(launcher)], capture_output=True, text=True
    )
    return sorted(map(int, listed.stdout.split()))


def saved(run):
    """The newest checkpoint that both hosts have, as epochs and steps."""
    return min(newest_place(run), newest_place(run / "worker-1"))


def start(folder, *words):
    return subprocess.Popen(
        [*LAUNCH, "--", "train", *TRAIN, f"--runs_dir={folder}", *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_workers_share_the_probes_and_judge_what_is_exported(tmp_path):
    # Sets that neither the hosts nor their replicas divide.
    words = [f"--{word}" for word in SMALL] + [
        "--distribution.replicas=2", f"--runs_dir={tmp_path}", "--name=run",
        "--monitor.max_train=301", "--monitor.max_test=99", "--monitor.batch_size=25",
        "--monitor.linear=true", "--monitor.every=1",
    ]  # fmt: skip
    done = launched("--", "train", *words)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    rows = history(run)
    assert len(rows) == 3
    for other, row in zip(history(run / "worker-1"), rows):
        assert (other["knn"], other["linear"]) == (row["knn"], row["linear"])
    config = load_config(run / "config.yaml")
    monitor = Monitor(config, build_model(config, 2, 1, 10))
    encoder = load_pretrained(run / "saved_model").encoder
    for probe in monitor.probes:
        accuracy = probe.score(*monitor.features.get(encoder, 1))
        assert float(rows[2][probe.name]) == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.slow
def test_workers_killed_five_times_come_to_the_same_bits(tmp_path):
    words = ("--distribution.replicas=2",)
    whole = start(tmp_path, "--name=whole", *words)
    printed, _ = whole.communicate(timeout=500)
    assert whole.returncode == 0, printed
    run = tmp_path / "killed"
    for turn in range(5):
        before = saved(run)
        job = start(tmp_path, "--name=killed", *words)
        while job.poll() is None and saved(run) == before:
            time.sleep(0.2)
        first, second = workers_of(job.pid)
        os.kill((first, second)[turn % 2], signal.SIGKILL)
        printed, _ = job.communicate(timeout=200)
        assert job.returncode == 137, printed
        lost = turn % 2
        assert f"worker {lost} no longer answers" in printed
        assert "Traceback" not in printed
        if before != (0, 0):
            assert "Continuing after" in printed
    job = start(tmp_path, "--name=killed", *words)
    printed, _ = job.communicate(timeout=500)
    assert job.returncode == 0, printed
    for place in ("", "worker-1"):
        assert_same_end(tmp_path / "whole" / place, run / place)
        assert len(history(run / place)) == 3


@pytest.mark.slow
def test_all_workers_save_where_one_is_asked_to_stop(tmp_path):
    job = start(tmp_path, "--name=run")
    while job.poll() is None and saved(tmp_path / "run") == (0, 0):
        time.sleep(0.2)
    os.kill(workers_of(job.pid)[1], signal.SIGTERM)
    asked = time.monotonic()
    printed, _ = job.communicate(timeout=200)
    assert job.returncode == 75, printed
    assert time.monotonic() - asked < 30
    assert printed.count("start the same command on all hosts again") == 2
    job = start(tmp_path, "--name=run")
    while job.poll() is None and len(workers_of(job.pid)) < 2:
        time.sleep(0.2)
    job.send_signal(signal.SIGTERM)  # before they listen, or in training: both end
    printed, _ = job.communicate(timeout=200)
    assert job.returncode == 75, printed


@pytest.mark.slow
def test_tasks_of_slurm_train_together(tmp_path):
    shared = {
        **os.environ, "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_TASKS_PER_NODE": "2",
    }  # fmt: skip
    tasks = [
        subprocess.Popen(
            [sys.executable, "train.py", *TRAIN, f"--runs_dir={tmp_path}",
             "--name=run", "--train.steps_per_epoch=5"],
            cwd=ROOT, env={**shared, "SLURM_PROCID": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    for task in tasks:
        printed, _ = task.communicate(timeout=300)
        assert task.returncode == 0, printed
        assert "2 replicas (CPU)" in printed and "Waiting for the other" in printed
    assert (tmp_path / "run" / "worker-1" / "history.csv").is_file()


@pytest.mark.slow
def test_workers_go_through_a_sweep_together(tmp_path):
    sweep = write_sweep(tmp_path / "sweep.yaml")
    words = [f"--{word}" for word in SMALL] + [f"--runs_dir={tmp_path}"]
    for again in (False, True):
        if again:  # the first host, on a disk of its own, lacks the end of a run
            (tmp_path / "swept" / "warm-seed0" / "report" / "summary.json").unlink()
        done = launched("--", "train", "--sweep", str(sweep), *words)
        assert done.returncode == 0, done.stderr
        for run in ("cold-seed0", "warm-seed0"):
            for place in ("", "worker-1"):
                folder = tmp_path / "swept" / run / place / "report"
                assert (folder / "summary.json").is_file()
