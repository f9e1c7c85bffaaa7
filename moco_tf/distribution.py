"""Devices of a run: choosing how training is spread over them."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pathlib
from collections.abc import Sequence

import tensorflow as tf
from tensorflow.python.data.ops import multi_device_iterator_ops
from tensorflow.python.distribute import collective_all_reduce_strategy

from moco_tf.cluster import find_cluster
from moco_tf.lanes import install
from moco_tf.mistakes import Mistake

log = logging.getLogger("moco_tf")

_NVIDIA_DRIVER = pathlib.Path("/proc/driver/nvidia/version")


class DistributionError(Mistake):
    """The machine cannot give the replicas that were asked for."""


def make_strategy(
    replicas: int | None = None, gpus: Sequence[int] | None = None
) -> tf.distribute.Strategy:
    """Chooses how training is spread over devices.

    Args:
        replicas: how many devices, of each worker where there are several; None takes
            every visible GPU, or the CPU once. On a machine without GPUs, N logical CPU
            devices are made, a rehearsal of an N-GPU run.
        gpus: indices of the GPUs to use; None allows all, () none: then the CPU
            serves as on a machine without GPUs.

    Returns:
        The default strategy for one device, `MirroredStrategy` for several, and
        `MultiWorkerMirroredStrategy` where TF_CONFIG or Slurm names workers. It is made
        once all of them have come.

    Raises:
        DistributionError: if there are fewer devices than asked for.
        ClusterError: if TF_CONFIG cannot be used.
    """
    present = tf.config.list_physical_devices("GPU")
    if gpus is not None:
        wrong = [index for index in gpus if not 0 <= index < len(present)]
        if wrong:
            others = f"use indices below {len(present)} or " if present else ""
            raise DistributionError(
                f"distribution.gpus={list(gpus)} names GPU {wrong[0]}, but TensorFlow "
                f"finds {len(present) or 'none'}; {others}leave distribution.gpus out."
            )
        present = [present[index] for index in gpus]
        _show_only(present)
    elif not present and _NVIDIA_DRIVER.exists():
        log.warning(
            "This machine has an NVIDIA driver, but TensorFlow finds no GPU and uses "
            "the CPU; install its CUDA libraries, in moco_tf's checkout by "
            f"`{install('gpu')}`."
        )
    if present:
        # Each GPU's kernels are launched by threads of its own; effect not measured.
        os.environ.setdefault("TF_GPU_THREAD_MODE", "gpu_private")
    for gpu in present:
        # Once TensorFlow is running, as in a notebook, it has taken its memory.
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)
    if cluster := find_cluster():
        return _over_hosts(cluster, replicas, present)
    count = replicas or max(1, len(present))
    if present and count > len(present):
        raise DistributionError(
            f"distribution.replicas={count} is more than the {len(present)} "
            f"visible GPUs; use at most {len(present)}, or distribution.gpus=[] to "
            "rehearse on the CPU."
        )
    if count == 1:
        return tf.distribute.get_strategy()
    if not present:
        _make_logical_cpus(count)
        # On the CPU a plain reduction costs no more than collectives.
        plain = tf.distribute.ReductionToOneDevice
        return mirrored(tuple(f"CPU:{i}" for i in range(count)), plain)
    return mirrored(tuple(f"GPU:{i}" for i in range(count)))


def _over_hosts(cluster, replicas, gpus):
    if gpus and replicas not in (None, len(gpus)):
        raise DistributionError(
            f"distribution.replicas={replicas} does not go with several workers, which "
            f"take all {len(gpus)} GPUs that they see; leave it out, or choose some by "
            "distribution.gpus."
        )
    others = [a for i, a in enumerate(cluster.addresses) if i != cluster.index]
    if others:
        log.info("Waiting for the other workers: %s.", ", ".join(others))
    _untune_devices()
    if gpus or replicas in (None, 1):
        return tf.distribute.MultiWorkerMirroredStrategy()
    _make_logical_cpus(replicas)
    return _rehearsed(replicas)


def _rehearsed(replicas):
    """Workers of several logical CPUs each, for which TensorFlow has no option."""
    kind = collective_all_reduce_strategy.CollectiveAllReduceExtended
    usual = kind._initialize_local_devices

    def several(extended, resolver, worker):
        return tuple(f"{worker}/device:CPU:{i}" for i in range(replicas)), "CPU"

    kind._initialize_local_devices = several
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    finally:
        kind._initialize_local_devices = usual


@functools.cache
def mirrored(
    devices: tuple[str, ...],
    cross_device_ops: type[tf.distribute.CrossDeviceOps] | None = None,
) -> tf.distribute.MirroredStrategy:
    """The strategy over these devices, the same one at each call.

    Collectives are numbered by strategy, and those of two strategies of a process
    clash: a notebook that trains twice would stop.

    Args:
        devices: such as ("GPU:0", "GPU:1").
        cross_device_ops: how replicas exchange values; None leaves it to TensorFlow,
            which takes NCCL's collectives on GPUs.
    """
    _untune_devices()
    made = None if cross_device_ops is None else cross_device_ops()
    return tf.distribute.MirroredStrategy(list(devices), cross_device_ops=made)


@functools.cache
def _untune_devices() -> None:
    """Frees the iterators that strategies put on devices from TensorFlow's tuner.

    Where an iterator ends, its caller may wait until the tuner has slept out, see
    `moco_tf.data.threads`: here once for each device, at each end of an epoch or of a
    pass of evaluation. Strategies offer no option for it.
    """
    make = getattr(multi_device_iterator_ops, "_create_device_dataset", None)
    if make is None:  # another TensorFlow, which may wait
        return
    options = tf.data.Options()
    options.autotune.enabled = False
    multi_device_iterator_ops._create_device_dataset = lambda *args: make(
        *args
    ).with_options(options)


def describe(strategy: tf.distribute.Strategy) -> str:
    """The devices of a strategy in words, such as "2 replicas (GPU)"."""
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    count = strategy.num_replicas_in_sync
    return f"{count} replica{'s' * (count > 1)} ({kind})"


def _show_only(gpus: Sequence[tf.config.PhysicalDevice]) -> None:
    if tf.config.get_visible_devices("GPU") == gpus:
        return
    try:
        tf.config.set_visible_devices(gpus, "GPU")
    except RuntimeError:  # TensorFlow is already running with its devices
        raise DistributionError(
            "distribution.gpus cannot be chosen once TensorFlow is running; ask for "
            "them before anything else uses TensorFlow."
        ) from None


def _make_logical_cpus(count: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )
    except RuntimeError:  # TensorFlow is already running with its devices
        present = len(tf.config.list_logical_devices("CPU"))
        if present < count:
            raise DistributionError(
                f"distribution.replicas={count} needs {count} logical CPU devices, "
                f"but TensorFlow has already started with {present}; ask for the "
                "replicas before anything else uses TensorFlow."
            ) from None
