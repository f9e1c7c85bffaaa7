# %% [markdown]
"""MoCo v2 in plain TensorFlow: algorithm 1 of MoCo's paper with the head of v2.

    python examples/moco_in_60_lines.py

To be read beside arXiv:1911.05722, algorithm 1; shapes stand at the right. It trains on
the embedded glyphs for some minutes and compares the features before and after, then
does the same by the library. tests/test_examples.py holds its losses against those of
`moco_tf.MoCo`.
"""

# %%
# %pip install -q moco_tf

import os

import moco_tf  # for images, augmentation and a small ResNet; `moco` itself needs none

# isort: split
import tensorflow as tf
from tensorflow import keras

STEPS = int(os.environ.get("STEPS", 600))
BATCHES = int(os.environ.get("BATCHES", 100))  # of 256 images, at most, to judge with


# %% [markdown]
# The backbone has a head of two layers while it learns; what is kept is the backbone.


# %%


def with_head(backbone, dim):
    """A backbone and the head of v2: two layers, the first as wide as the features."""
    features = backbone.output  # (N, F)
    hidden = keras.layers.Dense(features.shape[-1], "relu")(features)  # (N, F)
    return keras.Model(backbone.input, keras.layers.Dense(dim)(hidden))  # (N, D)


# %% [markdown]
# The algorithm: move the key encoder, encode key and query, contrast, update, and
# enqueue last.


# %%
def moco(f_q, f_k, queue_size, momentum, temperature, optimizer):
    """The training step of algorithm 1, and its queue."""
    f_k.set_weights(f_q.get_weights())  # f_k.params = f_q.params
    dim = f_q.output_shape[-1]
    queue = tf.random.normal((queue_size, dim), dtype=f_q.output.dtype)
    queue = tf.math.l2_normalize(queue, axis=1)
    queue = tf.Variable(queue, trainable=False)  # (K, D), a key a row
    cursor = tf.Variable(0, trainable=False)  # (), the oldest key

    @tf.function
    def step(x_q, x_k):  # two random views of N images, (N, H, W, 3) each
        for slow, fast in zip(f_k.trainable_variables, f_q.trainable_variables):
            slow.assign(momentum * slow + (1 - momentum) * fast)
        k = tf.math.l2_normalize(f_k(x_k, training=True), axis=1)  # (N, D), no gradient
        with tf.GradientTape() as tape:
            q = tf.math.l2_normalize(f_q(x_q, training=True), axis=1)  # (N, D)
            l_pos = tf.reduce_sum(q * k, axis=1, keepdims=True)  # (N, 1)
            l_neg = tf.matmul(q, queue, transpose_b=True)  # (N, K)
            logits = tf.concat([l_pos, l_neg], axis=1) / temperature  # (N, 1 + K)
            labels = tf.zeros(tf.shape(q)[0], tf.int32)  # (N,), the positive is the 0th
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)  # (), InfoNCE
        gradients = tape.gradient(loss, f_q.trainable_variables)
        optimizer.apply_gradients(zip(gradients, f_q.trainable_variables))
        rows = (cursor + tf.range(tf.shape(k)[0])) % queue_size  # (N,)
        queue.scatter_nd_update(rows[:, None], k)  # enqueue; the oldest N are gone
        cursor.assign((cursor + tf.shape(k)[0]) % queue_size)
        return loss

    return step, queue


# %% [markdown]
# Training it: kNN on the features of the backbone before and after.


# %%
def small_resnet():
    """The backbone of both: (N, 32, 32, 3) -> (N, 128)."""
    return moco_tf.encoders.ResNet((1, 1, 1, 1), "basic", 16, "cifar")


def accuracy(net, augment):
    """Share of test images whose nearest training images name their class."""

    def features(split):
        images = moco_tf.data.open_source("glyphs", split)
        batches = moco_tf.data.labelled_batches(images, batch_size=256, image_size=32)
        return moco_tf.evaluation.extract_features(
            net,
            batches.take(BATCHES).map(
                lambda b: {**b, "image": augment(b["image"], training=False)}
            ),
        )

    known, asked = features("train"), features("test")
    return moco_tf.evaluation.knn_accuracy(
        known.features, known.labels, asked.features, asked.labels
    )


def main(steps=STEPS):
    """Trains a small ResNet on glyphs; prints losses and kNN accuracies."""
    source = moco_tf.data.open_source("glyphs", "train")
    augment = moco_tf.augment.cifar()
    nets = [small_resnet() for _ in range(2)]
    optimizer = keras.optimizers.SGD(0.03, momentum=0.9)
    f_q, f_k = (with_head(net, dim=64) for net in nets)
    step, _ = moco(f_q, f_k, 1024, 0.99, 0.2, optimizer)
    print(f"kNN accuracy, untrained: {100 * accuracy(nets[0], augment):.1f} %")
    batches = moco_tf.data.two_views(
        source, batch_size=128, image_size=32, shuffle_keys=False
    )
    for number, batch in enumerate(batches.take(steps), 1):
        views = (augment(batch[name]) for name in ("query", "key"))
        loss = step(*views)
        if number % 100 == 0:
            print(f"step {number}, loss {loss:.3f}")
    print(f"kNN accuracy, trained: {100 * accuracy(nets[0], augment):.1f} %")


if __name__ == "__main__":
    main()


# %% [markdown]
# The same by the library, where the algorithm is a `keras.Model`: the augmentation is a
# part of its step, batch norm works in groups, and several GPUs may share a batch.


# %%
def by_the_library(steps=STEPS):
    """The same network, batches and rates; `fit` does the rest."""
    source = moco_tf.data.open_source("glyphs", "train")
    net, augment = small_resnet(), moco_tf.augment.cifar()
    model = moco_tf.MoCo(
        net, dim=64, queue_size=1024, key_momentum=0.99, temperature=0.2,
        augment=augment, bn_groups=8,
    )  # fmt: skip
    model.compile(moco_tf.optimizers.SGD(0.03, momentum=0.9, weight_decay=0.0))
    views = moco_tf.data.two_views(source, batch_size=128, image_size=32)
    model.fit(views, steps_per_epoch=steps, verbose=0)
    print(f"kNN accuracy, by the library: {100 * accuracy(net, augment):.1f} %")


if __name__ == "__main__":
    by_the_library()
