import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data import (
    DataError,
    Source,
    from_arrays,
    glyphs,
    labelled_batches,
    open_source,
    steps_per_epoch,
    two_views,
)
from moco_tf.data.decoding import decode
from moco_tf.data.labelled import labelled_crops


def in_memory(count=50, size=24, channels=3):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, size, size, channels), np.uint8)
    return from_arrays(images, np.arange(count) % 5)


def streamed(count=50):
    """A source that can only be read from front to back, of encoded images."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, 20, 28, 3), np.uint8)
    encoded = tf.stack([tf.io.encode_jpeg(image) for image in images])
    ids = tf.range(count, dtype=tf.int64)
    elements = {"image": encoded, "id": ids, "label": ids % 5}
    return Source(tf.data.Dataset.from_tensor_slices(elements), count, 5)


SOURCES = pytest.mark.parametrize("source", [in_memory, streamed])


def views(source, epochs=2, **options):
    options = {"batch_size": 8, "image_size": 16, "epochs": epochs, **options}
    return list(two_views(source, **options).as_numpy_iterator())


def assert_same(batches, others):
    assert len(batches) == len(others) > 0
    for batch, other in zip(batches, others):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


def test_batches_have_the_stated_shapes_and_dtypes():
    spec = two_views(in_memory(), batch_size=8, image_size=16).element_spec
    expected = {
        "query": ((8, 16, 16, 3), tf.uint8),
        "key": ((8, 16, 16, 3), tf.uint8),
        "position": ((8,), tf.int32),
        "id": ((8,), tf.int64),
        "query_seed": ((8, 2), tf.int32),
        "key_seed": ((8, 2), tf.int32),
    }
    assert {k: (tuple(v.shape), v.dtype) for k, v in spec.items()} == expected


@SOURCES
def test_batches_do_not_depend_on_parallelism_or_global_seed(source):
    tf.random.set_seed(1)
    first = views(source(), parallel_calls=1)
    tf.random.set_seed(2)
    assert_same(first, views(source(), parallel_calls=7))
    assert_same(first, views(source()))


@SOURCES
def test_seed_changes_order_crops_and_permutation(source):
    one, two = views(source(), seed=1)[0], views(source(), seed=2)[0]
    for name in ("id", "position", "query", "query_seed"):
        assert not np.array_equal(one[name], two[name])


@SOURCES
@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("start", [3, 6, 8])
def test_resumed_stream_equals_the_uninterrupted_one(source, cache, start):
    # 6 steps an epoch: within the first, at its end, within the second.
    whole = views(source(), cache=cache)
    assert_same(whole[start:], views(source(), cache=cache, start_step=start))


@SOURCES
def test_every_epoch_has_each_example_at_most_once_in_another_order(source):
    batches = views(source(count=50), epochs=4)
    assert len(batches) == 4 * steps_per_epoch(source(count=50), 8) == 24
    orders = [np.concatenate([b["id"] for b in batches[i : i + 6]]) for i in (0, 6, 12)]
    for order in orders:
        assert len(order) == 48 == len(set(order.tolist()))
        assert set(order.tolist()) <= set(range(50))
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[1], orders[2])
    # The remainder that is dropped is not always the same examples.
    dropped = [frozenset(range(50)) - set(order.tolist()) for order in orders]
    assert len(set(dropped)) > 1


@SOURCES
def test_without_remainder_an_epoch_has_all_examples(source):
    batches = views(source(count=48), epochs=1)
    assert sorted(np.concatenate([b["id"] for b in batches])) == list(range(48))


def test_stream_goes_on_without_end_by_default():
    dataset = two_views(in_memory(), batch_size=8, image_size=16)
    assert len(list(dataset.take(40))) == 40


def test_cached_stream_reads_its_source_once():
    reads = []

    def read(example_id):
        reads.append(example_id)
        return np.zeros((8, 8, 3), np.uint8)

    def element(example_id):
        image = tf.numpy_function(read, [example_id], tf.uint8)
        image = tf.ensure_shape(image, (8, 8, 3))
        return {"image": image, "id": example_id, "label": tf.constant(-1, tf.int64)}

    source = Source(tf.data.Dataset.range(20).map(element), 20, channels=3)
    views(source, epochs=3, cache=True)
    assert len(reads) == 20
    views(source, epochs=3)
    assert len(reads) == 20 + 60


def test_argsort_of_position_restores_the_order_of_the_queries():
    # Crops of the whole image: query and key are the same pixels.
    options = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "image_size": 24}
    for batch in views(in_memory(), **options):
        order = np.argsort(batch["position"])
        assert sorted(batch["position"]) == list(range(8))
        assert not np.array_equal(batch["position"], np.arange(8))
        np.testing.assert_array_equal(batch["key"][order], batch["query"])
        np.testing.assert_array_equal(batch["key"], batch["query"][batch["position"]])


def test_key_seeds_travel_with_their_keys_and_permutation_changes():
    shuffled, plain = views(in_memory()), views(in_memory(), shuffle_keys=False)
    for one, other in zip(shuffled, plain):
        np.testing.assert_array_equal(other["position"], np.arange(8))
        np.testing.assert_array_equal(one["key"], other["key"][one["position"]])
        seeds = other["key_seed"][one["position"]]
        np.testing.assert_array_equal(one["key_seed"], seeds)
    permutations = {tuple(batch["position"]) for batch in shuffled}
    assert len(permutations) == len(shuffled)


def test_views_of_an_image_differ_from_each_other_and_between_epochs():
    batches = views(in_memory(count=48), shuffle_keys=False)
    seen = set()
    for batch in batches:
        for query, key in zip(batch["query"], batch["key"]):
            assert not np.array_equal(query, key)
        for name in ("query_seed", "key_seed"):
            seen |= {tuple(seed) for seed in batch[name]}
    assert len(seen) == 2 * 2 * 48
    first = dict(zip(batches[0]["id"], batches[0]["query"]))
    for batch in batches[6:]:
        for example, query in zip(batch["id"], batch["query"]):
            if example in first:
                assert not np.array_equal(query, first[example])


@SOURCES
def test_hosts_share_the_batches_of_one(source):
    whole = views(source(), shuffle_keys=False)
    parts = [views(source(), shards=(2, host), shuffle_keys=False) for host in (0, 1)]
    joined = [
        {name: np.concatenate([one[name], two[name]]) for name in one}
        for one, two in zip(*parts)
    ]
    assert_same(whole, joined)
    start = views(source(), shards=(2, 1), start_step=7)
    assert_same(views(source(), shards=(2, 1))[7:], start)


def test_hosts_permute_their_own_share_differently():
    one, two = (views(in_memory(), shards=(2, host)) for host in (0, 1))
    for batch, other in zip(one, two):
        assert sorted(batch["position"]) == [0, 1, 2, 3]
        assert sorted(other["position"]) == [4, 5, 6, 7]
    assert any((b["position"] + 4 != o["position"]).any() for b, o in zip(one, two))


@pytest.mark.parametrize("channels", [1, 3, 4, 16])
def test_arrays_of_any_channels_pass(channels):
    batch = views(in_memory(channels=channels), channels=channels)[0]
    assert batch["query"].shape == batch["key"].shape == (8, 16, 16, channels)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("encode", [tf.io.encode_jpeg, tf.io.encode_png])
def test_encoded_images_decode_to_the_asked_channels(encode, channels):
    encoded = encode(np.full((9, 7, 3), (200, 100, 50), np.uint8))
    image = decode(encoded, channels).numpy()
    assert image.shape == (9, 7, channels)
    if channels == 4:
        assert (image[..., 3] == 255).all()
    expected = [124] if channels == 1 else [200, 100, 50]
    np.testing.assert_allclose(image[0, 0, :3], expected, atol=2)


def test_user_mistakes_are_told_in_a_sentence():
    with pytest.raises(DataError, match="batch_size=64 is more than the 50 examples"):
        two_views(in_memory(), batch_size=64, image_size=16)
    with pytest.raises(DataError, match="channels=3 differs from the 16"):
        two_views(in_memory(channels=16), batch_size=8, image_size=16)
    with pytest.raises(DataError, match="channels=16 cannot be decoded"):
        two_views(streamed(), batch_size=8, image_size=16, channels=16)
    with pytest.raises(DataError, match="does not divide among 3 hosts"):
        two_views(in_memory(), batch_size=8, image_size=16, shards=(3, 0))
    with pytest.raises(DataError, match="resize=16 is below image_size=32"):
        labelled_batches(in_memory(), batch_size=8, image_size=32, resize=16)


def test_labelled_batches_keep_order_and_remainder():
    batches = list(labelled_batches(in_memory(50), batch_size=16, image_size=24))
    assert [len(batch["id"]) for batch in batches] == [16, 16, 16, 2]
    ids = np.concatenate([batch["id"] for batch in batches])
    labels = np.concatenate([batch["label"] for batch in batches])
    np.testing.assert_array_equal(ids, np.arange(50))
    np.testing.assert_array_equal(labels, np.arange(50) % 5)


def test_small_images_are_evaluated_as_they_are():
    source = glyphs("test")
    batch = next(iter(labelled_batches(source, batch_size=4, image_size=32)))
    expected = [element["image"] for element in source.dataset.take(4)]
    np.testing.assert_array_equal(batch["image"], expected)


def test_pipeline_runs_no_python_per_image():
    dataset = two_views(streamed(), batch_size=8, image_size=16, epochs=1)
    variant = tf.data.experimental.to_variant(dataset)
    serialised = tf.raw_ops.DatasetToGraphV2(input_dataset=variant).numpy()
    graph = tf.compat.v1.GraphDef.FromString(serialised)
    operations = {
        node.op for function in graph.library.function for node in function.node_def
    }
    assert "ScaleAndTranslate" in operations and "DecodeJpeg" in operations
    assert not {name for name in operations if "PyFunc" in name}


def test_end_of_an_iterator_waits_for_no_tuner():
    sizes = {"batch_size": 8, "image_size": 16}
    for pipeline in (two_views, labelled_batches, labelled_crops):
        options = pipeline(streamed(), **sizes).options()
        assert options.autotune.enabled is False, pipeline


def test_cached_tfds_stream_equals_the_uncached_one(shared_data):
    data_dir = str(shared_data / "tensorflow_datasets")
    source = open_source("tfds", "train[:64]", name="cifar10", data_dir=data_dir)
    first = views(source, epochs=1, image_size=32)
    assert_same(first, views(source, epochs=1, image_size=32, cache=True))


def test_key_views_may_be_cropped_by_a_scale_of_their_own():
    plain = views(in_memory(), crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    small = views(
        in_memory(), crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0),
        key_crop_scale=(0.04, 0.04),
    )  # fmt: skip
    for one, other in zip(plain, small):
        np.testing.assert_array_equal(one["query"], other["query"])
        np.testing.assert_array_equal(one["key_seed"], other["key_seed"])
        differs = (one["key"] != other["key"]).any((1, 2, 3))
        assert differs.mean() > 0.9
