"""A run goes on where it stopped, and loses and mixes nothing."""

import csv
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import strip_runs
from pretrained_runs import write_images
from run_files import weights
from test_pretrain import ROOT, small

from moco_tf import callbacks, exchange
from moco_tf.config import ConfigError, load_config
from moco_tf.data import DataError
from moco_tf.pretrain import images as images_module
from moco_tf.pretrain import pretrain
from moco_tf.pretrain.claim import claimed


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        strip_runs(patch)
        pretrain(small(folder))
    return folder / "run"


def test_killed_run_resumes_bit_exactly(tmp_path, monkeypatch, bare):
    overrides = ("train.epochs=3", "train.deterministic=true", "monitor.every=0")
    whole = small(tmp_path, *overrides, name="whole")
    pretrain(whole)
    killed = small(tmp_path, *overrides, name="killed")
    stop_after(monkeypatch, killed, 1)
    pretrain(killed)
    expected, found = weights(whole.run_dir), weights(killed.run_dir)
    assert set(expected) == set(found) and len(expected) > 20
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_finished_run_is_trained_longer_from_itsweights(tmp_path, bare):
    first = small(tmp_path, "monitor.every=0", name="first")
    pretrain(first)
    advice = f"train.start_from={first.run_dir} and another --name"
    with pytest.raises(ConfigError, match=advice):
        pretrain(small(tmp_path, "monitor.every=0", "train.epochs=3", name="first"))
    # Steps that go nowhere show where it started.
    words = ("train.epochs=1", "optimizer.learning_rate=1e-12")
    second = small(tmp_path, *words, f"train.start_from={first.run_dir}", name="second")
    pretrain(second)
    before, after = weights(first.run_dir), weights(second.run_dir)
    kernels = [k for k in before if "query_encoder" in k and "/kernel/" in k]
    assert len(kernels) > 2
    for name in kernels:
        np.testing.assert_allclose(after[name], before[name], atol=1e-6, err_msg=name)
    (steps,) = [v for k, v in after.items() if "optimizer/_iterations" in k]
    assert steps == 2
    rows = (second.run_dir / "history.csv").read_text().splitlines()
    rows = list(csv.DictReader(rows))
    baselines = json.loads((second.run_dir / "report/baselines.json").read_text())
    assert float(rows[0]["knn"]) == pytest.approx(baselines["untrained"]["knn"])


def test_weights_to_start_from_must_be_there_and_fit(tmp_path, bare):
    words = ("monitor.every=0", "train.start_from=nowhere")
    with pytest.raises(callbacks.RunError, match="nowhere.*holds no checkpoint to"):
        pretrain(small(tmp_path, *words))
    pretrain(small(tmp_path, "monitor.every=0", "train.epochs=1", name="other"))
    words = ("monitor.every=0", f"train.start_from={tmp_path}/other", "method.dim=8")
    with pytest.raises(callbacks.RunError, match="to start from does not fit"):
        pretrain(small(tmp_path, *words, name="wider"))


def test_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch, bare):
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


def test_what_changes_no_figure_may_change_when_a_run_goes_on(finished, bare):
    run = finished
    pretrain(small(run.parent, "train.keep_checkpoints=5", "data.decode_threads=2"))
    assert load_config(run / "config.yaml").train.keep_checkpoints == 5


def test_checkpoint_of_another_architecture_is_refused(finished, tmp_path, bare):
    run = finished
    other = small(tmp_path, "method.dim=8", "monitor.every=0")
    other.run_dir.mkdir()
    (other.run_dir / "checkpoints").symlink_to(run / "checkpoints")
    with pytest.raises(callbacks.RunError, match="does not fit this model"):
        (other.run_dir / "report").mkdir()
        pretrain(other)


@pytest.fixture
def unfinished(finished, tmp_path):
    """A run of two epochs whose end is still to come, and its configuration."""
    run = finished
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run", small(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flipped", "no index"])
def test_damaged_newest_checkpoint_is_passed_over(unfinished, damage, capsys, bare):
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


def test_no_whole_checkpoint_is_told_and_nothing_overwritten(unfinished, bare):
    run, config = unfinished
    for data in (run / "checkpoints").glob("*.data*"):
        data.write_bytes(b"")
    before = (run / "history.csv").read_text()
    with pytest.raises(callbacks.RunError, match="none of the checkpoints in .* anew"):
        pretrain(config)
    assert (run / "history.csv").read_text() == before


def test_lost_list_of_checkpoints_is_made_again(unfinished, capsys, bare):
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
def test_run_without_its_checkpoints_is_not_overwritten(unfinished, done, bare):
    run, config = unfinished
    if done:
        (run / "report" / "summary.json").write_text("{}")
    shutil.rmtree(run / "checkpoints")
    before = (run / "history.csv").read_text()
    with pytest.raises(callbacks.RunError, match="2 epochs, but .* are gone.*--name"):
        pretrain(config)
    assert (run / "history.csv").read_text() == before


def test_run_that_stopped_before_its_first_checkpoint_starts_again(
    tmp_path, capsys, bare
):
    config = small(tmp_path, "train.checkpoint_every=2", "monitor.every=0")
    config.run_dir.mkdir()
    (config.run_dir / "history.csv").write_text("epoch,loss\n1,3.0\n")
    pretrain(config)
    assert "Continuing" not in capsys.readouterr().out


def test_directory_of_another_run_is_refused(finished):
    run = finished
    sentence = "method.temperature was 0.2 and is 0.5.* another --name or --runs_dir"
    with pytest.raises(ConfigError, match=sentence):
        pretrain(small(run.parent, "method.temperature=0.5"))


def test_mistake_that_is_mended_needs_no_other_name(tmp_path, bare):
    short = "train.epochs=1", "monitor.every=0"
    with pytest.raises(ConfigError, match="resnet51"):
        pretrain(small(tmp_path, "encoder.name=resnet51", *short))
    pretrain(small(tmp_path, *short))
    assert load_config(tmp_path / "run" / "config.yaml").encoder.name == "resnet18"


def test_report_that_was_lost_is_made_again(tmp_path):
    config = small(tmp_path)
    first = pretrain(config)
    shutil.rmtree(config.run_dir / "report")
    (config.run_dir / "history.csv").unlink()
    again = pretrain(config)
    # What the untrained encoder was worth is not known any more.
    assert again == {k: v for k, v in first.items() if k != "untrained"}


def photos(tmp_path, count, *overrides, **kwargs):
    """A run on a folder of so many images of each of three kinds."""
    write_images(tmp_path / "photos", count)
    words = ("data.source=folder", f"data.data_dir={tmp_path}/photos")
    return small(tmp_path, *words, "monitor.every=0", *overrides, **kwargs)


def stop_after(monkeypatch, config, epochs):
    """Trains a run until Ctrl-C comes after so many epochs."""
    save = callbacks.Checkpoints.on_epoch_end

    def save_then_stop(self, epoch, logs=None):
        save(self, epoch, logs)
        if epoch + 1 == epochs:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Checkpoints, "on_epoch_end", save_then_stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config)


def test_folder_that_changed_since_is_refused_and_taken_once_it_is_back(
    tmp_path, monkeypatch, bare
):
    config = photos(tmp_path, 12)
    stop_after(monkeypatch, config, 1)
    kept = json.loads((config.run_dir / "data.json").read_text())
    assert (kept["images"], kept["steps_per_epoch"]) == (36, 2)
    (image, *_) = sorted((tmp_path / "photos").rglob("*.png"))
    content = image.read_bytes()
    image.unlink()
    sentence = "36 images in 2 steps .* now there are 35, .*train.start_from=.*--name"
    with pytest.raises(callbacks.RunError, match=sentence):
        pretrain(config)
    image.with_name("other.png").write_bytes(content)
    with pytest.raises(callbacks.RunError, match="now they have other names or sizes"):
        pretrain(config)
    image.with_name("other.png").rename(image)
    pretrain(config)
    # A run of version 0.1 has no such file, and goes on.
    (config.run_dir / "data.json").unlink()
    pretrain(config)
    assert json.loads((config.run_dir / "data.json").read_text()) == kept


@pytest.mark.parametrize(
    ("there", "sentence"),
    [
        (lambda own: 35, "host 0 has 36 images and host 1 35; give every host the"),
        (lambda own: own, None),
    ],
)
def test_hosts_that_read_different_data_are_refused_before_a_step(
    tmp_path, monkeypatch, there, sentence, bare
):
    config = photos(tmp_path, 12, "train.epochs=1")

    def two_hosts(strategy, value):
        return [value, there(value) if value == 36 else value]

    monkeypatch.setattr(images_module, "of_hosts", two_hosts)
    if sentence is None:
        pretrain(config)
        return
    with pytest.raises(DataError, match=sentence):
        pretrain(config)


def test_host_stops_where_another_one_failed(tmp_path, monkeypatch, bare):
    def second_failed(strategy, value):
        return [value, 1]

    monkeypatch.setattr(exchange, "of_hosts", second_failed)
    with pytest.raises(exchange.HostFailed, match="host 1 has stopped for"):
        pretrain(small(tmp_path, "monitor.every=0"))
    # The one that failed tells its own reason.
    with pytest.raises(ZeroDivisionError), exchange.together(None):
        raise ZeroDivisionError


def test_directory_that_another_process_trains_in_is_refused_until_that_dies(tmp_path):
    config = small(tmp_path)
    program = (
        "import sys, time; sys.path.insert(0, 'tests')\n"
        "from test_pretrain import small\n"
        "from moco_tf.pretrain.claim import claimed\n"
        f"with claimed(small({str(tmp_path)!r})): print('held', flush=True), input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert any(line == "held\n" for line in holder.stdout)
        sentence = f"trained by process {holder.pid} on .* since 20.*another --name"
        with pytest.raises(ConfigError, match=sentence), claimed(config):
            pass
        holder.send_signal(signal.SIGKILL)
    with claimed(config):
        assert f"process {os.getpid()} " in (config.run_dir / ".lock").read_text()
    with claimed(config):  # and it is let go
        pass
