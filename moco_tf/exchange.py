"""What replicas and hosts tell one another."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from moco_tf.mistakes import Mistake
from moco_tf.stops import TRY_AGAIN

# Of one exchange of features between hosts, for which devices need memory.
_ROWS_AT_ONCE = 4096


class HostFailed(Mistake):
    """Another host has stopped, for a reason that it prints."""


class HostLost(Mistake):
    """Another host no longer answers; a run goes on once all are started again."""

    exit_code = TRY_AGAIN


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


def hosts(strategy: tf.distribute.Strategy) -> int:
    """How many hosts (workers of TF_CONFIG) share the batch."""
    return getattr(strategy.extended, "_num_workers", 1)


def local_replicas(strategy: tf.distribute.Strategy) -> int:
    """How many replicas each host has; keys are shuffled only among these."""
    return strategy.num_replicas_in_sync // hosts(strategy)


def of_hosts(strategy: tf.distribute.Strategy, value: int) -> list[int]:
    """What each host gives, by its index; the same list on all of them."""
    return of_all_hosts(strategy, np.array([value]), hosts(strategy)).tolist()


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
    first = of_all_hosts(strategy, own.numpy()[np.newaxis], hosts(strategy))[0]
    ends = np.cumsum([value.shape.num_elements() for value in variables])
    for variable, value in zip(variables, np.split(first, ends[:-1])):
        variable.assign(value.reshape(variable.shape))


@contextlib.contextmanager
def together(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """What hosts do at one point: where one fails, all stop, and none waits for it.

    No exchange between hosts may happen inside.

    Raises:
        HostFailed: on a host where nothing failed, if it did on another.
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
        raise HostFailed(
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
