"""Runs a sweep's rows one after the other, each in a process of its own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pathlib
import sys

from moco_tf.config import Config, ConfigError, load_config
from moco_tf.config.sweep import Sweep, dump_sweep

log = logging.getLogger("moco_tf")


def run_sweep(sweep: Sweep) -> pathlib.Path:
    """Runs what is not finished yet; started again, it continues where it stopped.

    Args:
        sweep: all of its configurations are checked before the first one runs.

    Returns:
        The folder that holds the runs and sweep.yaml.

    Raises:
        ConfigError: if a configuration is wrong, or a run fails.
    """
    runs = sweep.runs()
    folder = runs[0][1].run_dir.parent
    for number, (_, config) in enumerate(runs, 1):
        print(f"[{number}/{len(runs)}] {config.run_dir}", flush=True)
        if is_finished(config):
            print("finished before", flush=True)
            continue
        process = multiprocessing.get_context("spawn").Process(
            target=_pretrain, args=(config,)
        )
        process.start()
        try:
            process.join()
        except KeyboardInterrupt:
            process.join()  # it was interrupted too, and says so
            raise
        if process.exitcode:
            raise ConfigError(
                f"run {config.run_dir} ended with code {process.exitcode}; mend what "
                "it says above and start the same sweep again to go on from there."
            )
        (folder / "sweep.yaml").write_text(dump_sweep(sweep))
    (folder / "sweep.yaml").write_text(dump_sweep(sweep))
    return folder


def is_finished(config: Config) -> bool:
    """Whether the run directory holds this very run, at its end."""
    run_dir = config.run_dir
    finished = (run_dir / "report" / "summary.json").is_file()
    return finished and load_config(run_dir / "config.yaml") == config


def _pretrain(config):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Not in the parent: a fresh TensorFlow for each run, and memory that is its own.
    from moco_tf.pretrain import MISTAKES, pretrain

    try:
        pretrain(config)
    except MISTAKES as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
