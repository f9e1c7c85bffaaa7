"""Images of other numbers and channels, from files to a SavedModel and its answers."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pretrained_runs import tiny_encoder

import moco_tf
from moco_tf.cli.evaluate import parse_evaluation
from moco_tf.config import ConfigError, load_config
from moco_tf.data import open_source
from moco_tf.evaluation import evaluate
from moco_tf.interchange import export, export_saved_model, import_checkpoint
from moco_tf.interchange.pretrained import load_pretrained
from moco_tf.pixels import Pixels
from moco_tf.pretrain import build, pretrain

BANDS = 13
CLASSES = ("field", "forest")
RANGE = (-0.5, 2.0)


def write_set(folder, kind, per_class, seed):
    """16 x 16 images whose class is which half of the channels, or side, is bright."""
    random = np.random.default_rng(seed)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for index in range(per_class):
            place = folder / name / f"{index:02d} [x]"
            if kind == "bands":
                image = random.normal(0.5, 0.2, (16, 16, BANDS))
                image[..., number::2] += 0.6
                np.save(f"{place}.npy", image.astype(np.float32))
            else:
                image = random.uniform(0, 20000, (16, 16))
                image[:, 8 * number : 8 * number + 8] += 40000
                Image.fromarray(image.astype(np.uint16)).save(f"{place}.png")


def arrays_of(folder, kind):
    """The files' own numbers by NumPy and Pillow, (N, 16, 16, C)."""
    read = np.load if kind == "bands" else lambda path: np.asarray(Image.open(path))
    files = sorted(folder.rglob("*.np[yg]")) + sorted(folder.rglob("*.png"))
    return np.stack([read(file).reshape(16, 16, -1) for file in files])


def normalised(images, kind, pretrained):
    low, high = RANGE if kind == "bands" else (0, 65535)
    unit = (np.clip(images.astype(np.float64), low, high) - low) / (high - low)
    return ((unit - pretrained.mean) / pretrained.std).astype(np.float32)


def encoder_of(channels):
    return moco_tf.encoders.ResNet(
        (1, 1, 1, 1), "basic", width=4, stem="cifar", channels=channels
    )


@pytest.fixture(scope="module", params=["bands", "deep"])
def run(request, tmp_path_factory):
    """A short run on 13 bands of real numbers, or on one of 16 bits."""
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    write_set(folder / "images" / "train", kind, 12, 0)
    write_set(folder / "images" / "test", kind, 6, 1)
    channels = BANDS if kind == "bands" else 1
    words = [
        "data.source=folder", f"data.data_dir={folder / 'images'}", "name=run",
        "data.image_size=16", f"data.channels={channels}", f"runs_dir={folder}",
        "augment.recipe=moco_v2", "method.queue_size=32", "method.dim=8",
        "train.epochs=1", "train.batch_size=16", "monitor.every=1", "monitor.knn_k=5",
        "monitor.linear=false",
    ]  # fmt: skip
    if kind == "bands":
        words.append(f"data.range=[{RANGE[0]},{RANGE[1]}]")
    patch = pytest.MonkeyPatch()
    patch.setattr(build, "build_encoder", lambda config: encoder_of(channels))
    with patch.context():
        figures = pretrain(load_config(None, words))
    patch.undo()
    return kind, folder, figures


def test_run_draws_what_the_eye_can_see(run):
    kind, folder, figures = run
    report = folder / "run" / "report"
    assert np.asarray(Image.open(report / "neighbours.png")).std() > 10
    # On raw pixels the classes are plain: the range has not crushed them.
    assert figures["raw_pixels"]["knn"] == 1
    assert 0 <= figures["trained"]["knn"] <= 1
    if kind == "deep":  # TensorBoard shows one channel or three
        sheet = np.asarray(Image.open(folder / "run" / "tensorboard" / "sprites.png"))
        assert sheet.dtype == np.uint8 and 200 < sheet.max() <= 234


def test_saved_model_gives_the_encoders_features_of_the_files_numbers(run):
    kind, folder, _ = run
    pretrained = load_pretrained(folder / "run")
    asked = Pixels("float32", *RANGE) if kind == "bands" else Pixels("uint16", 0, 65535)
    assert pretrained.pixels == asked
    images = arrays_of(folder / "images" / "test", kind)
    expected = pretrained.encoder(normalised(images, kind, pretrained)).numpy()
    loaded = tf.saved_model.load(str(folder / "run" / "saved_model"))
    names = {"serving_default"} | ({"uint16", "encoded"} if kind == "deep" else set())
    assert set(loaded.signatures) == names
    for name in names - {"encoded"}:
        given = tf.constant(images, "uint16" if name == "uint16" else "float32")
        found = loaded.signatures[name](images=given)["features"]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        loaded(tf.constant(images))["features"], expected, rtol=1e-3, atol=1e-4
    )
    if kind == "deep":
        files = sorted((folder / "images" / "test").rglob("*.png"))
        encoded = tf.constant([file.read_bytes() for file in files])
        answer = loaded.signatures["encoded"](encoded=encoded)
        assert answer["valid"].numpy().all()
        np.testing.assert_allclose(answer["features"], expected, rtol=1e-3, atol=1e-4)


def test_note_beside_the_saved_model_says_what_goes_in(run):
    kind, folder, _ = run
    extra = folder / "run" / "saved_model" / "assets.extra"
    note = json.loads((extra / "provenance.json").read_text())["preprocessing"]
    if kind == "bands":
        assert note["range"] == list(RANGE) and note["dtype"] == "float32"
        assert note["input"] == "values -0.5..2"
    else:
        assert note["range"] == [0, 65535] and note["dtype"] == "uint16"
        assert note["input"] == "values 0..65535"
    assert note["channels"] == (BANDS if kind == "bands" else 1)


def test_check_of_the_saved_model_passes_by_itself(run):
    _, folder, _ = run
    check = folder / "run" / "saved_model" / "assets.extra" / "check.py"
    done = subprocess.run(
        [sys.executable, str(check)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_protocols_judge_the_features_of_the_files_numbers(run):
    kind, folder, _ = run
    words = ["knn", str(folder / "run"), "--k=[1]", "--temperature=[0.1]"]
    evaluate(parse_evaluation(words))
    with open(folder / "run/report/knn/results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    pretrained = load_pretrained(folder / "run")
    unit, labels = [], []
    for split in ("train", "test"):
        images = arrays_of(folder / "images" / split, kind)
        found = pretrained.encoder(normalised(images, kind, pretrained)).numpy()
        unit.append(found / np.linalg.norm(found, axis=1, keepdims=True))
        labels.append(np.arange(2).repeat(len(images) // 2))
    nearest = np.argmax(unit[1] @ unit[0].T, axis=1)
    expected = np.mean(labels[0][nearest] == labels[1])
    for row in rows:
        assert float(row["top1"]) == pytest.approx(expected, abs=1e-6)


def test_fine_tuning_and_its_encoder_keep_the_numbers(run):
    kind, folder, _ = run
    words = ["finetune", str(folder / "run"), "--learning_rates=[0.01]"]
    words += ["--head_multipliers=[1]", "--epochs=1", "--batch_size=8"]
    words += ["--control=false", f"--save={folder / 'tuned'}", "--milestones=[]"]
    evaluate(parse_evaluation(words))
    before = load_pretrained(folder / "run").pixels
    assert load_pretrained(folder / "tuned" / "finetuned").pixels == before


@pytest.mark.parametrize("to", ["tflite", "onnx", "torchvision"])
def test_exports_keep_the_numbers(run, to, tmp_path):
    if to == "onnx":
        pytest.importorskip("tf2onnx")
    kind, folder, _ = run
    pretrained = load_pretrained(folder / "run")
    name = "a.safetensors" if to == "torchvision" else f"a.{to}"
    export(pretrained, tmp_path / name, to)
    note = json.loads((tmp_path / f"{name}.json").read_text())
    if to == "torchvision":  # and comes back
        import_checkpoint(tmp_path / name, tmp_path / "back")
        assert load_pretrained(tmp_path / "back").pixels == pretrained.pixels
    else:
        assert pretrained.pixels.words in note["network_input"]
        assert "0..255" not in note["network_input"]


def test_detection_refuses_other_numbers(run):
    _, folder, _ = run
    words = ["detect", str(folder / "run"), "--data.source=folder"]
    with pytest.raises(ConfigError, match="8-bit photographs only"):
        evaluate(parse_evaluation([*words, f"--data.data_dir={folder}"]))


def test_encoder_of_8_bits_judges_16_bit_files_by_their_higher_8(tmp_path, caplog):
    write_set(tmp_path / "images" / "train", "deep", 2, 0)
    source = open_source(
        "folder", "train", data_dir=str(tmp_path / "images"), pixels=Pixels()
    )
    assert source.pixels == Pixels() and "higher 8" in caplog.text
    export_saved_model(
        tiny_encoder(), tmp_path / "saved", image_size=16, resize=16, mean=[0.5] * 3,
        std=[0.25] * 3, provenance={},
    )  # fmt: skip
    assert load_pretrained(tmp_path / "saved").pixels == Pixels()
    note = tmp_path / "saved" / "assets.extra" / "provenance.json"
    assert "range" not in json.loads(note.read_text())["preprocessing"]
