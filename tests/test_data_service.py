"""The tf.data service: the same batches from other processes, and their loss."""

import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from commands import ROOT, run_train
from photo_folders import open_folder
from PIL import Image
from run_files import history, newest_place
from test_pretrain import SMALL
from test_within_epoch import assert_same_end

from moco_tf.data import DataError, Source, from_arrays, service, two_views

COMMAND = [sys.executable, "-m", "moco_tf", "data-service"]
VIEWS = {"batch_size": 8, "image_size": 16, "seed": 3}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for index in range(41):
        pixels = random.integers(0, 256, (24, 20, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{index:02d}.png")
    return root


class Pool:
    """A dispatcher and its workers, as a user starts them."""

    def __init__(self, workers):
        self.started = []
        said = self._start("dispatcher")
        self.address = re.search(r"grpc://\w+:\d+", said)[0]
        given = ["worker", "--dispatcher", self.address[len("grpc://") :]]
        for _ in range(workers):
            assert self._start(*given).startswith("Worker at localhost:")

    def _start(self, *words):
        """What the process says once it serves."""
        process = subprocess.Popen(
            [*COMMAND, *words, "--host", "localhost"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process.stdout.readline()

    def end(self):
        for process in self.started:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.fixture(scope="module")
def pool():
    pool = Pool(workers=2)
    yield pool
    pool.end()


@pytest.fixture
def doomed():
    """A pool for tests that stop some of it."""
    pool = Pool(workers=2)
    yield pool
    pool.end()


def some(dataset):
    return list(dataset.as_numpy_iterator())


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


@pytest.mark.parametrize(
    "changed",
    [
        {"epochs": 3},
        {"epochs": 3, "start_step": 7, "shuffle_keys": False},
        {"epochs": 2, "shards": (2, 1)},
    ],
)
def test_batches_are_the_same_ones(pool, pictures, changed):
    source = open_folder(pictures)
    here = two_views(source, **VIEWS, **changed)
    there = two_views(source, service=pool.address, **VIEWS, **changed)
    assert there.element_spec == here.element_spec
    assert there.cardinality() == here.cardinality()
    assert_same(some(here), some(there))


def test_batches_stay_the_same_while_servers_end(doomed, pictures, caplog, monkeypatch):
    monkeypatch.setattr(service, "_PATIENCE", 3)
    source = open_folder(pictures)
    expected = some(two_views(source, **VIEWS).take(160))
    batches = iter(two_views(source, service=doomed.address, **VIEWS))
    dispatcher, one, other = doomed.started
    got = []
    for step in range(160):
        if step == 20:
            one.kill()
        if step == 40:
            other.send_signal(signal.SIGINT)
            assert other.wait(30) == 130
        got.append({name: value.numpy() for name, value in next(batches).items()})
    assert_same(expected, got)
    assert caplog.text.count("has sent nothing for") == 1
    assert "has sent nothing for 3 s" in caplog.text
    port = doomed.address.rpartition(":")[2]
    second = subprocess.run(
        [*COMMAND, "dispatcher", "--port", port],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 2 and f"--port={port} cannot be" in second.stderr
    dispatcher.send_signal(signal.SIGTERM)
    assert dispatcher.wait(30) == 0


def test_arrays_are_served_too(pool):
    images = np.random.default_rng(0).integers(0, 256, (20, 20, 20, 5), np.uint8)
    options = {**VIEWS, "channels": 5, "epochs": 2}
    source = from_arrays(images)
    there = two_views(source, service=pool.address, **options)
    assert_same(some(two_views(source, **options)), some(there))


def small_run(pictures, runs):
    return [f"--{word}" for word in SMALL] + [
        "--data.source=folder", f"--data.data_dir={pictures}", f"--runs_dir={runs}",
        "--monitor.every=0", "--train.batch_size=16", "--train.epochs=12",
    ]  # fmt: skip


def under_way(words, pool, run):
    """A run through a pool, in a process of its own and past its third epoch."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words, f"--name={run.name}"]
        + [f"--data.service={pool.address}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while newest_place(run) < (3, 0) and process.poll() is None:
        time.sleep(0.05)
    assert process.poll() is None
    return process


def test_run_through_workers_one_killed_ends_as_without(doomed, pictures, tmp_path):
    words = small_run(pictures, tmp_path)
    plain = run_train(*words, "--name=plain", timeout=300)
    assert plain.returncode == 0, plain.stderr
    served = under_way(words, doomed, tmp_path / "served")
    doomed.started[1].kill()
    served.communicate(timeout=300)
    assert served.returncode == 0
    assert_same_end(tmp_path / "plain", tmp_path / "served")


def test_picture_lost_to_the_workers_ends_the_run_in_a_sentence_and_it_goes_on(
    pool, pictures, tmp_path
):
    mine = shutil.copytree(pictures, tmp_path / "mine")
    words = small_run(mine, tmp_path)
    served = under_way(words, pool, tmp_path / "served")
    (mine / "07.png").rename(tmp_path / "away.png")
    said = served.communicate(timeout=300)[1]
    assert served.returncode == 2 and "Traceback" not in said
    # Met by a worker, or here, where the batch is made that has not come.
    assert "07.png" in said and "start the same command again to" in said
    (tmp_path / "away.png").rename(mine / "07.png")
    again = run_train(*words, "--name=served", f"--data.service={pool.address}")
    assert again.returncode == 0, again.stderr
    assert len(history(tmp_path / "served")) == 13


def test_what_a_worker_cannot_read_ends_the_run_in_a_sentence(pool, pictures):
    def load(example_id):
        lost = tf.io.read_file(str(pictures / "lost.png"))
        return {"image": lost, "id": example_id, "label": tf.constant(-1, tf.int64)}

    source = Source(tf.data.Dataset.range(16).map(load), 16, load=load)
    batches = two_views(source, service=pool.address, **VIEWS)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        next(iter(batches))
    assert re.search(f"{service.FAILED}: .*lost.png", str(caught.value))


def test_service_that_cannot_serve_is_told():
    arrays = from_arrays(np.zeros((16, 20, 20, 3), np.uint8))
    streamed = Source(arrays.dataset, 16, channels=3)

    def refused(source, address, **options):
        with pytest.raises(DataError) as caught:
            two_views(source, service=address, **VIEWS, **options)
        return str(caught.value)

    assert "like grpc://host:5000" in refused(arrays, "localhost:1")
    assert "like grpc://host:5000" in refused(arrays, "")
    nobody = refused(arrays, "grpc://localhost:1")
    assert "no data service answers at grpc://localhost:1" in nobody
    assert "data-service dispatcher --port 1" in nobody
    assert "no data service answers" in refused(arrays, "grpc://localhost:99999")
    assert "cannot read a TFDS set" in refused(streamed, "grpc://localhost:1")
    assert "cache=true" in refused(arrays, "grpc://localhost:1", cache=True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "role"),
        (("boss",), "invalid choice: 'boss'"),
        (("worker",), "--dispatcher=None is not HOST:PORT"),
        (("worker", "--dispatcher=localhost"), "--dispatcher=localhost is not"),
        (
            ("worker", "--dispatcher=localhost:1"),
            "no dispatcher answers at localhost:1",
        ),
        (("dispatcher", "--dispatcher=a:1"), "--dispatcher is of a worker"),
        (("dispatcher", "--port=70000"), "--port=70000 cannot be listened at"),
        (("dispatcher", "--port=x"), "invalid int value: 'x'"),
    ],
)
def test_mistakes_of_the_command_are_told(words, sentence, capsys):
    from moco_tf import cli

    assert cli.main(["data-service", *words]) == 2
    assert sentence in capsys.readouterr().err
