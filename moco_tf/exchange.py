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
_BITS = 22  # of an integer that float32 holds without loss, sign included


class HostFailed(Mistake):
    """Another host has stopped, for a reason that it prints."""


class HostLost(Mistake):
    """Another host no longer answers; a run goes on once all are started again."""

    exit_code = TRY_AGAIN


def gather(values: tf.Tensor) -> tf.Tensor:
    """Joins the replicas' values along axis 0, in replica order.

    Call it in replica context; every replica gets the whole, and gradients flow to all.

    Args:
        values: (N, ...), where replicas may differ in N.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return values
    if not _equally_many(values):
        return _gather_any(values)
    count = values.shape[0]
    first = tf.convert_to_tensor(context.replica_id_in_sync_group) * count
    return _placed(values, first + tf.range(count), context)[0]


def in_order(values: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    """The replicas' rows in the order of the global batch; call in replica context.

    Args:
        values: (N, ...), a replica's rows.
        position: int32 (N,), where each of them belongs.

    Returns:
        (global N, ...), the same on every replica; gradients flow to all replicas.

    Raises:
        tf.errors.InvalidArgumentError: if the positions are not 0 to N - 1, as where
            replicas have batches of different sizes.
    """
    context = tf.distribute.get_replica_context()
    equal_shares = tf.size(position) * context.num_replicas_in_sync
    if not _equally_many(position):
        values, position = _gather_any(values), _gather_any(position)
        context = None
    whole, taken = _placed(values, position, context)
    # Nothing waits for this, so that no device does; a step that it fails ends the run.
    tf.debugging.Assert(
        tf.reduce_all(taken == 1) & (equal_shares == tf.size(taken)),
        ["keys are not in the places of a global batch; give each replica equally many "
         'images, and "position" as a permutation of 0 to N - 1.'],
    )  # fmt: skip
    return whole


def _equally_many(values):
    """Whether the graph knows that all of this host's replicas have as many rows."""

    def check(strategy, values):
        counts = {each.shape[0] for each in strategy.experimental_local_results(values)}
        return len(counts) == 1 and None not in counts

    return tf.distribute.get_replica_context().merge_call(check, args=(values,))


def _placed(values, position, context=None):
    """Rows in their places, and how often each place was taken.

    The replicas of a context each put theirs into a batch of zeros and add these up:
    one all-reduce, for which no shapes need to be exchanged.
    """
    floats = _pieces(values) if values.dtype.is_integer else values
    width = np.prod(floats.shape[1:], dtype=int)
    flat = tf.reshape(floats, (-1, width))
    replicas = context.num_replicas_in_sync if context else 1
    count = (position.shape[0] or tf.size(position)) * replicas
    place = tf.clip_by_value(position, 0, count - 1)
    somewhere = tf.cast(place == position, flat.dtype)
    flat = tf.concat([flat, somewhere[:, None]], axis=1)
    # Not a gather by the inverse, whose sparse gradient no collective takes.
    whole = tf.scatter_nd(place[:, None], flat, (count, width + 1))
    if replicas > 1:
        whole = context.all_reduce(tf.distribute.ReduceOp.SUM, _where(whole))
    rows = tf.reshape(whole[:, :-1], (count, *floats.shape[1:]))
    if values.dtype.is_integer:
        rows = _joined(rows, values.dtype)
    return rows, whole[:, -1]


def _pieces(values):
    """Integers as float32 (..., 3), which any device can add to zeros without loss."""
    shifts = tf.constant([0, _BITS, 2 * _BITS], tf.int64)
    shifted = tf.bitwise.right_shift(tf.cast(values, tf.int64)[..., None], shifts)
    low = tf.bitwise.bitwise_and(shifted[..., :2], 2**_BITS - 1)
    return tf.cast(tf.concat([low, shifted[..., 2:]], axis=-1), tf.float32)


def _joined(pieces, dtype):
    """The integers of `_pieces`."""
    weights = tf.constant([1, 2**_BITS, 2 ** (2 * _BITS)], tf.int64)
    return tf.cast(tf.reduce_sum(tf.cast(pieces, tf.int64) * weights, axis=-1), dtype)


def _where(value):
    """A value with the place that TensorFlow asks for, and a graph leaves open."""
    devices = tf.distribute.get_strategy().extended.worker_devices
    if len(devices) > 1:
        return value
    with tf.device(devices[0]):
        return tf.identity(value)


def _gather_any(values):
    """As `gather`, where replicas may have different numbers of rows."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return values
    if values.dtype == tf.int64:  # TensorFlow pads what it gathers, on GPUs no int64
        return tf.bitcast(_gather_any(tf.bitcast(values, tf.int32)), tf.int64)
    return context.all_gather(_where(values), axis=0)


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
        # Not the device on which this host's own operation was.
        named = r"(?<!_device_)/job:(\w+)(?:/replica:\d+)?/task:(\d+)"
        task = re.search(named, str(error))
        if not task:
            raise
        raise HostLost(
            f"{task[1]} {task[2]} no longer answers, so the run in {run_dir} cannot go "
            "on; start the same command on all hosts again, and it goes on from its "
            "last checkpoint."
        ) from error
