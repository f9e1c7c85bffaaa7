"""`moco-tf inspect`: what a folder holds, settings with reasons, a config that runs."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import yaml
from commands import ROOT
from conftest import strip_runs
from photo_folders import photos, save
from PIL import Image

from moco_tf import cli
from moco_tf.cli.train import parse_args
from moco_tf.data import copies
from moco_tf.data.survey import Survey, survey, thumbnails
from moco_tf.pretrain import pretrain, suggest, trial
from moco_tf.pretrain.suggest import Setting, as_yaml, read_back
from moco_tf.pretrain.trial import Machine, Trial

ODD = "été [1] of 'mine' & yours"


def noisy(path, size, seed, mode="RGB"):
    rng = np.random.default_rng(seed)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def mixed(tmp_path):
    """48 readable images of three formats, among them two copies, and a broken one."""
    root = tmp_path / ODD
    for index in range(40):
        noisy(root / f"{index:02d} (a) ß.jpg", (64 + index, 48), index)
    for index in range(4):
        noisy(root / "in here" / f"grey {index}.png", (32, 40), index, "L")
    for name, seed in (("one", 1), ("two", 2)):  # of one length, and different
        noisy(root / f"{name}.bmp", (20, 30), seed)
    shutil.copy(root / "00 (a) ß.jpg", root / "copy.jpg")
    shutil.copy(root / "00 (a) ß.jpg", root / "in here" / "copy.jpg")
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    return root


def test_survey_counts_what_is_there(mixed):
    found = survey(str(mixed))
    assert len(found.listing.paths) == 49 and len(found.readable) == 48
    assert found.unreadable == ["broken.jpg"]
    assert found.formats == {"JPEG": 42, "PNG": 4, "BMP": 2}
    sizes = [(64 + n, 48) for n in range(40)] + [(64, 48)] * 2 + [(32, 40)] * 4
    sizes += [(20, 30)] * 2
    assert sorted(map(tuple, found.sizes.tolist())) == sorted(sizes)
    assert found.shorter_side == 48 and found.grey == pytest.approx(4 / 48)
    assert found.copies == [["00 (a) ß.jpg", "copy.jpg", "in here/copy.jpg"]]
    assert found.superfluous == 2
    assert found.classes == {} and found.test_split is None
    readable = [p for p in mixed.rglob("*.*") if p.name != "broken.jpg"]
    assert found.num_bytes == sum(path.stat().st_size for path in readable)


def test_only_files_of_one_length_are_compared(mixed, monkeypatch):
    compared = []
    digest = copies._digest
    monkeypatch.setattr(
        copies, "_digest", lambda path: compared.append(path) or digest(path)
    )
    survey(str(mixed))
    lengths = [path.stat().st_size for path in mixed.rglob("*.*")]
    alike = [n for n in lengths if lengths.count(n) > 1]
    assert 4 <= len(compared) == len(alike) < 48


def test_sub_folders_are_labels_where_both_parts_have_them(tmp_path):
    for part, count in (("train", 6), ("test", 3)):
        for name in ("a cat", "dogs"):
            photos(tmp_path / part / name, count)
    found = survey(str(tmp_path))
    assert found.classes == {"a cat": 6, "dogs": 6} and found.test_split == "test"
    shutil.move(tmp_path / "test" / "dogs", tmp_path / "test" / "wolves")
    assert survey(str(tmp_path)).test_split is None
    shutil.rmtree(tmp_path / "test")
    assert survey(str(tmp_path / "train")).classes == {"a cat": 6, "dogs": 6}


def test_thumbnails_are_spread_over_the_folder_and_keep_their_shape(mixed):
    pictures, names = thumbnails(survey(str(mixed)), 12, 24)
    assert len(pictures) == len(set(names)) == 12
    assert names[0] == "00 (a) ß.jpg" and names[-1] == "two.bmp"
    for picture, name in zip(pictures, names):
        with Image.open(mixed / name) as image:
            assert max(picture.shape[:2]) == min(24, max(image.size))
            ratio = image.size[0] / image.size[1]
        assert picture.shape[1] / picture.shape[0] == pytest.approx(ratio, rel=0.1)


def test_files_with_numbers_of_their_own_are_taken_as_they_are(tmp_path):
    random = np.random.default_rng(0)
    folder = tmp_path / "bands [5]"
    folder.mkdir()
    for number in range(40):
        array = random.uniform(-1, 7, (20, 24, 5)).astype(np.float32)
        array[0, 0, :2] = -1, 7
        np.save(folder / f"{number:02d}.npy", array)
    (folder / "broken.npy").write_bytes(b"\x93NUMPY but no more")
    found = survey(str(folder))
    assert (len(found.readable), found.unreadable) == (40, ["broken.npy"])
    assert (found.channels, found.span, found.grey) == (5, (-1.0, 7.0), 0.0)
    assert found.formats == {"NPY": 40} and (found.sizes == (24, 20)).all()
    pictures, names = thumbnails(found, 3, 12)
    assert [picture.shape for picture in pictures] == [(10, 12, 3)] * 3
    assert names == ["00.npy", "20.npy", "39.npy"]
    settings = suggest.suggest(folder, found, Machine(0, 2, 2**40), None)
    config = suggest.read_back(suggest.as_yaml(settings, "", ""))
    assert config.data.channels == 5 and config.data.range == (-1.0, 7.0)


def made(count=1000, side=300, grey=0.0, bad=0, classes=None, test_split=None):
    """A survey without a folder."""
    listing = types.SimpleNamespace(paths=[""] * (count + bad))
    sizes = np.array([(2 * side, side)])
    return Survey(listing, np.arange(count), ["x"] * bad, {}, sizes, grey, 3, None, [],
                  classes or {}, test_split)  # fmt: skip


def suggested(found, gpus=0, free=2**40, ips=None, need=2**20, folder="photos"):
    machine = Machine(gpus, 2, free)
    measured = None if ips is None else Trial(32, ips, need)
    place = pathlib.PurePosixPath("/home") / folder
    settings = suggest.suggest(place, found, machine, measured)
    return {setting.key: setting.value for setting in settings}, settings


@pytest.mark.parametrize("count", [32, 100, 900, 5_000, 60_000, 2_000_000])
@pytest.mark.parametrize("side", [20, 50, 130, 3000])
@pytest.mark.parametrize(("gpus", "ips"), [(0, 5.0), (1, 900.0), (0, None)])
def test_suggestions_keep_their_promises_and_can_be_read(count, side, gpus, ips):
    free, need = 4 * 2**30, 40 * 2**20
    values, settings = suggested(made(count, side), gpus, free, ips, need)
    config = read_back(as_yaml(settings, "Of a test.", "train"))
    assert config.data.image_size <= max(32, side)
    batch, queue = config.train.batch_size, config.method.queue_size
    assert batch <= max(16, count / 8) and batch % 16 == 0
    if ips:
        assert batch * need <= max(free / 2, 16 * need)
    assert batch <= queue <= max(batch, count / 4, 1) and config.method.mask_same_image
    least, most = config.data.crop_scale
    assert 0.2 <= least <= 0.5 and most == 1
    if ips:
        hours = config.train.epochs * count / ips / 3600
        assert hours <= 12 or config.train.epochs == 1
        measured = Trial(32, ips, need)
        told = suggest.hours(settings, made(count, side), measured)
        assert told == pytest.approx(hours)
    assert config.train.epochs >= (400 if count < 5000 and not ips else 1)
    assert set(values) == {setting.key for setting in settings}


def test_settings_follow_the_set():
    plain, _ = suggested(made())
    assert "data.channels" not in plain and "data.max_unreadable" not in plain
    assert (plain["augment.recipe"], plain["encoder.stem"]) == ("moco_v2", "imagenet")
    small, _ = suggested(made(side=32))
    assert (small["augment.recipe"], small["encoder.stem"]) == ("cifar", "cifar")
    grey, _ = suggested(made(grey=1.0))
    assert grey["data.channels"] == 1
    broken, _ = suggested(made(count=60, bad=5))
    assert 5 / 65 <= broken["data.max_unreadable"] < 5 / 65 + 0.011
    large, _ = suggested(made(count=50_000), gpus=1)
    assert (large["encoder.name"], large["data.image_size"]) == ("resnet50", 224)
    labelled = made(classes={"a": 500, "b": 500}, test_split="val")
    watched, _ = suggested(labelled)
    assert watched["monitor.every"] > 0 and watched["monitor.test_split"] == "val"
    assert "train/CLASS" in suggested(made(classes={"a": 1, "b": 2}))[1][-1].reason
    assert plain["monitor.every"] == 0


def test_reasons_stand_beside_the_values():
    _, settings = suggested(made(), ips=2.0)
    text = as_yaml(settings, "About. " * 20, "moco-tf train --config x.yaml")
    assert max(map(len, text.splitlines())) <= 88
    head, _, body = text.partition("\nname:")
    assert "# Command: moco-tf train --config x.yaml" in head
    for setting in settings:
        start = setting.reason.split(" ")[0]
        line = setting.key.rpartition(".")[2]
        assert re.search(
            rf"# {re.escape(start)}[^\n]*(\n +# .*)*\n +{line}:", text
        ) or (not setting.reason)
    assert "hours on this machine" in body


@pytest.mark.parametrize("name", ["123", "null", "a: b", "#x", "- y", "日本", "..."])
def test_odd_names_survive_the_file(name):
    folder = pathlib.PurePosixPath("/tmp") / name
    settings = suggest.suggest(folder, made(), Machine(0, 2, None), None)
    config = read_back(as_yaml(settings, "x", "y"))
    assert config.data.data_dir == f"/tmp/{name}"
    assert config.name and not set(config.name) & set("/\\:*?[]")


def inspected(folder, *words):
    return cli.main(["inspect", str(folder), *map(str, words)])


def test_command_writes_a_configuration_that_runs(mixed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert inspected(mixed, "--no_measure", "--out=it.yaml") == 0
    printed = capsys.readouterr().out
    for words in ("49 images", "JPEG 42, PNG 4, BMP 2", "broken.jpg", "64 x 48 (3)",
                  "2 files are copies of others", "copy.jpg", "was not measured",
                  "Written it.yaml", "--config it.yaml", "8 % are grey"):  # fmt: skip
        assert words in printed, words
    assert max(map(len, printed.splitlines())) <= 80
    with Image.open("it.png") as sheet:
        assert sheet.format == "PNG" and min(sheet.size) > 500
    config = parse_args(["--config", "it.yaml"])
    assert config.data.data_dir == str(mixed) and config.train.batch_size == 16
    assert config.data.image_size == 48
    strip_runs(monkeypatch)
    short = ["--train.epochs=1", "--train.steps_per_epoch=1", f"--runs_dir={tmp_path}"]
    pretrain(parse_args(["--config", "it.yaml", *short]))
    # A second time: the first one's work stays.
    before = (tmp_path / "it.yaml").read_bytes()
    assert inspected(mixed, "--out=it.yaml") == 2
    assert "it.yaml is there already; remove it" in capsys.readouterr().err
    assert (tmp_path / "it.yaml").read_bytes() == before


def test_time_is_told_from_steps_that_were_measured(
    mixed, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    tried = []
    real = trial.trial
    monkeypatch.setattr(
        trial, "trial", lambda config: tried.append(config) or real(config, 0.1)
    )
    strip_runs(monkeypatch)
    assert inspected(mixed) == 0
    printed = capsys.readouterr().out
    (config,) = tried
    assert (config.train.batch_size, config.data.image_size) == (32, 48)
    told = re.search(r"about (\S+) (\w+) here, at (\S+) images/s", " ".join(
        printed.split()))  # fmt: skip
    written = parse_args(["--config", f"{ODD}.yaml"])
    hours = written.train.epochs * 48 / float(told[3].replace(",", "")) / 3600
    shown = float(told[1]) / {"minutes": 60, "hours": 1}[told[2]]
    assert shown == pytest.approx(hours, abs=1 / 60)
    assert f"{told[3]} images/s" in " ".join(
        (tmp_path / f"{ODD}.yaml").read_text().replace("#", "").split()
    )


def test_trial_times_steps_and_their_memory(mixed, monkeypatch):
    class Slow:
        def make_train_function(self):
            def step(batches):
                assert next(batches)["query"].shape == (32, 48, 48, 3)
                held = np.ones(300 * 2**20, np.uint8)
                time.sleep(0.2)
                return {"loss": held[:1]} and {}

            return step

    monkeypatch.setattr(trial, "build_model", lambda *args: Slow())
    words = [f"data.data_dir={mixed}", "data.source=folder", "data.image_size=48",
             "train.batch_size=32", "data.max_unreadable=0.1"]  # fmt: skip
    config = parse_args([f"--{word}" for word in words])
    found = trial.trial(config, seconds=1.0)
    assert found.batch_size == 32
    assert found.images_per_second == pytest.approx(32 / 0.25, rel=0.4)
    assert 250 < 32 * found.bytes_per_image / 2**20 < 600


@pytest.mark.parametrize("count", [1, 20])
def test_too_few_pictures_are_told_and_shown(tmp_path, monkeypatch, capsys, count):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "few", count)
    assert inspected("few") == 0
    printed = " ".join(capsys.readouterr().out.split())
    verb = "1 image is" if count == 1 else "20 images are"
    assert f"{verb} too few to learn from: at least 32" in printed
    assert not (tmp_path / "few.yaml").exists() and (tmp_path / "few.png").is_file()


def test_what_cannot_be_inspected_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "some", 40)
    (tmp_path / "empty").mkdir()
    for words, sentence in (
        (["nowhere"], "nowhere is not a folder"),
        (["empty"], "has no images (jpg"),
        (["some", "--out=x.txt"], "--out=x.txt should end in .yaml"),
        (["some", "--out=no/x.yaml"], "no is not a folder; make it"),
        (["some", "--out=some/x.yaml"], "some/x.yaml would lie among the pictures"),
        (["some", "more"], "unrecognized arguments: more"),
        (["gs://bucket/x"], "gs://bucket/x is on another file system"),
    ):
        assert cli.main(["inspect", *words]) == 2
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1, error
    assert sorted(os.listdir(tmp_path)) == ["empty", "some"]


def test_all_files_broken_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for index in range(3):
        save(tmp_path / "bad" / f"{index}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert inspected("bad") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "unreadable 0.png, 1.png, 2.png" in printed
    assert "0 images are too few" in printed
    assert os.listdir(tmp_path) == ["bad"]


def test_interrupted_it_leaves_nothing(mixed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def stop(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(trial, "trial", stop)
    assert inspected(mixed, "--out=it.yaml") == 130
    assert "Stopped; nothing was written." in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == [ODD]


def test_help_and_mistakes_do_without_tensorflow(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('imported')")
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    for words, code in ((["--help"], 0), (["nowhere"], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "moco_tf", "inspect", *words],
            capture_output=True, text=True, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, "COLUMNS": "80"},
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert "imported" not in done.stderr
    assert done.stderr.startswith("error: nowhere is not a folder")


@pytest.mark.slow
def test_ten_thousand_files_take_seconds(tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "many"
    root.mkdir()
    for index in range(10_000):
        pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{index:05d}.png")
    shutil.copy(root / "00000.png", root / "copy.png")
    start = time.monotonic()
    found = survey(str(root))
    took = time.monotonic() - start
    assert len(found.readable) == 10_001 and len(found.copies) == 1
    assert took < 40


def test_yaml_of_every_kind_of_value():
    settings = [Setting("name", "x"), Setting("data.crop_scale", [0.25, 1.0], "Why."),
                Setting("data.cache", True)]  # fmt: skip
    tree = yaml.safe_load(as_yaml(settings, "a", "b"))
    assert tree == {"name": "x", "data": {"crop_scale": [0.25, 1.0], "cache": True}}
