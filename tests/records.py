"""Recorded arrays."""

import numpy as np


def arrays(path):
    """All arrays of an archive; the file is closed again."""
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def starting_state(folder, version):
    """The official model's state before step 1, whose two encoders are equal."""
    given = arrays(folder / f"init_{version}.npz")
    state = {name[len("init/") :]: array for name, array in given.items()}
    own = "encoder_q."
    queries = [name for name in state if name.startswith(own)]
    return state | {f"encoder_k.{k[len(own) :]}": state[k] for k in queries}


def views(inputs, index, crops, dtype):
    """Normalised crops of recorded images: of one batch, (N, size, size, 3).

    Args:
        inputs: the arrays of `inputs_train.npz`.
        index: (N,), which images.
        crops: (N, 3), top, left and whether it is flipped.
        dtype: of the views.
    """
    size = int(inputs["crop_size"])
    mean, std = inputs["mean"].astype(dtype), inputs["std"].astype(dtype)
    images = []
    for image, (top, left, flip) in zip(inputs["base_images"][index], crops):
        view = image[top : top + size, left : left + size]
        images.append(view[:, ::-1] if flip else view)
    return (np.stack(images).astype(dtype) / 255 - mean) / std


def digest(array):
    """What the recorded digests of weights are: the norm, and a product with a wave."""
    flat = np.asarray(array, np.float64).ravel()
    return np.array([np.linalg.norm(flat), flat @ np.cos(np.arange(flat.size))])
