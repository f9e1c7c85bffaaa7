"""Recorded arrays."""

import numpy as np


def arrays(path):
    """All arrays of an archive; the file is closed again."""
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)
