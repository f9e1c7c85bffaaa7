"""What a person sees while a run trains."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from moco_tf import log
from moco_tf.report.bars import Bars

# The columns of pretraining.
CONTRAST = {"loss": "loss", "top1": "own key"}
SPEED = {"images_per_second": "images/s"}


class Progress(Bars):
    """A table with a row for each epoch, and between rows what a person waits for.

    That is bars with the time left on a terminal, and elsewhere, as in a file, a line
    every minute.

    Args:
        bars: whether to draw bars; None draws them when stderr is a terminal.
        columns: name in the logs -> head of its column; None shows the loss and "own
            key", the share of queries whose own key is nearer than all negatives (a
            method's "top1"), and the speed. Figures are shares but for these and
            losses.
    """

    last_update_time: float  # of Bars, which has no types

    def __init__(
        self, bars: bool | None = None, columns: Mapping[str, str] | None = None
    ):
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
        self.columns = {**CONTRAST, **SPEED} if columns is None else columns
        self.first_epoch = self.first_step = 0

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Opens the bar of epochs and prints the heads of the table."""
        super().on_train_begin(logs)
        if self.overall_progress_tqdm is not None:
            self.overall_progress_tqdm.update(self.first_epoch)
        self._start = self._said = time.monotonic()
        self._trained = 0
        self._print(self._row("epoch", self.columns.values(), "left"))

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Opens the bar of steps."""
        self._epoch = epoch
        self.steps_to_update = 0
        if self.show_epoch_progress:
            self.epoch_progress_tqdm = self.tqdm(
                total=self.params["steps"],
                initial=self.first_step if epoch == self.first_epoch else 0,
                bar_format=self.epoch_bar_format,
                leave=False,
                dynamic_ncols=True,
                unit=" steps",
            )

    def on_batch_end(self, batch: int, logs: dict) -> None:
        """Moves the bar of steps, or prints a line when its minute has come."""
        self._trained += 1
        self.steps_to_update += 1
        if not self.show_epoch_progress:
            if time.monotonic() - self._said >= log.HEARTBEAT:
                self._beat(batch + 1, logs)
            return
        now = time.time()
        if now - self.last_update_time >= self.update_interval:
            self.epoch_progress_tqdm.set_description_str(
                self._brief(logs), refresh=False
            )
            self.epoch_progress_tqdm.update(self.steps_to_update)
            self.steps_to_update, self.last_update_time = 0, now

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Closes the bar of steps and prints the epoch's row."""
        if self.show_epoch_progress:
            self.epoch_progress_tqdm.close()
        cells = [_shown(name, logs.get(name)) for name in self.columns]
        total = self.params["epochs"]
        place = f"{epoch + 1:{len(str(total))}}/{total}"
        self._print(self._row(place, cells, self._left()))
        if self.show_overall_progress:
            self.overall_progress_tqdm.update(1)

    def _row(self, place, cells, left):
        total = len(str(self.params["epochs"]))
        widths = [max(9, 2 + len(head)) for head in self.columns.values()]
        cells = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths))
        return f"{place:>{max(5, 2 * total + 1)}}{cells}{left:>10}"

    def _beat(self, step, logs):
        self._said = time.monotonic()
        total, steps = self.params["epochs"], self.params["steps"]
        words = [f"step {step:,}/{steps:,}" if steps else f"step {step:,}"]
        words += [self._brief(logs), f"{self._left()} left"]
        place = f"{self._epoch + 1:{len(str(total))}}/{total}"
        self._print(f"  in {place}: {', '.join(filter(None, words))}")

    def _left(self):
        """Time to the run's end, at the pace so far, probes and all."""
        steps = self.params["steps"]
        if not steps or not self._trained:
            return "-"
        all_steps = (self.params["epochs"] - self.first_epoch) * steps
        all_steps -= self.first_step
        elapsed = time.monotonic() - self._start
        left = (all_steps - self._trained) * elapsed / self._trained
        return self.tqdm.format_interval(left)

    def _brief(self, logs):
        """What the logs have of the columns, in a few words."""
        known = {name: head for name, head in self.columns.items() if name in logs}
        words = [f"{head} {_shown(name, logs[name])}" for name, head in known.items()]
        return ", ".join(words)

    def _print(self, line):
        self.tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()


def _shown(name, value):
    if value is None:
        return "-"
    if name == "images_per_second":
        return f"{float(value):,.0f}"
    return f"{float(value):.3f}" if "loss" in name else f"{100 * float(value):.1f} %"
