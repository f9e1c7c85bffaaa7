"""Prints requirements of a lane, or of the site: `python .ci/requirements.py LANE`.

LANE is classic, current or docs. A lane's are pyproject.toml's with the extras detect,
images, onnx and dev, and with gpu where that word follows; those of the site are its
extra docs alone. pyproject.toml tells the lanes apart by the version of Python; here a
lane is asked for, to put today's TensorFlow on Python 3.11 and to renew the files of
constraints (`make constraints`).
"""

import pathlib
import sys

import tomllib

MARKERS = {"classic": "python_version < '3.12'", "current": "python_version >= '3.12'"}


def main(lane: str, *more: str) -> None:
    """Prints one requirement a line."""
    text = pathlib.Path(__file__).parents[1].joinpath("pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    if lane == "docs":
        print(*project["optional-dependencies"]["docs"], sep="\n")
        return
    own = MARKERS.pop(lane)
    (other,) = MARKERS.values()
    extras = [project["optional-dependencies"][name] for name in more]
    for requirement in sum(extras, project["dependencies"]):
        name, _, marker = requirement.partition("; ")
        if marker != other and not name.startswith("moco_tf["):
            print(name if marker == own else requirement)


if __name__ == "__main__":
    main(sys.argv[1], "detect", "images", "onnx", "dev", *sys.argv[2:])
