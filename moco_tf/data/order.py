"""Which examples an epoch has, in which order, and the keys of all randomness."""

from __future__ import annotations

import tensorflow as tf

from moco_tf.data.sources import DataError, Source
from moco_tf.data.threads import CORES, untuned

# What a random number is for: each purpose has its own stream of keys.
ORDER, VIEWS, SHUFFLE_KEYS = range(3)
# Batches made ahead of time.
_AHEAD = 2


def steps_per_epoch(source: Source, batch_size: int) -> int:
    """Whole batches in an epoch; the rest is dropped, other examples each time.

    Args:
        source: the examples.
        batch_size: the global batch.

    Returns:
        At least 1.

    Raises:
        DataError: the source is smaller than one batch.
    """
    steps = source.num_examples // batch_size
    if not steps:
        raise DataError(
            f"batch_size={batch_size} is more than the {source.num_examples} examples "
            f"of the source; use at most {source.num_examples}, or more images."
        )
    return steps


def _require_memory(source):
    """Refuses to cache what would take the machine's memory, hours into an epoch."""
    import psutil  # only here: what it imports of itself differs between systems

    free, gib = psutil.virtual_memory().available, 2**30
    if source.num_bytes is not None and source.num_bytes > 0.8 * free:
        raise DataError(
            f"cache=true would keep {source.num_bytes / gib:.1f} GiB of images in "
            f"memory, of which {free / gib:.1f} GiB are free; leave it out."
        )


class EpochOrder:
    """Which elements a host sees in an epoch, in which order."""

    def __init__(self, source, batch_size, shards, seed, shuffle_buffer, cache):
        """See `moco_tf.data.two_views`, whose arguments these are."""
        self.source, self.seed = source, seed
        self.batch_size, self.shards = batch_size, shards
        self.steps = steps_per_epoch(source, batch_size)
        in_memory = source.channels is not None and source.load is not None
        cache = cache and not in_memory
        if cache:
            _require_memory(source)
        # A cached set is read from front to back, and shuffled as a stream.
        self.streams = cache or source.load is None
        self.cached = source.dataset.cache() if cache else None
        self.buffer = source.num_examples if cache else shuffle_buffer
        self.buffer = max(1, min(self.buffer, source.num_examples))

    def elements(self, epoch, skipped):
        """The epoch's elements (only their ids where the source loads by id).

        Args:
            epoch: int64 scalar.
            skipped: int64 scalar, steps at the start of the epoch that are left out.
        """
        key = stream_key(self.seed, ORDER, epoch)
        return self._stream(key, skipped) if self.streams else self._ids(key, skipped)

    def steps_apart(self, first: int, last: int) -> tf.data.Dataset:
        """Each step with the ids of its elements, int64 () and (rows,).

        Any part of the stream can be made without the rest of it, so that processes
        may share the steps. Only of sources that load by id.

        Args:
            first: global step.
            last: global step, which is no more in it.
        """

        def following(state, step):
            epoch, ids = state
            now = step // self.steps
            # An epoch's order is made once, not at each step.
            ids = tf.cond(
                now == epoch,
                lambda: ids,
                lambda: self._rows(stream_key(self.seed, ORDER, now)),
            )
            return (now, ids), (step, ids[step % self.steps])

        rows = self.batch_size // self.shards[0]
        none = (tf.constant(-1, tf.int64), tf.zeros((0, rows), tf.int64))
        return tf.data.Dataset.range(first, last).scan(none, following)

    def _ids(self, key, skipped):
        ids = tf.reshape(self._rows(key)[skipped:], (-1,))
        return tf.data.Dataset.from_tensor_slices({"id": ids})

    def _rows(self, key):
        """The ids of the epoch's elements, int64 (steps, rows)."""
        hosts, host = self.shards
        noise = tf.random.stateless_uniform(
            (self.source.num_examples,),
            tf.stack([key, 0]),
            minval=None,
            maxval=None,
            dtype=tf.int64,
        )
        ids = tf.argsort(noise)[: self.steps * self.batch_size]
        ids = tf.reshape(ids, (self.steps, hosts, self.batch_size // hosts))
        return tf.cast(ids[:, host], tf.int64)

    def _stream(self, key, skipped):
        hosts, host = self.shards
        count, rows = self.source.num_examples, self.batch_size
        # The order must not depend on tf.random.set_seed, which tf.data mixes in; this
        # sets the seed of the graph that the epoch's function is traced into, only.
        tf.compat.v1.set_random_seed(1)
        if self.cached is not None:
            dataset = self.cached
        elif self.source.shuffled is not None:
            # A host reads its share of the files, another one each epoch.
            first, last = (count * part // hosts for part in (host, host + 1))
            dataset = self.source.shuffled(key, first, last)
            rows, hosts = rows // hosts, 1
        else:
            dataset = self.source.dataset
        dataset = dataset.shuffle(self.buffer, seed=key, reshuffle_each_iteration=False)
        dataset = dataset.take(self.steps * rows).skip(skipped * rows)
        if hosts == 1:
            return dataset
        rows //= hosts
        dataset = dataset.enumerate()
        dataset = dataset.filter(
            lambda index, _: index % self.batch_size // rows == host
        )
        return dataset.map(lambda _, element: element)


def finished(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The end of every pipeline: batches made ahead of time, in a fixed order."""
    options = tf.data.Options()
    options.deterministic = True
    # TensorFlow would give each host a share of the files: hosts take their `shards`,
    # and replicas share the batches.
    policy = tf.data.experimental.AutoShardPolicy.OFF
    options.experimental_distribute.auto_shard_policy = policy
    if tf.config.get_visible_devices("GPU"):
        # Threads of their own, so that those which launch a GPU's kernels never wait
        # behind an image; effect not measured.
        options.threading.private_threadpool_size = CORES
    return untuned(dataset.prefetch(_AHEAD).with_options(options))


def stream_key(seed: int, purpose: int, counter: tf.Tensor) -> tf.Tensor:
    """An int64 scalar for each (seed, purpose, counter)."""
    stream = tf.stack([tf.constant(seed, tf.int64), counter * 4 + purpose])
    return tf.random.stateless_uniform(
        (), stream, minval=None, maxval=None, dtype=tf.int64
    )
