"""Embeddings read from .npz, .csv, .parquet and .tfrecord, in parts."""

from __future__ import annotations

import contextlib
import csv
import json
import pathlib
import struct
import tempfile
import zipfile
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from moco_tf.data.sources import DataError
from moco_tf.evaluation.embed.embeddings import Embeddings, Origin
from moco_tf.evaluation.embed.writing import ROWS, import_pyarrow
from moco_tf.mistakes import reason
from moco_tf.paths import is_remote, to_path


def read_about(path: pathlib.Path) -> dict:
    """The note in a file; empty where there is no file, or none in it."""
    try:
        if path.suffix.lower() == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return json.loads(str(arrays["about"]))
        if path.suffix.lower() == ".parquet" and path.is_file():
            return _parquet_about(import_pyarrow()[1].ParquetFile(path))
    # Whatever a foreign or broken file makes of it: then there is no note.
    except Exception:
        return {}
    return {}


def _parquet_about(file):
    return json.loads((file.schema_arrow.metadata or {}).get(b"moco_tf", b"{}"))


def open_embeddings(paths: Sequence[pathlib.Path]) -> Embeddings:
    """Opens files, one after the other, as one set.

    Features of one .npz are used where they lie; others are first written to a
    temporary file, a part at a time. Any .npz with `names` and `features` will do.

    Args:
        paths: at least one.

    Raises:
        DataError: a file is missing, damaged or holds something else, or the files do
            not go together.
    """
    each = [_open(to_path(path)) for path in paths]
    for path, one in zip(paths, each):
        if one.features.shape[1] != each[0].features.shape[1]:
            raise DataError(
                f"{paths[0]} has {each[0].features.shape[1]} features of each image "
                f"and {path} {one.features.shape[1]}; name files of one encoder."
            )
        keys = [other.origins[0].about.get("encoder_key") for other in (each[0], one)]
        if None not in keys and keys[0] != keys[1]:
            raise DataError(
                f"{paths[0]} and {path} are of different encoders, whose features do "
                "not compare; name files of one encoder."
            )
    if len(each) == 1:
        return each[0]
    class_names = tuple(dict.fromkeys(name for one in each for name in one.class_names))
    place = {name: label for label, name in enumerate(class_names)}
    labels = []
    for one in each:
        known = np.array([place[name] for name in one.class_names] + [-1], np.int64)
        labels.append(known[one.labels])
    return Embeddings(
        [name for one in each for name in one.names],
        np.concatenate(labels),
        _gathered(
            one.features[start : start + ROWS]
            for one in each
            for start in range(0, len(one), ROWS)
        ),
        class_names,
        tuple(origin for one in each for origin in one.origins),
    )


def _open(path):
    if not path.is_file():
        raise DataError(
            f"{path} does not exist; write it with evaluate.py embed ENCODER FOLDER "
            f"--out={path}, or mend the path."
        )
    read = {".npz": _read_npz, ".csv": _read_csv, ".parquet": _read_parquet,
            ".tfrecord": _read_tfrecord}[path.suffix.lower()]  # fmt: skip
    try:
        found = read(path)
    except DataError:
        raise
    # Each library has errors of its own for a damaged file.
    except Exception as error:
        raise DataError(
            f"{path} is damaged, or not one that evaluate.py embed wrote "
            f"({reason(error)}); write it again."
        ) from error
    count = len(found.names)
    features = found.features
    if features.ndim != 2 or not len(features) or features.dtype != np.float32:
        raise DataError(
            f"{path} has features of dtype {features.dtype} and shape "
            f"{features.shape}; expected float32 (images, dim) of at least one image."
        )
    if not count == len(features) == len(found.labels):
        raise DataError(
            f"{path} has {count} names and {len(found.labels)} labels for "
            f"{len(features)} rows of features; expected one of each for an image."
        )
    # What embed writes is finite.
    for start in () if found.origins[0].about else range(0, count, ROWS):
        if not np.isfinite(features[start : start + ROWS]).all():
            raise DataError(f"{path} has features that are not finite; make it anew.")
    return found


def _read_npz(path):
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        names = arrays["names"]
        names = [str(name) for name in names]
        labels = np.full(len(names), -1, np.int64)
        if "labels" in arrays:
            labels = arrays["labels"].astype(np.int64)
        class_names = [str(name) for name in arrays["class_names"]] if (
            "class_names" in arrays) else []  # fmt: skip
        missing = range(len(class_names), int(labels.max(initial=-1)) + 1)
        class_names += [str(label) for label in missing]
        about = json.loads(str(arrays["about"])) if "about" in arrays else {}
        features = None if is_remote(path) else _mapped(path, "features.npy")
        if features is None:
            features = np.asarray(arrays["features"], np.float32)
    origins = (Origin(len(names), about),)
    return Embeddings(names, labels, features, tuple(class_names), origins)


def _mapped(path, member):
    """A member of an archive where it lies; None where it is compressed."""
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        info = archive.getinfo(member)
        if info.compress_type != zipfile.ZIP_STORED:
            return None
        file.seek(info.header_offset)
        lengths = struct.unpack("<HH", file.read(30)[26:30])
        file.seek(info.header_offset + 30 + sum(lengths))
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0}.get(version)  # fmt: skip
        shape, is_fortran, dtype = read(file) if read else ((), True, None)
        if is_fortran or dtype != np.float32 or 0 in shape:
            return None
        return np.memmap(path, dtype, "r", file.tell(), shape)


def _read_csv(path):
    with path.open("r", newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        head = next(reader, [])
        if head[:2] != ["name", "label"] or len(head) < 3:
            raise DataError(
                f"{path} begins with the columns {', '.join(head[:3])}; expected name, "
                "label, and a column for each feature."
            )
        names, labels = [], []

        def parts():
            rows = []
            for name, label, *numbers in reader:
                names.append(name)
                labels.append(label)
                rows.append(np.array(numbers, np.float32))
                if len(rows) == ROWS:
                    yield np.stack(rows)
                    rows.clear()
            if rows:
                yield np.stack(rows)

        features = _gathered(parts())
    return _of_names(names, labels, features, {})


def _read_parquet(path):
    parquet = import_pyarrow()[1]
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        table = stack.enter_context(parquet.ParquetFile(file))
        names, labels = [], []

        def parts():
            for batch in table.iter_batches(ROWS):
                names.extend(batch.column("name").to_pylist())
                labels.extend(batch.column("label").to_pylist())
                column = batch.column("features")
                yield column.flatten().to_numpy().reshape(len(column), -1)

        features = _gathered(parts())
        return _of_names(names, labels, features, _parquet_about(table))


def _read_tfrecord(path):
    names, labels = [], []

    def parts():
        rows = []
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            found = tf.train.Example.FromString(record).features.feature
            names.append(found["name"].bytes_list.value[0].decode())
            label = found["label"].bytes_list.value
            labels.append(label[0].decode() if label else None)
            rows.append(np.array(found["features"].float_list.value, np.float32))
            if len(rows) == ROWS:
                yield np.stack(rows)
                rows.clear()
        if rows:
            yield np.stack(rows)

    features = _gathered(parts())
    return _of_names(names, labels, features, {})


def _of_names(names, labels, features, about):
    class_names = tuple(sorted({label for label in labels if label}))
    place = {name: number for number, name in enumerate(class_names)}
    numbers = np.array([place.get(label, -1) for label in labels], np.int64)
    origins = (Origin(len(names), about),)
    return Embeddings(names, numbers, features, class_names, origins)


def _gathered(parts):
    """Rows in a temporary file without a name, mapped: float32 (rows, dim)."""
    count, dim = 0, 0
    with tempfile.TemporaryFile() as file:
        for part in parts:
            part = np.ascontiguousarray(part, np.float32)
            if dim and part.shape[1] != dim:
                raise ValueError(f"rows of {dim} and of {part.shape[1]} features")
            count, dim = count + len(part), part.shape[1]
            file.write(part)
        file.flush()
        if not count * dim:
            return np.zeros((count, dim), np.float32)
        return np.memmap(file, np.float32, "r", 0, (count, dim))
