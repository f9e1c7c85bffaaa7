"""`evaluate.py tables`: a finished sweep beside the paper's figures."""

from __future__ import annotations

import json
import logging
import pathlib
import statistics
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from moco_tf.config import ConfigError, load_config
from moco_tf.config.sweep import Row, Sweep, load_sweep
from moco_tf.evaluation.results.output import (
    mean_and_spread,
    results_folder,
    summary,
    text_table,
    write_results,
)
from moco_tf.evaluation.results.pictures import Panel, by_number, by_row
from moco_tf.evaluation.results.settings import Tables
from moco_tf.log import say
from moco_tf.shell import command

log = logging.getLogger("moco_tf")


def run(settings: Tables, paths: Sequence[pathlib.Path]) -> dict:
    """Makes a table and a picture of each sweep.

    Args:
        settings: which figure to show, and where to write.
        paths: folders of sweeps, as `train.py --sweep` leaves them.

    Returns:
        Sweep's name -> what its results.json holds.

    Raises:
        ConfigError: a path is no sweep, none of its runs has the figure, or nowhere
            to write.
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
            f"{command('train', '--sweep', 'ablation')}."
        )
    sweep = load_sweep(file)
    folder = results_folder(path / "table", settings.out)
    finished = [_finished(path, row, sweep) for row in sweep.rows]
    rows = [
        _row(row, of_row, settings.figure) for row, of_row in zip(sweep.rows, finished)
    ]
    if not any(row["runs"] for row in rows):
        known = {name for of_row in finished for name in _figures(of_row)}
        remedy = f"use --figure={sorted(known)[0]}" if known else "finish the sweep"
        raise ConfigError(
            f"no finished run of {path} has {settings.figure}; {remedy}, or run it "
            "with monitor.every above 0 and its probe on."
        )
    document = {
        "protocol": "tables",
        "title": sweep.title,
        "figure": settings.figure,
        "source": sweep.source,
        "data": _data(path, sweep),
        "rows": rows,
    }
    drawn = picture(sweep, rows, settings.figure, document["data"])
    write_results(folder, document, rows, {"table": drawn})
    text = [
        [
            row["row"],
            str(row["runs"]),
            mean_and_spread(_shares(of_row, settings.figure)),
            _number(row["published"], 100, ".1f"),
            _number(row["images_per_second"], 1, ",.0f"),
            _number(row["peak_memory_mib"], 1 / 1024, ".2f"),
        ]
        for row, of_row in zip(rows, finished)
    ]
    heads = ["row", "runs", f"{settings.figure}, %", "published, %", "images/s", "GiB"]
    say(f"{sweep.title}; {document['data']}\n")
    say(text_table(heads, text))
    if sweep.source:
        say(f"\npublished: {sweep.source}")
    print(f"\nWritten to {folder}.")
    return document


def _finished(path: pathlib.Path, row: Row, sweep: Sweep) -> list[dict]:
    """What each seed's run left, where it is finished."""
    found = []
    for seed in sweep.seeds:
        file = path / f"{row.name}-seed{seed}" / "report" / "summary.json"
        try:
            found.append(json.loads(file.read_text()))
        except (OSError, ValueError):  # absent or broken: the sweep makes it anew
            log.warning("%s is not finished and left out.", file.parent.parent)
    return found


def _figures(runs: list[dict]) -> set[str]:
    return {name for run in runs for name in run.get("trained", {})}


def _shares(runs: list[dict], figure: str) -> list[float]:
    """The figure, 0 to 1, of the runs that measured it."""
    trained = [run.get("trained", {}) for run in runs]
    return [figures[figure] for figures in trained if figure in figures]


def _row(row, runs, figure):
    found = summary(_shares(runs, figure))
    return {
        "row": row.name,
        "series": row.series,
        "x": row.x,
        "runs": found["count"],
        "mean": found["mean"],
        "std": found["std"],
        "published": None if row.published is None else row.published / 100,
        "images_per_second": _typical(runs, "images_per_second"),
        "peak_memory_mib": _typical(runs, "peak_memory_mib"),
        "overrides": " ".join(row.overrides),
    }


def _costs(runs, key):
    values = [run.get("cost", {}).get(key) for run in runs]
    return [value for value in values if value is not None]


def _typical(runs, key):
    values = _costs(runs, key)
    return statistics.median(values) if values else None


def _data(path, sweep):
    """What the rows have in common, in words."""
    files = [
        path / f"{row.name}-seed{seed}" / "config.yaml"
        for row in sweep.rows
        for seed in sweep.seeds
    ]
    configs = [load_config(file) for file in files if file.is_file()]
    data, encoder = configs[0].data, configs[0].encoder
    epochs = sorted({config.train.epochs for config in configs})
    width = f" of width {encoder.width}" if encoder.name.startswith("resnet") else ""
    return (
        f"{data.name or data.source} {data.split}, {encoder.name}{width}, "
        f"{' or '.join(map(str, epochs))} epoch{'s' * (epochs != [1])}"
    )


def picture(sweep: Sweep, rows: Sequence[dict], figure: str, data: str) -> Figure:
    """Draws what a sweep has measured beside what was published.

    Args:
        sweep: its rows.
        rows: of the table, as results.csv has them.
        figure: the accuracy that they give.
        data: what the rows have in common, in words.
    """

    def panel(title, key, factor, spreads=None, **kind):
        values, spreads = (
            np.array([_float(row[name]) if name else np.nan for row in rows]) * factor
            for name in (key, spreads)
        )
        return Panel(title, values, spreads, **kind)

    panels = [panel(f"{figure}, measured here, %", "mean", 100, "std")]
    if any(row.published is not None for row in sweep.rows):
        panels.append(panel("published, %", "published", 100, is_published=True))
    if sweep.cost:
        panels.append(panel("images/s", "images_per_second", 1, is_cost=True))
        memory = panel("peak memory, GiB", "peak_memory_mib", 1 / 1024, is_cost=True)
        panels.append(memory)
    counts = sorted({int(row["runs"]) for row in rows if int(row["runs"])})
    below = f"{data}; {' or '.join(map(str, counts))} seed{'s' * (counts != [1])} a row"
    if counts != [1]:
        below += ", mean and standard deviation"
    if sweep.x_label is None:
        return by_row([row.name for row in sweep.rows], panels, sweep.title, below)
    points = []
    for row in sweep.rows:
        assert row.x is not None  # load_sweep wants it beside an x_label
        points.append((row.series or sweep.name, row.x))
    return by_number(points, panels, sweep.x_label, sweep.title, below)


def _float(value):
    return np.nan if value in (None, "") else float(value)


def _number(value, factor, style):
    return "-" if value is None else format(factor * value, style)
