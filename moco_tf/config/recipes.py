"""The recipes and sweeps that come with the package, found by name."""

from __future__ import annotations

import difflib
import os
import pathlib
import re
from dataclasses import dataclass

from moco_tf.paths import is_remote, to_path


@dataclass(frozen=True)
class Recipe:
    """What the header of a recipe says.

    Attributes:
        name: by which `--config`, or `--sweep`, finds it.
        about: its first line.
        expected: the published figure; empty where the header has none.
        measured: what this project has measured.
    """

    name: str
    about: str
    expected: str
    measured: str


def configs_folder() -> pathlib.Path:
    """Where the recipes are: in an installed package inside, else beside it."""
    package = pathlib.Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find(path: str | os.PathLike, folder: str = "") -> pathlib.Path:
    """The file that a user means; a path wins over a name.

    Args:
        path: a file, or the name of a recipe such as "moco_v2_resnet50_200ep"; also
            "configs/NAME.yaml", from any working directory.
        folder: "" for recipes, "sweeps" for sweeps.

    Returns:
        The file; `path` itself where there is none.
    """
    given = to_path(path)
    if is_remote(given):
        return given
    root = configs_folder()
    candidates = [given, root.parent / given]
    if given.name == str(given):
        candidates += [root / folder / f"{given.stem}.yaml"]
    return next((file for file in candidates if file.is_file()), given)


def advice(path: str | os.PathLike, folder: str = "") -> str:
    """What to give instead of a file that is not there."""
    other, kind, flag = ("sweeps", "a sweep", "--sweep")
    if folder:
        other, kind, flag = ("", "a recipe", "--config")
    if find(path, other).is_file():
        return f"{path} is {kind}, so use {flag} {path}."
    names = [file.stem for file in sorted((configs_folder() / folder).glob("*.yaml"))]
    if near := difflib.get_close_matches(pathlib.Path(path).stem, names, n=3):
        return f"did you mean {' or '.join(near)}?"
    return f"give a file, or a name: {', '.join(names)}."


def recipes(folder: str = "") -> list[Recipe]:
    """The headers of all recipes, or of all sweeps for "sweeps", by name."""
    return [_read(path) for path in sorted((configs_folder() / folder).glob("*.yaml"))]


def _read(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    header = [line.lstrip("# ") for line in lines if line.startswith("#")]
    fields, key = {}, None
    for line in header[1:]:
        match = re.match(r"(\w+): +(.*)", line)
        if match:
            key = match[1]
            fields[key] = match[2]
        elif key and line:
            fields[key] += f" {line}"
        else:
            key = None  # an empty line ends a field
    return Recipe(
        path.stem, header[0], fields.get("Expected", ""), fields.get("Measured", "")
    )
