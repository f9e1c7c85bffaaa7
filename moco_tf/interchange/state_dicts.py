"""Files of torch's state dicts: `.pth` and `.safetensors`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy

from moco_tf.interchange.errors import InterchangeError
from moco_tf.interchange.torch_files import read_torch_file


def write_state_dict(
    state: Mapping[str, np.ndarray], path: Path, provenance: str
) -> None:
    """Writes a state dict that torch or timm loads with `strict=True`.

    Args:
        state: name -> array.
        path: ends in `.safetensors`, or in `.pth` or `.pt`, for which torch is needed.
        provenance: text for the metadata of a `.safetensors`, under "moco_tf"; a
            `.pth` has no place for it that `strict=True` allows.

    Raises:
        InterchangeError: if torch is needed and missing.
    """
    if path.suffix == ".safetensors":
        metadata = {"format": "pt", "moco_tf": provenance}
        path.write_bytes(safetensors.numpy.save(dict(state), metadata))
        return
    try:
        import torch
    except ImportError as error:
        raise InterchangeError(
            f"{path.name} is written by torch, which is not installed; `pip install "
            "torch`, or give a name that ends in .safetensors."
        ) from error
    torch.save({name: torch.from_numpy(array) for name, array in state.items()}, path)


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Reads what `write_state_dict` wrote."""
    if path.suffix == ".safetensors":
        return safetensors.numpy.load_file(path)
    state = read_torch_file(path)
    assert isinstance(state, dict)  # as it was written
    return dict(state)
