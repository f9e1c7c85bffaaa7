"""Variable names of the TensorFlow 1 port of MoCo (ppwwyyxx/moco.tensorflow)."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

_VARIABLE = re.compile(
    r"(?:group(?P<group>\d)/block(?P<block>\d+)/)?conv(?P<conv>\d|shortcut)"
    r"(?P<norm>_bn)?/(?P<kind>W|gamma|beta|mean/EMA|variance/EMA)"
)
_KINDS = {
    "W": "weight",
    "gamma": "weight",
    "beta": "bias",
    "mean/EMA": "running_mean",
    "variance/EMA": "running_var",
}
# What else the port saves: heads, the key encoder, the queue, the optimiser.
_LEFTOVER = re.compile(
    r"momentum_encoder/.*|(linear|fc)\w*/.*|queue|queue_ptr|.*/Momentum"
    r"|learning_rate|global_step"
)
_EPSILON_EXCESS = 1e-8  # batch norm there adds 1.001e-5 to the variance, 1e-5 here


def is_tf1_port(names) -> bool:
    """Tells the port's variables by their first one."""
    return any(name.split(":")[0] == "conv0/W" for name in names)


def to_torchvision_names(
    variables: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Gives the query encoder's variables torchvision's names, layout and colours.

    The port feeds BGR images, so the first convolution's input channels are reversed;
    and the excess of its batch norm's epsilon goes into the running variance. With
    that, RGB images give the port's features.

    Args:
        variables: name -> array, as in the port's `.npz`, with or without `:0`.

    Returns:
        name -> array for every variable of the query encoder's convolutions and batch
        norms, and the names left out: heads, queue, momentum encoder, optimiser.

    Raises:
        ValueError: if names are none of these.
    """
    state: dict[str, np.ndarray] = {}
    left_out: list[str] = []
    unknown: list[str] = []
    for name, array in variables.items():
        match = _VARIABLE.fullmatch(name.split(":")[0])
        if not match:
            known = _LEFTOVER.fullmatch(name.split(":")[0])
            (left_out if known else unknown).append(name)
            continue
        key, kind = _module(match), match["kind"]
        if kind == "W":
            array = array[:, :, ::-1] if key == "conv1" else array
            array = array.transpose(3, 2, 0, 1)  # HWIO -> OIHW
        elif kind == "variance/EMA":
            array = array + np.asarray(_EPSILON_EXCESS, array.dtype)
        state[f"{key}.{_KINDS[kind]}"] = array
    if unknown:
        raise ValueError(
            f"{len(unknown)} names are no part of a TensorFlow 1 port's checkpoint: "
            f"{', '.join(unknown)}; remove them."
        )
    return state, tuple(left_out)


def _module(match):
    """The name in torchvision of the convolution or batch norm."""
    if match["group"] is None:
        return "bn1" if match["norm"] else "conv1"
    layer = f"layer{int(match['group']) + 1}.{int(match['block'])}"
    if match["conv"] == "shortcut":
        return f"{layer}.downsample.{1 if match['norm'] else 0}"
    return f"{layer}.{'bn' if match['norm'] else 'conv'}{match['conv']}"
