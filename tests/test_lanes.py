"""One Keras on both lanes: what each makes the other takes; Keras 3 is told apart."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from commands import ROOT
from tensorflow import keras

import moco_tf
from moco_tf import lanes

IS_CURRENT = lanes.has_keras_3()
LANE, OTHER = ("current", "classic") if IS_CURRENT else ("classic", "current")
_ASK = (
    "from moco_tf import lanes; print('current' if lanes.has_keras_3() else 'classic')"
)


@pytest.fixture(scope="module")
def other_python():
    """The interpreter of the other lane's environment, which make sets up."""
    for name in (".venv", f".venv-{OTHER}"):
        python = ROOT / name / "bin" / "python"
        if python.exists() and _output(python, "-c", _ASK).strip() == OTHER:
            return python
    pytest.skip(f"no environment of the {OTHER} lane: make test LANE={OTHER} makes it")


def _output(python, *words):
    done = subprocess.run(
        [str(python), *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**_environment(), "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def _environment():
    """A shell's, in which nothing has chosen a Keras yet."""
    return {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}


@pytest.mark.parametrize("maker", [LANE, OTHER])
def test_what_one_lane_makes_the_other_takes(maker, other_python, tmp_path):
    pythons = {LANE: pathlib.Path(sys.executable), OTHER: other_python}
    taker = OTHER if maker == LANE else LANE
    work = ROOT / "tests" / "lane_work.py"
    _output(pythons[maker], work, "make", tmp_path)
    _output(pythons[taker], work, "take", tmp_path)
    made, taken = np.load(tmp_path / "made.npz"), np.load(tmp_path / "taken.npz")
    assert made["versions"][0] != taken["versions"][0]
    scale = np.abs(made["served"]).max()
    for form in ("rebuilt", "keras file", "served"):
        np.testing.assert_allclose(taken[form], made[form], atol=1e-5 * scale)
    # Continued after the first epoch, which stays; the second one is computed again.
    assert taken["continued"][0] == made["losses"][0]
    np.testing.assert_allclose(taken["continued"], made["losses"], rtol=1e-4)


def _process(program):
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**_environment(), "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def test_keras_is_version_2s_api_when_moco_tf_comes_first():
    done = _process(
        "import moco_tf, tensorflow as tf; from tensorflow import keras;"
        "moco_tf.MoCo; import keras_cv;"
        "print(issubclass(keras_cv.models.RetinaNet, keras.Model), tf.keras.Model is "
        "keras.Model, hasattr(keras.optimizers, 'legacy'))"
    )
    assert done.stdout.splitlines()[-1:] == ["True True True"], done.stderr


@pytest.mark.skipif(not IS_CURRENT, reason="the classic lane has no Keras 3")
@pytest.mark.parametrize(
    "first", ["import tensorflow", "import tensorflow as tf; tf.keras.Model"]
)
def test_keras_3_loaded_first_is_told_in_one_sentence(first):
    done = _process(f"{first}; import moco_tf")
    lines = done.stderr.splitlines()
    (sentence,) = [line for line in lines if line.startswith("ImportError")]
    assert "ImportError: TensorFlow was imported before moco_tf" in sentence
    assert "import moco_tf before tensorflow" in sentence


@pytest.mark.skipif(not IS_CURRENT, reason="the classic lane has no Keras 3")
def test_tensorflow_first_is_fine_where_it_has_keras_2_already():
    done = _process(
        "import os; os.environ['TF_USE_LEGACY_KERAS'] = '1';"
        "import tensorflow, moco_tf; print(moco_tf.MoCo.__name__)"
    )
    assert done.stdout.splitlines()[-1:] == ["MoCo"], done.stderr


def test_missing_tf_keras_is_told_in_one_sentence(monkeypatch):
    monkeypatch.setattr(lanes, "has_keras_3", lambda: True)
    monkeypatch.setattr(lanes.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="the package tf_keras, which is missing"):
        lanes.use_keras_2()


@pytest.mark.skipif(not IS_CURRENT, reason="the classic lane has no Keras 3")
def test_objects_of_keras_3_are_refused_by_name():
    import keras as keras_3

    net = keras_3.Sequential([keras_3.Input((8, 8, 3)), keras_3.layers.Flatten()])
    encoder = moco_tf.encoders.ResNet18(width=4)
    with pytest.raises(TypeError, match="encoder is a keras.*Sequential of Keras 3"):
        moco_tf.MoCo(net)
    with pytest.raises(TypeError, match="augment is a keras.*Rescaling of Keras 3"):
        moco_tf.MoCo(encoder, augment=keras_3.layers.Rescaling(1 / 255))
    model = moco_tf.MoCo(encoder, queue_size=32)
    with pytest.raises(TypeError, match="optimizer is a keras.*SGD of Keras 3"):
        model.compile(keras_3.optimizers.SGD())
    schedule = keras_3.optimizers.schedules.CosineDecay(0.1, 10)
    with pytest.raises(TypeError, match="learning_rate is a keras.*CosineDecay of"):
        moco_tf.optimizers.SGD(schedule)
    with pytest.raises(TypeError, match="model is a keras.*Sequential of Keras 3"):
        moco_tf.interchange.to_torch_state_dict(net)


def test_what_is_no_model_at_all_is_refused_by_name():
    with pytest.raises(TypeError, match="encoder is a builtins.function; give a Model"):
        moco_tf.MoCo(lambda images: images)
    with pytest.raises(TypeError, match="learning_rate is a builtins.function"):
        moco_tf.optimizers.SGD(lambda: 0.1)
    net = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    with pytest.raises(TypeError, match="augment is a builtins.str"):
        moco_tf.MoCo(net, augment="moco_v2")
