"""What goes beside a SavedModel for whoever serves it: sample, check and warm-up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import tensorflow as tf

from moco_tf.pixels import GREY_LEVELS, Pixels

_LIMIT = 1e-3  # of the features' norm
_CHECK = Path(__file__).with_name("check_export.py")


def write_handover(
    saved: Path,
    image_size: int,
    resize: int,
    channels: int,
    pixels: Pixels = GREY_LEVELS,
) -> None:
    """Writes `assets.extra/golden`, `check.py` and `tf_serving_warmup_requests`.

    Args:
        saved: a SavedModel folder of `ServedEncoder`, complete but for these.
        image_size: side of its crops.
        resize: shorter side before the crop.
        channels: of its images.
        pixels: the numbers of its images.
    """
    extra = saved / "assets.extra"
    golden = extra / "golden"
    golden.mkdir()
    loaded = tf.saved_model.load(str(saved))
    if "encoded" in loaded.signatures:
        name, image = "encoded", _picture(resize, resize * 5 // 4, channels, pixels)
        file = tf.io.encode_png(image).numpy()
        (golden / "image.png").write_bytes(file)
        request = {"encoded": tf.constant([file])}
    else:  # no kind of file has so many channels
        name = "serving_default"
        image = _picture(image_size, image_size, channels, pixels)
        (golden / "image.json").write_text(json.dumps(image.tolist()))
        request = {"images": tf.constant(image[None], tf.float32)}
    features = loaded.signatures[name](**request)["features"].numpy()[0]
    document = {
        "signature": name,
        "features": [float(value) for value in features],
        "limit": _LIMIT,
        "written_by": f"TensorFlow {tf.__version__}",
    }
    (golden / "expected.json").write_text(json.dumps(document) + "\n")
    shutil.copyfile(_CHECK, extra / "check.py")
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as writer:
        writer.write(_prediction_log(name, request))


def golden_deviation(saved: Path) -> tuple[float, float]:
    """How far features are from the golden ones, as a share of their norm.

    Args:
        saved: a SavedModel folder; 0 of one from before there were golden samples.

    Returns:
        The deviation and its limit.
    """
    golden = saved / "assets.extra" / "golden"
    if not (golden / "expected.json").is_file():
        return 0.0, _LIMIT
    expected = json.loads((golden / "expected.json").read_text())
    loaded = tf.saved_model.load(str(saved))
    if expected["signature"] == "encoded":
        file = (golden / "image.png").read_bytes()
        request = {"encoded": tf.constant([file])}
    else:
        image = np.asarray(json.loads((golden / "image.json").read_text()), np.float32)
        request = {"images": tf.constant(image[None])}
    found = loaded.signatures[expected["signature"]](**request)["features"].numpy()[0]
    right = np.asarray(expected["features"])
    off = np.linalg.norm(found - right) / np.linalg.norm(right)
    return float(off), float(expected["limit"])


def _picture(height, width, channels, pixels):
    """(height, width, channels): slopes, rings and edges, the same every time."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    turns = [(1 + channel, 1 + channel % 3) for channel in range(channels)]
    waves = [np.sin(2 * np.pi * (across * x + down * y**2)) for across, down in turns]
    image = 127.5 + 127.5 * np.stack(waves, axis=-1)
    image[height // 3 : height // 2, width // 4 : width // 2] = 255 - image[0, 0]
    if pixels == GREY_LEVELS:
        return image.astype(np.uint8)
    return pixels.of_share(image / 255)


def _prediction_log(signature, inputs):
    """A `tensorflow.serving.PredictionLog` of one request, as bytes.

    The numbers are those of the fields in tensorflow_serving/apis: prediction_log.proto
    (predict_log 6, request 1), predict.proto (model_spec 1, inputs 2, a map) and
    model.proto (signature_name 3).
    """
    spec = _field(1, _field(3, signature.encode()))
    entries = [
        _field(1, name.encode())
        + _field(2, tf.make_tensor_proto(value.numpy()).SerializeToString())
        for name, value in inputs.items()
    ]
    request = spec + b"".join(_field(2, entry) for entry in entries)
    return _field(6, _field(1, request))


def _field(number, content):
    """A length-delimited field of protocol buffers."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value):
    groups = []
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])
