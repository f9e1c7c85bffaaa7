"""TensorFlow Addons' progress bars, and the same bars where Addons does not run."""

from __future__ import annotations

import time
import warnings

from tensorflow import keras
from tqdm.auto import tqdm

__all__ = ["Bars"]


class _PlainBars(keras.callbacks.Callback):
    """The part of Addons' `TQDMProgressBar` that `Progress` builds on.

    Args:
        show_epoch_progress: whether to draw a bar of steps in each epoch.
        show_overall_progress: whether to draw a bar of epochs.
        leave_epoch_progress: whether that of steps stays when it is full.
        leave_overall_progress: whether that of epochs does.
        epoch_bar_format: of the bar of steps, in tqdm's terms.
        overall_bar_format: of the bar of epochs.
        update_per_second: how often the bar of steps moves at most.
    """

    def __init__(
        self,
        show_epoch_progress: bool,
        show_overall_progress: bool,
        leave_epoch_progress: bool,
        leave_overall_progress: bool,
        epoch_bar_format: str,
        overall_bar_format: str,
        update_per_second: int,
    ):
        super().__init__()
        self.tqdm = tqdm
        self.show_epoch_progress = show_epoch_progress
        self.show_overall_progress = show_overall_progress
        self.leave_epoch_progress = leave_epoch_progress
        self.leave_overall_progress = leave_overall_progress
        self.epoch_bar_format = epoch_bar_format
        self.overall_bar_format = overall_bar_format
        self.update_interval = 1 / update_per_second
        self.last_update_time = time.time()
        self.overall_progress_tqdm: tqdm | None = None
        self.epoch_progress_tqdm: tqdm | None = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Opens the bar of epochs."""
        if self.show_overall_progress:
            self.overall_progress_tqdm = self.tqdm(
                desc="Training",
                total=self.params["epochs"],
                bar_format=self.overall_bar_format,
                leave=self.leave_overall_progress,
                dynamic_ncols=True,
                unit="epochs",
            )

    def on_train_end(self, logs: dict | None = None) -> None:
        """Closes the bar of epochs."""
        if self.overall_progress_tqdm is not None:
            self.overall_progress_tqdm.close()


try:
    with warnings.catch_warnings():
        # TensorFlow Addons announces its end of life at each import.
        warnings.simplefilter("ignore")
        from tensorflow_addons.callbacks import TQDMProgressBar as Bars
except ImportError:  # it has no release for the current lane
    Bars = _PlainBars
