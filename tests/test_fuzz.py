"""Broken bytes of every kind: a sentence or a skip, never a crash or code that runs.

`pytest -m slow tests/test_fuzz.py` tries fifty times as many.
"""

import io
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from moco_tf.cli.evaluate import parse_evaluation
from moco_tf.cli.train import parse_args
from moco_tf.config import ConfigError, dump, load_config
from moco_tf.data import DataError, open_source
from moco_tf.data.decoding import require_size
from moco_tf.interchange import InterchangeError, load_pretrained
from moco_tf.interchange.checkpoints import load_checkpoint
from moco_tf.mistakes import Mistake

TIMES = [20, pytest.param(1000, marks=pytest.mark.slow)]


def mutated(content, random):
    """Bytes with some of them changed, cut off, doubled or put elsewhere."""
    content = bytearray(content)
    for _ in range(int(random.integers(1, 4))):
        if not content:
            return b""
        at, other = (int(n) for n in random.integers(len(content), size=2))
        span = int(random.integers(1, 9))
        kind = int(random.integers(5))
        if kind == 0:
            content[at] ^= 1 << int(random.integers(8))
        elif kind == 1:
            content[at : at + span] = random.bytes(span)
        elif kind == 2:
            del content[at : at + 8 * span]
        elif kind == 3:
            content[at:at] = content[other : other + 8 * span]
        else:
            del content[at:]
    return bytes(content)


def encoded(kind, side=24):
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


KINDS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")


@pytest.mark.parametrize("count", TIMES)
def test_images(tmp_path, count):
    random, folder = np.random.default_rng(0), tmp_path / "photos"
    folder.mkdir()
    for kind in KINDS:
        good = encoded(kind)
        (folder / f"good.{kind}").write_bytes(good)
        for number in range(count):
            path = folder / f"{number}.{kind.lower()}"
            path.write_bytes(mutated(good, random))
    source = open_source("folder", "train", data_dir=str(folder), max_unreadable=1.0)
    assert len(KINDS) <= source.num_examples <= len(KINDS) * (count + 1)
    # All that were found readable are read.
    assert len(list(source.dataset.as_numpy_iterator())) == source.num_examples


def png_that_says(width, height):
    def chunk(kind, content):
        body = kind + content
        size, check = len(content), zlib.crc32(body)
        return struct.pack(">I", size) + body + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def jpeg_that_says(width, height):
    content = bytearray(encoded("JPEG"))
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def gif_that_says(width, height):
    content = bytearray(encoded("GIF"))
    content[6:10] = struct.pack("<HH", width, height)
    return bytes(content)


BOMBS = [png_that_says(2**20, 2**20), png_that_says(2**31 - 1, 2**31 - 1),
         jpeg_that_says(65500, 65500), gif_that_says(65535, 65535)]  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS, ids=range(len(BOMBS)))
def test_image_that_says_to_be_huge_is_refused(tmp_path, bomb):
    with pytest.raises(tf.errors.InvalidArgumentError, match="says to be of"):
        require_size(tf.constant(bomb))
    for kind in KINDS:
        (tmp_path / f"good.{kind.lower()}").write_bytes(encoded(kind))
    (tmp_path / "bomb.png").write_bytes(bomb)
    assert open_source("folder", "train", data_dir=str(tmp_path)).num_examples == 5


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_usual_size_pass(kind):
    image = encoded(kind)
    assert require_size(tf.constant(image)).numpy() == image


@pytest.mark.parametrize("count", TIMES)
def test_configurations(tmp_path, count):
    random = np.random.default_rng(1)
    good, path = dump(load_config()).encode(), tmp_path / "config.yaml"
    for _ in range(5 * count):
        path.write_bytes(mutated(good, random))
        try:
            parse_args(["--config", str(path)])
        except ConfigError as error:
            assert str(error).strip()


WORDS = ["--train.epochs=3", "--data.crop_scale=[0.2,1.0]", "--method.name=simclr",
         "--augment.mean=[0.5,0.5,0.5]", "--name=x", "--seed=1"]  # fmt: skip


@pytest.mark.parametrize("count", TIMES)
def test_command_lines(capsys, count):
    random = np.random.default_rng(2)
    for _ in range(5 * count):
        words = [mutated(word.encode(), random).decode("latin-1") for word in WORDS]
        for parse in (parse_args, lambda w: parse_evaluation(["knn", "runs/x", *w])):
            try:
                parse(words)
            except Mistake as error:
                assert str(error).strip()
            except SystemExit as end:
                assert end.code in (0, 2)


def checkpoints(folder):
    """A zipped, a former and a safetensors checkpoint of one array each."""
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    plain = folder / "plain.npz"
    np.savez(plain, weight=array)
    legacy = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(part, legacy, 2)
    pickle.dump({"state_dict": {"conv1.weight": 1.0}}, legacy, 2)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"state_dict": {"a": 1}}, 2))
        archive.writestr("archive/byteorder", "little")
    header = b'{"conv1.weight":{"dtype":"F32","shape":[3,4],"data_offsets":[0,48]}}'
    safe = struct.pack("<Q", len(header)) + header + array.tobytes()
    return {"a.pth.tar": legacy.getvalue(), "b.pth": zipped.getvalue(),
            "c.safetensors": safe, "d.npz": plain.read_bytes()}  # fmt: skip


@pytest.mark.parametrize("count", TIMES)
def test_checkpoints(tmp_path, count):
    random = np.random.default_rng(3)
    for name, content in checkpoints(tmp_path).items():
        path = tmp_path / name
        for _ in range(count):
            path.write_bytes(mutated(content, random))
            with pytest.raises(InterchangeError) as error:
                load_checkpoint(path)
            assert "\n" not in str(error.value).strip()


@pytest.mark.parametrize("count", TIMES)
def test_serving_input(tmp_path, count):
    from test_savedmodel import export, tiny_encoder

    saved = export(tiny_encoder(), tmp_path / "model", resize=20)
    serve = tf.saved_model.load(str(saved)).signatures["encoded"]
    random = np.random.default_rng(4)
    good = [encoded("JPEG", 30), encoded("PNG", 30)]
    for _ in range(count):
        files = [mutated(file, random) for file in good] + [*BOMBS, *good]
        out = serve(encoded=tf.constant(files))
        valid = out["valid"].numpy()
        assert valid[-2:].all() and not valid[2:6].any()
        assert np.isfinite(out["features"]).all()
        assert not out["features"].numpy()[~valid].any()


def test_damaged_saved_models(tmp_path):
    from test_savedmodel import export, tiny_encoder

    saved = export(tiny_encoder(), tmp_path / "model", resize=20)
    random = np.random.default_rng(5)
    for name in ("saved_model.pb", "assets.extra/provenance.json"):
        path = saved / name
        if not path.is_file():
            continue
        good = path.read_bytes()
        for _ in range(10):
            path.write_bytes(good[: int(random.integers(len(good)))])
            try:
                load_pretrained(saved)
            except (InterchangeError, DataError) as error:
                assert str(error).strip()
        path.write_bytes(good)
