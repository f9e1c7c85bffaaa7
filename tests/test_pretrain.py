"""A run as its user sees it: artefacts, exact resumption, sentences for mistakes."""

import csv
import json
import pathlib
import shutil
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
from moco_tf.pretrain import build_encoder, closing, pretrain

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALL = (
    "encoder.width=4",
    "data.image_size=16",
    "method.queue_size=64",
    "method.dim=16",
    "train.epochs=2",
    "train.batch_size=32",
    "train.steps_per_epoch=2",
    "monitor.max_train=300",
    "monitor.max_test=100",
    "monitor.knn_k=20",
    "monitor.linear=false",
)


def small(tmp_path, *overrides, name="run"):
    return load_config(
        None, (*SMALL, f"runs_dir={tmp_path}", f"name={name}", *overrides)
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return pretrain(small(folder)), folder / "run"


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
        "learning_rate images_per_second input_wait knn"
    ).split():
        assert np.isfinite(float(rows[2][name])), name


def test_closing_figures_compare_raw_untrained_and_trained(finished):
    figures, run = finished
    summary = json.loads((run / "report/summary.json").read_text())
    cost = summary.pop("cost")
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


def _weights(run):
    reader = tf.train.load_checkpoint(str(run / "checkpoints"))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if "save_counter" not in name and name != "_CHECKPOINTABLE_OBJECT_GRAPH"
    }


def test_provenance_names_the_folder_its_images_and_uncommitted_changes(
    tmp_path, monkeypatch
):
    write_images(tmp_path / "photos", 12)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "code.py").write_text("1")
    for words in (["init", "-q"], ["add", "code.py"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(closing, "__file__", str(tmp_path / "code.py"))
    commit = closing._revision()
    assert len(commit) == 40
    (tmp_path / "code.py").write_text("2")
    words = ["data.source=folder", f"data.data_dir={tmp_path}/photos"]
    pretrain(small(tmp_path, *words, "train.epochs=1", "monitor.every=0"))
    found = load_pretrained(tmp_path / "run").provenance
    assert (found["data"], found["images"]) == ("folder photos", 36)
    assert found["git_revision"] == f"{commit}+dirty"


def test_killed_run_resumes_bit_exactly(tmp_path, monkeypatch):
    overrides = ("train.epochs=3", "train.deterministic=true", "monitor.every=0")
    whole = small(tmp_path, *overrides, name="whole")
    pretrain(whole)
    killed = small(tmp_path, *overrides, name="killed")
    save = callbacks.Checkpoints.on_epoch_end

    def save_then_die(self, epoch, logs=None):
        save(self, epoch, logs)
        if epoch == 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Checkpoints, "on_epoch_end", save_then_die)
        with pytest.raises(KeyboardInterrupt):
            pretrain(killed)
    pretrain(killed)
    expected, found = _weights(whole.run_dir), _weights(killed.run_dir)
    assert set(expected) == set(found) and len(expected) > 50
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_finished_run_is_trained_longer_from_its_weights(tmp_path):
    first = small(tmp_path, "monitor.every=0", name="first")
    pretrain(first)
    advice = f"train.start_from={first.run_dir} and another --name"
    with pytest.raises(ConfigError, match=advice):
        pretrain(small(tmp_path, "monitor.every=0", "train.epochs=3", name="first"))
    # Steps that go nowhere show where it started.
    words = ("train.epochs=1", "optimizer.learning_rate=1e-12")
    second = small(tmp_path, *words, f"train.start_from={first.run_dir}", name="second")
    pretrain(second)
    before, after = _weights(first.run_dir), _weights(second.run_dir)
    kernels = [k for k in before if "query_encoder" in k and "/kernel/" in k]
    assert len(kernels) > 10
    for name in kernels:
        np.testing.assert_allclose(after[name], before[name], atol=1e-6, err_msg=name)
    (steps,) = [v for k, v in after.items() if "optimizer/_iterations" in k]
    assert steps == 2
    rows = (second.run_dir / "history.csv").read_text().splitlines()
    rows = list(csv.DictReader(rows))
    baselines = json.loads((second.run_dir / "report/baselines.json").read_text())
    assert float(rows[0]["knn"]) == pytest.approx(baselines["untrained"]["knn"])


def test_weights_to_start_from_must_be_there_and_fit(tmp_path):
    words = ("monitor.every=0", "train.start_from=nowhere")
    with pytest.raises(callbacks.RunError, match="nowhere.*holds no checkpoint to"):
        pretrain(small(tmp_path, *words))
    pretrain(small(tmp_path, "monitor.every=0", "train.epochs=1", name="other"))
    words = ("monitor.every=0", f"train.start_from={tmp_path}/other", "method.dim=8")
    with pytest.raises(callbacks.RunError, match="to start from does not fit"):
        pretrain(small(tmp_path, *words, name="wider"))


def test_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    config = small(tmp_path, "train.epochs=3", "monitor.every=0")
    write = tf.train.Checkpoint._write

    def write_once(self, prefix, *args, **kwargs):
        if not prefix.endswith("epoch-1"):
            raise tf.errors.ResourceExhaustedError(
                None, None, "No space left on device"
            )
        return write(self, prefix, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(tf.train.Checkpoint, "_write", write_once)
        with pytest.raises(callbacks.RunError, match="No space left.*epoch-1 is kept"):
            pretrain(config)
    latest = tf.train.latest_checkpoint(str(config.run_dir / "checkpoints"))
    assert latest.endswith("epoch-1")
    assert pretrain(config)["run_dir"] == str(config.run_dir)


def test_full_disk_elsewhere_is_one_sentence_too(tmp_path, monkeypatch):
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


def test_what_changes_no_figure_may_change_when_a_run_goes_on(finished):
    _, run = finished
    pretrain(small(run.parent, "train.keep_checkpoints=5", "data.decode_threads=2"))
    assert load_config(run / "config.yaml").train.keep_checkpoints == 5


def test_checkpoint_of_another_architecture_is_refused(finished, tmp_path):
    _, run = finished
    other = small(tmp_path, "encoder.width=8", "monitor.every=0")
    other.run_dir.mkdir()
    (other.run_dir / "checkpoints").symlink_to(run / "checkpoints")
    with pytest.raises(callbacks.RunError, match="does not fit this model"):
        (other.run_dir / "report").mkdir()
        pretrain(other)


@pytest.fixture
def unfinished(finished, tmp_path):
    """A run of two epochs whose end is still to come, and its configuration."""
    _, run = finished
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "report" / "summary.json").unlink()
    return tmp_path / "run", small(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flipped", "no index"])
def test_damaged_newest_checkpoint_is_passed_over(unfinished, damage, capsys):
    run, config = unfinished
    (data,) = (run / "checkpoints").glob("epoch-2.data*")
    content = bytearray(data.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "flipped":
        content[len(content) // 2] ^= 255
    data.write_bytes(content)
    if damage == "no index":
        (run / "checkpoints" / "epoch-2.index").unlink()
    pretrain(config)
    printed = capsys.readouterr().out
    assert ("epoch-2 is damaged" in " ".join(printed.split())) == (damage != "no index")
    assert "Continuing after epoch 1 of 2" in printed
    rows = (run / "history.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["0", "1", "2"]


def test_no_whole_checkpoint_is_told_and_nothing_overwritten(unfinished):
    run, config = unfinished
    for data in (run / "checkpoints").glob("*.data*"):
        data.write_bytes(b"")
    before = (run / "history.csv").read_text()
    with pytest.raises(callbacks.RunError, match="none of the checkpoints in .* anew"):
        pretrain(config)
    assert (run / "history.csv").read_text() == before


def test_lost_list_of_checkpoints_is_made_again(unfinished, capsys):
    run, config = unfinished
    (run / "checkpoints" / "checkpoint").unlink()
    pretrain(config)
    assert "Continuing after epoch 2 of 2" in capsys.readouterr().out
    paths = tf.train.get_checkpoint_state(str(run / "checkpoints"))
    assert [pathlib.Path(p).name for p in paths.all_model_checkpoint_paths] == [
        "epoch-1",
        "epoch-2",
    ]


@pytest.mark.parametrize("done", [True, False])
def test_run_without_its_checkpoints_is_not_overwritten(finished, unfinished, done):
    run, config = unfinished
    if done:
        shutil.copy(finished[1] / "report" / "summary.json", run / "report")
    shutil.rmtree(run / "checkpoints")
    before = (run / "history.csv").read_text()
    with pytest.raises(callbacks.RunError, match="2 epochs, but .* are gone.*--name"):
        pretrain(config)
    assert (run / "history.csv").read_text() == before


def test_run_that_stopped_before_its_first_checkpoint_starts_again(tmp_path, capsys):
    config = small(tmp_path, "train.checkpoint_every=2", "monitor.every=0")
    config.run_dir.mkdir()
    (config.run_dir / "history.csv").write_text("epoch,loss\n1,3.0\n")
    pretrain(config)
    assert "Continuing" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a[b", "a*", "what?"])
def test_name_that_tensorflow_reads_as_a_pattern_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="a pattern for other names; use a path"):
        small(tmp_path, name=name)
    with pytest.raises(ConfigError, match="a pattern for other names"):
        small(tmp_path / name)


def test_directory_of_another_run_is_refused(finished):
    _, run = finished
    sentence = "method.temperature was 0.2 and is 0.5.* another --name or --runs_dir"
    with pytest.raises(ConfigError, match=sentence):
        pretrain(small(run.parent, "method.temperature=0.5"))


def test_mistake_that_is_mended_needs_no_other_name(tmp_path):
    short = "train.epochs=1", "monitor.every=0"
    with pytest.raises(ConfigError, match="resnet51"):
        pretrain(small(tmp_path, "encoder.name=resnet51", *short))
    pretrain(small(tmp_path, *short))
    assert load_config(tmp_path / "run" / "config.yaml").encoder.name == "resnet18"


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
def test_what_stops_a_run_is_told_in_a_sentence(tmp_path, monkeypatch, error, sentence):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("moco_tf.methods.MoCo.fit", fail)
    with pytest.raises(callbacks.RunError, match=sentence) as raised:
        pretrain(small(tmp_path, "monitor.every=0"))
    assert "\n" not in str(raised.value)


def test_report_that_was_lost_is_made_again(tmp_path):
    config = small(tmp_path)
    first = pretrain(config)
    shutil.rmtree(config.run_dir / "report")
    (config.run_dir / "history.csv").unlink()
    again = pretrain(config)
    # What the untrained encoder was worth is not known any more.
    assert again == {k: v for k, v in first.items() if k != "untrained"}


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
        + ["--distribution.replicas=2", f"--runs_dir={tmp_path}", "--name=two"],
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


@pytest.mark.parametrize(
    "replicas", [1, pytest.param(2, marks=pytest.mark.slow)], ids=str
)
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
