"""Positives of one group: who is drawn, and whose keys are no negatives."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from test_manifest import manifest
from tiny import small_encoder

import moco_tf
from moco_tf.config import ConfigError, load_config
from moco_tf.data import DataError, from_arrays, two_views
from moco_tf.data.partners import partner_of
from moco_tf.optimizers import SGD
from moco_tf.pretrain import build, pretrain

GROUPS = np.array([7, 3, 7, 9, 3, 7, 7, 40, 3, 7, 41, 42])
SIZE, COUNT = 8, len(GROUPS)


def flat_images():
    """Images of a single grey level each: ten times its id."""
    values = 10 * np.arange(COUNT, dtype=np.uint8)
    return np.broadcast_to(values[:, None, None, None], (COUNT, SIZE, SIZE, 3))


def views(positives="group", groups=GROUPS, batch_size=4, **options):
    source = from_arrays(flat_images(), groups=groups)
    options = {"epochs": 3, "seed": 5, **options}
    return list(
        two_views(
            source, batch_size=batch_size, image_size=SIZE, positives=positives,
            **options,
        )
    )  # fmt: skip


def who(batch, of):
    """Ids of the images that views show, from their grey level."""
    return batch[of][:, 0, 0, 0].numpy() // 10


def test_keys_are_views_of_others_of_the_group():
    seen = set()
    for batch in views(epochs=40):
        queries = who(batch, "query")
        np.testing.assert_array_equal(queries, batch["id"])
        keys = who(batch, "key")
        for row, place in enumerate(batch["position"].numpy()):
            query, key = queries[place], keys[row]
            assert GROUPS[query] == GROUPS[key]
            assert (query == key) == (np.sum(GROUPS == GROUPS[query]) == 1)
            seen.add((query, key))
        same = GROUPS[queries][:, None] == GROUPS[queries]
        found = batch["group"].numpy()[:, None] == batch["group"].numpy()
        np.testing.assert_array_equal(found, same)
    pairs = GROUPS[:, None] == GROUPS
    alone = pairs.sum(axis=1) == 1
    expected = {(a, b) for a, b in np.argwhere(pairs) if a != b or alone[a]}
    assert seen == expected


def test_each_other_of_a_group_is_drawn_as_often():
    partner = partner_of(from_arrays(flat_images(), groups=GROUPS))
    draw = tf.function(lambda key: partner(tf.constant(2, tf.int64), key)[0])
    found = [int(draw(tf.constant(key, tf.int64))) for key in range(2000)]
    members, counts = np.unique(found, return_counts=True)
    np.testing.assert_array_equal(members, [0, 5, 6, 9])
    # Four standard deviations of 2,000 draws of one in four.
    assert np.abs(counts - 500).max() < 80


def test_stream_is_the_same_again_and_from_a_later_step():
    whole, again, later = views(), views(parallel_calls=1), views(start_step=4)
    for first, second in [*zip(whole, again), *zip(whole[4:], later)]:
        for name in first:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    assert len(later) == len(whole) - 4


def test_positives_of_the_image_itself_are_as_without_groups():
    for ours, plain in zip(views("image"), views("image", groups=None)):
        assert ours.keys() == plain.keys() and "group" not in ours
        for name in ours:
            np.testing.assert_array_equal(ours[name], plain[name])


def test_sources_without_groups_are_refused():
    with pytest.raises(DataError, match="positives=group needs .* manifest"):
        views(groups=None)
    source = from_arrays(flat_images(), groups=GROUPS)
    with pytest.raises(DataError, match="neither cache=true"):
        partner_of(source, cache=True)
    with pytest.raises(DataError, match="12 images; give one integer per image"):
        from_arrays(flat_images(), groups=GROUPS[:3])


def group_batches(steps=3, count=16, size=12):
    random = np.random.default_rng(0)
    images = random.normal(size=(2, steps, count, size, size, 3)).astype(np.float32)
    position = np.stack([random.permutation(count) for _ in range(steps)])
    return {
        "query": images[0],
        "key": images[1],
        "position": position.astype(np.int32),
        "id": np.arange(steps * count).reshape(steps, count),
        "group": random.integers(0, 6, (steps, count)),
    }


def made(replicas, **options):
    with mirrored(replicas).scope():
        model = moco_tf.MoCo(
            small_encoder(), dim=8, queue_size=40, mask_same_image=True, **options
        )
        model.compile(SGD(0.05))
    return model


def slow_loss(model, batch, temperature):
    """Mean loss of a batch by loops; batch norm uses running statistics."""

    def unit(encoder, images):
        rows = encoder(images, training=False).numpy()
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    queries = unit(model.query_encoder, batch["query"])
    shuffled = unit(model.key_encoder, batch["key"])
    keys = np.empty_like(shuffled)
    keys[batch["position"]] = shuffled
    queue, of_queue = model.queue.keys.numpy(), model.queue.ids.numpy()
    losses = []
    for query, key, group in zip(queries, keys, batch["group"]):
        logits = [query @ key]
        for other, its_group in zip(queue, of_queue):
            if its_group != group:
                logits.append(query @ other)
        logits = np.array(logits) / temperature
        losses.append(np.log(np.sum(np.exp(logits))) - logits[0])
    return np.mean(losses)


@pytest.mark.parametrize("replicas", [1, 2])
def test_keys_of_the_same_group_are_masked_exactly(policy, replicas):
    policy("float64")
    model = made(replicas, temperature=0.2)
    batches = group_batches()
    data = tf.data.Dataset.from_tensor_slices(batches)
    model.fit(data, verbose=0)
    # Three batches of 16 in a ring of 40: the queue holds groups, in their order.
    expected = np.concatenate(
        [batches["group"][2][8:], np.ravel(batches["group"])[8:40]]
    )
    np.testing.assert_array_equal(model.queue.ids.numpy(), expected)
    last = {name: values[0] for name, values in batches.items()}
    found = model.evaluate(
        tf.data.Dataset.from_tensors(last), verbose=0, return_dict=True
    )
    assert found["loss"] == pytest.approx(slow_loss(model, last, 0.2), rel=1e-9)
    same = last["group"][:, None] == model.queue.ids.numpy()
    assert same.any() and found["false_negative_rate"] == pytest.approx(same.mean())


@pytest.mark.parametrize("symmetric", [False, True])
def test_two_replicas_mask_as_one(policy, symmetric):
    policy("float64")
    one = made(1, bn_groups=2, symmetric=symmetric)
    two = made(2, symmetric=symmetric)
    two.set_weights(one.get_weights())
    data = tf.data.Dataset.from_tensor_slices(group_batches())
    losses = [model.fit(data, verbose=0).history["loss"] for model in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)
    np.testing.assert_array_equal(two.queue.ids.numpy(), one.queue.ids.numpy())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("method.name=simclr",), "does not go with method.name=simclr"),
        (("method.name=memory_bank",), "does not go with method.name=memory_bank"),
        (("data.source=glyphs",), "data.source=glyphs, which has no groups"),
        (("data.cache=true",), "does not go with data.cache=true"),
    ],
)
def test_what_is_not_built_is_refused(words, sentence):
    base = ["data.positives=group", "data.source=folder", "data.data_dir=x.csv"]
    with pytest.raises(ConfigError, match=sentence):
        load_config(None, [*base, "monitor.every=0", *words])


def test_run_on_a_manifest_with_groups(tmp_path, bare, monkeypatch):
    from photo_folders import photos

    photos(tmp_path / "photos", 32)
    rows = "".join(f"photos/{i:03d}.jpg,,{i // 3}\n" for i in range(32))
    path = manifest(tmp_path / "patients.csv", rows)
    models, make = [], build.build_model

    def kept(*arguments):
        models.append(make(*arguments))
        return models[-1]

    monkeypatch.setattr("moco_tf.pretrain.run.build_model", kept)
    words = [
        "data.source=folder", f"data.data_dir={path}", "data.positives=group",
        "data.image_size=16", "method.queue_size=32", "method.dim=8", "train.epochs=1",
        "train.batch_size=16", "monitor.every=0", f"runs_dir={tmp_path}", "name=run",
    ]  # fmt: skip
    pretrain(load_config(None, words))
    (model,) = models
    assert model.mask_same_image
    _, counts = np.unique(model.queue.ids.numpy(), return_counts=True)
    assert sorted(counts) == [2] + 10 * [3]
