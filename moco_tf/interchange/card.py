"""The card of a SavedModel: what it is, takes, gives, and what was measured of it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

import moco_tf
from moco_tf.data.decoding import ENCODED_CHANNELS
from moco_tf.interchange.measured import TITLES, figures_beside, merged
from moco_tf.interchange.pretrained import stored_weights, weights_digest
from moco_tf.lanes import versions
from moco_tf.pixels import GREY_LEVELS, Pixels

CARD = "MODEL_CARD.md"
_NOTED = "card.json"
# What stands first in the table; other facts of the provenance follow.
_FIRST = ("method", "recipe", "data", "images", "epochs")
# Whose figures are accuracies of classes, as hubs list them.
_OF_CLASSES = ("knn", "linear", "fewshot", "finetune")
_LICENSE = "# license: yours to choose, such as apache-2.0; kept when this is rewritten"
_YOURS = "<!-- What stands below is yours, and is kept when this card is rewritten. -->"
_OWN_WORDS = """
## Licence

Not said yet: it is for whoever trained these weights to choose (here, and as `license:`
at the top), minding the licence of the images.
"""


def write_card(
    saved: Path,
    place: Path | None = None,
    figures: Sequence[dict] = (),
    license: str | None = None,
) -> str:
    """Writes MODEL_CARD.md of a SavedModel, from the files in it and beside it alone.

    A card of before is written anew, but for its line of the licence and what stands
    below the line that says so.

    Args:
        saved: the folder, complete but for this.
        place: where it is about to lie, where that is elsewhere; beside that are a
            run's history and results.
        figures: measured before, of the same weights in another folder.
        license: of the weights, such as apache-2.0; None: the former card's, or a
            line that leaves it open.

    Returns:
        The card.
    """
    extra = saved / "assets.extra"
    weights = stored_weights(saved)
    digest = weights_digest(weights)
    software = f"moco_tf {moco_tf.__version__}, {versions()}"
    noted: dict[str, Any] = {"figures": [], "written_by": software}
    if (extra / _NOTED).is_file():
        noted = json.loads((extra / _NOTED).read_text())
    known = merged(noted["figures"], list(figures))
    noted["figures"] = merged(known, figures_beside(place or saved, digest))
    _put(extra / _NOTED, json.dumps(noted, indent=2) + "\n")
    provenance = json.loads((extra / "provenance.json").read_text())
    preprocessing = provenance.pop("preprocessing")
    name = str(provenance.get("recipe") or (place or saved).name)
    facts = {
        **_ordered(provenance),
        "encoder": _encoder(json.loads((extra / "encoder.json").read_text())),
        "weights": f"{sum(array.size for array in weights):,} of float32",
        "weights SHA-256": digest,
        "written by": noted["written_by"],
    }
    front, own = _of_former(saved / CARD)
    if license:
        front = [f"license: {license}"]
    card = "\n".join(
        [
            _front_matter(name, provenance, noted["figures"], front),
            f"# {_plain(name)}\n",
            "An image encoder: images in, a row of features for each out. The facts "
            "below were written down by the run itself, or read from the files.\n",
            _table(["", ""], facts.items()),
            _input_and_output(preprocessing, _features(extra)),
            _how_to_load(preprocessing),
            _measured(noted["figures"]),
            f"{_YOURS}\n{own}",
        ]
    )
    _put(saved / CARD, card)
    return card


def refresh_card(path: Path) -> None:
    """Writes the card of an encoder anew, where it has one that may be written.

    Args:
        path: a run directory or a SavedModel.
    """
    place = _place(path)
    if (place / CARD).is_file():
        # A folder that is only to be read keeps the card that it has.
        with contextlib.suppress(OSError):
            write_card(place)


def known_figures(path: Path, digest: str) -> list[dict]:
    """Figures that the card of an encoder has, or would have by now.

    Args:
        path: a run directory or a SavedModel; what is neither has none.
        digest: of its weights.
    """
    place = _place(path)
    noted = place / "assets.extra" / _NOTED
    before = json.loads(noted.read_text())["figures"] if noted.is_file() else []
    return merged(before, figures_beside(place, digest))


def _place(path):
    """Where the SavedModel of a run directory is, or a SavedModel itself."""
    return path / "saved_model" if (path / "config.yaml").is_file() else path


def _put(path: Path, text: str) -> None:
    """Writes a text beside its place and moves it there."""
    staging = path.with_suffix(".tmp")
    staging.write_text(text, encoding="utf-8")
    staging.replace(path)


def _of_former(path: Path) -> tuple[list[str], str]:
    """Lines of the licence and own words of the card that is there."""
    former = path.read_text(encoding="utf-8") if path.is_file() else ""
    head = former.partition("\n---\n")[0]
    front = re.findall(r"^license(?:_name|_link)?:.*\S.*$", head, re.M)
    _, found, own = former.partition(f"{_YOURS}\n")
    return front or [_LICENSE], own if found else _OWN_WORDS


def _ordered(provenance: dict) -> dict:
    keys = [key for key in _FIRST if key in provenance]
    keys += sorted(provenance.keys() - set(keys))
    return {key.replace("_", " "): provenance[key] for key in keys}


def _encoder(description: dict) -> str:
    """Class, and of this project's own the arguments."""
    kind, config = description["class_name"], description.get("config", {})
    if not str(description.get("registered_name", "")).startswith("moco_tf"):
        return kind
    config = {key: value for key, value in config.items() if key != "name"}
    return f"{kind}, {', '.join(f'{key} {value}' for key, value in config.items())}"


def _features(extra: Path) -> int | None:
    """How many numbers a row has; None where nobody noted them (version 0.1)."""
    golden = extra / "golden" / "expected.json"
    return len(json.loads(golden.read_text())["features"]) if golden.is_file() else None


def _front_matter(name, provenance, figures, license_lines):
    """What hubs read: YAML between two lines of dashes."""
    tags = ["moco_tf", "tensorflow", "savedmodel", "feature-extraction"]
    if method := provenance.get("method"):
        tags += [str(method), "self-supervised-learning"]
    listed = [
        one
        for one in figures
        if one["protocol"] in _OF_CLASSES and "from scratch" not in one["name"]
    ]
    head = {
        "library_name": "tensorflow",
        "pipeline_tag": "image-feature-extraction",
        "tags": tags,
    }
    if listed:
        head["metrics"] = ["accuracy"]
        results = [
            {
                "task": {"type": "image-classification", "name": one["name"]},
                "dataset": {"type": one["images"], "name": one["images"]},
                "metrics": [{"type": "accuracy", "value": round(one["value"], 4)}],
            }
            for one in listed
        ]
        head["model-index"] = [{"name": name, "results": results}]
    text = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    return "\n".join(["---", *license_lines, f"{text}---\n"])


def _input_and_output(preprocessing, features):
    pixels = Pixels.from_note(preprocessing)
    side, channels = preprocessing["centre_crop"], preprocessing["channels"]
    order = ", RGB order" if channels == 3 else ""
    shape = f"(N, {side}, {side}, {channels})"
    signatures = [("serving_default", f"`images`, float32 {shape} of {pixels.words}")]
    if pixels.dtype != "float32":
        own = f"`images`, {pixels.dtype} {shape} of {pixels.words}"
        signatures.append((pixels.dtype, own))
        if channels in ENCODED_CHANNELS:
            files = "JPEG, PNG, BMP or GIF files" if channels != 4 else "PNG files"
            about = (
                f"`encoded`, string (N,): {files}, whose shorter side is resized to "
                f"{preprocessing['resize_shorter_side']} "
                f"({preprocessing['interpolation']}) and whose centre of {side} x "
                f"{side} is taken; `valid` tells which could be read"
            )
            signatures.append(("encoded", about))
    rows = [(f"`{name}`", about) for name, about in signatures]
    unit = "divided by 255" if pixels == GREY_LEVELS else "brought to 0..1"
    width = "F" if features is None else features
    return (
        f"## Input and output\n\n"
        f"{_table(['signature', 'takes'], rows)}\n"
        f"An image has {channels} channel{'s' * (channels > 1)}{order}, last, of "
        f"values {pixels.words}. The network itself normalises it: {unit}, less the "
        f"mean {preprocessing['mean']}, over the standard deviation "
        f"{preprocessing['std']}. Each signature gives `features`, float32 "
        f"(N, {width}), and `embedding`, the same rows at unit length, to be compared "
        "by cosine.\n"
    )


def _how_to_load(preprocessing):
    pixels = Pixels.from_note(preprocessing)
    types = dict.fromkeys((pixels.dtype, "float32"))
    return (
        "## Load\n\n```python\nimport tensorflow as tf\n\n"
        'encoder = tf.saved_model.load("FOLDER")  # this one, wherever it lies\n'
        f'features = encoder(images)["features"]  # images: {" or ".join(types)} of '
        f"{pixels.words}\n```\n\n"
        "`python FOLDER/assets.extra/check.py` compares its features with those of the "
        "day it was written. To train it further, with moco_tf: "
        '`moco_tf.interchange.load_pretrained("FOLDER").encoder`.\n'
    )


def _measured(figures):
    rows = [
        (one["name"], _value(one), one["images"], f"`{one['command']}`")
        for one in figures
    ]
    text = "## Measured\n\n"
    if rows:
        text += _table(["figure", "value", "images", "command"], rows) + "\n"
    else:
        text += "Nothing yet.\n\n"
    for warning in dict.fromkeys(one.get("warning") for one in figures):
        text += f"{warning}\n\n" if warning else ""
    done = {one["protocol"] for one in figures}
    missing = [title for name, title in TITLES.items() if name not in done]
    others = f"{', '.join(missing)}; nor " if missing else ""
    return (
        f"{text}Not measured: {others}anything on other images than those named, and "
        "nothing of robustness, "
        "calibration or fairness.\n"
    )


def _value(figure):
    if figure["is_share"]:
        return f"{100 * figure['value']:.1f} %"
    return f"{figure['value']:.4g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(_plain, line))} |\n" for line in lines)


def _plain(value: object) -> str:
    """A value as one line, in a cell of a table too."""
    text = json.dumps(value) if isinstance(value, (dict, list)) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
