"""Runs a sweep's rows one after the other, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import pathlib
import sys

from moco_tf.cluster import find_cluster
from moco_tf.config import ConfigError
from moco_tf.config.checks import check_places
from moco_tf.config.identity import is_finished, other_run
from moco_tf.config.sweep import Sweep, dump_sweep
from moco_tf.log import import_tensorflow
from moco_tf.mistakes import Mistake
from moco_tf.stops import CTRL_C, TRY_AGAIN, Stopped, listening


def run_sweep(sweep: Sweep) -> pathlib.Path:
    """Runs what is not finished yet; started again, it continues where it stopped.

    A run that fails (a key momentum of 0 may diverge) does not keep the others from
    running.

    Args:
        sweep: all of its configurations are checked before the first one runs.

    Returns:
        The folder that holds the runs and sweep.yaml.

    Raises:
        ConfigError: if a configuration is wrong or its directory holds another run,
            or, at the end, if runs have failed.
    """
    runs = sweep.runs()
    folder = runs[0][1].run_dir.parent
    for _, config in runs:
        check_places(config)
        if differing := other_run(config):
            raise ConfigError(
                f"{config.run_dir} holds a run of another configuration "
                f"({'; '.join(differing[:3])}), and a table of both would compare "
                "what is not the same; choose another --runs_dir for this sweep, or "
                "remove that run."
            )
    failed = []
    for number, (_, config) in enumerate(runs, 1):
        print(f"[{number}/{len(runs)}] {config.run_dir}", flush=True)
        # Hosts go through all runs in step: none sees what another one lacks.
        if is_finished(config) and find_cluster() is None:
            print("finished before", flush=True)
        elif code := _in_process(config):
            failed.append(f"{config.name} with code {code}")
            continue
        (folder / "sweep.yaml").write_text(dump_sweep(sweep))
    if failed:
        raise ConfigError(
            f"{len(failed)} of {len(runs)} runs in {folder} have failed "
            f"({', '.join(failed)}); each says above why. Mend that and start the same "
            "sweep again, which runs only these, or go on without them."
        )
    return folder


def _in_process(config):
    """Runs a configuration in a process of its own; its exit code."""
    process = multiprocessing.get_context("spawn").Process(
        target=_pretrain, args=(config,)
    )
    with listening():
        process.start()
        try:
            process.join()
        except Stopped as stop:
            if stop.code == TRY_AGAIN:  # Ctrl-C has reached it too
                process.terminate()
            process.join()  # it saves, and says so
            raise
    if process.exitcode in (TRY_AGAIN, CTRL_C):
        raise Stopped(process.exitcode)
    return process.exitcode


def _pretrain(config):
    import_tensorflow()
    # Not in the parent: a fresh TensorFlow for each run, and memory that is its own.
    from moco_tf.pretrain import pretrain

    try:
        pretrain(config, guide=False)
    except Mistake as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stop:
        sys.exit(stop.code)
