"""What a person sees while a run trains."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from moco_tf.callbacks.bars import Bars

# Name in the logs -> head of its column.
_HEADS = {"loss": "loss", "top1": "own key", "knn": "kNN", "linear": "linear"}
_HEARTBEAT = 60.0  # seconds


class Progress(Bars):
    """A table with a row for each epoch, and between rows what a person waits for.

    That is bars with the time left on a terminal, and elsewhere, as in a file, a line
    every minute. The column "own key" is the share of queries whose own key is nearer
    than all negatives (the logs' "top1").

    Args:
        bars: whether to draw bars; None draws them when stderr is a terminal.
        probes: of "knn" and "linear", those that some epochs measure.
    """

    last_update_time: float  # of Bars, which has no types

    def __init__(self, bars: bool | None = None, probes: Sequence[str] = ()):
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
        self.probes = tuple(probes)
        self.first_epoch = 0

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Opens the bar of epochs and prints the heads of the table."""
        super().on_train_begin(logs)
        if self.overall_progress_tqdm is not None:
            self.overall_progress_tqdm.update(self.first_epoch)
        self._start = self._said = time.monotonic()
        self._trained = 0
        heads = [_HEADS[name] for name in self._columns()]
        self._print(self._row("epoch", heads, "images/s", "left"))

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Opens the bar of steps."""
        self._epoch = epoch
        self.steps_to_update = 0
        if self.show_epoch_progress:
            self.epoch_progress_tqdm = self.tqdm(
                total=self.params["steps"],
                bar_format=self.epoch_bar_format,
                leave=False,
                dynamic_ncols=True,
                unit=" steps",
            )

    def on_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Moves the bar of steps, or prints a line when its minute has come."""
        self._trained += 1
        self.steps_to_update += 1
        if not self.show_epoch_progress:
            if time.monotonic() - self._said >= _HEARTBEAT:
                self._beat(batch + 1, logs)
            return
        now = time.time()
        if now - self.last_update_time >= self.update_interval:
            self.epoch_progress_tqdm.set_description_str(_brief(logs), refresh=False)
            self.epoch_progress_tqdm.update(self.steps_to_update)
            self.steps_to_update, self.last_update_time = 0, now

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Closes the bar of steps and prints the epoch's row."""
        if self.show_epoch_progress:
            self.epoch_progress_tqdm.close()
        cells = [_shown(name, logs.get(name)) for name in self._columns()]
        speed = logs.get("images_per_second")
        speed = "-" if speed is None else f"{float(speed):,.0f}"
        total = self.params["epochs"]
        place = f"{epoch + 1:{len(str(total))}}/{total}"
        self._print(self._row(place, cells, speed, self._left()))
        if self.show_overall_progress:
            self.overall_progress_tqdm.update(1)

    def _columns(self):
        return [name for name in _HEADS if name in ("loss", "top1", *self.probes)]

    def _row(self, place, cells, speed, left):
        total = len(str(self.params["epochs"]))
        cells = "".join(f"{cell:>9}" for cell in cells)
        return f"{place:>{max(5, 2 * total + 1)}}{cells}{speed:>10}{left:>10}"

    def _beat(self, step, logs):
        self._said = time.monotonic()
        total, steps = self.params["epochs"], self.params["steps"]
        words = [f"step {step:,}/{steps:,}" if steps else f"step {step:,}"]
        words += [_brief(logs), f"{self._left()} left"]
        place = f"{self._epoch + 1:{len(str(total))}}/{total}"
        self._print(f"  in {place}: {', '.join(filter(None, words))}")

    def _left(self):
        """Time to the run's end, at the pace so far, probes and all."""
        steps = self.params["steps"]
        if not steps or not self._trained:
            return "-"
        all_steps = (self.params["epochs"] - self.first_epoch) * steps
        elapsed = time.monotonic() - self._start
        left = (all_steps - self._trained) * elapsed / self._trained
        return self.tqdm.format_interval(left)

    def _print(self, line):
        self.tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()


def _brief(logs):
    words = [f"{_HEADS[name]} {_shown(name, logs[name])}" for name in _HEADS
             if name in (logs or {})]  # fmt: skip
    return ", ".join(words)


def _shown(name, value):
    if value is None:
        return "-"
    return f"{float(value):.3f}" if name == "loss" else f"{100 * float(value):.1f} %"
