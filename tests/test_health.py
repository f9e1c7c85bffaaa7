"""Signs of health: what a run measures of its features, and says of them."""

import sys
import types

import numpy as np
import pytest

from moco_tf.callbacks import health
from moco_tf.callbacks.health import diagnose, peak_memory, spread

HEALTHY = {
    "loss": 4.0,
    "loss_ceiling": 8.0,
    "feature_std": 0.9,
    "effective_rank": 40.0,
    "top1": 0.4,
    "input_wait": 0.01,
    "false_negative_rate": 0.0,
}


@pytest.mark.parametrize(
    "signs, topic",
    [
        ({}, None),
        ({"feature_std": 0.01}, "collapsed"),
        ({"effective_rank": 1.1}, "collapsed"),
        ({"loss": 7.99}, "stuck"),
        ({"top1": 0.995}, "leak"),
        ({"top1": 0.995, "loss": 2.0, "loss_ceiling": 4.8}, None),  # 127 negatives
        ({"input_wait": 0.6}, "input"),
        ({"false_negative_rate": 0.01}, "false negatives"),
    ],
)
def test_diagnosis_names_what_looks_wrong(signs, topic):
    found = diagnose({**HEALTHY, **signs}, epoch=1)
    assert list(found) == ([topic] if topic else [])


def test_spread_tells_a_full_sphere_from_a_collapsed_one():
    rows = np.random.default_rng(0).normal(size=(5000, 16))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    deviation, rank = spread(rows)
    assert deviation == pytest.approx(1, abs=0.02) and rank == pytest.approx(
        16, abs=0.2
    )
    line = np.outer(np.sign(rows[:, 0]), np.eye(16)[3])
    assert spread(line)[1] == pytest.approx(1, abs=1e-6)
    assert spread(np.repeat(rows[:1], 100, 0))[0] == pytest.approx(0, abs=1e-9)


def test_peak_memory_is_that_of_the_process_on_every_system(monkeypatch):
    assert 50 < peak_memory() < 100_000
    info = types.SimpleNamespace(peak_wset=300 * 2**20)
    process = types.SimpleNamespace(memory_info=lambda: info)
    fake = types.SimpleNamespace(Process=lambda: process)
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setitem(sys.modules, "psutil", fake)
    assert peak_memory() == 300


@pytest.mark.parametrize("prefix", ["", "/job:worker/replica:0/task:1"])
def test_peak_memory_is_that_of_the_busiest_gpu_with_workers_too(monkeypatch, prefix):
    gpus = [types.SimpleNamespace(name=f"{prefix}/device:GPU:{i}") for i in (0, 1)]
    peaks = {"GPU:0": {"peak": 2**20}, "GPU:1": {"peak": 3 * 2**20}}
    config = health.tf.config
    monkeypatch.setattr(config, "list_logical_devices", lambda kind: gpus)
    monkeypatch.setattr(
        config.experimental, "get_memory_info", lambda name: peaks[name]
    )
    assert peak_memory() == 3
