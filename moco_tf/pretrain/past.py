"""What a run has behind it: its history, and the checkpoint that it goes on from."""

from __future__ import annotations

import logging
import pathlib
from dataclasses import dataclass

import tensorflow as tf

from moco_tf import callbacks
from moco_tf.config import Config
from moco_tf.config.identity import is_finished
from moco_tf.distribution import of_hosts, together
from moco_tf.methods import ContrastiveModel
from moco_tf.pretrain.claim import check_data
from moco_tf.pretrain.images import Images

log = logging.getLogger("moco_tf")


@dataclass(frozen=True)
class Past:
    """What lies behind.

    Attributes:
        epochs: trained so far, all in the model.
        history: a row for each.
        checkpoints: the callback that writes them.
        first_weights: another run's checkpoint, where this one starts from that.
    """

    epochs: int
    history: callbacks.HistoryCSV
    checkpoints: callbacks.Checkpoints
    first_weights: str | None

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
) -> Past:
    """Brings the model to where the run stopped, on all hosts alike.

    Args:
        config: the run.
        strategy: whose hosts agree.
        run_dir: where the run is.
        model: as built.
        images: which must be those that the run began with.

    Raises:
        DataError: the images have changed since.
        RunError: a checkpoint cannot be read, or work would be lost.
    """
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
        check_data(run_dir, images.source, images.steps, done)
        checkpoints.restore(done)
    if done:
        log.info("Continuing after epoch %d of %d.", done, config.train.epochs)
    first_weights = None
    if config.train.start_from and not done:
        folder = pathlib.Path(config.train.start_from).expanduser() / "checkpoints"
        first_weights = callbacks.newest_checkpoint(folder)
    return Past(done, history, checkpoints, first_weights)


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
