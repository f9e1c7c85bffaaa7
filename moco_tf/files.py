"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import pathlib


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a text beside its place and moves it there, replacing a former one."""
    staging = path.with_suffix(".tmp")
    staging.write_text(text)
    os.replace(staging, path)
