"""A run as its user sees it: artefacts, exact resumption, sentences for mistakes."""

import csv
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from pretrained_runs import write_images

from moco_tf import callbacks
from moco_tf.config import ConfigError, load_config
from moco_tf.data import DataError
from moco_tf.interchange import load_pretrained
from moco_tf.pretrain import build_encoder, finish, pretrain

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALL = (
    "encoder.width=4",
    # XLA keeps what it compiled, 100 MiB a recipe, and takes seconds for it.
    "augment.jit_compile=false",
    "data.image_size=16",
    "method.queue_size=64",
    "method.dim=16",
    "train.epochs=2",
    "train.batch_size=32",
    "train.steps_per_epoch=2",
    "monitor.max_train=300",
    "monitor.max_test=100",
    "monitor.knn_k=20",
    "log.quality_images=32",
    "monitor.linear=false",
)


def small(tmp_path, *overrides, name="run"):
    return load_config(
        None, (*SMALL, f"runs_dir={tmp_path}", f"name={name}", *overrides)
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    # As users have it, with XLA.
    return pretrain(small(folder, "augment.jit_compile=true")), folder / "run"


def test_run_directory_holds_every_artefact(finished):
    _, run = finished
    for name in (
        "config.yaml",
        "history.csv",
        "checkpoints/checkpoint",
        "saved_model/saved_model.pb",
        "report/curves.png",
        "report/neighbours.png",
        "report/summary.json",
        "tensorboard/embeddings.tsv",
        "tensorboard/labels.tsv",
    ):
        assert (run / name).stat().st_size > 0, name
    assert list((run / "tensorboard").glob("events*"))


def test_history_has_the_untrained_encoder_and_every_sign_of_health(finished):
    _, run = finished
    rows = list(csv.DictReader((run / "history.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert rows[0]["knn"] and not rows[0]["loss"]
    for name in (
        "loss loss_ceiling top1 top5 positive_similarity negative_similarity "
        "feature_std effective_rank queue_age false_negative_rate key_distance "
        "learning_rate images_per_second input_wait knn rankme alignment uniformity"
    ).split():
        assert np.isfinite(float(rows[2][name])), name


def test_closing_figures_compare_raw_untrained_and_trained(finished):
    figures, run = finished
    summary = json.loads((run / "report/summary.json").read_text())
    cost, quality = summary.pop("cost"), summary.pop("quality")
    assert 1 <= quality["rankme"] <= 32 and 0 < quality["alignment"] < 4
    assert cost["device"] == "CPU" and cost["images_per_second"] > 0
    assert 100 < cost["peak_memory_mib"] < 100_000
    assert summary == {
        key: figures[key] for key in ("raw_pixels", "untrained", "trained")
    }
    assert all(0 <= figures[key]["knn"] <= 1 for key in ("raw_pixels", "untrained"))


def test_saved_model_serves_without_moco_tf(finished):
    _, run = finished
    program = (
        "import sys, tensorflow as tf; m = tf.saved_model.load(sys.argv[1]);"
        "f = m.signatures['serving_default'](tf.zeros((2, 16, 16, 3)));"
        "assert set(f) == {'features', 'embedding'}, f.keys();"
        "assert 'moco_tf' not in sys.modules; print(f['features'].shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(run / "saved_model")],
        capture_output=True,
        text=True,
        cwd=run,
    )
    assert done.returncode == 0, done.stderr
    assert "(2, 32)" in done.stdout


def test_provenance_names_the_folder_its_images_and_uncommitted_changes(
    tmp_path, monkeypatch
):
    write_images(tmp_path / "photos", 12)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "code.py").write_text("1")
    for words in (["init", "-q"], ["add", "code.py"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(finish, "__file__", str(tmp_path / "code.py"))
    commit = finish._revision()
    assert len(commit) == 40
    (tmp_path / "code.py").write_text("2")
    words = ["data.source=folder", f"data.data_dir={tmp_path}/photos"]
    pretrain(small(tmp_path, *words, "train.epochs=1", "monitor.every=0"))
    found = load_pretrained(tmp_path / "run").provenance
    assert (found["data"], found["images"]) == ("folder photos", 36)
    assert found["git_revision"] == f"{commit}+dirty"


def test_full_disk_elsewhere_is_one_sentence_too(tmp_path, monkeypatch, bare):
    config = small(tmp_path, "monitor.every=0")

    def full(self, epoch, values):
        raise OSError(28, "No space left on device", str(self.path))

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.HistoryCSV, "add", full)
        with pytest.raises(
            callbacks.RunError, match="No space left.*history.csv.*room"
        ):
            pretrain(config)
    assert pretrain(config)["run_dir"] == str(config.run_dir)


@pytest.mark.parametrize("name", ["a[b", "a*", "what?"])
def test_name_that_tensorflow_reads_as_a_pattern_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="a pattern for other names; use a path"):
        small(tmp_path, name=name)
    with pytest.raises(ConfigError, match="a pattern for other names"):
        small(tmp_path / name)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            tf.errors.ResourceExhaustedError(
                None, None, "Graph execution error:\n\nat:\nOOM when allocating x\n"
            ),
            r"memory cannot hold a step \(OOM when allocating x\); use a smaller train",
        ),
        (
            tf.errors.NotFoundError(None, None, "/mnt/bedroom/a.jpg; No such file"),
            r"could not read .* \(/mnt/bedroom/a.jpg; No such file\)",
        ),
        (
            tf.errors.InvalidArgumentError(
                None,
                None,
                "{{function_node __wrapped__IteratorGetNext_device_/job:localhost}} "
                "Input is empty.\n\t [[{{node cond/DecodeJpeg}}]] [Op:IteratorGetNext]",
            ),
            r"cannot be decoded \(Input is empty\); .*continue the run",
        ),
    ],
)
def test_what_stops_a_run_is_told_in_a_sentence(
    tmp_path, monkeypatch, error, sentence, bare
):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("moco_tf.methods.MoCo.fit", fail)
    with pytest.raises(callbacks.RunError, match=sentence) as raised:
        pretrain(small(tmp_path, "monitor.every=0"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "overrides, kind, sentence",
    [
        (("data.source=folder", "data.data_dir=/no/where"), DataError, "/no/where"),
        (("data.source=tfds", "data.name=cifar99"), DataError, "cifar99"),
        (("encoder.name=resnet51",), ConfigError, "encoder.name='resnet51'"),
        (("train.batch_size=36",), ConfigError, "batch_size=36"),
        (("distribution.gpus=[0]",), ConfigError, r"distribution.gpus"),
    ],
)
def test_mistakes_get_one_sentence(tmp_path, overrides, kind, sentence):
    with pytest.raises(kind, match=sentence) as raised:
        pretrain(small(tmp_path, *overrides))
    assert "\n" not in str(raised.value)


def test_probe_without_labels_is_refused(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3))
        png = tf.io.encode_png(pixels.astype(np.uint8)).numpy()
        (folder / f"{number}.png").write_bytes(png)
    overrides = ("data.source=folder", f"data.data_dir={folder}")
    with pytest.raises(DataError, match="label"):
        pretrain(small(tmp_path, *overrides, "monitor.test_split=train"))
    figures = pretrain(small(tmp_path, *overrides, "monitor.every=0", name="plain"))
    assert list(figures) == ["run_dir"]
    run = tmp_path / "plain"
    assert (run / "report" / "neighbours.png").stat().st_size > 0
    assert len((run / "tensorboard/embeddings.tsv").read_text().splitlines()) == 40


def test_two_replicas_train_from_the_command_line(tmp_path):
    words = [f"--{word}" for word in SMALL]
    done = subprocess.run(
        [sys.executable, "train.py", *words, "--monitor.every=0"]
        + ["--distribution.replicas=2", f"--runs_dir={tmp_path}", "--name=two"]
        # It once failed in fresh processes alone.
        + ["--train.deterministic=true"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert "2 replicas" in done.stdout and "ShuffleBN" in done.stdout
    assert (tmp_path / "two/saved_model/saved_model.pb").exists()


def test_encoder_names_are_those_of_the_papers():
    for depth, features in ((18, 32), (34, 32), (50, 128)):
        config = load_config(None, (f"encoder.name=resnet{depth}", "encoder.width=4"))
        assert build_encoder(config).output_shape == (None, features)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_deterministic_runs_in_fresh_processes_are_equal_to_the_bit(replicas, tmp_path):
    words = [f"--{word}" for word in SMALL]
    words += ["--train.deterministic=true", "--monitor.every=0", "--train.epochs=1"]
    words += [f"--distribution.replicas={replicas}", f"--runs_dir={tmp_path}"]
    weights = []
    for name in ("one", "two"):
        done = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *words, f"--name={name}"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        weights.append(load_pretrained(tmp_path / name).encoder.get_weights())
    for one, two in zip(*weights):
        np.testing.assert_array_equal(one, two)
