"""Which worker a process is, and what replicas and hosts rule out or ask for."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from tiny import noise_batches, small_encoder

import moco_tf
from moco_tf import distribution, exchange
from moco_tf.config import ConfigError, load_config, validate
from moco_tf.data.order import finished
from moco_tf.data.threads import untuned
from moco_tf.methods import moco
from moco_tf.optimizers import SGD

ALONE = {"worker": ["a:1", "b:1"]}


@pytest.mark.parametrize("collectives", [False, True])
def test_no_iterator_of_a_device_waits_for_a_tuner(monkeypatch, collectives):
    iterated, start = [], tf.data.Dataset.__iter__

    def spied(dataset):
        iterated.append(dataset.options().autotune.enabled)
        return start(dataset)

    strategy = mirrored(2, collectives)
    monkeypatch.setattr(tf.data.Dataset, "__iter__", spied)
    batches = untuned(tf.data.Dataset.range(4).batch(2))
    assert len(list(strategy.experimental_distribute_dataset(batches))) == 2
    assert iterated == [False] * len(iterated) and len(iterated) >= 2


def test_hosts_of_one_replica_each_get_split_batch_norm():
    # Keys are permuted within a host, so between its replicas, if it has several.
    config = load_config(None, ["train.batch_size=24", "method.queue_size=64"])
    validate(config, replicas=4, hosts=2)
    with pytest.raises(ConfigError, match="2 replicas of 8 batch-norm groups"):
        validate(config, replicas=2, hosts=2)


@pytest.mark.parametrize(("hosts", "leaks"), [(1, False), (2, True)])
def test_leak_through_batch_norm_is_told_where_a_host_has_one_replica(
    monkeypatch, hosts, leaks
):
    said = []
    monkeypatch.setattr(exchange, "hosts", lambda strategy: hosts)
    monkeypatch.setattr(moco.log, "info", said.append)
    with mirrored(2).scope():
        model = moco_tf.MoCo(small_encoder(), dim=4, queue_size=32, bn_groups=1)
        model.compile(SGD(0.1))
    assert [" may leak " in sentence for sentence in said] == [True] * leaks


def test_driver_without_cuda_libraries_is_told(monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(distribution.log, "warning", said.append)
    distribution.make_strategy(1)
    assert not said
    driver = tmp_path / "version"
    driver.touch()
    monkeypatch.setattr(distribution, "_NVIDIA_DRIVER", driver)
    distribution.make_strategy(1, gpus=())
    assert not said
    distribution.make_strategy(1)
    assert len(said) == 1 and "[gpu]" in said[0]


def test_no_gpus_leave_the_cpu_to_rehearse_on():
    config = load_config(None, ["distribution.gpus=[]", "distribution.replicas=2"])
    assert config.requested_replicas == 2
    strategy = distribution.make_strategy(2, config.distribution.gpus)
    assert distribution.describe(strategy) == "2 replicas (CPU)"


def test_groups_of_a_single_image_are_refused():
    config = load_config(None, ["train.batch_size=8"])
    with pytest.raises(ConfigError, match="one image to each of 8 .* use 16 or more"):
        validate(config, replicas=1)


def test_batch_norm_over_replicas_is_not_compiled_by_xla():
    words = ["train.jit_compile=true", "method.name=simclr"]
    config = load_config(None, words)
    validate(config, replicas=1)
    with pytest.raises(ConfigError, match="simclr, whose .* over all 2 replicas; lea"):
        validate(config, replicas=2)
    validate(load_config(None, words[:1]), replicas=2)
    with distribution.mirrored(("CPU:0", "CPU:1")).scope():
        model = moco_tf.SimCLR(small_encoder(), dim=4)
    with pytest.raises(ValueError, match="SimCLR on 2 replicas, as its batch norm"):
        model.compile(moco_tf.optimizers.SGD(), jit_compile=True)


def test_a_gpu_that_is_not_there_is_said_with_what_is(monkeypatch):
    for present, sentence in [
        ([], r"names GPU 0, but TensorFlow finds none; leave distribution.gpus out"),
        (["g"], r"names GPU 2, but TensorFlow finds 1; use indices below 1 or leave"),
    ]:
        seen = distribution.tf.config
        monkeypatch.setattr(seen, "list_physical_devices", lambda _, p=present: p)
        with pytest.raises(distribution.DistributionError, match=sentence):
            distribution.make_strategy(gpus=[2 if present else 0])


def test_replicas_beside_workers_with_gpus_are_refused(monkeypatch):
    task = {"type": "worker", "index": 0}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": ALONE, "task": task}))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["0", "1"])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda *_: None)
    monkeypatch.setenv("TF_GPU_THREAD_MODE", "global")
    with pytest.raises(distribution.DistributionError, match="take all 2 GPUs"):
        distribution.make_strategy(replicas=1)
    assert os.environ["TF_GPU_THREAD_MODE"] == "global"  # a user's own choice stays


def test_gpus_have_threads_for_kernels_and_images_apart(monkeypatch):
    monkeypatch.setenv("TF_GPU_THREAD_MODE", "")
    monkeypatch.delenv("TF_GPU_THREAD_MODE")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["0"])
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["0"])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda *_: None)
    distribution.make_strategy()
    assert os.environ["TF_GPU_THREAD_MODE"] == "gpu_private"
    batches = finished(tf.data.Dataset.range(9).map(lambda n: n * n).batch(3))
    assert batches.options().threading.private_threadpool_size >= 1
    assert np.concatenate(list(batches.as_numpy_iterator())).tolist() == [
        n * n for n in range(9)
    ]


@pytest.mark.parametrize("collectives", [False, True])
def test_two_trainings_in_a_process_do_not_clash(collectives):
    for method, settings in (
        ("MoCo", {"queue_size": 32, "dim": 4, "bn_groups": 1}),
        ("EndToEnd", {"dim": 8, "bn_groups": 1}),
    ):
        with mirrored(2, collectives).scope():
            model = getattr(moco_tf, method)(small_encoder(), **settings)
            model.compile(SGD(0.01))
        (loss,) = model.fit(noise_batches(2), verbose=0).history["loss"]
        assert 0 < loss < 5
    assert mirrored(2, collectives) is mirrored(2, collectives)


@pytest.mark.parametrize("collectives", [False, True])
def test_queue_smaller_than_the_batch_is_refused_on_every_path(collectives):
    with mirrored(2, collectives).scope():
        model = moco_tf.MoCo(small_encoder(), dim=4, queue_size=8, bn_groups=1)
        model.compile(SGD(0.01))
    with pytest.raises(Exception, match="queue_size=8 is smaller than the global"):
        model.fit(noise_batches(1), verbose=0)
