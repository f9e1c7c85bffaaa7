"""What was measured of an encoder, as the files beside it tell."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from moco_tf.config import Config, load_config

# Protocols and the monitor's probes, and what a reader calls them.
TITLES = {
    "knn": "kNN",
    "linear": "linear classification",
    "fewshot": "few-shot classification",
    "finetune": "fine-tuning",
    "detect": "object detection",
    "segment": "segmentation",
    "rankme": "RankMe",
}


def figures_beside(place: Path, digest: str) -> list[dict]:
    """Figures of a run's history, and of results of these very weights.

    Args:
        place: a SavedModel's folder, alone or inside a run directory.
        digest: of its weights; results of others are left out.

    Returns:
        For each figure its "protocol", "name", "value", the "images" it was measured
        on, the "command" that gives it, and "is_share" (from 0 to 1) and a "warning"
        where it has them.
    """
    run_dir = place.parent
    is_run = place.name == "saved_model" and (run_dir / "config.yaml").is_file()
    found = _of_history(run_dir) if is_run else []
    for report in [*([run_dir / "report"] if is_run else []), place / "report"]:
        for folder in sorted(report.iterdir()) if report.is_dir() else []:
            found += _of_results(folder / "results.json", digest)
    return found


def merged(before: list[dict], now: list[dict]) -> list[dict]:
    """Both, without those of before that were measured again."""
    keys = {(one["name"], one["images"]) for one in now}
    return [one for one in before if (one["name"], one["images"]) not in keys] + now


def _of_history(run_dir: Path) -> list[dict]:
    """The newest figures of a run's own monitor."""
    try:
        config = load_config(run_dir / "config.yaml")
        with (run_dir / "history.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError):  # none, or not to be read any more
        return []
    found = []
    for name, (how, images) in _watched(config).items():
        measured = [row for row in rows if row.get(name) and int(row["epoch"])]
        if measured:
            row = measured[-1]
            found.append(
                {
                    "protocol": name,
                    "name": f"{how}, epoch {row['epoch']}",
                    "value": float(row[name]),
                    "is_share": name != "rankme",
                    "images": images,
                    "command": f"moco-tf train --config {run_dir.name}/config.yaml",
                }
            )
    return found


def _watched(config: Config) -> dict[str, tuple[str, str]]:
    """Columns of the history -> how they are measured, and on which images."""
    monitor, test = config.monitor, config.monitor_test
    some = f", {monitor.max_test:,} images" if monitor.max_test else ""
    labelled = f"{test.called} {test.split}{some}"
    vote = f"k {monitor.knn_k}, temperature {monitor.knn_temperature:g}"
    shown = config.log.quality_images or 0
    return {
        "knn": (f"kNN ({vote})", labelled),
        "linear": ("linear probe", labelled),
        "rankme": ("RankMe", f"{shown:,} of {config.data.called}, two views of each"),
    }


def _of_results(file: Path, digest: str) -> list[dict]:
    """The figures that a protocol has written, if they are of these weights."""
    try:
        results = json.loads(file.read_text())
        figures, protocol = results["figures"].items(), results["protocol"]
        if results["encoder"]["weights"] != digest:
            return []
        images = str(results.get("data_set") or "those of the command")
        if facts := results.get("data", {}).get("test"):
            images = f"{images} {facts['split']}, {facts['images']:,} images"
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return []  # another command's, or broken
    title = TITLES.get(protocol, protocol)
    if vote := results.get("vote"):
        title = f"{title} ({vote})"
    return [
        {
            "protocol": protocol,
            "name": f"{title}, {name}",
            "value": float(value),
            "is_share": True,
            "images": images,
            "command": results.get("command", f"moco-tf evaluate {protocol}"),
            "warning": results.get("warning"),
        }
        for name, value in figures
        if value is not None
    ]
