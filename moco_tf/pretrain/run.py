"""A run from its start, or from its last checkpoint, to its end."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import pathlib
import re

import tensorflow as tf
from tensorflow import keras

from moco_tf import callbacks
from moco_tf.config import Config, ConfigError, validate
from moco_tf.config.identity import is_finished
from moco_tf.data.pipeline import steps_per_epoch, two_views
from moco_tf.data.sources import DataError
from moco_tf.distribution import (
    DistributionError,
    hosts,
    local_replicas,
    make_strategy,
    of_hosts,
    together,
    worker_index,
)
from moco_tf.log import hide_first_compilation, set_up_log
from moco_tf.pretrain.announce import announce, announce_bank, announce_columns
from moco_tf.pretrain.board import board_pictures
from moco_tf.pretrain.build import build_model
from moco_tf.pretrain.claim import check_data, claimed
from moco_tf.pretrain.finish import close
from moco_tf.pretrain.monitor import Monitor, open_data, training_album
from moco_tf.report.progress import CONTRAST, SPEED

log = logging.getLogger("moco_tf")

_FILE_ERRORS = (
    tf.errors.ResourceExhaustedError,
    tf.errors.DataLossError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
)
_OUT_OF_MEMORY = re.compile(r"\bOOM\b|[Oo]ut of memory")
# Images whose two views TensorBoard shows.
_SHOWN = 16


def pretrain(config: Config, guide: bool = True) -> dict:
    """Runs a pretraining to its end, or continues one from its last checkpoint.

    Args:
        config: the run; its directory is `config.run_dir`. A directory that holds a
            run of the same configuration is continued. Of several workers (TF_CONFIG)
            the first one's is that, and the others' are worker-N inside of it.
        guide: whether to print at the end where things are and what to type next.

    Returns:
        The closing figures: "knn" and "linear" accuracies (0 to 1) of "raw_pixels",
        "untrained" and "trained" features where there is a labelled set, and paths.

    Raises:
        ConfigError: if the configuration does not fit the machine or the directory, or
            another process trains there.
        DataError: if the data cannot be had, or differ between hosts.
        DistributionError: if another host has stopped.
        RunError: if a checkpoint cannot be read or written, or the loss diverges.
        InterchangeError: if the encoder cannot be exported.
    """
    set_up_log()
    try:
        strategy = make_strategy(config.distribution.replicas, config.distribution.gpus)
    except DistributionError as error:
        raise ConfigError(str(error)) from None
    validate(config, strategy.num_replicas_in_sync, hosts(strategy))
    worker = worker_index()
    if worker:
        # Workers act in step, callbacks included, and each keeps files of its own.
        config = dataclasses.replace(
            config, runs_dir=str(config.run_dir), name=f"worker-{worker}"
        )
    with contextlib.ExitStack() as held:
        with together(strategy):
            run_dir = held.enter_context(claimed(config))
        return _claimed_run(config, strategy, run_dir, guide)


def _claimed_run(config, strategy, run_dir, guide):
    keras.backend.clear_session()
    keras.utils.set_random_seed(config.seed)
    if config.train.deterministic:
        # KerasCV's layers ask for it, and none is made once operations must agree.
        tf.random.set_global_generator(tf.random.Generator.from_seed(config.seed))
        tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_global_policy(config.train.precision)
    if config.augment.jit_compile or config.train.jit_compile:
        hide_first_compilation()
    try:
        return _run(config, strategy, run_dir, guide)
    except (OSError, *_FILE_ERRORS) as error:
        raise callbacks.RunError(_interrupted(error, run_dir)) from error
    except tf.errors.InvalidArgumentError as error:
        if not re.search(r"\{\{node \S*Decode", str(error)):
            raise
        raise callbacks.RunError(
            f"an image of the data set cannot be decoded ({_reason(error)}); replace "
            "it, or prepare the data set again, and start the same command again to "
            f"continue the run in {run_dir}."
        ) from error
    finally:
        keras.mixed_precision.set_global_policy("float32")


def _run(config, strategy, run_dir, guide):
    batch = config.train.batch_size
    with together(strategy):
        source = open_data(config.data, config)
        steps = config.train.steps_per_epoch or steps_per_epoch(source, batch)
    _require_same_data(strategy, source)
    announce_bank(config, source)  # before memory for it is taken
    with strategy.scope():
        model = build_model(
            config, steps, local_replicas(strategy), source.num_examples
        )
    announce(config, source, steps, strategy, model)
    checkpoints = callbacks.Checkpoints(
        run_dir / "checkpoints",
        config.train.checkpoint_every,
        config.train.keep_checkpoints,
    )
    checkpoints.set_model(model)
    history = callbacks.HistoryCSV(run_dir / "history.csv")
    trained = history.epochs()
    if trained <= config.train.checkpoint_every and not is_finished(config):
        trained = 0  # it stopped before its first checkpoint, and may start again
    with together(strategy):
        saved = checkpoints.newest()
    done = _epochs_done(strategy, saved, trained)
    with together(strategy):
        check_data(run_dir, source, steps, done)
        checkpoints.restore(done)
    if done:
        log.info("Continuing after epoch %d of %d.", done, config.train.epochs)
    with together(strategy):
        monitor = Monitor(config, model) if config.monitor.every else None
    album = monitor.album if monitor else training_album(config, source, model)
    first_weights = config.train.start_from if not done else None
    if first_weights:  # before minutes are spent on baselines
        folder = pathlib.Path(first_weights).expanduser() / "checkpoints"
        first_weights = callbacks.newest_checkpoint(folder)
    baselines = monitor.baselines(model, run_dir, resumed=done > 0) if monitor else {}
    if baselines and not done:
        history.add(0, baselines["untrained"])
    if first_weights:
        checkpoints.start_from(first_weights)
        log.info("Starting from the weights of %s.", config.train.start_from)
    dataset = _distributed(config, strategy, source, start_step=done * steps)

    def views_at(epochs):
        return _shown_views(config, source, epochs)

    probes = monitor.probes if monitor else []
    measured = {probe.name: probe.title for probe in probes}
    progress = callbacks.Progress(columns={**CONTRAST, **measured, **SPEED})
    progress.first_epoch = done
    watchers = [
        callbacks.FiniteLoss(),
        callbacks.TrainingHealth(batch),
        *probes,
        history,
        callbacks.TensorBoard(
            run_dir / "tensorboard",
            untrained=baselines.get("untrained"),
            pictures=board_pictures(config, model, monitor, album, views_at),
            every=config.monitor.every or max(1, config.train.epochs // 10),
            histograms=config.log.histograms,
            hyperparameters=config.hyperparameters,
            album=album,
        ),
        checkpoints,
        progress,
    ]
    if done < config.train.epochs:
        announce_columns(config, model)
        model.fit(
            dataset,
            epochs=config.train.epochs,
            initial_epoch=done,
            steps_per_epoch=steps,
            callbacks=watchers,
            verbose=0,
        )
    figures = close(
        config, model, monitor, album, baselines, history, source.num_examples, guide
    )
    return {**figures, "run_dir": str(run_dir)}


def _epochs_done(strategy, saved, trained):
    """After which epoch the run goes on, on all hosts the same.

    Args:
        strategy: whose hosts compare.
        saved: epochs that this host's newest checkpoint has behind it.
        trained: epochs of this host's history after which there was a checkpoint.

    Raises:
        RunError: on all hosts alike, where work would be lost.
    """
    saved, trained = of_hosts(strategy, saved), of_hosts(strategy, trained)
    # A host that died before another one saved lacks that epoch.
    done = min(saved)
    if done or not max(*saved, *trained, 0):
        return done
    lacking = [str(i) for i, epoch in enumerate(saved) if not epoch]
    where = f" of host {', '.join(lacking)}" if len(saved) > 1 else ""
    raise callbacks.RunError(
        f"the run has trained {max(*saved, *trained)} epochs, but the checkpoints"
        f"{where} are gone, and starting again would overwrite what is left; put them "
        "back, or start anew under another --name."
    )


def _require_same_data(strategy, source):
    """Refuses hosts with other images than the first's: ids would mean two images."""
    digest = int(hashlib.sha256(source.origin.encode()).hexdigest()[:7], 16)
    counts, digests = (of_hosts(strategy, n) for n in (source.num_examples, digest))
    others = [
        host
        for host, pair in enumerate(zip(counts, digests))
        if pair != (counts[0], digests[0])
    ]
    if others:
        found = f"{counts[0]} images and host {others[0]} {counts[others[0]]}"
        same = " of other names or sizes" * (counts[0] == counts[others[0]])
        raise DataError(
            f"the hosts read different data: host 0 has {found}{same}; give every host "
            "the same files."
        )


def _interrupted(error, run_dir):
    """One sentence on what stopped a run that was going well."""
    reason = _reason(error)
    if _OUT_OF_MEMORY.search(str(error)):
        return (
            f"the device's memory cannot hold a step ({reason}); use a smaller "
            "train.batch_size, train.precision=mixed_bfloat16 or more devices."
        )
    return (
        f"the run in {run_dir} could not read or write a file ({reason}); mend it, or "
        "make room, and start the same command again to go on from its last checkpoint."
    )


def _reason(error):
    """The line of an error that says most."""
    prefix = r"^\s*(\{\{.*?\}\}\s*|\(\d+\)\s*\w+:\s*)*"
    lines = [re.sub(prefix, "", line) for line in str(error).strip().splitlines()]
    telling = [line for line in lines if _OUT_OF_MEMORY.search(line)]
    # A graph's error says what happened just above where.
    telling += [line for line, place in zip(lines, lines[1:]) if "[[{{node" in place]
    return (telling or lines or [type(error).__name__])[0][:200].rstrip(".")


def _two_views(config, source, **changed):
    data = config.data
    arguments = {
        "batch_size": config.train.batch_size,
        "image_size": data.image_size,
        "channels": data.channels,
        "crop_scale": data.crop_scale,
        "crop_ratio": data.crop_ratio,
        "seed": config.seed,
        "shuffle_buffer": data.shuffle_buffer,
        "cache": data.cache,
        "parallel_calls": data.decode_threads,
        # Where batch norm is over the global batch their order is no matter.
        "shuffle_keys": getattr(config.method, "shuffle_keys", True),
    }
    return two_views(source, **{**arguments, **changed})


def _shown_views(config, source, epochs=0):
    # Not a batch of training: at 4096 x 224 x 224 that and its shuffle buffer are big.
    count = min(_SHOWN, config.train.batch_size)
    few = {"batch_size": count, "shuffle_buffer": 1, "cache": False}
    # The first batch of an epoch: to come to a later one, a stream reads all before it.
    start_step = epochs * steps_per_epoch(source, count)
    return next(iter(_two_views(config, source, start_step=start_step, **few)))


def _distributed(config, strategy, source, start_step):
    """The stream of batches, cut among replicas, and among hosts if several."""
    if hosts(strategy) == 1:
        return _two_views(config, source, start_step=start_step)

    def of_host(context):
        shards = (context.num_input_pipelines, context.input_pipeline_id)
        batches = _two_views(config, source, start_step=start_step, shards=shards)
        share = config.train.batch_size // context.num_replicas_in_sync
        return batches.rebatch(share, drop_remainder=True)

    return strategy.distribute_datasets_from_function(of_host)
