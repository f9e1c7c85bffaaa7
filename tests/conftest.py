"""Shared set-up: eight logical CPU devices, made before TensorFlow starts."""

import contextlib
import ctypes
import gc
import os
import pathlib
import shutil
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Processes of tests share the cores: one thread each for the work inside an operation.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
# What is known of folders must be found out in each run of the tests.
os.environ["MOCO_TF_CACHE"] = tempfile.mkdtemp(prefix="moco_tf-")

import moco_tf  # before TensorFlow, whose Keras it chooses

# isort: split
import pytest
import tensorflow as tf
from tensorflow import keras
from tiny import small_encoder
from voc_folder import make_voc

from moco_tf.pretrain import build, run

# torch's CUDA builds bring triton, whose LLVM crashes beside that of TensorFlow.
sys.modules["triton"] = None
tf.config.set_visible_devices([], "GPU")
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 8,
)
# Started now, or a test that asks for two devices would leave two to all others.
tf.config.list_logical_devices()

SHARED = pathlib.Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    """A file's models and graphs go with it, and their memory back to the system."""
    yield
    keras.backend.clear_session()
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def pytest_sessionfinish():
    """Takes away what was known of folders."""
    shutil.rmtree(os.environ["MOCO_TF_CACHE"], ignore_errors=True)


@pytest.fixture
def reference():
    """Folder of what the official code gave, see its README."""
    return pathlib.Path(__file__).parent / "data" / "reference"


@pytest.fixture
def golden():
    """Folder of more and larger recordings; the test is skipped without it."""
    folder = SHARED / "golden"
    if not folder.exists():
        pytest.skip("the larger recordings (../shared/golden) are absent")
    return folder


@pytest.fixture
def shared_data():
    """Folder of CIFAR-10 in TFDS format; the test is skipped without it."""
    folder = SHARED / "data"
    if not folder.exists():
        pytest.skip("the shared data sets (../shared/data) are absent")
    return folder


@pytest.fixture
def policy():
    """Sets the Keras dtype policy for one test."""
    before = keras.mixed_precision.global_policy()
    yield keras.mixed_precision.set_global_policy
    keras.mixed_precision.set_global_policy(before)


def strip_runs(monkeypatch, board=False):
    """Runs then have a tiny encoder, draw nothing and end with their last epoch.

    XLA compiles nothing: it takes seconds, and keeps some 100 MiB for each recipe.

    With `board` they draw for TensorBoard.
    """
    watcher = keras.callbacks.Callback
    augmentation = build._augmentation
    plain = lambda *given: augmentation(*given).uncompiled()  # noqa: E731
    monkeypatch.setattr(build, "_augmentation", plain)
    monkeypatch.setattr(build, "build_encoder", lambda config: small_encoder())
    monkeypatch.setattr(run, "close", lambda *args: {})
    if not board:
        none = lambda *args, **kwargs: watcher()  # noqa: E731
        monkeypatch.setattr(run.callbacks, "TensorBoard", none)


@pytest.fixture
def bare(monkeypatch):
    """See `strip_runs`."""
    strip_runs(monkeypatch)


@pytest.fixture(scope="session")
def voc(tmp_path_factory):
    """A made VOC folder, only to be read, and the boxes of each of its images."""
    root = tmp_path_factory.mktemp("voc") / "VOC2007"
    return root, make_voc(root, 12, 6)


@pytest.fixture
def own_voc(tmp_path):
    """A small made VOC folder that the test may change."""
    make_voc(tmp_path / "VOC2007", 3, 2)
    return tmp_path / "VOC2007"


def mirrored(replicas, collectives=False):
    """A strategy over logical CPUs; the default one for a single replica.

    Args:
        replicas: how many.
        collectives: exchange values as GPUs do, by TensorFlow's collectives.
    """
    if collectives and replicas > 1:
        return moco_tf.distribution.mirrored(tuple(f"CPU:{i}" for i in range(replicas)))
    return moco_tf.distribution.make_strategy(replicas)
