"""From a configuration to a finished run directory: the only wiring."""

from __future__ import annotations

import json
import logging
import pathlib
import shutil
import subprocess
import sys

import keras_cv
import numpy as np
import tensorflow as tf
from tensorflow import keras

from moco_tf import augment, callbacks, encoders, optimizers, report
from moco_tf.config import Config, ConfigError, Data, dump, load_config, validate
from moco_tf.data.pipeline import labelled_batches, steps_per_epoch, two_views
from moco_tf.data.sources import Source, open_source
from moco_tf.distribution import DistributionError, make_strategy
from moco_tf.evaluation import MonitorFeatures, knn_accuracy, linear_accuracy
from moco_tf.interchange.savedmodel import export_saved_model
from moco_tf.methods import MoCo

log = logging.getLogger("moco_tf")


def pretrain(config: Config, resume: pathlib.Path | None = None) -> dict:
    """Runs a pretraining to its end, or continues one from its last checkpoint.

    Args:
        config: the run; its directory is `config.run_dir`. A directory that holds a
            run of the same configuration is continued.
        resume: the run directory that the user named, which must hold a run.

    Returns:
        The closing figures: "knn" and "linear" accuracies (0 to 1) of "raw_pixels",
        "untrained" and "trained" features where there is a labelled set, and paths.

    Raises:
        ConfigError: if the configuration does not fit the machine or the directory.
        DataError: if the data cannot be had.
    """
    del resume  # parse_args has already made it the configuration's directory
    _set_up_log()
    try:
        strategy = make_strategy(config.distribution.replicas, config.distribution.gpus)
    except DistributionError as error:
        raise ConfigError(str(error)) from None
    replicas = strategy.num_replicas_in_sync
    validate(config, replicas)
    run_dir = _claim(config)
    keras.backend.clear_session()
    keras.utils.set_random_seed(config.seed)
    if config.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_global_policy(config.train.precision)
    try:
        return _run(config, strategy, run_dir)
    finally:
        keras.mixed_precision.set_global_policy("float32")


def _run(config, strategy, run_dir):
    source = _open(config.data, config)
    batch = config.train.batch_size
    steps = config.train.steps_per_epoch or steps_per_epoch(source, batch)
    with strategy.scope():
        model = build_model(config, steps, strategy.num_replicas_in_sync)
    _announce(config, source, steps, strategy)
    checkpoints = callbacks.Checkpoints(
        run_dir / "checkpoints",
        config.train.checkpoint_every,
        config.train.keep_checkpoints,
    )
    checkpoints.set_model(model)
    try:
        done = checkpoints.restore()
    except callbacks.RunError as error:
        raise ConfigError(str(error)) from error
    if done:
        log.info("Continuing after epoch %d of %d.", done, config.train.epochs)
    monitor = _monitor(config, model)
    history = callbacks.HistoryCSV(run_dir / "history.csv")
    baselines = _baselines(config, run_dir, model, monitor, history, done)
    dataset = _distributed(config, strategy, source, start_step=done * steps)
    progress = callbacks.Progress()
    progress.first_epoch = done
    watchers = [callbacks.TrainingHealth(batch), *(monitor.probes if monitor else [])]
    watchers += [
        history,
        callbacks.TensorBoard(
            run_dir / "tensorboard",
            views=_first_batch(config, source) if not done else None,
            config=config,
            features=monitor.features if monitor else None,
            images=monitor.images if monitor else None,
            class_names=monitor.class_names if monitor else (),
        ),
        checkpoints,
        progress,
        keras.callbacks.TerminateOnNaN(),
    ]
    if done < config.train.epochs:
        try:
            model.fit(
                dataset,
                epochs=config.train.epochs,
                initial_epoch=done,
                steps_per_epoch=steps,
                callbacks=watchers,
                verbose=0,
            )
        except callbacks.RunError as error:
            raise ConfigError(str(error)) from error
    return _finish(config, run_dir, model, monitor, baselines, history)


def build_model(config: Config, steps: int, replicas: int) -> MoCo:
    """Makes and compiles the model of a configuration; call it in a strategy's scope.

    Args:
        config: the run.
        steps: optimiser steps in an epoch.
        replicas: devices that share the batch.

    Raises:
        ConfigError: if the encoder's name is unknown.
    """
    recipe = getattr(augment, config.augment.recipe)
    model = MoCo(
        build_encoder(config),
        projection=config.method.projection,
        dim=config.method.dim,
        queue_size=config.method.queue_size,
        key_momentum=config.method.key_momentum,
        temperature=config.method.temperature,
        augment=recipe(
            channels=config.data.channels,
            mean=config.augment.mean,
            std=config.augment.std,
        ),
        bn_groups=config.bn_groups(replicas),
        mask_same_image=config.method.mask_same_image,
    )
    schedule = optimizers.make_schedule(
        config.optimizer.schedule,
        config.effective_learning_rate,
        epochs=config.train.epochs,
        steps_per_epoch=steps,
        milestones=config.optimizer.milestones,
        decay_factor=config.optimizer.decay_factor,
        per_epoch=config.optimizer.per_epoch,
        warmup_epochs=config.optimizer.warmup_epochs,
    )
    optimizer = optimizers.SGD(
        schedule, config.optimizer.momentum, config.optimizer.weight_decay
    )
    model.compile(optimizer, jit_compile=config.train.jit_compile)
    return model


def build_encoder(config: Config) -> keras.Model:
    """Makes the backbone of a configuration.

    Raises:
        ConfigError: if encoder.name is neither a ResNet of ours nor a KerasCV class.
    """
    name = config.encoder.name
    depth = name[len("resnet") :]
    channels = config.data.channels
    if name.startswith("resnet") and hasattr(encoders, f"ResNet{depth}"):
        return getattr(encoders, f"ResNet{depth}")(
            width=config.encoder.width,
            stem=config.encoder.stem,
            channels=channels,
            zero_init_residual=config.encoder.zero_init_residual,
        )
    backbone = getattr(keras_cv.models, name, None)
    if not (isinstance(backbone, type) and issubclass(backbone, keras.Model)):
        raise ConfigError(
            f"encoder.name={name!r} is unknown; use resnet18, resnet34, resnet50, "
            "resnet101, resnet152, or a KerasCV class such as EfficientNetV2B0Backbone."
        )
    try:
        # The recipe normalises, so KerasCV's own rescaling stays out.
        return backbone(include_rescaling=False, input_shape=(None, None, channels))
    except Exception as error:  # KerasCV fetches the settings of its named backbones
        reason = str(error).strip().splitlines()[0][:200]
        raise ConfigError(
            f"encoder.name={name!r} could not be made by KerasCV ({reason}); check the "
            "network, from which it fetches the settings, or use a resnet."
        ) from error


def _claim(config):
    """Makes the run directory, or checks that it holds this very run."""
    run_dir, path = config.run_dir, config.run_dir / "config.yaml"
    if path.exists():
        before = load_config(path)
        differing = [
            f"{key} was {old} and is {new}"
            for (key, old), (_, new) in zip(_leaves(before), _leaves(config))
            if old != new and key not in ("runs_dir", "name")
        ]
        if differing:
            raise ConfigError(
                f"{run_dir} holds a run of another configuration "
                f"({'; '.join(differing[:3])}); choose another --name, or continue "
                f"that run as it was with --resume {run_dir}."
            )
        return run_dir
    try:
        (run_dir / "report").mkdir(parents=True, exist_ok=True)
        path.write_text(dump(config))
    except OSError as error:
        raise ConfigError(
            f"the run directory {run_dir} cannot be written ({error.strerror}); "
            "choose another --runs_dir or --name."
        ) from None
    return run_dir


def _leaves(tree, prefix=""):
    for name, value in sorted(vars(tree).items()):
        if hasattr(value, "__dataclass_fields__"):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _open(data: Data, config: Config, labelled: bool | None = None) -> Source:
    return open_source(
        data.source,
        data.split,
        name=data.name,
        data_dir=data.data_dir,
        manual_dir=data.manual_dir,
        labelled=labelled,
        channels=config.data.channels,
        max_unreadable=data.max_unreadable,
    )


def _two_views(config, source, **kwargs):
    data = config.data
    return two_views(
        source,
        batch_size=config.train.batch_size,
        image_size=data.image_size,
        channels=data.channels,
        crop_scale=data.crop_scale,
        crop_ratio=data.crop_ratio,
        seed=config.seed,
        shuffle_buffer=data.shuffle_buffer,
        cache=data.cache,
        parallel_calls=data.decode_threads,
        **kwargs,
    )


def _first_batch(config, source):
    return next(iter(_two_views(config, source)))


def _distributed(config, strategy, source, start_step):
    """The stream of batches, cut among replicas, and among hosts if several."""
    hosts = getattr(strategy.extended, "_num_workers", 1)
    if hosts == 1:
        return _two_views(config, source, start_step=start_step)

    def of_host(context):
        shards = (context.num_input_pipelines, context.input_pipeline_id)
        batches = _two_views(config, source, start_step=start_step, shards=shards)
        share = config.train.batch_size // context.num_replicas_in_sync
        return batches.rebatch(share, drop_remainder=True)

    return strategy.distribute_datasets_from_function(of_host)


class _Monitor:
    """The labelled sets, their probes, and the test images for pictures."""

    def __init__(self, config, model):
        train = _open(config.monitor_train, config, labelled=True)
        test = _open(config.monitor_test, config, labelled=True)
        self.class_names = test.class_names
        self.batches = [
            labelled_batches(
                source,
                batch_size=config.monitor.batch_size,
                image_size=config.data.image_size,
                channels=config.data.channels,
                max_examples=most,
            )
            for source, most in (
                (train, config.monitor.max_train),
                (test, config.monitor.max_test),
            )
        ]
        self.features = MonitorFeatures(*self.batches, preprocess=model.normalise)
        every = config.monitor.every
        knn = callbacks.KNN(
            self.features, every, config.monitor.knn_k, config.monitor.knn_temperature
        )
        self.probes = [knn]
        if config.monitor.linear:
            self.probes.append(callbacks.LinearProbe(self.features, every))
        images = [batch["image"].numpy() for batch in self.batches[1].take(8)]
        self.images = np.concatenate(images)


def _monitor(config, model):
    if not config.monitor.every:
        return None
    return _Monitor(config, model)


def _baselines(config, run_dir, model, monitor, history, done):
    """Accuracies on raw pixels and of the untrained encoder, measured once."""
    path = run_dir / "report" / "baselines.json"
    if monitor is None:
        return {}
    if path.exists() and done:
        return json.loads(path.read_text())
    log.info("Measuring raw pixels and the untrained encoder first.")
    train, test = (_pixels(batches) for batches in monitor.batches)
    arguments = (train[0], train[1], test[0], test[1])
    raw = {
        "knn": knn_accuracy(
            *arguments,
            k=min(config.monitor.knn_k, len(train[0])),
            temperature=config.monitor.knn_temperature,
        )
    }
    untrained = {}
    for probe in monitor.probes:
        probe.set_model(model)
        untrained[probe.name] = probe.measure()
    if config.monitor.linear:
        raw["linear"] = linear_accuracy(*arguments)
    baselines = {"raw_pixels": raw, "untrained": untrained}
    path.write_text(json.dumps(baselines, indent=2))
    history.add(0, untrained)
    return baselines


def _pixels(batches):
    """Images as vectors of 32 x 32 pixels at most, and their labels."""
    images, labels = [], []
    for batch in batches:
        image = tf.cast(batch["image"], tf.float32)
        if image.shape[1] > 32:
            image = tf.image.resize(image, (32, 32), antialias=True)
        images.append(tf.reshape(image / 255 - 0.5, (image.shape[0], -1)).numpy())
        labels.append(batch["label"].numpy())
    return np.concatenate(images), np.concatenate(labels)


def _announce(config, source, steps, strategy):
    replicas = strategy.num_replicas_in_sync
    groups = config.bn_groups(replicas)
    log.info(
        "%s: %s images, %d epochs of %d steps of %d images on %d replica%s, %s.",
        config.name,
        f"{source.num_examples:,}",
        config.train.epochs,
        steps,
        config.train.batch_size,
        replicas,
        "s" * (replicas > 1),
        config.train.precision,
    )
    log.info(
        "Learning rate %.4g (%.4g for a batch of 256, scaled linearly).",
        config.effective_learning_rate,
        config.optimizer.learning_rate,
    )
    if groups > 1:
        text = "Batch norm in %d groups per replica; keys shuffled over them."
        log.info(text, groups)
    elif replicas > 1:
        log.info("Batch norm per replica; keys shuffled over replicas (ShuffleBN).")
    if config.method.queue_size > source.num_examples:
        log.warning(
            "The queue (method.queue_size=%d) is larger than the data set (%d images), "
            "so it holds older keys of the query's own image, false negatives; make it "
            "smaller, or set method.mask_same_image=true.",
            config.method.queue_size,
            source.num_examples,
        )


def _finish(config, run_dir, model, monitor, baselines, history):
    report_dir = run_dir / "report"
    encoders.batchnorm.share_statistics(model)
    normalise = model.augment.layers[-1]
    size = config.data.image_size
    export_saved_model(
        model.encoder,
        run_dir / "saved_model",
        image_size=size,
        resize=int(size * 256 / 224) if size >= 64 else size,
        mean=normalise.mean,
        std=normalise.std,
        channels=config.data.channels,
        provenance={
            "recipe": config.name,
            "data": config.data.name or config.data.source,
            "epochs": config.train.epochs,
            "git_revision": _revision(),
        },
    )
    figures = dict(baselines)
    raw = baselines.get("raw_pixels", {})
    if history.path.exists():
        report.plot_history(
            history.path,
            report_dir / "curves.png",
            negatives=config.method.queue_size,
            raw_knn=raw.get("knn"),
            raw_linear=raw.get("linear"),
            title=config.name,
        )
    artefacts = {
        "encoder (SavedModel)": run_dir / "saved_model",
        "curves": report_dir / "curves.png",
    }
    if monitor is not None:
        last = history.read()[-1]
        figures["trained"] = {
            probe.name: float(last[probe.name]) for probe in monitor.probes
        }
        _, test = monitor.features.get(model.encoder, int(model.optimizer.iterations))
        shown = len(monitor.images)
        artefacts["nearest neighbours"] = report.neighbour_gallery(
            monitor.images,
            test.features[:shown],
            test.labels[:shown],
            monitor.class_names,
            report_dir / "neighbours.png",
        )
    artefacts["figures per epoch"] = history.path
    artefacts["TensorBoard"] = run_dir / "tensorboard"
    (report_dir / "summary.json").write_text(json.dumps(figures, indent=2))
    titles = (
        ("raw_pixels", "raw pixels"),
        ("untrained", "untrained encoder"),
        ("trained", "trained encoder"),
    )
    rows = [
        (title, figures[key].get("knn"), figures[key].get("linear"))
        for key, title in titles
        if key in figures
    ]
    print(
        report.closing_table(
            rows,
            {what: str(where) for what, where in artefacts.items()},
            {"watch the curves": f"tensorboard --logdir {run_dir / 'tensorboard'}"},
        )
    )
    return {**figures, "run_dir": str(run_dir)}


def _revision():
    git = shutil.which("git")
    if git is None:
        return "unknown"
    folder = pathlib.Path(__file__).parent
    words = [git, "-C", str(folder), "rev-parse", "HEAD"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _set_up_log():
    if not log.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False  # or a root handler would print each line again
    tf.get_logger().setLevel("ERROR")
    logging.getLogger("absl").setLevel("ERROR")
