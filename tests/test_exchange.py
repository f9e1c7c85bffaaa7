"""What replicas tell one another: joined rows, their order, and their gradients."""

import collections

import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored

from moco_tf.exchange import HostLost, gather, in_order, lost_hosts_told

WAYS = pytest.mark.parametrize(
    ("replicas", "collectives"), [(1, False), (2, False), (2, True), (8, False)]
)


def on_replicas(strategy, function, *rows):
    """What the first replica gets, of each replica's part of some arrays."""
    parts = [np.split(each, strategy.num_replicas_in_sync) for each in rows]

    @tf.function
    def run():
        def on_one():
            place = tf.distribute.get_replica_context().replica_id_in_sync_group
            return function(*(tf.gather(np.stack(each), place) for each in parts))

        return strategy.run(on_one)

    results = strategy.experimental_local_results(run())
    for other in results[1:]:
        tf.nest.map_structure(np.testing.assert_array_equal, results[0], other)
    return results[0], run


def operations(run):
    """How often each kind is in a traced graph."""
    graph = run.get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    return collections.Counter(node.op for node in nodes)


@WAYS
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
def test_rows_are_joined_and_put_in_order_to_the_bit(replicas, collectives, dtype):
    random = np.random.default_rng(0)
    if np.issubdtype(dtype, np.floating):
        rows = random.normal(size=(16, 2, 3)).astype(dtype)
        rows[3, 1, 1], rows[5, 0, 0] = np.nan, np.inf
    else:
        span = np.iinfo(dtype)
        rows = random.integers(span.min, span.max, 16, dtype)
        rows[:4] = [-1, 0, span.min, span.max]
    position = random.permutation(16).astype(np.int32)
    strategy = mirrored(replicas, collectives)
    joined, _ = on_replicas(strategy, gather, rows)
    np.testing.assert_array_equal(joined, rows)
    ordered, _ = on_replicas(strategy, in_order, rows, position)
    np.testing.assert_array_equal(ordered, rows[np.argsort(position)])


def test_each_exchange_is_one_collective_and_pads_no_integers():
    # TensorFlow's own gathering asks for shapes first, and pads: on GPUs no int64.
    rows = np.arange(8, dtype=np.int64)
    _, run = on_replicas(mirrored(2, True), gather, rows)
    kinds = operations(run)
    assert kinds["CollectiveReduceV2"] == 2  # one of each replica
    assert not {"CollectiveGatherV2", "Pad", "PadV2"} & set(kinds)


@WAYS
def test_gradients_flow_to_the_replica_that_a_row_is_of(replicas, collectives):
    random = np.random.default_rng(0)
    rows = random.normal(size=(16, 3))
    position = random.permutation(16).astype(np.int32)
    weights = random.normal(size=(16, 3))

    def gradients(own, places):
        with tf.GradientTape() as tape:
            tape.watch(own)
            loss = tf.reduce_sum(weights * in_order(own, places) ** 2)
        return gather(tape.gradient(loss, own))

    found, _ = on_replicas(mirrored(replicas, collectives), gradients, rows, position)
    # Every replica's loss is of all rows.
    np.testing.assert_allclose(found, replicas * 2 * weights[position] * rows)


@WAYS
@pytest.mark.parametrize("wrong", [{3: 4}, {0: 16}, {0: -1}])
def test_positions_that_are_no_permutation_are_told(replicas, collectives, wrong):
    position = np.arange(16, dtype=np.int32)
    for place, value in wrong.items():
        position[place] = value
    rows = np.ones((16, 3), np.float32)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="places of a global batch"
    ):
        on_replicas(mirrored(replicas, collectives), in_order, rows, position)


@pytest.mark.parametrize("collectives", [False, True])
@pytest.mark.parametrize("count", [8, 7])
def test_replicas_whose_sizes_a_graph_does_not_know(collectives, count):
    data = tf.data.Dataset.from_tensor_slices(
        (np.arange(count) * 2**40 - 5, np.arange(count, dtype=np.int32))
    ).batch(8)
    strategy = mirrored(2, collectives)
    batch = next(iter(strategy.experimental_distribute_dataset(data)))

    def run(function, *values):
        made = tf.function(lambda *rows: strategy.run(function, args=rows))(*values)
        return strategy.experimental_local_results(made)[1].numpy().tolist()

    assert run(gather, batch[0]) == [n * 2**40 - 5 for n in range(count)]
    if count == 8:
        assert run(in_order, *batch) == [n * 2**40 - 5 for n in range(count)]
        return
    with pytest.raises(tf.errors.InvalidArgumentError, match="equally many images"):
        run(in_order, *batch)


@pytest.mark.parametrize(
    "message",
    [
        "{{function_node CollectiveReduceV2_device_/job:worker/replica:0/task:1/device"
        ":CPU:0}} Collective ops is aborted by: Connection reset by peer\nAdditional "
        "GRPC error information from remote target /job:worker/replica:0/task:0 while",
        "Collective ops is aborted by: Socket closed\nAdditional GRPC error "
        "information from remote target /job:worker/replica:0/task:0 while calling",
        "/job:worker/task:0 is unavailable.",
    ],
)
def test_lost_host_is_the_one_that_does_not_answer(message):
    with pytest.raises(HostLost, match="worker 0 no longer answers"):
        with lost_hosts_told("runs/mine"):
            raise tf.errors.UnavailableError(None, None, message)
