"""Files as `torch.save` writes them, sound and malicious."""

import zipfile
from collections import OrderedDict

import numpy as np
import pytest


def write_torch(saved, path, zipped=True):
    torch = pytest.importorskip("torch", reason="PyTorch is in the dev extra")

    def tensors(value):
        if isinstance(value, dict):
            return OrderedDict((key, tensors(item)) for key, item in value.items())
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    torch.save(tensors(saved), path, _use_new_zipfile_serialization=zipped)
    return path


class Payload:
    """Unpickling it in Python's way makes a file, by any of several functions."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def as_archive(path, data, members=()):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in members:
            archive.writestr(f"archive/{name}", content)
    return path
