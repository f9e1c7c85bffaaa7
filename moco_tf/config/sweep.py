"""A sweep: rows of overrides on one recipe, each run with several seeds."""

# ruff: noqa: UP045  (read beside the other settings; Python 3.9 cannot do X | None)
from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import yaml

from moco_tf.config.checks import validate
from moco_tf.config.limits import ConfigError, require
from moco_tf.config.load import load_config
from moco_tf.config.recipes import advice, find
from moco_tf.config.tree import Config
from moco_tf.paths import to_path

# Keys of a `Config` that a sweep does not have.
_OF_RECIPES = {field.name for field in dataclasses.fields(Config)} - {"name"}
_EXAMPLE = "{name: ..., overrides: [method.temperature=0.1]}"


@dataclass(frozen=True)
class Row:
    """One setting that a sweep runs.

    Attributes:
        name: what tables and pictures call it, and the start of its runs' names.
        overrides: words such as "method.temperature=0.1".
        x: where it is on the picture's horizontal axis, if that has numbers.
        series: which line of the picture it belongs to, if there are several.
        published: the paper's figure for it, in %, if there is one.
        epochs_factor: how many times the epochs of the other rows it trains.
    """

    name: str
    overrides: tuple[str, ...] = ()
    x: Optional[float] = None
    series: Optional[str] = None
    published: Optional[float] = None
    epochs_factor: int = 1


@dataclass(frozen=True)
class Sweep:
    """All rows of a sweep.

    Attributes:
        name: folder of the runs in runs_dir.
        title: what the table shows.
        rows: the settings.
        seeds: each row is run with each of these.
        config: the recipe that the rows change; None for the demo.
        source: where the published figures stand.
        x_label: what the horizontal axis is; None where rows have no x.
        cost: whether the picture shows speed and peak memory beside the accuracies.
        scale: overrides of all rows that fit the file's recipe to a small machine;
            another recipe (--config) comes with a scale of its own.
        overrides: of all rows; they win over the scale, and a row's own over them.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    seeds: tuple[int, ...] = (0,)
    config: Optional[str] = None
    source: Optional[str] = None
    x_label: Optional[str] = None
    cost: bool = False
    scale: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()

    def runs(self) -> list[tuple[Row, Config]]:
        """Each row with each seed, in the order in which they run: seed by seed.

        Raises:
            ConfigError: if a row's configuration is wrong; the row is named.
        """
        return [(row, self._run(row, seed)) for seed in self.seeds for row in self.rows]

    def _run(self, row, seed):
        words = [*self.scale, *self.overrides, *row.overrides]
        try:
            config = load_config(self.config, words)
            config = dataclasses.replace(
                config,
                name=f"{row.name}-seed{seed}",
                seed=seed,
                train=dataclasses.replace(
                    config.train, epochs=row.epochs_factor * config.train.epochs
                ),
                runs_dir=str(to_path(config.runs_dir) / self.name),
            )
            validate(config)
        except ConfigError as error:
            raise ConfigError(f"row {row.name} of sweep {self.name}: {error}") from None
        return config


def load_sweep(
    path: str | pathlib.Path,
    overrides: Sequence[str] = (),
    seeds: str | None = None,
    config: str | None = None,
) -> Sweep:
    """Reads a sweep's file.

    Args:
        path: YAML of a `Sweep`, or the name of one that comes with the package.
        overrides: words for all rows, such as "--train.epochs=2".
        seeds: a list such as "[0, 1, 2]" instead of the file's.
        config: a recipe instead of the file's, at its own scale.

    Raises:
        ConfigError: one sentence that says what is wrong, where, and how to mend it.
    """
    path = find(path, "sweeps")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise ConfigError(
            f"sweep {path} cannot be read ({reason}); {advice(path, 'sweeps')}"
        ) from None
    if isinstance(tree, dict) and "rows" not in tree and set(tree) & _OF_RECIPES:
        raise ConfigError(f"{path} is a recipe, no sweep; use --config {path}.")
    fields = {**_mapping(tree, f"sweep {path}", Sweep)}
    _check_texts(
        fields, ("name", "title", "config", "source", "x_label"), f"sweep {path}"
    )
    rows = fields.get("rows")
    if not isinstance(rows, list) or not rows:
        raise ConfigError(
            f"sweep {path} has no rows; give a list of such as {_EXAMPLE}."
        )
    rows = tuple(_row(row, f"row {n} of sweep {path}") for n, row in enumerate(rows, 1))
    if fields.get("x_label") is not None:
        for row in rows:
            require(
                row.x is not None,
                f"row {row.name} of sweep {path} has no x, but x_label="
                f"{fields['x_label']} needs one of each row; add it.",
            )
    require(
        isinstance(fields.get("cost", False), bool),
        f"cost={fields.get('cost')!r} of sweep {path} is not true or false; use one.",
    )
    names = [row.name for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"sweep {path} has two rows named {twice[0]}; their runs would share a "
            "directory, so give each a name of its own."
        )
    words = tuple(word.lstrip("-") for word in overrides)
    before = _words(fields.get("overrides", []), f"overrides of sweep {path}")
    scale = _words(fields.get("scale", []), f"scale of sweep {path}")
    if config:
        fields["config"], scale = config, ()
    of_rows = [word for row in rows for word in row.overrides]
    for word in (*words, *scale, *before, *of_rows):
        key = word.lstrip("-").partition("=")[0]
        require(
            key not in ("seed", "name"),
            f"{key} is not for a sweep's overrides, which names and seeds its runs "
            f"itself; use --seeds=[0,1,2], or change {path}.",
        )
    seeds = _list(seeds) if seeds else fields.get("seeds", [0])
    if not (isinstance(seeds, list) and seeds and all(type(s) is int for s in seeds)):
        raise ConfigError(
            f"seeds={seeds} of sweep {path} must be a list of whole numbers; use for "
            "instance [0, 1, 2]."
        )
    parts = {"rows": rows, "seeds": tuple(seeds), "scale": scale}
    return Sweep(**{**fields, **parts, "overrides": before + words})


def dump_sweep(sweep: Sweep) -> str:
    """YAML that `load_sweep` reads back to an equal `Sweep`."""
    tree = dataclasses.asdict(sweep)
    for mapping in (tree, *tree["rows"]):
        for key, value in mapping.items():
            mapping[key] = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(tree, sort_keys=False)


def _list(text):
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _row(tree, where):
    fields = dict(_mapping(tree, where, Row))
    words = _words(fields.get("overrides", []), f"overrides of {where}")
    for key in ("x", "published"):
        value = fields.get(key)
        require(
            value is None or type(value) in (int, float),
            f"{key}={value!r} of {where} is not a number; use one such as 60.6.",
        )
    factor = fields.get("epochs_factor", 1)
    require(
        type(factor) is int and factor > 0,
        f"epochs_factor={factor!r} of {where} is not a whole number from 1; use one "
        "such as 4.",
    )
    _check_texts(fields, ("series",), where)
    return Row(**{**fields, "name": str(fields["name"]), "overrides": words})


def _check_texts(fields, keys, where):
    for key in keys:
        value = fields.get(key)
        require(
            value is None or isinstance(value, str),
            f"{key}={value!r} of {where} is not text; put it in quotes.",
        )


def _mapping(tree, where, kind):
    if not isinstance(tree, dict):
        raise ConfigError(f"{where} holds {tree!r}; it needs keys such as {_EXAMPLE}.")
    known = {field.name: field for field in dataclasses.fields(kind)}
    for key in tree:
        if key not in known:
            raise ConfigError(
                f"{key} in {where} is not a known key; use {', '.join(known)}."
            )
    for key, field in known.items():
        if field.default is dataclasses.MISSING and key not in tree:
            raise ConfigError(f"{where} has no {key}; add one.")
    return tree


def _words(words, where):
    if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
        raise ConfigError(
            f"{where} must be a list of key=value; use for instance "
            "[method.temperature=0.1, train.epochs=5]."
        )
    return tuple(words)
