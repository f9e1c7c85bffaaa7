"""Replicas: choosing a strategy, gathering over replicas."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pathlib
import re
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.python.data.ops import multi_device_iterator_ops
from tensorflow.python.distribute import collective_all_reduce_strategy

from moco_tf.cluster import find_cluster
from moco_tf.lanes import install
from moco_tf.mistakes import Mistake
from moco_tf.stops import TRY_AGAIN

log = logging.getLogger("moco_tf")

# Of one exchange of features between hosts, for which devices need memory.
_ROWS_AT_ONCE = 4096
_NVIDIA_DRIVER = pathlib.Path("/proc/driver/nvidia/version")


class DistributionError(Mistake):
    """The machine cannot give the replicas that were asked for."""


class HostLost(Mistake):
    """Another host no longer answers; a run goes on once all are started again."""

    exit_code = TRY_AGAIN


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


def hosts(strategy: tf.distribute.Strategy) -> int:
    """How many hosts (workers of TF_CONFIG) share the batch."""
    return getattr(strategy.extended, "_num_workers", 1)


def of_hosts(strategy: tf.distribute.Strategy, value: int) -> list[int]:
    """What each host gives, by its index; the same list on all of them."""
    if hosts(strategy) == 1:
        return [value]
    everyone = strategy.run(lambda: gather(tf.constant([value], tf.int32)))
    values = strategy.experimental_local_results(everyone)[0].numpy().tolist()
    return values[:: local_replicas(strategy)]


def of_all_hosts(
    strategy: tf.distribute.Strategy, share: np.ndarray, count: int
) -> np.ndarray:
    """Joins an array whose rows the hosts have by turns; the same one on all of them.

    Args:
        strategy: whose hosts.
        share: (rows, ...), rows h, h + hosts, h + 2 hosts, ... of host h; as many on
            each host, so that the last may lie behind the array's end.
        count: rows of the array.

    Returns:
        (count, ...).
    """
    number, replicas = hosts(strategy), local_replicas(strategy)
    if number == 1:
        return share
    parts = []
    for start in range(0, len(share), _ROWS_AT_ONCE):
        rows = share[start : start + _ROWS_AT_ONCE]
        sizes = [(0, -len(rows) % replicas), *[(0, 0)] * (rows.ndim - 1)]
        cut = np.split(np.pad(rows, sizes), replicas)
        values = strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(
                cut[context.replica_id_in_sync_group % replicas]  # noqa: B023
            )
        )
        everyone = strategy.run(gather, args=(values,))
        everyone = strategy.experimental_local_results(everyone)[0].numpy()
        everyone = everyone.reshape(number, -1, *rows.shape[1:])
        parts.append(everyone[:, : len(rows)])
    joined = np.concatenate(parts, axis=1).swapaxes(0, 1)
    return joined.reshape(-1, *share.shape[1:])[:count]


def take_first_hosts(
    strategy: tf.distribute.Strategy, variables: Sequence[tf.Variable]
) -> None:
    """Gives variables that hosts keep each for itself the values of the first host."""
    if hosts(strategy) == 1 or not variables:
        return
    own = tf.concat([tf.reshape(value, (-1,)) for value in variables], axis=0)
    everyone = strategy.run(lambda: gather(own[tf.newaxis]))
    first = strategy.experimental_local_results(everyone)[0][0]
    sizes = [value.shape.num_elements() for value in variables]
    for variable, value in zip(variables, tf.split(first, sizes)):
        variable.assign(tf.reshape(value, variable.shape))


@contextlib.contextmanager
def together(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """What hosts do at one point: where one fails, all stop, and none waits for it.

    No exchange between hosts may happen inside.

    Raises:
        DistributionError: on a host where nothing failed, if it did on another.
    """
    failure = None
    try:
        yield
    except tf.errors.UnavailableError:
        raise  # then no host can be asked
    except Exception as error:
        failure = error
    failed = of_hosts(strategy, int(failure is not None))
    if failure is not None:
        raise failure
    if any(failed):
        names = ", ".join(str(host) for host, has in enumerate(failed) if has)
        raise DistributionError(
            f"host {names} has stopped for the reason that it prints; mend that, and "
            "start all hosts again."
        )


@contextlib.contextmanager
def lost_hosts_told(run_dir: str | os.PathLike) -> Iterator[None]:
    """Tells in a sentence that another host has died in the body.

    Raises:
        HostLost: once TensorFlow has missed it, after some ten seconds.
    """
    try:
        yield
    except tf.errors.UnavailableError as error:
        task = re.search(r"/job:(\w+)(?:/replica:\d+)?/task:(\d+)", str(error))
        if not task:
            raise
        raise HostLost(
            f"{task[1]} {task[2]} no longer answers, so the run in {run_dir} cannot go "
            "on; start the same command on all hosts again, and it goes on from its "
            "last checkpoint."
        ) from error


def local_replicas(strategy: tf.distribute.Strategy) -> int:
    """How many replicas each host has; keys are shuffled only among these."""
    return strategy.num_replicas_in_sync // hosts(strategy)


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


def gather(value: tf.Tensor) -> tf.Tensor:
    """Joins the replicas' values along axis 0, in replica order.

    Call it in replica context; every replica gets the whole.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return value
    if value.dtype == tf.int64:  # TensorFlow pads what it gathers, on GPUs no int64
        halves = gather(tf.bitcast(value, tf.int32))
        return tf.bitcast(halves, tf.int64)
    devices = context.strategy.extended.worker_devices
    if len(devices) == 1:
        # A host's only replica: TensorFlow asks where the value is, and a graph
        # leaves that open.
        with tf.device(devices[0]):
            value = tf.identity(value)
    return context.all_gather(value, axis=0)
