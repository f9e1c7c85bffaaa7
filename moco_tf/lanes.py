"""Two lanes, one Keras: TensorFlow 2.15's own, or tf_keras on a TensorFlow of today.

The classic lane is Python 3.9 to 3.11 with TensorFlow 2.15 and Keras 2.15; the current
lane a newer TensorFlow, whose Keras 2 is the package tf_keras.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import sys

_SWITCH = "TF_USE_LEGACY_KERAS"


def use_keras_2() -> None:
    """Makes `tensorflow.keras` Keras 2's API where Keras 3 is installed.

    TensorFlow decides that when it is imported, so the package calls this first.

    Raises:
        ImportError: if tf_keras is missing, or TensorFlow was imported with Keras 3.
    """
    if not has_keras_3():
        # TensorFlow would look for tf_keras, which Keras 2 makes needless.
        os.environ.pop(_SWITCH, None)
        return
    if importlib.util.find_spec("tf_keras") is None:
        raise ImportError(
            "moco_tf runs on Keras 2's API, and beside Keras 3 that is the package "
            "tf_keras, which is missing; install the one of your TensorFlow's version, "
            "as in `pip install tf_keras==2.21.*`."
        )
    if "tensorflow" in sys.modules:
        # Its folder comes first only if the variable was set when TensorFlow started.
        spec = importlib.util.find_spec("tensorflow.keras")
        origin = (spec and spec.origin) or ""
        if "tf_keras" not in pathlib.Path(origin).parts:
            raise ImportError(
                "TensorFlow was imported before moco_tf and has loaded Keras 3, while "
                "moco_tf runs on Keras 2's API; restart Python (in a notebook, the "
                "kernel) and import moco_tf before tensorflow, or set "
                f"{_SWITCH}=1 first."
            )
    os.environ[_SWITCH] = "1"


def versions() -> str:
    """What this process runs on, for a report of a fault or of weights."""
    stack = []
    for name in ("tensorflow", "keras", "tf_keras", "keras-cv"):
        try:
            stack.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join([*stack, f"Python {platform.python_version()}"])


def install(extra: str) -> str:
    """The command that installs an extra in this project's checkout, on this lane."""
    pins = "constraints-current.txt" if has_keras_3() else "constraints.txt"
    return f"pip install -c {pins} -e '.[{extra}]'"


def require_keras_2(value: object, kind: type, name: str) -> None:
    """Refuses what is not of a kind of this process's Keras.

    Args:
        value: what was handed in.
        kind: what it must be, such as `keras.Model`.
        name: of the argument.

    Raises:
        TypeError: if it is something else; an object of Keras 3 is told apart.
    """
    if not isinstance(value, kind):
        refuse_keras_3(value, name)
        raise TypeError(
            f"{name} is {_described(value)}; give a {kind.__name__} of "
            "`tensorflow.keras`."
        )


def refuse_keras_3(value: object, name: str) -> None:
    """Raises TypeError if a value is an object of Keras 3."""
    roots = {base.__module__.partition(".")[0] for base in type(value).__mro__}
    if "keras" in roots and has_keras_3():
        raise TypeError(
            f"{name} is {_described(value)} of Keras 3, while moco_tf runs on Keras "
            "2's API; make it with `from tensorflow import keras` after `import "
            "moco_tf` (in a notebook, restart the kernel and import moco_tf first)."
        )


def _described(value):
    kind = type(value)
    return f"a {kind.__module__}.{kind.__qualname__}"


def has_keras_3() -> bool:
    """Whether Keras 3 is installed, which tells the current lane."""
    try:
        return not importlib.metadata.version("keras").startswith("2.")
    except importlib.metadata.PackageNotFoundError:
        return False  # the import of TensorFlow says more
