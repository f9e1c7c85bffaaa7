"""The end of a run: what is exported, drawn and printed."""

from __future__ import annotations

import json
import pathlib
import shutil
import statistics
import subprocess

import tensorflow as tf

from moco_tf import callbacks, encoders, report
from moco_tf.config import Config
from moco_tf.data.sources import Source
from moco_tf.evaluation.knn.gallery import neighbour_gallery
from moco_tf.evaluation.unlabelled import NAMES
from moco_tf.interchange.savedmodel import export_encoder
from moco_tf.methods import ContrastiveModel
from moco_tf.paths import each_place, to_path
from moco_tf.pretrain.claim import write_whole
from moco_tf.pretrain.first_weights import noted_weights
from moco_tf.pretrain.watch import Watch
from moco_tf.report.commands import next_commands


def close(
    config: Config,
    model: ContrastiveModel,
    watched: Watch,
    history: callbacks.HistoryCSV,
    source: Source,
    guide: bool,
) -> dict:
    """Exports the encoder, draws the pictures and prints the closing table.

    Args:
        config: the run.
        model: trained.
        watched: what watched it.
        history: of all epochs.
        source: what it learnt from.
        guide: whether to print where things are and what to type next.

    Returns:
        The baselines and, under "trained", the same figures of the trained encoder.
    """
    run_dir = config.run_dir
    encoders.batchnorm.share_statistics(model)
    _export(config, model, source)
    monitor, baselines = watched.monitor, watched.baselines
    figures = dict(baselines)
    if monitor is not None:
        last = (history.read() or [{}])[-1]
        figures["trained"] = {
            probe.name: float(last.get(probe.name) or probe.measure())
            for probe in monitor.probes
        }
    page = watched.page.path
    artefacts = {
        **({"page, for a browser": page} if page.is_file() else {}),
        "encoder (SavedModel)": run_dir / "saved_model",
        **_pictures(config, model, watched.album, baselines, history),
        "figures per epoch": history.path,
        "TensorBoard": run_dir / "tensorboard",
    }
    document = {**figures, "quality": _quality(history), "cost": _cost(history)}
    # Last: it says the run is finished.
    write_whole(run_dir / "report" / "summary.json", json.dumps(document, indent=2))
    watched.page.finish()
    is_begun = config.encoder.weights is not None
    titles = {
        "raw_pixels": "raw pixels",
        "untrained": "encoder at the start" if is_begun else "untrained encoder",
        "trained": "trained encoder",
    }
    rows = [
        (title, figures[key].get("knn"), figures[key].get("linear"))
        for key, title in titles.items()
        if key in figures
    ]
    commands = next_commands(run_dir, source.num_examples, monitor is not None)
    table = report.closing_table(
        rows,
        artefacts if guide else {},
        commands if guide else {},
        report.below_untrained(figures, is_begun),
    )
    print(f"\n{table}" if table else "")
    return figures


def _export(config, model, source):
    noted = noted_weights(config.run_dir)
    export_encoder(
        model,
        config.run_dir / "saved_model",
        image_size=config.data.image_size,
        pixels=source.pixels,
        provenance={
            "recipe": config.name,
            "method": config.method.name,
            "data": _data_name(config),
            "images": source.num_examples,
            "epochs": config.train.epochs,
            **({"started_from": noted} if noted else {}),
            "git_revision": _revision(),
        },
    )


def _data_name(config):
    data = config.data
    if data.source == "folder":
        names = [to_path(place).resolve().name for place in each_place(data.data_dir)]
        return f"folder {', '.join(names)}"
    return data.name if data.source == "tfds" else data.source


def _pictures(config, model, album, baselines, history):
    folder = config.run_dir / "report"
    raw = baselines.get("raw_pixels", {})
    pictures = {}
    if history.read():
        pictures["curves"] = report.plot_history(
            history.path,
            folder / "curves.png",
            negatives=model.negatives(config.train.batch_size),
            raw_knn=raw.get("knn"),
            raw_linear=raw.get("linear"),
            title=config.name,
            is_begun=config.encoder.weights is not None,
        )
    images, labels = album.load()
    if len(images) > 1:
        pictures["nearest neighbours"] = neighbour_gallery(
            images,
            album.features(),
            labels,
            album.class_names,
            folder / "neighbours.png",
            file_names=album.file_names,
        )
    return pictures


def _quality(history):
    """The newest figures that need no labels; {} where none were measured."""
    rows = [row for row in history.read() if row.get(NAMES[0])]
    return {name: float(rows[-1][name]) for name in NAMES} if rows else {}


def _cost(history):
    """The usual speed of an epoch (None without one), and the most memory held, MiB.

    Read from the history, because a run that goes on may have trained in a process
    before this one.
    """
    # The row of the untrained encoder has neither.
    rows = [row for row in history.read() if row.get("images_per_second")]
    speeds = [float(row["images_per_second"]) for row in rows]
    peaks = [row.get("peak_memory_mib") for row in rows]
    peaks = [float(cell) for cell in peaks if cell]
    return {
        "images_per_second": round(statistics.median(speeds), 1) if speeds else None,
        "peak_memory_mib": round(max(peaks)) if peaks else None,
        "device": "GPU" if tf.config.list_logical_devices("GPU") else "CPU",
    }


def _revision():
    git = shutil.which("git")
    if git is None:
        return "unknown"
    folder = pathlib.Path(__file__).parent
    words = [git, "-C", str(folder), "describe", "--always", "--abbrev=40"]
    words += ["--exclude=*", "--dirty=+dirty"]  # no tags; changed since that commit
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
