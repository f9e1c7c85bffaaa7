"""What is known of a run from its directory, whoever asks and whenever."""

from __future__ import annotations

import csv
import json
import math
import pathlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moco_tf.config import Config, ConfigError, load_config
from moco_tf.paths import is_remote
from moco_tf.report.health import diagnose
from moco_tf.report.history import PROBES

try:
    import fcntl
except ImportError:  # Windows, where no lock is taken
    fcntl = None  # type: ignore[assignment]

# Where the page has its pictures from, in the run's report folder.
PARTS = "page"
_SIGNS = ("loss", "loss_ceiling", "top1", "feature_std", "effective_rank", "input_wait")


@dataclass(frozen=True)
class Measured:
    """What a protocol has found of the run's encoder.

    Attributes:
        name: its folder's, such as "linear_cached".
        figures: name -> share, 0 to 1.
        remark: a sentence where they should not be taken at face value; may be empty.
    """

    name: str
    figures: dict[str, float]
    remark: str


@dataclass(frozen=True)
class Facts:
    """A run, as its directory has it.

    Attributes:
        folder: the run directory.
        name: its own.
        config: None where config.yaml is lost or cannot be read.
        columns: of history.csv, each with a number for each row, None where a cell is
            empty or not finite; "epoch" is the first, and has them all.
        baselines: "raw_pixels" and "untrained" -> probe -> accuracy.
        closing: what summary.json holds; empty until the run is finished.
        images: that it learns from; None where that is not noted.
        steps: of an epoch; None where that is not noted.
        measured: by evaluate.py.
        started: when it first trained, in seconds since 1970; None where unknown.
        newest: when its last row was written; None without one.
        has_diverged: whether its loss was not finite.
    """

    folder: pathlib.Path
    name: str
    config: Config | None
    columns: dict[str, list[float | None]]
    baselines: dict[str, dict[str, float]]
    closing: dict[str, Any]
    images: int | None
    steps: int | None
    measured: Sequence[Measured]
    started: float | None
    newest: float | None
    has_diverged: bool

    @property
    def epochs(self) -> int:
        """Those trained so far."""
        return int(max((epoch or 0 for epoch in self.columns["epoch"]), default=0))

    @property
    def wanted(self) -> int | None:
        """Epochs in all; None without a configuration."""
        return None if self.config is None else self.config.train.epochs

    @property
    def is_finished(self) -> bool:
        """Whether the run has come to its end."""
        return bool(self.closing)

    @property
    def is_begun(self) -> bool:
        """Whether its encoder had weights from elsewhere before training."""
        return self.config is not None and self.config.encoder.weights is not None

    @property
    def epoch_images(self) -> int:
        """Images that an epoch trains on; 0 where that is not known."""
        if self.steps is None or self.config is None:
            return self.images or 0
        return self.steps * self.config.train.batch_size

    @property
    def accuracies(self) -> dict[str, float]:
        """The newest of each probe, of the encoder in training; {} before the first."""
        trained = [row for row, epoch in enumerate(self.columns["epoch"]) if epoch]
        found = {}
        for name in PROBES:
            values = self.columns.get(name, [])
            for row in trained if values else ():
                if (value := values[row]) is not None:
                    found[name] = value
        return found or self.closing.get("trained", {})

    def last(self, column: str) -> float | None:
        """The newest figure of a column; None where it has none."""
        values = [v for v in self.columns.get(column, ()) if v is not None]
        return values[-1] if values else None

    def first(self, column: str) -> float | None:
        """The figure of epoch 0, of the encoder before training; None without one."""
        rows = zip(self.columns["epoch"], self.columns.get(column, ()))
        return next((value for epoch, value in rows if epoch == 0), None)


def read_facts(folder: pathlib.Path, config: Config | None = None) -> Facts:
    """Reads a run directory; what is missing or damaged there is left out.

    Args:
        folder: the run directory.
        config: of the run; None reads config.yaml.
    """
    report = folder / "report"
    data = _json(folder / "data.json")
    history = folder / "history.csv"
    return Facts(
        folder=folder,
        name=folder.resolve().name,
        config=_config(folder) if config is None else config,
        columns=_columns(history),
        baselines=_json(report / "baselines.json"),
        closing=_json(report / "summary.json"),
        images=data.get("images"),
        steps=data.get("steps_per_epoch"),
        measured=_measured(report),
        started=_started(folder / "tensorboard"),
        newest=history.stat().st_mtime_ns / 1e9 if history.is_file() else None,
        has_diverged=(report / "not_finite.json").is_file(),
    )


def is_run(folder: pathlib.Path) -> bool:
    """Whether a folder is a run directory that has trained, or begun to."""
    return (folder / "config.yaml").is_file() and (folder / "history.csv").is_file()


def is_under_way(folder: pathlib.Path) -> bool:
    """Whether a process of this machine trains there, as far as can be told."""
    lock = folder / ".lock"
    if fcntl is None or is_remote(folder) or not lock.is_file():
        return False
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    return False


def signs(facts: Facts) -> dict[str, tuple[str, int, int]]:
    """What `TrainingHealth` says of a run, from its whole history.

    Args:
        facts: of the run.

    Returns:
        topic -> the sentence of the first epoch that showed it, that epoch, and the
        last one; empty where nothing unusual was seen.
    """
    found: dict[str, tuple[str, int, int]] = {}
    for row, epoch in enumerate(facts.columns["epoch"]):
        if not epoch:  # of before training
            continue
        logs = {name: math.nan for name in _SIGNS}
        for name, values in facts.columns.items():
            if (value := values[row]) is not None:
                logs[name] = value
        for topic, sentence in diagnose(logs, int(epoch) - 1).items():
            said, since, _ = found.get(topic, (sentence, int(epoch), 0))
            found[topic] = (said, since, int(epoch))
    return found


def _config(folder):
    try:
        return load_config(folder / "config.yaml")
    except (ConfigError, OSError, ValueError):
        return None


def _json(path):
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _columns(path):
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError:
        rows = []
    rows = [row for row in rows if _number(row.get("epoch")) is not None]
    names = dict.fromkeys(["epoch", *(rows[0] if rows else ())])
    return {name: [_number(row.get(name)) for row in rows] for name in names if name}


def _number(cell):
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _measured(report):
    if not report.is_dir():
        return []
    found = []
    for folder in sorted(report.iterdir()):
        results = _json(folder / "results.json")
        if isinstance(figures := results.get("figures"), dict) and figures:
            remark = results.get("warning") or ""
            found.append(Measured(folder.name, figures, remark))
    return found


def _started(board):
    """When TensorBoard's first file was begun, which its name says."""
    if not board.is_dir():
        return None
    names = [path.name for path in board.glob("events.out.tfevents.*")]
    stamps = [re.match(r"events\.out\.tfevents\.(\d{9,11})\.", name) for name in names]
    return min((float(found[1]) for found in stamps if found), default=None)
