"""Checkpoints from which a run continues as if it had never stopped."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import re
from collections.abc import Callable, Iterator

import tensorflow as tf
from tensorflow import keras

from moco_tf.mistakes import Mistake, reason
from moco_tf.paths import remove, to_path

log = logging.getLogger("moco_tf")


class RunError(Mistake):
    """A run cannot go on, told in one sentence."""


class Checkpoints(keras.callbacks.Callback):
    """Saves everything that a run needs to continue, at the ends of epochs.

    The method's parts (MoCo's: both encoders with their batch-norm statistics, the
    queue with its cursor), the optimiser with its step (and with it the schedule and
    the position in the data) and the loss scale of float16.

    Args:
        folder: of the checkpoints.
        every: epochs between checkpoints; the last epoch is always saved.
        keep: newest checkpoints kept.
    """

    def __init__(self, folder: str | os.PathLike, every: int = 1, keep: int = 2):
        super().__init__()
        self.folder = to_path(folder)
        self.every = every
        self.keep = keep

    def set_model(self, model: keras.Model) -> None:
        """Makes the manager of a compiled model's checkpoints."""
        if self.model is model:
            return
        super().set_model(model)
        self.epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        state = tf.train.Checkpoint(
            **model.parts(), optimizer=model.optimizer, epoch=self.epoch
        )
        self._state = state
        _list_again(self.folder)
        self._manager = tf.train.CheckpointManager(
            state, str(self.folder), max_to_keep=self.keep, checkpoint_name="epoch"
        )

    def newest(self) -> int:
        """How many epochs the newest whole checkpoint has behind it; 0 without one.

        A damaged one, of which a line tells, is passed over.

        Raises:
            RunError: if there are checkpoints and none is whole.
        """
        return _newest_whole(self.folder)

    def restore(self, epoch: int | None = None) -> int:
        """Restores a checkpoint, if there is one.

        Args:
            epoch: which; None is the newest, 0 restores none.

        Returns:
            How many epochs it has behind it; 0 without one.

        Raises:
            RunError: if the checkpoint is missing, of another model, or unreadable.
        """
        epoch = self.newest() if epoch is None else epoch
        if not epoch:
            return 0
        path = str(self.folder / f"epoch-{epoch}")
        restore(self._state.restore, path)
        return int(self.epoch.numpy())

    def start_from(self, path: str) -> None:
        """Gives the model the weights of another run, the optimiser nothing.

        Args:
            path: of a checkpoint, as `newest_checkpoint` gives it.

        Raises:
            RunError: if it is of another model or unreadable.
        """
        restore(
            tf.train.Checkpoint(**self.model.parts()).restore,
            path,
            what="to start from ",
            remedy="use the encoder and the method of its run",
        )

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Saves when its turn has come."""
        done = epoch + 1
        if done % self.every and done != self.params["epochs"]:
            return
        self.epoch.assign(done)
        kept = self._manager.latest_checkpoint or "no earlier checkpoint"
        with whole_or_none(
            self.folder / f"epoch-{done}",
            f"the checkpoint of epoch {done} could not be written to {self.folder}",
            f"{kept} is kept",
        ):
            self._manager.save(checkpoint_number=done)


def newest_checkpoint(folder: str | os.PathLike) -> str:
    """Path of the newest whole checkpoint in a folder; a RunError without one."""
    epoch = _newest_whole(to_path(folder))
    if not epoch:
        raise RunError(
            f"{folder} holds no checkpoint to start from; name a run directory that "
            "has trained for an epoch at least, such as runs/demo."
        )
    return str(to_path(folder) / f"epoch-{epoch}")


def _newest_whole(folder):
    epochs = sorted(_epochs(folder), reverse=True)
    for epoch in epochs:
        if is_whole(folder / f"epoch-{epoch}"):
            return epoch
    if epochs:
        raise RunError(
            f"none of the checkpoints in {folder} can be read, so the run cannot go "
            "on; put whole ones back, or start it anew under another --name."
        )
    return 0


def _epochs(folder):
    """Epochs of the checkpoints in a folder, whatever its list of them says."""
    names = [path.name for path in folder.glob("epoch-*.index")]
    return [int(match[1]) for n in names if (match := re.match(r"epoch-(\d+)\.", n))]


def _list_again(folder):
    """Writes TensorFlow's list of the checkpoints where it is lost or broken."""
    epochs = sorted(_epochs(folder))
    if not epochs or tf.train.get_checkpoint_state(str(folder)) is not None:
        return
    paths = [f"epoch-{epoch}" for epoch in epochs]
    tf.compat.v1.train.update_checkpoint_state(str(folder), paths[-1], paths)


def is_whole(path: pathlib.Path) -> bool:
    """Whether a checkpoint can be read to its end, checksums too; a line if not."""
    try:
        reader = tf.compat.v1.train.NewCheckpointReader(str(path))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (ValueError, IndexError, RuntimeError, tf.errors.OpError) as error:
        log.warning(
            "The checkpoint %s is damaged (%s) and passed over.", path, reason(error)
        )
        return False
    return True


@contextlib.contextmanager
def whole_or_none(path: pathlib.Path, failure: str, kept: str) -> Iterator[None]:
    """Takes away what a checkpoint has left that could not be written to its end.

    Args:
        path: of the checkpoint.
        failure: what failed, for the sentence.
        kept: what is left to go on from, for the sentence.

    Raises:
        RunError: if it could not be written, or the run directory is gone.
    """
    if not path.parent.parent.is_dir():  # TensorFlow would make it, for this file alone
        raise RunError(
            f"{path.parent.parent} has been removed while the run was in it; put it "
            "back where it was moved, or start the run anew."
        )
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        # TensorFlow gathers the parts in a folder before it moves them.
        for ending in (".*", "_temp*"):
            for part in path.parent.glob(path.name + ending):
                remove(part)
        raise RunError(
            f"{failure} ({reason(error)}); {kept}: make room and start the same "
            "command again to continue."
        ) from error


def restore(
    read: Callable,
    path: str,
    remedy: str = "use the run's own configuration, or another name for a new run",
    what: str = "",
) -> None:
    """Restores all objects of a state; a checkpoint may hold more than these.

    Args:
        read: the state's `restore`, or `read` for what its `write` wrote.
        path: of the checkpoint.
        remedy: what to do where it does not fit, for the sentence.
        what: what the checkpoint is for, for the sentence.

    Raises:
        RunError: if it is of another model or unreadable, with the remedy.
    """
    try:
        status = read(path).expect_partial()
        status.assert_existing_objects_matched()
    except (ValueError, IndexError, AssertionError, tf.errors.OpError) as error:
        raise RunError(
            f"the checkpoint {path} {what}does not fit this model or is damaged "
            f"({reason(error)}); {remedy}."
        ) from error
