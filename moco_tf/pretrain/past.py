"""What a run has behind it: its history, and the checkpoint that it goes on from."""

from __future__ import annotations

import logging
import pathlib
from dataclasses import dataclass

import tensorflow as tf

from moco_tf import callbacks
from moco_tf.config import Config
from moco_tf.config.identity import is_finished
from moco_tf.exchange import of_hosts, together
from moco_tf.methods import ContrastiveModel
from moco_tf.paths import to_path
from moco_tf.pretrain.claim import check_data
from moco_tf.pretrain.images import Images
from moco_tf.stops import Asked

log = logging.getLogger("moco_tf")


@dataclass(frozen=True)
class Past:
    """What lies behind.

    Attributes:
        epochs: trained so far, all in the model.
        step: of the epoch after these, in the model too.
        history: a row for each epoch.
        checkpoints: the callback that writes them at the ends of epochs.
        within: the callback that writes them within epochs.
        first_weights: another run's checkpoint, where this one starts from that.
    """

    epochs: int
    step: int
    history: callbacks.HistoryCSV
    checkpoints: callbacks.Checkpoints
    within: callbacks.WithinEpoch
    first_weights: str | None

    @property
    def is_untrained(self) -> bool:
        """Whether nothing lies behind."""
        return not (self.epochs or self.step)

    def start(self) -> None:
        """Takes over the weights of another run, where a run is to start from them."""
        if self.first_weights:
            self.checkpoints.start_from(self.first_weights)
            log.info("Starting from the weights in %s.", self.first_weights)


def restore(
    config: Config,
    strategy: tf.distribute.Strategy,
    run_dir: pathlib.Path,
    model: ContrastiveModel,
    images: Images,
    asked: Asked,
) -> Past:
    """Brings the model to where the run stopped, on all hosts alike.

    Args:
        config: the run.
        strategy: whose hosts agree.
        run_dir: where the run is.
        model: as built.
        images: which must be those that the run began with.
        asked: what the process has been asked.

    Raises:
        DataError: the images have changed since.
        RunError: a checkpoint cannot be read, or work would be lost.
    """
    train, folder = config.train, run_dir / "checkpoints"
    checkpoints = callbacks.Checkpoints(
        folder, train.checkpoint_every, train.keep_checkpoints
    )
    within = callbacks.WithinEpoch(folder, train.checkpoint_minutes, asked)
    for saving in (checkpoints, within):
        saving.set_model(model)
    history = callbacks.HistoryCSV(run_dir / "history.csv")
    trained = history.epochs()
    if trained <= train.checkpoint_every and not is_finished(config):
        trained = 0  # it stopped before its first checkpoint, and may start again
    with together(strategy):
        epoch, step = max((checkpoints.newest(), 0), within.newest())
    steps = images.steps
    done = _steps_done(strategy, epoch * steps + step, trained * steps, steps)
    epoch, step = divmod(done, steps)
    with together(strategy):
        check_data(run_dir, images.source, steps, done)
        if step or within.has(epoch, 0):
            within.restore(epoch, step)
        else:
            checkpoints.restore(epoch)
    if done:
        place = f"step {step:,} of epoch {epoch + 1}" if step else f"epoch {epoch}"
        log.info("Continuing after %s of %d.", place, train.epochs)
    first_weights = None
    if train.start_from and not done:
        folder = to_path(train.start_from) / "checkpoints"
        first_weights = callbacks.newest_checkpoint(folder)
    return Past(epoch, step, history, checkpoints, within, first_weights)


def _steps_done(strategy, saved, trained, steps):
    """After which step the run goes on, on all hosts the same.

    Args:
        strategy: whose hosts compare.
        saved: steps that this host's newest checkpoint has behind it.
        trained: those of this host's history after which there was a checkpoint.
        steps: of an epoch.

    Raises:
        RunError: on all hosts alike, where work would be lost.
    """
    saved, trained = of_hosts(strategy, saved), of_hosts(strategy, trained)
    # A host that died before another one saved lacks that checkpoint.
    done = min(saved)
    if done or not max(*saved, *trained, 0):
        return done
    lacking = [str(i) for i, epoch in enumerate(saved) if not epoch]
    where = f" of host {', '.join(lacking)}" if len(saved) > 1 else ""
    lost = max(*saved, *trained) // steps
    raise callbacks.RunError(
        f"the run has trained {lost} epochs, but the checkpoints"
        f"{where} are gone, and starting again would overwrite what is left; put them "
        "back, or start anew under another --name."
    )
