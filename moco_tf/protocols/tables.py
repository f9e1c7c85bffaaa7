"""`evaluate.py tables`: a finished sweep beside the paper's figures."""

from __future__ import annotations

import json
import logging
import pathlib
from collections.abc import Sequence

from matplotlib.figure import Figure

from moco_tf.config import ConfigError, load_config
from moco_tf.config.protocols import Tables
from moco_tf.config.sweep import Row, Sweep, load_sweep
from moco_tf.protocols.figures import dots, lines
from moco_tf.protocols.output import (
    mean_and_spread,
    summary,
    text_table,
    write_results,
)

log = logging.getLogger("moco_tf")


def run(settings: Tables, paths: Sequence[pathlib.Path]) -> dict:
    """Makes a table and a picture of each sweep.

    Args:
        settings: which figure to show, and where to write.
        paths: folders of sweeps, as `train.py --sweep` leaves them.

    Returns:
        Sweep's name -> what its results.json holds.

    Raises:
        ConfigError: a path is no sweep, or none of its runs has the figure.
    """
    if settings.out and len(paths) > 1:
        raise ConfigError(
            f"out={settings.out} is one folder for {len(paths)} sweeps; leave it out, "
            "or name one sweep at a time."
        )
    return {str(path): _table(settings, path) for path in paths}


def _table(settings, path):
    file = path / "sweep.yaml"
    if not file.is_file():
        raise ConfigError(
            f"{path} holds no sweep.yaml, so it is not a sweep; run one with "
            "train.py --sweep configs/sweeps/ablation.yaml."
        )
    sweep = load_sweep(file)
    measured = [_measured(path, row, sweep, settings.figure) for row in sweep.rows]
    if not any(measured):
        raise ConfigError(
            f"no run of {path} has {settings.figure}; finish the sweep, with "
            "monitor.every above 0."
        )
    rows = [_row(row, shares) for row, shares in zip(sweep.rows, measured)]
    document = {
        "protocol": "tables",
        "title": sweep.title,
        "figure": settings.figure,
        "source": sweep.source,
        "data": _data(path, sweep),
        "rows": rows,
    }
    folder = pathlib.Path(settings.out) if settings.out else path / "table"
    write_results(folder, document, rows, {"table": _picture(sweep, measured)})
    text = [
        [row.name, str(len(shares)), mean_and_spread(shares), _number(row.published)]
        for row, shares in zip(sweep.rows, measured)
    ]
    print(f"{sweep.title}; {document['data']}\n")
    print(text_table(["row", "runs", f"{settings.figure}, %", "published, %"], text))
    if sweep.source:
        print(f"\npublished: {sweep.source}")
    print(f"\nWritten to {folder}.")
    return document


def _measured(path: pathlib.Path, row: Row, sweep: Sweep, figure: str) -> list[float]:
    """The row's figure, 0 to 1, of each seed whose run is finished."""
    shares = []
    for seed in sweep.seeds:
        summary = path / f"{row.name}-seed{seed}" / "report" / "summary.json"
        if not summary.is_file():
            log.warning("%s is not finished and left out.", summary.parent.parent)
            continue
        trained = json.loads(summary.read_text()).get("trained", {})
        shares += [trained[figure]] if figure in trained else []
    return shares


def _row(row, shares):
    found = summary(shares)
    return {
        "row": row.name,
        "series": row.series,
        "x": row.x,
        "runs": found["count"],
        "mean": found["mean"],
        "std": found["std"],
        "published": None if row.published is None else row.published / 100,
        "overrides": " ".join(row.overrides),
    }


def _data(path, sweep):
    config = load_config(
        path / f"{sweep.rows[0].name}-seed{sweep.seeds[0]}/config.yaml"
    )
    encoder = config.encoder
    return (
        f"{config.data.name or config.data.source}, {encoder.name} of width "
        f"{encoder.width}, {config.train.epochs} epochs"
    )


def _picture(sweep: Sweep, measured) -> Figure:
    published = [row.published for row in sweep.rows]
    panels = {"measured here, %": [[100 * s for s in shares] for shares in measured]}
    if any(value is not None for value in published):
        panels["published, %"] = [[] if v is None else [v] for v in published]
    if sweep.x_label is None:
        return dots([row.name for row in sweep.rows], panels)
    return lines(
        [(row.series or sweep.name, row.x) for row in sweep.rows], panels, sweep.x_label
    )


def _number(value):
    return "-" if value is None else f"{value:.1f}"
