"""What was measured of one run, as its files have it."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from dataclasses import dataclass

from moco_tf.config import ConfigError, load_config
from moco_tf.interchange.pretrained import present_digest
from moco_tf.report.page.facts import is_run
from moco_tf.shell import command

# What tells encoders apart.
DIGESTS = ("weights", "architecture")
_NOT_A_SETTING = ("name", "runs_dir", "seed")
_NO_CONDITION = (
    "out", "save", "seed", "distribution", "features", "control", "shown",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What is known of one run.

    Attributes:
        name: its directory's.
        setting: flat configuration without name, place and seed; for a SavedModel,
            its path, so that it stands alone.
        figures: name -> share from 0 to 1.
        quality: figures that need no labels, name -> value.
        conditions: protocol -> JSON of the settings and data that it was run with.
        encoders: protocol -> digests of the "weights" and "architecture" it judged.
        weights: digest of the weights that lie there now; None where there are none.
    """

    name: str
    setting: dict
    figures: dict
    quality: dict
    conditions: dict
    encoders: dict
    weights: str | None


def read_run(path: pathlib.Path) -> Run:
    """Reads the results that lie in a run directory or beside a SavedModel.

    Raises:
        ConfigError: there are none, or a file is damaged.
    """
    report, figures, quality, conditions, encoders = path / "report", {}, {}, {}, {}
    if not path.is_dir():
        raise ConfigError(f"{path} is not a directory; name runs such as runs/demo.")
    if (report / "summary.json").is_file():
        closing = _read(report / "summary.json")
        quality = closing.get("quality", {})
        for name, share in closing.get("trained", {}).items():
            figures[f"monitor {name}"] = share
    folders = sorted(report.iterdir()) if report.is_dir() else []
    for file in (folder / "results.json" for folder in folders):
        if not file.is_file():
            continue
        results = _read(file)
        if "figures" not in results:
            continue
        protocol = results["protocol"]
        if file.parent.name != protocol:  # figures on other images than the run's own
            protocol = f"{protocol} on {results.get('data_set', file.parent.name)}"
        for title, shares, condition in _measured(protocol, results):
            for name, share in shares.items():
                figures[f"{title} {name}"] = share
            conditions[title] = json.dumps(condition, sort_keys=True)
            encoder = results.get("encoder", {}).items()
            encoders[title] = {k: v for k, v in encoder if k in DIGESTS}
    if not (figures or quality or is_run(path)):
        raise ConfigError(
            f"{path} has no results to compare; measure some first, for instance with "
            f"`{command('evaluate', 'knn', path)}`."
        )
    setting = {"path": str(path)}
    if (path / "config.yaml").is_file():
        tree = dataclasses.asdict(load_config(path / "config.yaml"))
        setting = {
            key: value for key, value in _flat(tree) if key not in _NOT_A_SETTING
        }
    weights = present_digest(path)
    name = path.resolve().name
    return Run(name, setting, figures, quality, conditions, encoders, weights)


def _read(file):
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{file} is damaged; measure it again with {command('evaluate')}."
        ) from error


def _flat(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _measured(protocol, results):
    """Yield (title, figures, conditions) of each test set, the protocol's own first."""
    asked = results.get("settings", {}).items()
    asked = {key: value for key, value in asked if key not in _NO_CONDITION}
    also = {}
    if "data" in results:  # which images these were, however they were named
        asked["data"] = dict(results["data"])
        also = asked["data"].pop("also_test", {})
    yield protocol, results["figures"], asked
    for row in results.get("tests", ())[1:]:
        test = row["test_set"]
        shares = {k: v for k, v in row.items() if k not in ("test_set", "images")}
        condition = {**asked, "data": {**asked["data"], "test": also[test]}}
        yield f"{protocol} tested on {test}", shares, condition
