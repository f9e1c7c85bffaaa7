"""Runs, images and exports on a file system of TensorFlow's own: its RAM, by ram://."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from pretrained_runs import write_images
from run_files import weights
from test_pretrain import small

from moco_tf import callbacks, cli
from moco_tf.cli.evaluate import parse_evaluation
from moco_tf.config import ConfigError, load_config
from moco_tf.data import DataError, open_source
from moco_tf.evaluation.run import evaluate
from moco_tf.interchange import InterchangeError, load_checkpoint, load_pretrained
from moco_tf.interchange.exports import export
from moco_tf.paths import copy, is_remote, remove, to_path
from moco_tf.pretrain import pretrain


@pytest.fixture
def ram():
    root = to_path("ram://test")
    root.mkdir(parents=True, exist_ok=True)
    yield root
    remove(root)


def test_local_paths_are_those_of_pathlib(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("runs/demo", pathlib.Path("runs/demo"), "/x/y z", "a:b/c", "c:/x"):
        assert to_path(given) == pathlib.Path(given) and not is_remote(to_path(given))
    assert to_path("~/runs") == tmp_path / "runs"


def test_remote_paths_behave_as_those_of_pathlib(ram, tmp_path):
    for root in (ram, tmp_path):
        folder = root / "a" / "b"
        assert not folder.exists() and not folder.is_dir() and not folder.is_file()
        folder.mkdir(parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
        with pytest.raises(FileExistsError):
            folder.mkdir()
        file = folder / "x.txt"
        file.write_text("ü\n1")
        assert file.is_file() and not file.is_dir() and folder.is_dir()
        assert file.read_text() == "ü\n1" and file.read_bytes() == "ü\n1".encode()
        assert file.stat().st_size == 4
        with file.open("a") as opened:
            opened.write("2\n")
        with file.open() as opened:
            assert list(opened) == ["ü\n", "12\n"]
        assert (file.name, file.stem, file.suffix) == ("x.txt", "x", ".txt")
        assert file.parent == folder and file.with_suffix(".csv").name == "x.csv"
        assert file.with_name("y") == folder / "y" == folder.joinpath("y")
        assert file.parts[-3:] == ("a", "b", "x.txt")
        file.replace(file.with_name("y.txt"))
        (folder / "z.txt").write_bytes(b"\0")
        assert sorted(path.name for path in folder.iterdir()) == ["y.txt", "z.txt"]
        assert [path.name for path in folder.glob("y*")] == ["y.txt"]
        assert {path.name for path in root.rglob("*.txt")} == {"y.txt", "z.txt"}
        assert list((root / "none").glob("*")) == []
        (folder / "z.txt").unlink()
        with pytest.raises(FileNotFoundError) as caught:
            (folder / "z.txt").read_text()
        assert caught.value.strerror == "No such file or directory"
        remove(root / "a")
        assert not (root / "a").exists()
        assert str(root) in repr(file) and file == to_path(str(file))


def test_folders_of_this_machine_are_copied(ram, tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_text("1")
    (tmp_path / "a" / "d").write_text("2")
    copy(tmp_path / "a", ram / "copy")
    assert (ram / "copy" / "b" / "c").read_text() == "1"
    assert (ram / "copy" / "d").read_text() == "2"


def test_local_code_refuses_a_remote_path(ram):
    with pytest.raises(TypeError):
        open(ram / "x")
    with pytest.raises(TypeError):
        pathlib.Path(ram)


def test_run_lives_on_another_file_system(ram, tmp_path, capsys):
    write_images(tmp_path / "photos", 20, ("blue", "red"))
    copy(tmp_path / "photos", ram / "photos")
    (ram / "photos" / "notes.txt").write_text("no image")
    (ram / "photos" / "scan.psd").write_text("not read")
    words = ("train.epochs=2", "train.batch_size=16", "monitor.max_train=20",
             "monitor.max_test=10", "monitor.test_split=train", "monitor.every=1",
             "monitor.knn_k=5", "data.source=folder")  # fmt: skip
    remote = small("ram://test/runs", *words, f"data.data_dir={ram / 'photos'}")
    local = small(tmp_path, *words, f"data.data_dir={tmp_path / 'photos'}")
    found, expected = pretrain(remote), pretrain(local)
    assert "1 .psd; 40 others" in " ".join(capsys.readouterr().out.split())
    assert found["trained"] == expected["trained"]
    here, there = tmp_path / "run", ram / "runs" / "run"
    files = {str(path.relative_to(here)) for path in here.rglob("*") if path.is_file()}
    assert not pathlib.Path("ram:").exists()
    for name in files - {".lock"}:
        if "tfevents" not in name:
            assert (there / name).is_file(), name
    assert [path for path in (there / "tensorboard").iterdir() if "events" in path.name]
    for name, value in weights(here).items():
        np.testing.assert_array_equal(weights(there)[name], value, err_msg=name)
    # A finished run is judged, exported, compared and looked at.
    knn = parse_evaluation(["knn", str(there), "--k=[5]"])
    figures = [evaluate(one)["figures"] for one in (
        knn, parse_evaluation(["knn", str(here), "--k=[5]"]))]  # fmt: skip
    assert figures[0] == figures[1]
    results = json.loads((there / "report" / "knn" / "results.json").read_text())
    assert results["figures"] == figures[0]
    evaluate(parse_evaluation(["compare", str(there)]))
    assert (ram / "runs" / "compare" / "results.json").is_file()
    pretrained = load_pretrained(str(there))
    for to, name in (("savedmodel", "model"), ("keras", "model.keras")):
        export(pretrained, f"{ram}/out/{name}", to)
        assert (ram / "out" / name).exists()
    loaded = tf.saved_model.load(f"{ram}/out/model")
    assert loaded(tf.zeros((1, 16, 16, 3)))["features"].shape == (1, 32)
    for name in ("by_command", "by_command.keras"):
        to = "keras" if name.endswith("keras") else "savedmodel"
        assert cli.main(["export", str(there), f"{ram}/out/{name}", "--to", to]) == 0
        assert (ram / "out" / name).exists()
    with pytest.raises(InterchangeError, match="is a file"):
        export(pretrained, f"{ram}/out/model.keras", "savedmodel")
    with pytest.raises(ConfigError, match="holds a run of another configuration"):
        again = [*words, f"data.data_dir={ram / 'photos'}", "seed=5"]
        pretrain(small("ram://test/runs", *again))


def test_run_on_another_file_system_goes_on(ram, tmp_path, monkeypatch):
    words = ("train.epochs=3", "monitor.every=0", "train.keep_checkpoints=1")
    pretrain(small(tmp_path, *words))
    remote = small("ram://test/runs", *words)

    class Break(Exception):
        pass

    def broken(self, epoch, logs=None):
        after(self, epoch, logs)
        if epoch == 1:
            raise Break

    after = callbacks.Checkpoints.on_epoch_end
    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Checkpoints, "on_epoch_end", broken)
        with pytest.raises(Break):
            pretrain(remote)
    run = ram / "runs" / "run"
    assert [path.name for path in run.glob("checkpoints")] == ["checkpoints"]
    pretrain(load_config(f"{run}/config.yaml"))
    for name, value in weights(tmp_path / "run").items():
        np.testing.assert_array_equal(weights(run)[name], value, err_msg=name)


def test_mistakes_on_another_file_system_are_told(ram, capsys):
    with pytest.raises(DataError, match="data_dir='ram://none' is not a folder"):
        open_source("folder", "train", data_dir="ram://none")
    with pytest.raises(DataError, match="has no images"):
        open_source("folder", "train", data_dir=str(ram))
    with pytest.raises(InterchangeError, match="ram://none does not exist"):
        load_pretrained("ram://none")
    with pytest.raises(InterchangeError, match="copy it to this machine first"):
        load_checkpoint("ram://none/moco.pth.tar")
    for words in (["train", "--runs_dir=x9://b/runs"], ["evaluate", "knn", "x9://b"]):
        assert cli.main(words) == 2
        assert "no such file system here" in capsys.readouterr().err
    shutil.rmtree("ram:", ignore_errors=True)
