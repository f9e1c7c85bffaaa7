"""Whose a run directory is: one configuration's, one process's, one data set's."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import logging
import os
import pathlib
import socket
from collections.abc import Iterator

from moco_tf.callbacks import RunError
from moco_tf.config import Config, ConfigError, dump
from moco_tf.config.identity import other_run
from moco_tf.data.sources import Source
from moco_tf.paths import is_remote

try:
    import fcntl
except ImportError:  # Windows, where no lock is taken
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("moco_tf")


@contextlib.contextmanager
def claimed(config: Config) -> Iterator[pathlib.Path]:
    """Holds the run directory of a configuration, made where it is missing.

    The system drops the lock with the process, however that ends.

    Raises:
        ConfigError: if it holds another run, is held by another process, or cannot be
            written.
    """
    run_dir = config.run_dir
    _refuse_other_run(config)
    try:
        (run_dir / "report").mkdir(parents=True, exist_ok=True)
        lock = None if is_remote(run_dir) else open(run_dir / ".lock", "a+")
    except OSError as error:
        raise _unwritable(run_dir, error) from None
    with lock or contextlib.nullcontext():
        if lock is None:
            log.info("%s is on a file system without locks.", run_dir)
        else:
            _take(lock, run_dir)
        try:
            write_whole(run_dir / "config.yaml", dump(config))
        except OSError as error:
            raise _unwritable(run_dir, error) from None
        yield run_dir


def _take(lock, run_dir):
    if fcntl is None:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        raise ConfigError(
            f"{run_dir} is being trained by {holder}; wait until that ends, or choose "
            "another --name."
        ) from None
    except OSError as error:  # a file system without locks
        log.info("%s is not locked (%s).", run_dir, error.strerror)
    lock.truncate(0)
    since = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    lock.write(f"process {os.getpid()} on {socket.gethostname()} since {since}")
    lock.flush()


def _unwritable(run_dir, error):
    return ConfigError(
        f"the run directory {run_dir} cannot be written ({error.strerror}); choose "
        "another --runs_dir or --name."
    )


def _refuse_other_run(config):
    run_dir = config.run_dir
    differing = other_run(config)
    if not differing:
        return
    longer = ""
    if [difference.partition(" ")[0] for difference in differing] == ["train.epochs"]:
        # The schedule has reached its end, so it cannot simply go on.
        longer = (
            " To train on from its weights with a schedule of its own, add "
            f"--train.start_from={run_dir} and another --name."
        )
    raise ConfigError(
        f"{run_dir} holds a run of another configuration "
        f"({'; '.join(differing[:3])}); choose another --name or --runs_dir, "
        f"or continue that run as it was with --resume {run_dir}.{longer}"
    )


@dataclasses.dataclass(frozen=True)
class DataSeen:
    """What a run was trained on, as `data.json` beside its configuration keeps it."""

    images: int
    steps_per_epoch: int
    origin: str


def check_data(run_dir: pathlib.Path, source: Source, steps: int, done: int) -> None:
    """Refuses other images than those that a run to be continued was trained on.

    Args:
        run_dir: of the run.
        source: the images now.
        steps: in an epoch now.
        done: epochs behind the run; of one that starts, the images are written down.

    Raises:
        RunError: the images are others, so that the place in the data, the ids and the
            schedule would no longer fit.
    """
    path = run_dir / "data.json"
    now = DataSeen(source.num_examples, steps, source.origin)
    try:
        before = DataSeen(**json.loads(path.read_text())) if done else now
    except (OSError, ValueError, TypeError):  # of version 0.1, or lost
        before = now
    if before != now:
        found = f"now there are {now.images}"
        if before.images == now.images:
            found = "now they have other names or sizes"
        raise RunError(
            f"the run in {run_dir} was trained on {before.images} images in "
            f"{before.steps_per_epoch} steps an epoch, and {found}, so its schedule "
            "and its place in the data would no longer fit; bring the former images "
            f"back, or train on from its weights by --train.start_from={run_dir} and "
            "another --name."
        )
    write_whole(path, json.dumps(dataclasses.asdict(now), indent=2) + "\n")


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a text beside its place and moves it there, replacing a former one."""
    staging = path.with_suffix(".tmp")
    staging.write_text(text)
    staging.replace(path)
