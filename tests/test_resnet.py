import keras_cv
import numpy as np
import pytest
import tensorflow as tf
from records import arrays
from tensorflow import keras

from moco_tf.encoders import (
    BatchNormalization,
    ResNet,
    ResNet18,
    ResNet34,
    ResNet50,
    ResNet101,
    ResNet152,
    clone,
    pooled,
    projection_encoder,
)
from moco_tf.encoders.batchnorm import encode
from moco_tf.interchange import load_torch_state_dict, to_torch_state_dict


def perturbed(encoder, seed=0):
    """Gives every weight a value that shows when it is used wrongly."""
    rng = np.random.default_rng(seed)
    encoder.set_weights(
        [
            w * rng.uniform(0.7, 1.3, w.shape) + 0.05 * rng.uniform(size=w.shape)
            for w in encoder.get_weights()
        ]
    )
    return encoder


def kerascv_backbone():
    """A small KerasCV backbone; its named ones fetch their settings from the net."""
    return keras_cv.models.MobileNetV3Backbone(
        stackwise_expansion=[1, 4],
        stackwise_filters=[16, 24],
        stackwise_kernel_size=[3, 5],
        stackwise_stride=[2, 2],
        stackwise_se_ratio=[0.25, None],
        stackwise_activation=["relu", "hard_swish"],
        include_rescaling=False,
    )


def close(got, expected, tolerance, name=""):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got, expected, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("name", ["r50", "r18"])
def test_topology_equals_the_recorded_torchvision_network(golden, policy, name):
    policy("float64")
    record = arrays(golden / f"encoder_{name}_narrow.npz")
    backbone = ResNet(
        depths=record["meta/layers"].tolist(),
        block={"r50": "bottleneck", "r18": "basic"}[name],
        width=int(record["meta/base_width"]),
    )
    encoder = projection_encoder(backbone, "linear", dim=32)
    state = {n[6:]: record[n] for n in record if n.startswith("state/")}
    load_torch_state_dict(encoder, state)
    images = (record["images"] / 255.0 - record["mean"]) / record["std"]
    close(backbone(images, training=False), record["eval_features"], 1e-11)
    close(encoder(images, training=False), record["eval_out"], 1e-11)

    with tf.GradientTape() as tape:
        outputs = encoder(images, training=True)
        loss = tf.reduce_sum(outputs * record["cotangent"])
    close(outputs, record["train_out"], 1e-11)
    after = to_torch_state_dict(encoder)
    for key in (n for n in record if n.startswith("after/")):
        if not key.endswith("num_batches_tracked"):
            close(after[key[6:]], record[key], 1e-11, key)

    gradients = tape.gradient(loss, encoder.trainable_variables)
    for variable, gradient in zip(encoder.trainable_variables, gradients):
        variable.assign(gradient)  # to read the gradients under torch's names
    found = to_torch_state_dict(encoder)
    compared = [n for n in record if n.startswith("grad/")]
    assert len(compared) > 50
    for key in compared:
        close(found[key[5:]], record[key], 1e-9, key)
    for key in (n for n in record if n.startswith("grad_norm/")):
        np.testing.assert_allclose(
            np.linalg.norm(found[key[10:]]), record[key], rtol=1e-9, err_msg=key
        )


@pytest.mark.parametrize(
    ("make", "depth"),
    [
        (ResNet18, 18),
        (ResNet34, 34),
        (ResNet50, 50),
        (ResNet101, 101),
        (ResNet152, 152),
    ],
)
def test_depth_is_the_one_in_the_name(make, depth):
    encoder = make(width=1)
    path = [
        layer
        for layer in encoder.layers
        if isinstance(layer, keras.layers.Conv2D) and "downsample" not in layer.name
    ]
    assert len(path) + 1 == depth
    assert encoder.name == f"resnet{depth}"


def test_full_width_has_the_published_number_of_parameters():
    encoder = ResNet50()
    assert encoder.output_shape == (None, 2048)
    assert sum(int(tf.size(v)) for v in encoder.trainable_variables) == 23_508_032
    assert len(encoder.trainable_variables) == 159


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("float32", "float32"),
        ("mixed_bfloat16", "float32"),
        ("mixed_float16", "float32"),
        ("float64", "float64"),
    ],
)
def test_features_and_projections_are_in_the_variable_dtype(policy, name, features):
    policy(name)
    encoder = ResNet18(width=4, stem="cifar")
    projector = projection_encoder(encoder, "mlp", dim=6)
    images = tf.random.normal((4, 16, 16, 3))
    assert encoder(images).dtype == features
    assert projector(images, training=True).dtype == features
    assert {w.dtype.name for w in projector.weights} == {features}
    compute = name.replace("mixed_", "")
    assert encoder.get_layer("conv1").compute_dtype == compute
    assert np.isfinite(projector(images, training=True)).all()


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_config_makes_the_same_network(block):
    encoder = ResNet((1, 2, 1, 1), block, 4, "cifar", 5, True, name="five")
    twin = ResNet.from_config(encoder.get_config())
    assert twin.get_config() == encoder.get_config()
    shapes = [w.shape for w in encoder.weights]
    assert [w.shape for w in twin.weights] == shapes
    assert twin.input_shape == (None, None, None, 5)


def test_saved_keras_file_loads_as_the_same_network(tmp_path):
    encoder = perturbed(projection_encoder(ResNet18(width=4, stem="cifar")))
    encoder.save(tmp_path / "encoder.keras")
    images = tf.random.normal((2, 16, 16, 3))
    loaded = keras.models.load_model(tmp_path / "encoder.keras")
    np.testing.assert_array_equal(loaded(images), encoder(images))


def test_zero_init_residual_starts_each_block_as_its_shortcut():
    encoder = ResNet((1, 1, 1, 1), width=4, zero_init_residual=True)
    zeros = [
        layer.name
        for layer in encoder.layers
        if isinstance(layer, BatchNormalization) and not layer.gamma.numpy().any()
    ]
    assert zeros == [f"layer{stage}_0_bn3" for stage in (1, 2, 3, 4)]


def test_convolutions_start_with_kaiming_normal_of_the_fan_out():
    kernel = ResNet18(width=32).get_layer("layer4_0_conv2").kernel.numpy()
    expected = np.sqrt(2 / (9 * 256))
    assert kernel.std() == pytest.approx(expected, rel=0.01)
    assert np.abs(kernel).max() > 3 * expected  # untruncated


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block": "wide"}, 'block="wide" is unknown'),
        ({"stem": "patch"}, 'stem="patch" is unknown'),
        ({"depths": (2, 2, 2)}, r"depths=\(2, 2, 2\) does not give four stages"),
        ({"depths": (2, 0, 2, 2)}, r"depths=\(2, 0, 2, 2\)"),
        ({"width": 0}, "width=0"),
        ({"channels": -1}, "channels=-1"),
    ],
)
def test_wrong_arguments_are_named_with_their_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**arguments)


def test_pyramid_levels_name_maps_of_their_scale():
    encoder = ResNet18(width=4)
    assert sorted(encoder.pyramid_level_inputs) == ["P2", "P3", "P4", "P5"]
    for level, name in encoder.pyramid_level_inputs.items():
        maps = keras.Model(encoder.input, encoder.get_layer(name).output)
        scale = 2 ** int(level[1:])
        assert maps(tf.zeros((1, 64, 64, 3))).shape[1] == 64 // scale


def test_retinanet_of_kerascv_takes_the_backbone():
    detector = keras_cv.models.RetinaNet(
        num_classes=2, bounding_box_format="xywh", backbone=ResNet18(width=4)
    )
    outputs = detector(tf.zeros((1, 64, 64, 3)))
    assert outputs["box"].shape[-1] == 4
    assert outputs["classification"].shape[-1] == 2


def test_heads_are_the_papers_with_torchs_initial_values():
    keras.utils.set_random_seed(0)
    backbone = ResNet18(width=16, stem="cifar")
    mlp = projection_encoder(backbone, "mlp", dim=64)
    linear = projection_encoder(backbone, "linear", dim=64)
    assert mlp.get_layer("fc_0").kernel.shape == (128, 128)
    assert mlp.get_layer("fc_2").kernel.shape == (128, 64)
    assert linear.get_layer("fc").kernel.shape == (128, 64)
    for weight in mlp.get_layer("fc_0").weights + linear.get_layer("fc").weights:
        limit = 128**-0.5
        assert 0.9 * limit < np.abs(weight).max() <= limit
        assert abs(np.mean(weight)) < 0.2 * limit
    images = tf.random.normal((2, 8, 8, 3))
    hidden = tf.nn.relu(mlp.get_layer("fc_0")(backbone(images)))
    np.testing.assert_allclose(mlp(images), mlp.get_layer("fc_2")(hidden), atol=1e-6)


def test_unknown_head_is_refused():
    backbone = ResNet18(width=4)
    with pytest.raises(ValueError, match='projection="conv" is unknown'):
        projection_encoder(backbone, "conv")
    with pytest.raises(ValueError, match="dim=0 must be at least 1"):
        projection_encoder(backbone, dim=0)


def test_any_kerascv_backbone_is_pooled_and_projected():
    backbone = kerascv_backbone()
    images = tf.random.normal((4, 32, 32, 3))
    features = pooled(backbone)(images)
    np.testing.assert_allclose(
        features, tf.reduce_mean(backbone(images), [1, 2]), atol=1e-6
    )
    assert projection_encoder(backbone, dim=7)(images).shape == (4, 7)
    assert pooled(pooled(backbone)).output_shape == (None, 144)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ResNet18(width=4, stem="cifar"),
        lambda: projection_encoder(ResNet18(width=4, stem="cifar"), "mlp", 6),
        lambda: pooled(kerascv_backbone()),
        lambda: projection_encoder(pooled(kerascv_backbone()), "linear", 6),
        lambda: projection_encoder(
            keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(4, 3)])
        ),
    ],
)
def test_clone_is_equal_and_independent(make):
    encoder = perturbed(make())
    twin = clone(encoder)
    images = tf.random.normal((2, 16, 16, 3))
    expected = encoder(images)
    np.testing.assert_array_equal(twin(images), expected)
    assert [v.shape for v in twin.trainable_variables] == [
        v.shape for v in encoder.trainable_variables
    ]
    for weight in encoder.weights:
        weight.assign(tf.zeros_like(weight))
    np.testing.assert_array_equal(twin(images), expected)


def test_encoder_that_cannot_be_copied_is_refused():
    class Own(keras.Model):
        def __init__(self, width):
            super().__init__(name="own")
            self.dense = keras.layers.Dense(width)

        def call(self, images):
            return self.dense(images)

        def get_config(self):
            return {"width": 3}

    encoder = Own(2)
    encoder(tf.zeros((1, 2)))
    with pytest.raises(ValueError, match="'own'.*cannot be copied for the keys"):
        clone(encoder)


def test_groups_of_a_whole_encoder_equal_its_runs_on_the_parts(policy):
    policy("float64")
    encoder = projection_encoder(ResNet18(width=4, stem="cifar"), "linear", 6)
    images = tf.random.normal((8, 8, 8, 3), dtype=tf.float64)
    parts = [encode(encoder, part, 1) for part in tf.split(images, 4)]
    np.testing.assert_allclose(
        encode(encoder, images, 4), tf.concat(parts, 0), atol=1e-10
    )


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_equals_pytorch_in_eval_and_train_mode(block, stem):
    torch = pytest.importorskip("torch", reason="PyTorch is in the torch extra")
    encoder = perturbed(ResNet((2, 1, 2, 1), block, 8, stem))
    theirs = torch_resnet(torch, (2, 1, 2, 1), block, 8, stem)
    state = to_torch_state_dict(encoder)
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    images = np.random.default_rng(1).normal(size=(4, 33, 48, 3)).astype("float32")
    nchw = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        evaluated = theirs.eval()(nchw).numpy()
        trained = theirs.train()(nchw).numpy()
    close(encoder(images, training=False), evaluated, 1e-4)
    close(encoder(images, training=True), trained, 1e-4)
    after = to_torch_state_dict(encoder)
    for name, tensor in theirs.state_dict().items():
        if "running" in name:
            close(after[name], tensor.numpy(), 1e-4, name)


def torch_resnet(torch, depths, block, width, stem):
    """The same network written down in PyTorch, with torchvision's module names."""
    nn = torch.nn

    def conv(inputs, outputs, size, stride=1):
        return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)

    class Block(nn.Module):
        def __init__(self, inputs, filters, stride):
            super().__init__()
            outputs = filters * (4 if block == "bottleneck" else 1)
            if block == "bottleneck":
                self.conv1 = conv(inputs, filters, 1)
                self.conv2 = conv(filters, filters, 3, stride)
                self.conv3 = conv(filters, outputs, 1)
                self.bn3 = nn.BatchNorm2d(outputs)
            else:
                self.conv1 = conv(inputs, filters, 3, stride)
                self.conv2 = conv(filters, outputs, 3)
            self.bn1, self.bn2 = nn.BatchNorm2d(filters), nn.BatchNorm2d(filters)
            self.downsample = None
            if stride > 1 or inputs != outputs:
                self.downsample = nn.Sequential(
                    conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
                )

        def forward(self, x):
            shortcut = x if self.downsample is None else self.downsample(x)
            y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
            if block == "bottleneck":
                y = self.bn3(self.conv3(y.relu()))
            return (y + shortcut).relu()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            size, stride = (3, 1) if stem == "cifar" else (7, 2)
            self.conv1 = conv(3, width, size, stride)
            self.bn1 = nn.BatchNorm2d(width)
            inputs = width
            for stage, depth in enumerate(depths):
                blocks = []
                for index in range(depth):
                    stride = 2 if stage and not index else 1
                    blocks.append(Block(inputs, width * 2**stage, stride))
                    inputs = width * 2**stage * (4 if block == "bottleneck" else 1)
                setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))

        def forward(self, x):
            x = self.bn1(self.conv1(x)).relu()
            if stem == "imagenet":
                x = nn.functional.max_pool2d(x, 3, 2, 1)
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return x.mean((2, 3))

    return Net()
