"""Reading what `torch.save` wrote, without torch and without running anything."""

from __future__ import annotations

import io
import math
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, BinaryIO

import numpy as np
import tensorflow as tf

from moco_tf.interchange.errors import InterchangeError

_DTYPES = {
    "DoubleStorage": np.dtype("float64"),
    "FloatStorage": np.dtype("float32"),
    "HalfStorage": np.dtype("float16"),
    "BFloat16Storage": np.dtype(tf.bfloat16.as_numpy_dtype),
    "LongStorage": np.dtype("int64"),
    "IntStorage": np.dtype("int32"),
    "ShortStorage": np.dtype("int16"),
    "CharStorage": np.dtype("int8"),
    "ByteStorage": np.dtype("uint8"),
    "BoolStorage": np.dtype("bool"),
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


def read_torch_file(path: str | os.PathLike) -> object:
    """Reads a checkpoint of plain containers, numbers, text and tensors.

    Both of torch's formats are read: the zip archive of torch 1.6 and later, and the
    stream of pickles before it. A pickle is a program that may call any function by
    name; here it reaches a fixed few that only build containers and tensors, and a
    file that names another is refused before that name is even looked up.

    Args:
        path: a `.pth`, `.pt`, `.pth.tar` or `.bin` file.

    Returns:
        What was saved, with NumPy arrays for tensors.

    Raises:
        InterchangeError: if the file is damaged, or needs more than that.
    """
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"PK"
            file.seek(0)
            return _read_archive(file) if zipped else _read_legacy(file)
    except _ForbiddenError as error:
        raise InterchangeError(
            f"{path} asks for {error}, and to give it that could run code from the "
            "file, so it was not read; if you trust it, save its tensors alone with "
            "torch.save(checkpoint['state_dict'], FILE) where it was made."
        ) from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise InterchangeError(
            f"{path} cannot be read as a torch checkpoint ({type(error).__name__}), so "
            "it is cut short or of another format; fetch or save it again."
        ) from error


class _ForbiddenError(Exception):
    """A name outside the fixed few."""


class _Function:
    """A callable whose attributes a pickle cannot set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable):
        object.__setattr__(self, "_function", function)

    def __call__(self, *args):
        return self._function(*args)

    def __setattr__(self, name, value):
        raise pickle.UnpicklingError(f"sets {name}")

    def __setstate__(self, state):
        raise pickle.UnpicklingError("sets a state")


class _Unpickler(pickle.Unpickler):
    """Knows tensors, storages and ordered dictionaries, and no other name."""

    def __init__(self, file: IO[bytes], storage: Callable | None = None):
        super().__init__(file)
        self._storage = storage

    def find_class(self, module, name):
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module == "torch" and name in _DTYPES:
            return name  # stands for the type; a text cannot be called
        raise _ForbiddenError(f"{module}.{name}")

    def persistent_load(self, identity):
        kind, storage_type, key, _, count, *view = identity
        if self._storage is None or kind != "storage" or any(view):
            raise pickle.UnpicklingError("not a storage of its own")
        return self._storage(str(key), _DTYPES[storage_type], int(count))


def _tensor(storage, offset, shape, strides, *_):
    """A view of a storage, which must hold all of it."""
    if not isinstance(storage, np.ndarray) or len(shape) != len(strides):
        raise pickle.UnpicklingError("not a tensor")
    if min((offset, *shape, *strides)) < 0 or math.prod(shape) > storage.size:
        raise pickle.UnpicklingError("a tensor outside its storage")
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides))
    if last >= storage.size:
        raise pickle.UnpicklingError("a tensor outside its storage")
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps)


def _parameter(tensor, *_):
    return tensor


_KNOWN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Function(_parameter),
    ("torch", "Size"): _Function(tuple),
}


def _read_archive(file: BinaryIO) -> object:
    """An archive of `data.pkl` and one member for each storage."""
    with zipfile.ZipFile(file) as archive:
        pickles = [n for n in archive.namelist() if n.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise zipfile.BadZipFile("no single data.pkl")
        root = pickles[0].removesuffix("data.pkl")
        if root + "byteorder" in archive.namelist():
            _require_little_endian(archive.read(root + "byteorder") == b"little")
        storages = {}

        def storage(key, dtype, count):
            if key not in storages:
                member = archive.getinfo(f"{root}data/{key}")
                # Stored as it is; a compressed member could unpack to any size.
                if member.compress_type != zipfile.ZIP_STORED:
                    raise zipfile.BadZipFile("a compressed storage")
                data = np.frombuffer(archive.read(member), np.uint8)
                storages[key] = data[: count * dtype.itemsize].view(dtype)
            if storages[key].dtype != dtype or storages[key].size != count:
                raise zipfile.BadZipFile("a storage of another size")
            return storages[key]

        with archive.open(pickles[0]) as data:
            return _Unpickler(data, storage).load()


def _read_legacy(file: io.BufferedReader) -> object:
    """Five pickles in a row, then every storage as its length and its elements."""
    if _Unpickler(file).load() != _LEGACY_MAGIC:
        raise pickle.UnpicklingError("another magic number")
    if _Unpickler(file).load() != _LEGACY_PROTOCOL:
        raise pickle.UnpicklingError("another protocol")
    _require_little_endian(_Unpickler(file).load()["little_endian"])
    limit = os.fstat(file.fileno()).st_size
    storages = {}

    def storage(key, dtype, count):
        # Filled at the end; tensors are views of it from the start.
        if key not in storages:
            if count * dtype.itemsize > limit:
                raise pickle.UnpicklingError("a storage longer than the file")
            storages[key] = np.empty(count, dtype)
        if storages[key].dtype != dtype or storages[key].size != count:
            raise pickle.UnpicklingError("a storage of another size")
        return storages[key]

    saved = _Unpickler(file, storage).load()
    for key in _Unpickler(file).load():
        array = storages[str(key)]
        if int.from_bytes(file.read(8), "little") != array.size:
            raise pickle.UnpicklingError("a storage of another length")
        if array.size and file.readinto(array.view(np.uint8)) != array.nbytes:
            raise EOFError("a storage cut short")
        storages.pop(str(key))
    if storages:
        raise pickle.UnpicklingError("a storage without elements")
    return saved


def _require_little_endian(little: bool) -> None:
    if not little:
        raise pickle.UnpicklingError("big-endian numbers")
