"""Random draws of the augmentations: their hash, distributions and rates."""

import numpy as np
import pytest
import tensorflow as tf
from noise import images_of, seeds_of

from moco_tf import augment
from moco_tf.augment.seeds import fold_in, hash_words, uniforms


def murmur3(data: bytes, state: int) -> int:
    mask = 0xFFFFFFFF

    def rotate(word, bits):
        return (word << bits | word >> (32 - bits)) & mask

    for start in range(0, len(data), 4):
        block = int.from_bytes(data[start : start + 4], "little")
        block = rotate(block * 0xCC9E2D51 & mask, 15) * 0x1B873593 & mask
        state = (rotate(state ^ block, 13) * 5 + 0xE6546B64) & mask
    state ^= len(data)
    state = (state ^ state >> 16) * 0x85EBCA6B & mask
    state = (state ^ state >> 13) * 0xC2B2AE35 & mask
    return state ^ state >> 16


def test_hash_is_murmur3():
    assert murmur3(b"\0\0\0\0", 0) == 0x2362F9DE  # published test vector
    seeds = seeds_of(5)
    states = tf.constant([0, 1, 0xFFFFFFFF], tf.uint32)
    actual = hash_words(tf.constant(seeds), states).numpy()
    for row, seed in enumerate(seeds):
        for column, state in enumerate(states.numpy()):
            expected = murmur3(seed.astype("<i4").tobytes(), int(state))
            assert actual[row, column] == expected


@pytest.mark.parametrize("kind", ["random", "counting", "counting_second"])
def test_draws_are_uniform_and_independent(kind):
    count = 20000
    seeds = seeds_of(count)
    if kind != "random":
        column = int(kind == "counting_second")
        seeds[:] = 7
        seeds[:, column] = np.arange(count)
    draws = np.concatenate(
        [
            uniforms(tf.constant(seeds), 6).numpy(),
            uniforms(fold_in(tf.constant(seeds), 0), 6).numpy(),
            uniforms(fold_in(tf.constant(seeds), 1), 6).numpy(),
        ],
        axis=1,
    )
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    for column in draws.T:
        # chi-squared with 63 degrees of freedom: 130 is passed once in 10**6.
        observed = np.histogram(column, 64, (0, 1))[0]
        assert ((observed - count / 64) ** 2 / (count / 64)).sum() < 130
    # Correlation of independent columns has standard deviation 1 / sqrt(count).
    between = np.corrcoef(draws.T) - np.eye(draws.shape[1])
    assert np.abs(between).max() < 5.5 / np.sqrt(count)
    following = [np.corrcoef(c[1:], c[:-1])[0, 1] for c in draws.T]
    assert np.abs(following).max() < 5.5 / np.sqrt(count)


def test_parameters_have_the_published_distributions():
    seeds = tf.constant(seeds_of(2000))
    blur = augment.RandomGaussianBlur((0.1, 2.0), 0.5)
    sigmas = blur.sigmas(uniforms(seeds, blur.draws)).numpy()
    assert abs((sigmas > 0).mean() - 0.5) < 0.05
    fired = sigmas[sigmas > 0]
    assert fired.min() >= 0.1
    assert fired.max() <= 2.0
    assert abs(fired.mean() - 1.05) < 0.06
    jitter = augment.ColorJitter(0.4, 0.4, 0.4, 0.1, probability=0.8)
    order, factors, chosen = jitter.parameters(uniforms(seeds, jitter.draws))
    chosen = chosen.numpy()
    assert abs(chosen.mean() - 0.8) < 0.05
    factors = factors.numpy()[chosen]
    np.testing.assert_allclose(factors.min(0), [0.6, 0.6, 0.6, -0.1], atol=0.01)
    np.testing.assert_allclose(factors.max(0), [1.4, 1.4, 1.4, 0.1], atol=0.01)
    rows, counts = np.unique(order.numpy(), axis=0, return_counts=True)
    assert len(rows) == 24
    assert counts.min() > 40


@pytest.mark.parametrize(
    ("layer", "rate"),
    [
        (augment.RandomGaussianBlur(), 0.5),
        (augment.RandomGrayscale(0.2), 0.2),
        (augment.RandomHorizontalFlip(), 0.5),
        (augment.RandomSolarize(0.2), 0.2),
        (augment.ColorJitter(0.4, 0.4, 0.4, 0.1, probability=0.8), 0.8),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_layer_changes_its_share_of_images(layer, rate):
    images = images_of(2000, 8)
    changed = (layer(images, seeds_of(2000)).numpy() != images).any((1, 2, 3))
    assert abs(changed.mean() - rate) < 0.05


def test_two_views_of_an_image_differ():
    images = np.repeat(images_of(1, 8), 64, axis=0)
    recipe = augment.moco_v1()
    first = recipe(images, seeds_of(64, 1)).numpy()
    second = recipe(images, seeds_of(64, 2)).numpy()
    assert (first != second).any((1, 2, 3)).all()


def test_fresh_seeds_follow_the_global_seed_and_change_between_calls():
    images = images_of(8)
    layer = augment.ColorJitter(0.4, 0.4, 0.4, 0.4)
    tf.random.set_seed(5)
    first, second = layer(images).numpy(), layer(images).numpy()
    tf.random.set_seed(5)
    np.testing.assert_array_equal(first, layer(images).numpy())
    assert (first != second).any((1, 2, 3)).all()
