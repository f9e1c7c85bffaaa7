"""A run that stops within an epoch loses nothing of it."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from commands import ROOT
from run_files import history, weights
from test_pretrain import SMALL, small

from moco_tf import callbacks, stops
from moco_tf.callbacks import RunError, WithinEpoch
from moco_tf.pretrain import pretrain

FOUR = ("train.epochs=2", "train.steps_per_epoch=4", "train.deterministic=true")
# What depends on the clock, or on the process.
TIMES = {"images_per_second", "input_wait", "peak_memory_mib"}


def timeless(run):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in history(run)]


def assert_same_end(one, other):
    assert timeless(one) == timeless(other)
    expected, found = weights(one), weights(other)
    assert set(expected) == set(found) and len(expected) > 20
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def stop_after(monkeypatch, config, step):
    """Runs until the process is asked to stop, after a step counted from the start."""
    ask = WithinEpoch.on_train_batch_end

    def ask_then_look(self, batch, logs):
        if self._done * self.params["steps"] + batch + 1 == step:
            self.asked.code = stops.TRY_AGAIN
        ask(self, batch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(WithinEpoch, "on_train_batch_end", ask_then_look)
        with pytest.raises(stops.Stopped) as stopped:
            pretrain(config)
    assert stopped.value.code == 75
    return stopped.value.saved


@pytest.mark.parametrize("replicas", [1, 2])
def test_stopped_run_goes_on_to_the_bit(tmp_path, monkeypatch, bare, replicas):
    words = (*FOUR, f"distribution.replicas={replicas}", "monitor.every=1")
    whole = small(tmp_path, *words, name="whole")
    pretrain(whole)
    stopped = small(tmp_path, *words, name="stopped")
    places = [stop_after(monkeypatch, stopped, step) for step in (1, 3, 4, 6, 8)]
    assert places == ["step 1 of epoch 1", "step 3 of epoch 1", "epoch 1",
                      "step 2 of epoch 2", "epoch 2"]  # fmt: skip
    pretrain(stopped)
    assert_same_end(whole.run_dir, stopped.run_dir)
    # The last epoch's own is what stays.
    names = {path.name for path in (stopped.run_dir / "checkpoints").glob("*.index")}
    assert names == {"epoch-1.index", "epoch-2.index"}


def test_killed_run_goes_on_from_its_last_minutes(tmp_path, monkeypatch, bare):
    words = (*FOUR, "monitor.every=0", "train.checkpoint_minutes=1e-9")
    whole = small(tmp_path, *words, name="whole")
    pretrain(whole)
    killed = small(tmp_path, *words, name="killed")

    for step in (2, 3):  # the second time from the newest whole one, after step 1
        with monkeypatch.context() as patch:
            save = WithinEpoch._save

            def save_then_fail(self, epoch, at, save=save, step=step):
                save(self, epoch, at)
                if at == step:
                    raise ZeroDivisionError

            patch.setattr(WithinEpoch, "_save", save_then_fail)
            with pytest.raises(ZeroDivisionError):
                pretrain(killed)
        folder = killed.run_dir / "checkpoints"
        names = sorted(path.stem for path in folder.glob("*.index"))
        assert names == [f"epoch-0+{step - 1}", f"epoch-0+{step}"]
        newest = folder / f"epoch-0+{step}.data-00000-of-00001"
        newest.write_bytes(newest.read_bytes()[:-50])
    pretrain(killed)
    assert_same_end(whole.run_dir, killed.run_dir)


def test_epoch_that_has_no_checkpoint_of_its_own_is_saved(tmp_path, monkeypatch, bare):
    words = (*FOUR, "monitor.every=0", "train.checkpoint_every=2")
    whole = small(tmp_path, *words, name="whole")
    pretrain(whole)
    stopped = small(tmp_path, *words, name="stopped")
    assert stop_after(monkeypatch, stopped, 4) == "epoch 1"
    assert (stopped.run_dir / "checkpoints" / "epoch-1+0.index").is_file()
    pretrain(stopped)
    assert_same_end(whole.run_dir, stopped.run_dir)


def test_other_number_of_replicas_keeps_the_means(tmp_path, monkeypatch, bare):
    words = (*FOUR, "monitor.every=0", "method.bn_groups=2")
    stopped = small(tmp_path, *words, "distribution.replicas=2")
    stop_after(monkeypatch, stopped, 3)
    kept = []
    begin = WithinEpoch.on_epoch_begin

    def spied(self, epoch, logs=None):
        begin(self, epoch, logs)
        mean = self.model.metrics[0]
        kept.append([float(mean.total), float(mean.count)])

    monkeypatch.setattr(WithinEpoch, "on_epoch_begin", spied)
    file = stopped.run_dir / "config.yaml"
    text = file.read_text().replace("replicas: 2", "replicas: 1")
    file.write_text(text.replace("bn_groups: 2", "bn_groups: 4"))
    one = small(tmp_path, *words, "distribution.replicas=1", "method.bn_groups=4")
    pretrain(one)
    assert kept[0][1] == 6 and kept[0][0] > 0  # three steps on each of two
    assert kept[1] == [0, 0]


def test_what_is_not_finite_is_not_saved(tmp_path, monkeypatch, bare):
    config = small(
        tmp_path, *FOUR, "monitor.every=0", "optimizer.learning_rate=1e30",
        "train.checkpoint_minutes=1e-9",
    )  # fmt: skip
    with pytest.raises(RunError, match="not finite in epoch 1, of which nothing is"):
        pretrain(config)
    for path in (config.run_dir / "checkpoints").glob("*.index"):
        reader = tf.train.load_checkpoint(str(path.with_suffix("")))
        for name, shape in reader.get_variable_to_shape_map().items():
            value = reader.get_tensor(name)
            if shape and np.issubdtype(value.dtype, np.floating):
                assert np.isfinite(value).all(), (path, name)


def test_full_disk_keeps_the_earlier_one(tmp_path, monkeypatch, bare):
    config = small(
        tmp_path, *FOUR, "monitor.every=0", "train.checkpoint_minutes=1e-9"
    )  # fmt: skip
    write = tf.train.Checkpoint.write

    def full(self, path, *args):
        if "+2" in path:
            (config.run_dir / "checkpoints" / "epoch-0+2.data-0").write_bytes(b"half")
            raise tf.errors.ResourceExhaustedError(None, None, "No space left")
        return write(self, path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(tf.train.Checkpoint, "write", full)
        with pytest.raises(RunError, match="0.2 could not be written .No space left"):
            pretrain(config)
    names = [path.name for path in (config.run_dir / "checkpoints").glob("epoch*")]
    assert names and all("+1." in name for name in names)
    assert pretrain(config)


def test_hosts_save_at_the_same_step_when_one_is_due(monkeypatch):
    within = WithinEpoch(None, minutes=1.0)
    within._strategy, within._saved = None, time.monotonic()
    within._beaten, within._until_beat, within._steps_to_beat = time.monotonic(), 1, 1
    monkeypatch.setattr(callbacks.within, "hosts", lambda strategy: 2)
    other = [0]
    monkeypatch.setattr(callbacks.within, "of_hosts", lambda _, own: [own, other[0]])
    asked = [max(within._wishes()) for _ in range(40)]
    assert asked == [0] * 40
    # They look at each other every few steps, and not at every one.
    assert within._steps_to_beat == 10 ** round(np.log10(within._steps_to_beat)) > 1
    other[0] = 2
    waited = next(n for n in range(10_000) if max(within._wishes()) == 2)
    assert waited > 0


def test_requests_are_answered_where_somebody_looks():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    with stops.listening() as asked:
        asked.is_training = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.code == 75
        os.kill(os.getpid(), signal.SIGUSR1)
        assert asked.code == 75
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(stops.Stopped) as stopped:
            os.kill(os.getpid(), signal.SIGINT)
        assert stopped.value.code == 130
        asked.is_training = False
        with pytest.raises(stops.Stopped) as stopped:
            os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.value.code == 75
    assert before == [signal.getsignal(number) for number in numbers]


def test_other_threads_train_without_listening():
    seen = []

    def work():
        with stops.listening() as asked:
            seen.append(asked.code)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [0]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        ("SIGTERM", 75),
        pytest.param("SIGUSR1", 75, marks=pytest.mark.slow),
        pytest.param("SIGINT", 130, marks=pytest.mark.slow),
    ],
)
def test_signal_ends_a_fresh_process_that_the_printed_command_continues(
    tmp_path, number, code
):
    words = [f"--{word}" for word in SMALL] + [
        f"--runs_dir={tmp_path}", "--name=run", "--train.epochs=2",
        "--train.steps_per_epoch=20", "--train.checkpoint_minutes=1e-9",
        "--monitor.every=0",
    ]  # fmt: skip
    command = [sys.executable, str(ROOT / "train.py"), *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # The shell of a test that runs in the background ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    folder = tmp_path / "run" / "checkpoints"
    while process.poll() is None and not list(folder.glob("epoch-0+*.index")):
        time.sleep(0.05)
    process.send_signal(getattr(signal, number))
    asked = time.monotonic()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert time.monotonic() - asked < 30
    said = re.search(r"Stopped after (.*), which is saved; continue with: (.*)", errors)
    assert re.fullmatch(r"step \d+ of epoch \d|epoch 1", said[1])
    done = subprocess.run(said[2], shell=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"Continuing after {said[1]} of 2." in done.stdout + done.stderr
    assert len(history(tmp_path / "run")) == 3
