"""A run from its start, or from its last checkpoint, to its end."""

from __future__ import annotations

import contextlib
import dataclasses
import re

import tensorflow as tf
from tensorflow import keras

from moco_tf import callbacks
from moco_tf.cluster import find_cluster
from moco_tf.config import Config, ConfigError, validate
from moco_tf.data.service import FAILED
from moco_tf.distribution import DistributionError, make_strategy
from moco_tf.exchange import hosts, local_replicas, lost_hosts_told, together
from moco_tf.log import hide_first_compilation, set_up_log
from moco_tf.mistakes import reason
from moco_tf.pretrain.announce import announce, announce_bank, announce_columns
from moco_tf.pretrain.build import build_model
from moco_tf.pretrain.claim import claimed
from moco_tf.pretrain.diverged import first_bad_batch_kept
from moco_tf.pretrain.finish import close
from moco_tf.pretrain.first_weights import take_first_weights
from moco_tf.pretrain.images import Images
from moco_tf.pretrain.page import page_kept
from moco_tf.pretrain.past import restore
from moco_tf.pretrain.stall import stalls_told
from moco_tf.pretrain.tracking import tracked
from moco_tf.pretrain.watch import watch
from moco_tf.stops import listening

_FILE_ERRORS = (
    tf.errors.ResourceExhaustedError,
    tf.errors.DataLossError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
)
_OUT_OF_MEMORY = r"\bOOM\b|[Oo]ut of memory"


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
        HostFailed: if another host has stopped.
        HostLost: if another host has died.
        RunError: if a checkpoint cannot be read or written, or the loss diverges.
        InterchangeError: if the encoder cannot be exported.
        Stopped: if the process was asked to stop, by Ctrl-C, SIGTERM or SIGUSR1; what
            is trained is saved, and the same call continues.
    """
    set_up_log()
    try:
        strategy = make_strategy(config.distribution.replicas, config.distribution.gpus)
    except DistributionError as error:
        raise ConfigError(str(error)) from None
    validate(config, strategy.num_replicas_in_sync, hosts(strategy))
    cluster = find_cluster()
    if cluster and cluster.index:
        # Workers act in step, callbacks included, and each keeps files of its own.
        config = dataclasses.replace(
            config, runs_dir=str(config.run_dir), name=f"worker-{cluster.index}"
        )
    with contextlib.ExitStack() as held:
        held.enter_context(lost_hosts_told(config.run_dir))
        with together(strategy):
            run_dir = held.enter_context(claimed(config))
        # After the strategy, which may take signals for itself.
        asked = held.enter_context(listening())
        page = held.enter_context(page_kept(config, run_dir))
        return _claimed_run(config, strategy, run_dir, asked, page, guide)


def _claimed_run(config, strategy, run_dir, asked, page, guide):
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
        return _run(config, strategy, run_dir, asked, page, guide)
    except (OSError, *_FILE_ERRORS) as error:
        raise callbacks.RunError(_interrupted(error, run_dir)) from error
    except tf.errors.InvalidArgumentError as error:
        if said := re.search(rf"{FAILED}.*", str(error)):
            raise callbacks.RunError(
                f"{said[0]}; its workers need the same images at the same "
                "paths. Mend that and start the same command again to continue the run "
                f"in {run_dir}."
            ) from error
        if not re.search(r"\{\{node \S*(Decode|ExtractJpegShape)", str(error)):
            raise
        raise callbacks.RunError(
            f"an image of the data set cannot be decoded ({reason(error)}); replace "
            "it, or prepare the data set again, and start the same command again to "
            f"continue the run in {run_dir}."
        ) from error
    finally:
        keras.mixed_precision.set_global_policy("float32")


def _run(config, strategy, run_dir, asked, page, guide):
    images = Images(config, strategy)
    announce_bank(config, images.source)  # before memory for it is taken
    with strategy.scope():
        replicas, examples = local_replicas(strategy), images.source.num_examples
        pixels = images.source.pixels
        model = build_model(config, images.steps, replicas, examples, pixels)
    announce(config, images.source, images.steps, strategy, model)
    past = restore(config, strategy, run_dir, model, images, asked)
    if past.is_untrained:
        take_first_weights(config, strategy, run_dir, model)
    with tracked(config, run_dir, past.epochs) as tracker:
        watched = watch(config, strategy, run_dir, model, images, past, page, tracker)
        past.start()
        with first_bad_batch_kept(run_dir, images):
            _fit(config, model, images, past, watched)
    figures = close(config, model, watched, past.history, images.source, guide)
    return {**figures, "run_dir": str(run_dir)}


def _fit(config, model, images, past, watched):
    if past.epochs == config.train.epochs:
        return
    announce_columns(config, model)
    with stalls_told(model, config.train.stall_minutes):
        model.fit(
            images.batches(past.epochs * images.steps + past.step),
            epochs=config.train.epochs,
            initial_epoch=past.epochs,
            steps_per_epoch=images.steps,
            callbacks=watched.callbacks,
            verbose=0,
        )
    past.within.stop_if_asked(config.train.epochs)


def _interrupted(error, run_dir):
    """One sentence on what stopped a run that was going well."""
    said = reason(error, _OUT_OF_MEMORY)
    if re.search(_OUT_OF_MEMORY, str(error)):
        return (
            f"the device's memory cannot hold a step ({said}); use a smaller "
            "train.batch_size, train.precision=mixed_bfloat16 or more devices."
        )
    return (
        f"the run in {run_dir} could not read or write a file ({said}); mend it, or "
        "make room, and start the same command again to go on from its last checkpoint."
    )
