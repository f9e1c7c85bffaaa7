"""ResNets against torchvision's, recorded and in PyTorch; settings, dtypes, saving."""

import subprocess
import sys
import textwrap

import keras_cv
import numpy as np
import pytest
import tensorflow as tf
from networks import perturbed, torch_resnet
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
    projection_encoder,
)
from moco_tf.encoders.encode import encode
from moco_tf.interchange import load_torch_state_dict, to_torch_state_dict


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


def test_narrow_strided_shortcut_is_the_convolution(policy):
    policy("float64")
    layer = ResNet18(width=4, stem="cifar").get_layer("layer2_0_downsample_0")
    x = tf.Variable(np.random.default_rng(0).normal(size=(2, 9, 8, 4)))
    with tf.GradientTape(persistent=True) as tape:
        got = layer(x)
        expected = tf.nn.conv2d(x, layer.kernel, 2, "VALID")
        sums = tf.reduce_sum(got**2), tf.reduce_sum(expected**2)
    np.testing.assert_allclose(got, expected, atol=1e-12)
    for leaf in (x, layer.kernel):
        first, second = (tape.gradient(value, leaf) for value in sums)
        np.testing.assert_allclose(first, second, atol=1e-11)


def test_gradients_of_narrow_networks_overrun_no_memory():
    """In a process of its own, which such an overrun ends."""
    code = """
        import numpy as np, tensorflow as tf
        from moco_tf.encoders import ResNet
        encoder = ResNet(depths=(1, 1, 1, 1), block="basic", width=4, stem="cifar")
        images = tf.random.normal((4, 64, 64, 3))
        @tf.function
        def gradients():
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(encoder(images, training=True) ** 2)
            return tape.gradient(loss, encoder.trainable_variables)
        for _ in range(60):
            gradients()
            room = [np.ones(np.random.randint(1, 4000)) for _ in range(50)]
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-500:])


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
    torch = pytest.importorskip("torch", reason="PyTorch is in the dev extra")
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
