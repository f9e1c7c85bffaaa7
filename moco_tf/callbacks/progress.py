"""What a person sees while a run trains."""

from __future__ import annotations

import sys
import time

from moco_tf.callbacks.bars import Bars

_SHOWN = ("loss", "top1", "knn", "linear")


class Progress(Bars):
    """Bars with the time left on a terminal, and one line per epoch everywhere.

    Args:
        bars: whether to draw bars; None draws them when stderr is a terminal.
    """

    last_update_time: float  # of Bars, which has no types

    def __init__(self, bars: bool | None = None):
        bars = sys.stderr.isatty() if bars is None else bars
        super().__init__(
            show_epoch_progress=bars,
            show_overall_progress=bars,
            leave_epoch_progress=False,
            leave_overall_progress=False,
            epoch_bar_format="{n_fmt}/{total_fmt} {bar} {rate_fmt}, {remaining} left "
            "in epoch, {desc}",
            overall_bar_format="{bar} {n_fmt}/{total_fmt} epochs, {remaining} left",
            update_per_second=4,
        )
        # Tensors are turned into numbers a few times a second, not every step.
        self._supports_tf_logs = True
        self.first_epoch = 0

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Opens the bar of epochs."""
        super().on_train_begin(logs)
        if self.overall_progress_tqdm is not None:
            self.overall_progress_tqdm.update(self.first_epoch)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Opens the bar of steps."""
        self.steps_to_update = 0
        if self.show_epoch_progress:
            self.epoch_progress_tqdm = self.tqdm(
                total=self.params["steps"],
                bar_format=self.epoch_bar_format,
                leave=False,
                dynamic_ncols=True,
                unit="step",
            )

    def on_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Moves the bar of steps, a few times a second."""
        self.steps_to_update += 1
        now = time.time()
        due = now - self.last_update_time >= self.update_interval
        if self.show_epoch_progress and due:
            self.epoch_progress_tqdm.set_description_str(_line(logs), refresh=False)
            self.epoch_progress_tqdm.update(self.steps_to_update)
            self.steps_to_update, self.last_update_time = 0, now

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Closes the bar of steps and prints the epoch's line."""
        if self.show_epoch_progress:
            self.epoch_progress_tqdm.close()
        total = self.params["epochs"]
        line = f"epoch {epoch + 1:{len(str(total))}}/{total}  {_line(logs)}"
        if "loss_ceiling" in logs:
            line += f"  ceiling {float(logs['loss_ceiling']):.2f}"
        if "images_per_second" in logs:
            line += f"  {float(logs['images_per_second']):,.0f} images/s"
        self.tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
        if self.show_overall_progress:
            self.overall_progress_tqdm.update(1)


def _line(logs):
    words = []
    for name in _SHOWN:
        if name in logs:
            value = float(logs[name])
            shown = f"{value:.3f}" if name == "loss" else f"{100 * value:.1f} %"
            words.append(f"{name} {shown}")
    return "  ".join(words)
