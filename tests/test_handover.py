"""What a serving team gets: damaged files, sizes, the golden sample, the warm-up."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from PIL import Image
from tensorflow.core.framework import tensor_pb2
from test_savedmodel import export, random_images, tiny_encoder

from moco_tf.data import open_source, two_views
from moco_tf.data.decoding import decode


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return export(tiny_encoder(), tmp_path_factory.mktemp("saved") / "model", resize=20)


@pytest.fixture(scope="module")
def loaded(saved):
    return tf.saved_model.load(str(saved))


def png(image):
    return tf.io.encode_png(image).numpy()


def encoded(loaded, *files):
    out = loaded.signatures["encoded"](encoded=tf.constant(list(files)))
    return {name: value.numpy() for name, value in out.items()}


def test_damaged_files_leave_the_others_of_their_batch_alone(loaded):
    first, second = map(png, random_images(2, size=30))
    alone = encoded(loaded, first, second)
    assert alone["valid"].tolist() == [True, True]
    jpeg = tf.io.encode_jpeg(random_images(1, size=30)[0]).numpy()
    webp = io.BytesIO()
    Image.new("RGB", (30, 30)).save(webp, "WEBP")
    # TensorFlow of the current lane reads WebP.
    last = b"RIFF" if hasattr(tf.io, "decode_webp") else webp.getvalue()
    bad = [b"", b"no image", jpeg[: len(jpeg) // 2], first[:50], last]
    mixed = encoded(loaded, bad[0], second, *bad[1:], first)
    assert mixed["valid"].tolist() == [False, True, *[False] * 4, True]
    for name in ("features", "embedding"):
        np.testing.assert_allclose(mixed[name][[6, 1]], alone[name], rtol=1e-5)
        assert not mixed[name][~mixed["valid"]].any()
    none = encoded(loaded, *bad)
    assert not none["valid"].any() and not none["features"].any()


def test_order_is_kept_in_a_large_batch(loaded):
    images = random_images(64, size=24)
    files = [png(image) for image in images]
    together = encoded(loaded, *files)["features"]
    for index in (0, 1, 31, 63):
        np.testing.assert_allclose(
            together[index], encoded(loaded, files[index])["features"][0], rtol=1e-5
        )


def test_images_of_another_size_are_told_the_right_one(loaded):
    right, wrong = random_images(2), random_images(2, size=24)
    for name, dtype in (("serving_default", tf.float32), ("uint8", tf.uint8)):
        ask = loaded.signatures[name]
        found = ask(images=tf.cast(right, dtype))["features"]
        np.testing.assert_allclose(found, loaded(tf.constant(right))["features"],
                                   rtol=1e-5)  # fmt: skip
        with pytest.raises(tf.errors.InvalidArgumentError, match="made for 16 x 16"):
            ask(images=tf.cast(wrong, dtype))
    assert loaded(tf.constant(wrong))["features"].shape == (2, 6)


def test_exif_orientation_is_ignored_in_training_evaluation_and_serving(
    loaded, tmp_path
):
    pixels = random_images(1, size=30)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    files = []
    for name, settings in (("plain", {}), ("turned", {"exif": exif})):
        path = tmp_path / f"{name}.jpg"
        Image.fromarray(pixels).save(path, quality=95, **settings)
        files.append(path.read_bytes())
    assert len(set(files)) == 2
    plain, turned = encoded(loaded, *files)["features"]
    np.testing.assert_array_equal(plain, turned)
    np.testing.assert_array_equal(*(decode(tf.constant(f), 3) for f in files))
    source = open_source("folder", "train", data_dir=str(tmp_path))
    batch = next(iter(two_views(source, batch_size=2, image_size=16,
                                crop_scale=(1, 1), crop_ratio=(1, 1))))  # fmt: skip
    np.testing.assert_array_equal(*batch["query"])


def check(saved, cwd):
    return subprocess.run(
        [sys.executable, str(saved / "assets.extra" / "check.py")],
        capture_output=True,
        text=True,
        cwd=cwd,
    )


@pytest.mark.parametrize("channels", [3, 16])
def test_golden_sample_is_checked_without_the_package(channels, tmp_path):
    made = export(tiny_encoder(channels), tmp_path / "made", channels=channels)
    moved = tmp_path / "handed over" / "1"
    shutil.copytree(made, moved)
    done = check(moved, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("features differ by ") and " MB\n" in done.stdout
    golden = moved / "assets.extra" / "golden" / "expected.json"
    document = json.loads(golden.read_text())
    assert document["written_by"] == f"TensorFlow {tf.__version__}"
    document["features"][0] *= 1.1
    golden.write_text(json.dumps(document))
    assert check(moved, tmp_path).returncode == 1


def prediction_log():
    """The messages of TensorFlow Serving, as its .proto files number them."""
    file = descriptor_pb2.FileDescriptorProto(name="log.proto", package="check")
    for name, fields in {
        "Model": [("name", 1, "string"), ("signature_name", 3, "string")],
        "Entry": [("key", 1, "string"), ("value", 2, "bytes")],
        "Request": [("model_spec", 1, "Model"), ("inputs", 2, "Entry")],
        "Predict": [("request", 1, "Request")],
        "Log": [("predict_log", 6, "Predict")],
    }.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            added = message.field.add(name=field, number=number, label=1)
            kinds = {"string": 9, "bytes": 12}
            added.type = kinds.get(kind, 11)
            if kind not in kinds:
                added.type_name = f".check.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    descriptor = pool.FindMessageTypeByName("check.Log")
    return message_factory.GetMessageClass(descriptor)


def test_warm_up_holds_a_request_that_the_model_answers(saved, loaded):
    path = saved / "assets.extra" / "tf_serving_warmup_requests"
    (record,) = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    request = prediction_log().FromString(record).predict_log.request
    assert request.model_spec.signature_name == "encoded"
    assert request.inputs.key == "encoded"
    tensor = tf.make_ndarray(tensor_pb2.TensorProto.FromString(request.inputs.value))
    golden = (saved / "assets.extra" / "golden" / "image.png").read_bytes()
    assert tensor.tolist() == [golden]
    assert encoded(loaded, *tensor)["valid"].all()
