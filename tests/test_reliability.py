"""Faults of machines, each really done: processes killed, disks full, bytes lost.

`RELIABILITY=docs/tables/reliability.csv pytest -m slow tests/test_reliability.py
tests/test_cluster.py` writes down how often each was tried (half an hour on two cores);
docs/reliability.md shows that. What is fast of it runs in every suite.
"""

import csv
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import tensorflow as tf
from commands import ROOT
from run_files import history, newest_place
from test_pretrain import SMALL, small
from test_within_epoch import assert_same_end

from moco_tf.callbacks import Checkpoints, RunError, WithinEpoch
from moco_tf.pretrain import pretrain

COLUMNS = ("fault", "tries", "outcome")
SAME = "weights, queue, optimiser and history of an unbroken run, to the bit"


@pytest.fixture
def noted():
    """Writes down how often a fault was tried and what happened."""

    def note(fault, tries, outcome):
        if not (place := os.environ.get("RELIABILITY")):
            return
        path, rows = ROOT / place, {}
        if path.exists():
            with open(path, newline="") as file:
                rows = {row["fault"]: row for row in csv.DictReader(file)}
        rows[fault] = dict(zip(COLUMNS, (fault, tries, outcome)))
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows.values())

    return note


def words(folder, name, *more):
    return [
        *(f"--{word}" for word in SMALL), f"--runs_dir={folder}", f"--name={name}",
        "--monitor.every=0", "--train.deterministic=true", *more,
    ]  # fmt: skip


def begun(*arguments):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def ended(process):
    try:
        printed, _ = process.communicate(timeout=900)
    finally:
        process.kill()
    assert "Traceback" not in printed, printed[-3000:]
    return process.returncode, printed


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("replicas", [1, 2])
def test_sigkill_at_random_moments(tmp_path, noted, replicas):
    long = ("--train.epochs=4", "--train.steps_per_epoch=150",
            "--train.checkpoint_minutes=1e-9", f"--distribution.replicas={replicas}",
            f"--method.bn_groups={2 // replicas}")  # fmt: skip
    code, printed = ended(begun(*words(tmp_path, "whole", *long)))
    assert code == 0, printed
    random, kills, run = np.random.default_rng(replicas), 0, tmp_path / "killed"
    while kills < 20:
        process, before = begun(*words(tmp_path, "killed", *long)), newest_place(run)
        # A quarter of them while it starts; the others once it has gone on.
        while random.random() < 0.99 if kills % 4 else random.random() < 0.95:
            time.sleep(0.05)
            if process.poll() is not None or newest_place(run) != before:
                break
        while kills % 4 and process.poll() is None and newest_place(run) == before:
            time.sleep(0.05)
        time.sleep(random.uniform(0, 0.8))
        if process.poll() is not None:
            break  # it has come to its end
        process.kill()
        ended(process)
        kills += 1
    assert kills >= 15
    code, printed = ended(begun(*words(tmp_path, "killed", *long)))
    assert code == 0, printed
    assert_same_end(tmp_path / "whole", run)
    many = "s" * (replicas > 1)
    noted(f"SIGKILL at random moments, {replicas} replica{many}", kills, SAME)


# Where the process asks itself to stop: what is wrapped, and which call of it.
PLACES = {
    "input": ("moco_tf.pretrain.images.Images.batches", 1),
    "step": ("moco_tf.methods.ContrastiveModel.descend", 1),
    "probe": ("moco_tf.callbacks.probes._Probe.measure", 3),
    "checkpoint": ("moco_tf.callbacks.Checkpoints.on_epoch_end", 1),
    "export": ("moco_tf.pretrain.run.close", 1),
}
ASKING = """
    import os, pydoc, signal, sys, time
    from moco_tf.log import import_tensorflow
    import_tensorflow()
    import moco_tf.pretrain.run, moco_tf.methods
    name, turn, stamp = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    owner, _, attribute = name.rpartition(".")
    owner = pydoc.locate(owner)
    function, calls = getattr(owner, attribute), []
    def asking(*args, **kwargs):
        calls.append(0)
        if len(calls) == turn:
            open(stamp, "w").write(str(time.time()))
            os.kill(os.getpid(), signal.SIGTERM)
        return function(*args, **kwargs)
    setattr(owner, attribute, asking)
    from moco_tf.cli import main
    sys.exit(main(sys.argv[4:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_sigterm_at_every_place(tmp_path, noted, place):
    more = ["--train.steps_per_epoch=6", "--monitor.every=1"]
    arguments = ["train", *words(tmp_path, "run", *more)]
    name, turn = PLACES[place]
    script = [sys.executable, "-c", textwrap.dedent(ASKING), name, str(turn)]
    done = subprocess.run(
        [*script, str(tmp_path / "asked"), *arguments],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    took = time.time() - float((tmp_path / "asked").read_text())
    assert done.returncode == 75, done.stdout + done.stderr
    assert re.search(r"^Stopped.*; continue with: ", done.stderr, re.M)
    assert "Traceback" not in done.stderr and took < 30
    code, printed = ended(begun(*words(tmp_path, "run", *more)))
    assert code == 0, printed
    assert [row["epoch"] for row in history(tmp_path / "run")] == ["0", "1", "2"]
    code, printed = ended(begun(*words(tmp_path, "whole", *more)))
    assert_same_end(tmp_path / "whole", tmp_path / "run")
    outcome = f"exit code 75 after {took:.0f} s; continued: {SAME}"
    noted(f"SIGTERM during {place}", 1, outcome)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two epochs."""
    from conftest import strip_runs

    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        strip_runs(patch)
        config = small(folder, "monitor.every=0")
        pretrain(config)
    return config.run_dir


def damaged(data, kind, random):
    content = bytearray(data.read_bytes())
    at = int(random.integers(len(content)))
    if kind == "cut":
        del content[at:]
    elif kind == "flipped":
        content[at] ^= 1 << int(random.integers(8))
    data.write_bytes(content)
    if kind == "missing":
        data.unlink()


@pytest.mark.parametrize("part", ["data-00000-of-00001", "index"])
@pytest.mark.parametrize(
    ("kind", "tries"),
    [
        ("cut", 5), ("flipped", 5), ("missing", 1),
        *(pytest.param(k, 50, marks=pytest.mark.slow) for k in ("cut", "flipped")),
    ],
)  # fmt: skip
def test_damaged_checkpoint_is_never_taken(trained, tmp_path, noted, kind, tries, part):
    random, harmless = np.random.default_rng(len(part) + len(kind)), 0
    original = trained / "checkpoints" / "epoch-2"
    for _ in range(tries):
        folder = tmp_path / "checkpoints"
        shutil.copytree(trained / "checkpoints", folder)
        damaged(folder / f"epoch-2.{part}", kind, random)
        newest = Checkpoints(folder).newest()
        if newest == 2:  # as a bit in the padding between two tables
            harmless += 1
            assert values(folder / "epoch-2") == values(original)
        else:
            assert newest == 1
        if kind != "missing":
            shutil.copy(folder / f"epoch-2.{part}", folder / f"epoch-1+1.{part}")
        other = ({"index", "data-00000-of-00001"} - {part}).pop()
        shutil.copy(f"{original}.{other}", folder / f"epoch-1+1.{other}")
        assert WithinEpoch(folder).newest() == ((1, 1) if newest == 2 else (0, 0))
        shutil.rmtree(folder)
    assert harmless <= tries / 5
    what = "index" if part == "index" else "data"
    outcome = "told, the one before it taken"
    outcome += f"; {harmless} had lost nothing" * bool(harmless)
    place = "" if kind == "missing" else " at random bytes"
    noted(f"checkpoint's {what} {kind}{place}", tries, outcome)


def values(path):
    reader = tf.train.load_checkpoint(str(path))
    shapes = reader.get_variable_to_shape_map()
    return {name: np.asarray(reader.get_tensor(name)).tobytes() for name in shapes}


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of a size; the test is skipped where only root may."""
    place = tmp_path / "disk"
    place.mkdir()

    def size(option):
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", option, "tmpfs", place], capture_output=True
        )
        if done.returncode:
            pytest.skip("a small file system can only be mounted by root")
        return place

    yield size
    subprocess.run(["umount", "--lazy", place], capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("kib", [300, 700, 1000, 1300, 1600])
def test_full_disk(small_disk, tmp_path, noted, kib):
    place = small_disk(f"size={kib}k")
    more = ("--train.steps_per_epoch=12", "--log.every_steps=1",
            "--train.checkpoint_minutes=1e-9", "--train.epochs=3")  # fmt: skip
    code, printed = ended(begun(*words(place, "run", *more)))
    assert code == 2 and "No space left on device" in printed
    (said,) = re.findall(r"^error: .*$", printed, re.M)
    subprocess.run(["mount", "-o", "remount,size=20m", place], check=True)
    assert ended(begun(*words(place, "run", *more)))[0] == 0
    assert ended(begun(*words(tmp_path, "whole", *more)))[0] == 0
    assert_same_end(tmp_path / "whole", place / "run")
    outcome = f"one sentence; with more room: {SAME}"
    noted(f"disk of {kib:,} KiB full", 1, outcome)


@pytest.mark.slow
def test_run_directory_that_is_removed(tmp_path, noted):
    more = ("--train.steps_per_epoch=300", "--train.checkpoint_minutes=1e-9")
    process = begun(*words(tmp_path, "run", *more))
    while process.poll() is None and newest_place(tmp_path / "run") == (0, 0):
        time.sleep(0.05)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    code, printed = ended(process)
    assert code == 2
    assert re.search(
        r"error: .*run has been removed while|could not (read|write)", printed
    )
    noted("run directory removed or moved", 1, "one sentence at the next checkpoint")


def test_clock_that_steps_back(tmp_path, monkeypatch, bare, noted):
    arguments = ("monitor.every=0", "train.deterministic=true", "log.every_steps=1",
                 "train.steps_per_epoch=4")  # fmt: skip
    whole = small(tmp_path, *arguments, name="whole")
    pretrain(whole)
    now = [time.time()]

    def earlier():
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", earlier)
    other = small(tmp_path, *arguments, name="other")
    pretrain(other)
    assert_same_end(whole.run_dir, other.run_dir)
    noted("clock that steps back an hour at each look", 1, "nothing changes")


def test_run_directory_removed_in_training_is_told(tmp_path, monkeypatch, bare):
    config = small(tmp_path, "monitor.every=0", "train.checkpoint_minutes=1e-9")
    save = WithinEpoch._save

    def save_elsewhere(self, epoch, step):
        shutil.rmtree(config.run_dir)
        save(self, epoch, step)

    monkeypatch.setattr(WithinEpoch, "_save", save_elsewhere)
    with pytest.raises(RunError, match="has been removed while the run was in it"):
        pretrain(config)
    assert not config.run_dir.exists()


def test_page_shows_what_was_tried():
    page = (ROOT / "docs" / "reliability.md").read_text()
    with open(ROOT / "docs" / "tables" / "reliability.csv", newline="") as file:
        for row in csv.DictReader(file):
            assert f"| {row['fault']} | {row['tries']} | {row['outcome']} |" in page
