"""Embeddings written to .npz, .csv, .parquet and .tfrecord, in parts."""

from __future__ import annotations

import csv
import json
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import tensorflow as tf

from moco_tf.data.sources import DataError
from moco_tf.evaluation.embed.embeddings import Rows
from moco_tf.mistakes import reason
from moco_tf.paths import copy, is_remote

ROWS = 4096  # at once


def write_embeddings(
    path: pathlib.Path,
    parts: Callable[[], Iterable[Rows]],
    class_names: Sequence[str],
    about: dict,
) -> None:
    """Writes a file, whole or not at all, with a part in memory at a time.

    Args:
        path: its ending is the format.
        parts: gives the rows, the same ones each time; at least one part.
        class_names: a name for each label.
        about: a note that .npz and .parquet keep, JSON-serialisable.
    """
    write = {".npz": _write_npz, ".csv": _write_csv, ".parquet": _write_parquet,
             ".tfrecord": _write_tfrecord}[path.suffix.lower()]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = None if is_remote(path) else path.parent
    with tempfile.TemporaryDirectory(prefix=".embeddings-", dir=beside) as folder:
        staging = pathlib.Path(folder) / "whole"
        write(staging, parts, tuple(class_names), about)
        if is_remote(path):
            copy(staging, path)
        else:
            os.replace(staging, path)


def _write_npz(path, parts, class_names, about):
    names: list[str] = []
    labels, dim = [], 0
    for part in parts():
        names.extend(part.names)
        labels.append(part.labels)
        dim = part.features.shape[1]
    count = len(names)
    longest, width = (max([1, *map(len, each)]) for each in (names, class_names))
    several = range(0, count, ROWS)
    # Not compressed, so that the features can be mapped where they lie.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:

        def member(name, shape, dtype, arrays):
            # Of no date: the same embeddings are the same file.
            info = zipfile.ZipInfo(f"{name}.npy")
            with archive.open(info, "w", force_zip64=True) as file:
                head = {"descr": np.dtype(dtype).str, "fortran_order": False,
                        "shape": shape}  # fmt: skip
                np.lib.format.write_array_header_1_0(file, head)
                for array in arrays:
                    file.write(np.ascontiguousarray(array, dtype).tobytes())

        some = (names[start : start + ROWS] for start in several)
        member("names", (count,), f"<U{longest}", some)
        member("labels", (count,), "<i8", labels)
        member("class_names", (len(class_names),), f"<U{width}", [list(class_names)])
        member("features", (count, dim), "<f4", (part.features for part in parts()))
        note = json.dumps(about)
        member("about", (), f"<U{len(note)}", [note])


def _write_csv(path, parts, class_names, about):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for number, part in enumerate(parts()):
            if not number:
                columns = range(part.features.shape[1])
                writer.writerow(["name", "label", *(f"f{i}" for i in columns)])
            for name, label, row in zip(part.names, part.labels, part.features):
                # 9 digits are what float32 needs.
                numbers = [f"{value:.9g}" for value in row.tolist()]
                writer.writerow([name, _class(label, class_names) or "", *numbers])


def _write_parquet(path, parts, class_names, about):
    arrow, parquet = import_pyarrow()
    writer = None
    try:
        for part in parts():
            dim = part.features.shape[1]
            values = arrow.array(part.features.ravel(), arrow.float32())
            columns = {
                "name": arrow.array(list(part.names), arrow.string()),
                "label": arrow.array(
                    [_class(label, class_names) for label in part.labels],
                    arrow.string(),
                ),
                "features": arrow.FixedSizeListArray.from_arrays(values, dim),
            }
            table = arrow.table(columns).replace_schema_metadata(
                {"moco_tf": json.dumps(about)}
            )
            if writer is None:
                writer = parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _write_tfrecord(path, parts, class_names, about):
    def of_bytes(text):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))

    with tf.io.TFRecordWriter(str(path)) as writer:
        for part in parts():
            for name, label, row in zip(part.names, part.labels, part.features):
                values = tf.train.FloatList(value=row)
                found = {
                    "name": of_bytes(name),
                    "features": tf.train.Feature(float_list=values),
                }
                if (label_name := _class(label, class_names)) is not None:
                    found["label"] = of_bytes(label_name)
                example = tf.train.Example(features=tf.train.Features(feature=found))
                writer.write(example.SerializeToString())


def _class(label, class_names):
    if label < 0:
        return None
    return class_names[label] if label < len(class_names) else str(label)


def require_writable(path: pathlib.Path) -> None:
    """Raises DataError where a format needs a package that is not there."""
    if path.suffix.lower() == ".parquet":
        import_pyarrow()


def import_pyarrow():
    """The package and its module parquet; DataError where they are not here."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise DataError(
            ".parquet needs pyarrow; install it with `pip install pyarrow` (the extra "
            "moco_tf[parquet]), or use .npz."
        ) from error
    except ImportError as error:  # one that wants another NumPy
        raise DataError(
            f".parquet needs a pyarrow that fits ({reason(error)}); install one, or "
            "use .npz."
        ) from error
    return pyarrow, pyarrow.parquet
