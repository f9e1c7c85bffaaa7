# %% [markdown]
"""A pretrained PyTorch checkpoint becomes a Keras classifier, and is fine-tuned.

    python examples/finetune_checkpoint.py

`CHECKPOINT` is a file of MoCo's own, such as `moco_v2_800ep_pretrain.pth.tar` from its
repository's page, of torchvision or of timm; torch itself is not needed. Without one it
makes a small file in MoCo's format, of random weights, to see that all works.
"""

# %%
# %pip install -q moco_tf

import os
import pathlib

import moco_tf  # before TensorFlow, whose Keras it chooses

# isort: split
import numpy as np
import tensorflow as tf
from tensorflow import keras

CHECKPOINT = os.environ.get("CHECKPOINT")
FOLDER = pathlib.Path(os.environ.get("FOLDER", "."))  # where files are written
STEPS = int(os.environ.get("STEPS", 100))

# %% [markdown]
# The stand-in: a query and a key encoder with a head each, and a queue, by the names
# that MoCo's training script saves.


# %%
def make_checkpoint(path):
    """Writes a state dict as MoCo v2's, of a small ResNet."""
    from safetensors.numpy import save_file

    encoder = moco_tf.encoders.ResNet((1, 1, 1, 1), "basic", 16, "cifar")
    model = moco_tf.MoCo(encoder, dim=64, queue_size=256)
    state = moco_tf.interchange.to_torch_state_dict(model)
    state = {f"module.{name}": np.array(value) for name, value in state.items()}
    save_file(state, path)


if CHECKPOINT is None:
    # CHECKPOINT = "moco_v2_800ep_pretrain.pth.tar"
    CHECKPOINT = FOLDER / "made_moco_v2.safetensors"
    make_checkpoint(CHECKPOINT)

# %% [markdown]
# Depth, width and stem are read off the tensors; the query encoder's backbone is kept.

# %%
imported = moco_tf.interchange.import_checkpoint(CHECKPOINT, FOLDER / "imported")
print(imported.checkpoint.kind, imported.preprocessing)
pretrained = moco_tf.interchange.load_pretrained(FOLDER / "imported")
size = pretrained.image_size

# %% [markdown]
# Labelled images: the embedded glyphs stand for yours, which
# `open_source("folder", "train", data_dir="PHOTOS")` opens, a sub-folder a class.


# %%
def labelled(split):
    """Batches of (normalised images, labels)."""
    source = moco_tf.data.open_source("glyphs", split)
    batches = moco_tf.data.labelled_batches(source, batch_size=32, image_size=size)

    def prepare(batch):
        images = tf.cast(batch["image"], tf.float32) / 255.0
        return (images - pretrained.mean) / pretrained.std, batch["label"]

    return source, batches.map(prepare)


source, train = labelled("train")
_, test = labelled("test")

# %% [markdown]
# A linear layer on top; everything learns, the new layer and the encoder alike.

# %%
model = keras.Sequential(
    [pretrained.encoder, keras.layers.Dense(len(source.class_names))]
)
model.compile(
    keras.optimizers.SGD(0.03, momentum=0.9),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit(train.shuffle(64).repeat(), steps_per_epoch=STEPS, verbose=2)
loss, accuracy = model.evaluate(test.take(STEPS), verbose=0)
print(f"accuracy on {min(STEPS, len(test))} test batches: {100 * accuracy:.1f} %")
model.save(FOLDER / "classifier.keras")
