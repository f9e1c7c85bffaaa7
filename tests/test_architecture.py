"""An encoder's description makes layers, and nothing else."""

import json

import keras_cv
import numpy as np
import pytest
from tensorflow import keras

from moco_tf.encoders import ResNet18, ViT
from moco_tf.interchange import InterchangeError
from moco_tf.interchange.architecture import describe, rebuild


def plain():
    return keras.Sequential(
        [
            keras.Input((None, None, 3)),
            keras.layers.Conv2D(4, 3, activation="gelu"),
            keras.layers.Activation("swish"),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )


def mobile_net():
    # The names of KerasCV's presets ask its hub; a class of its own does not.
    return keras_cv.models.MobileNetV3Backbone(
        stackwise_expansion=[1, 4], stackwise_filters=[8, 16],
        stackwise_kernel_size=[3, 5], stackwise_stride=[2, 2],
        stackwise_se_ratio=[0.25, None], stackwise_activation=["relu", "hard_swish"],
        include_rescaling=False, input_shape=(32, 32, 3),
    )  # fmt: skip


@pytest.mark.parametrize(
    "make",
    [
        plain,
        mobile_net,
        lambda: ResNet18(width=4),
        lambda: ViT(image_size=16, patch_size=8, width=12, depth=1, heads=3),
    ],
)
def test_encoders_are_made_anew(make):
    encoder = make()
    again = rebuild(describe(encoder), encoder.get_weights())
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    if isinstance(encoder, ViT):
        images = images[:, :16, :16]
    np.testing.assert_array_equal(again(images), encoder(images))


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ({"module": "os", "class_name": "function", "config": "system",
          "registered_name": "system"}, "a function"),
        ({"module": "keras.utils", "class_name": "function", "config": "get_file"},
         "a function"),
        ({"class_name": "__lambda__", "config": {"value": "4wEAAAA="}}, "a __lambda__"),
        ({"module": "keras.layers", "class_name": "Lambda", "config": {}}, "a Lambda"),
        ({"module": "subprocess", "class_name": "Popen", "config": {}},
         "subprocess.Popen"),
        ({"module": "a_module_that_is_not_there", "class_name": "X", "config": {}},
         "a_module_that_is_not_there.X"),
    ],
)  # fmt: skip
def test_description_that_asks_for_other_things_is_not_followed(part, named):
    description = json.loads(describe(plain()))
    description["config"]["layers"].append(part)
    with pytest.raises(InterchangeError, match=f"asks for {named}, .*run code"):
        rebuild(json.dumps(description), [])
