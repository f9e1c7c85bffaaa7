"""torch's files: read without PyTorch, and without running what they hold."""

import os
import pickle

import numpy as np
import pytest
import tensorflow as tf
from torch_saves import Payload, as_archive

from moco_tf.interchange import InterchangeError, load_checkpoint
from moco_tf.interchange.torch_files import read_torch_file

LEGACY = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_everything_plain_that_torch_saves_is_read(tmp_path, zipped):
    torch = pytest.importorskip("torch", reason="PyTorch is in the dev extra")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimiser.step()
    shared = torch.arange(24.0)
    saved = {
        "epoch": 3,
        "state_dict": model.state_dict(),
        "optimizer": optimiser.state_dict(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "transposed": shared.reshape(4, 6).T,
        "part": shared[5:9],
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(7),
        "shape": torch.Size([1, 2]),
        "dtypes": [
            torch.arange(4).to(dtype)
            for dtype in (
                torch.float64,
                torch.float16,
                torch.bfloat16,
                torch.int32,
                torch.int16,
                torch.int8,
                torch.uint8,
                torch.bool,
            )
        ],
    }
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    read = read_torch_file(path)
    assert set(read) == set(saved)
    assert (read["epoch"], read["shape"]) == (3, (1, 2))
    for name, tensor in saved["state_dict"].items():
        np.testing.assert_array_equal(read["state_dict"][name], tensor.numpy())
        assert read["state_dict"][name].dtype == tensor.numpy().dtype
    momentum = read["optimizer"]["state"][0]["momentum_buffer"]
    np.testing.assert_array_equal(
        momentum, optimiser.state_dict()["state"][0]["momentum_buffer"]
    )
    for key in ("transposed", "part", "empty", "scalar"):
        np.testing.assert_array_equal(read[key], saved[key].numpy())
    np.testing.assert_array_equal(read["parameter"], [1, 1])
    for array, tensor in zip(read["dtypes"], saved["dtypes"]):
        np.testing.assert_array_equal(array.astype(float), tensor.double().numpy())
    assert read["dtypes"][2].dtype == tf.bfloat16.as_numpy_dtype


def as_legacy(path, *pickles):
    path.write_bytes(b"".join(pickle.dumps(value, 2) for value in LEGACY + pickles))
    return path


@pytest.mark.parametrize("container", ["zip", "legacy", "bare"])
@pytest.mark.parametrize("function", ["system", "eval", "mkdir", "nested"])
def test_malicious_pickle_is_refused_and_does_not_run(tmp_path, container, function):
    witness = tmp_path / "witness"
    payload = {
        "system": Payload(os.system, f"touch {witness}"),
        "eval": Payload(eval, f"__import__('os').mkdir({str(witness)!r})"),
        "mkdir": Payload(os.mkdir, str(witness)),
        "nested": {"state_dict": {"a": [Payload(os.mkdir, str(witness))]}},
    }[function]
    path = tmp_path / "evil.pth.tar"
    if container == "zip":
        as_archive(path, pickle.dumps(payload))
    elif container == "legacy":
        as_legacy(path, payload, [])
    else:
        path.write_bytes(pickle.dumps(payload))
    with pytest.raises(InterchangeError, match="asks for .*, and to give it") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not witness.exists()
    if container == "bare":  # the same bytes do run where nothing guards them
        pickle.loads(path.read_bytes())
        assert witness.exists()


@pytest.mark.parametrize(
    "module, name",
    [
        ("torch", "load"),
        ("torch._utils", "_rebuild_tensor"),
        ("collections", "Counter"),
        ("builtins", "getattr"),
        ("moco_tf.interchange.torch_files", "_Function"),
    ],
)
def test_no_name_outside_the_fixed_few_is_looked_up(tmp_path, module, name):
    stream = f"c{module}\n{name}\n.".encode()
    with pytest.raises(InterchangeError, match=f"asks for {module}.{name}"):
        read_torch_file(as_archive(tmp_path / "a.pth", b"\x80\x02" + stream))


def test_known_functions_cannot_be_altered_by_a_pickle(tmp_path):
    # BUILD with a slot state would set an attribute of the function itself.
    known = b"\x80\x02ctorch._utils\n_rebuild_parameter\n"
    for state in ((None, {"_function": 1}), {"_function": 1}):
        stream = known + pickle.dumps(state, 2)[2:-1] + b"b."
        with pytest.raises(InterchangeError, match="cannot be read as a torch"):
            read_torch_file(as_archive(tmp_path / "a.pth", stream))


def pickled_tensor(count, offset, shape, strides):
    """What torch pickles for a float32 tensor in a storage of `count` numbers."""

    def item(value):
        return pickle.dumps(value, 2)[2:-1]

    storage = item("storage") + b"ctorch\nFloatStorage\n" + item("0") + item("cpu")
    storage = b"(" + storage + item(count) + b"tQ"
    place = item(offset) + item(shape) + item(strides) + item(False)
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + place + b"tR."


@pytest.mark.parametrize(
    "offset, shape, strides",
    [
        (0, (5,), (1,)),
        (2, (3,), (1,)),
        (-1, (2,), (1,)),
        (0, (2, 2), (3, 1)),
        (0, (1000000, 1000000), (0, 0)),
        (0, (2,), (-1,)),
        (0, (2, 2), (1,)),
    ],
)
def test_tensor_that_reaches_outside_its_storage_is_refused(
    tmp_path, offset, shape, strides
):
    members = [("data/0", np.arange(4, dtype=np.float32).tobytes())]
    sound = pickled_tensor(4, 1, (3,), (1,))
    path = as_archive(tmp_path / "a.pth", sound, members)
    np.testing.assert_array_equal(read_torch_file(path), [1, 2, 3])
    data = pickled_tensor(4, offset, shape, strides)
    with pytest.raises(InterchangeError, match="cannot be read as a torch"):
        read_torch_file(as_archive(path, data, members))


def test_storage_of_another_size_than_its_file_is_refused(tmp_path):
    data = pickled_tensor(1000, 0, (2,), (1,))
    members = [("data/0", bytes(16))]
    with pytest.raises(InterchangeError, match="cannot be read as a torch"):
        read_torch_file(as_archive(tmp_path / "a.pth", data, members))
