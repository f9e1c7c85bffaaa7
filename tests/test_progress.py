"""The table of epochs, the lines between its rows, and the width of both."""

import logging
import os
import re
import subprocess
import sys

import pytest
import tensorflow as tf
from commands import ROOT
from tiny import noise_batches, small_encoder

import moco_tf
from moco_tf import log
from moco_tf.callbacks import Progress, TrainingHealth
from moco_tf.optimizers import SGD
from moco_tf.report import progress

COLUMNS = {**progress.CONTRAST, "linear": "linear", **progress.SPEED}


class Linear(tf.keras.callbacks.Callback):
    """A probe that measures every other epoch."""

    def on_epoch_end(self, epoch, logs):
        if epoch % 2:
            logs["linear"] = 1.0


def shown(capsys, epochs=3, steps=4, **settings):
    model = moco_tf.MoCo(small_encoder(), dim=4, queue_size=32, bn_groups=2)
    model.compile(SGD(0.01))
    watchers = [TrainingHealth(32), Linear(), Progress(**settings)]
    model.fit(noise_batches(steps), epochs=epochs, verbose=0, callbacks=watchers)
    return capsys.readouterr()


@pytest.mark.parametrize("bars", [False, True])
def test_each_epoch_is_a_row_of_a_table(bars, capsys):
    heads, *rows = shown(capsys, columns=COLUMNS, bars=bars).out.splitlines()
    assert heads.split() == "epoch loss own key linear images/s left".split()
    number = r"\d+\.\d %|-"
    row = rf" *(\d)/3 +\d+\.\d{{3}} +({number}) +({number}) +[\d,]+ +([\d:]+)"
    # Where an earlier test has set the log up, warnings stand between the rows.
    rows = [line for line in rows if re.match(r" *\d/3 ", line)]
    found = [re.fullmatch(row, line) for line in rows]
    assert [match[1] for match in found] == ["1", "2", "3"], rows
    assert [match[3] for match in found] == ["-", "100.0 %", "-"]
    assert found[-1][4] == "00:00"
    assert len({len(line) for line in (heads, *rows)}) == 1


def test_table_of_a_long_run_with_all_probes_fits_80_columns():
    table = Progress(bars=False, columns={**COLUMNS, "knn": "kNN"})
    table.set_params({"epochs": 1000, "steps": 5004})
    table.set_model(None)
    cells = ["123.456", "100.0 %", "100.0 %", "123,456", "100.0 %"]
    row = table._row("1000/1000", cells, "123:00:00")
    assert len(row) <= 80
    assert re.split(" {1,}(?!%)", row)[1:] == [*cells, "123:00:00"]


def test_file_gets_a_line_when_a_minute_is_over(capsys, monkeypatch):
    monkeypatch.setattr(log, "HEARTBEAT", 0.0)
    lines = shown(capsys, epochs=2, bars=False).out.splitlines()
    beats = [line for line in lines if line.startswith("  in ")]
    assert len(beats) == 2 * 4
    beat = r"  in 1/2: step 2/4, loss \d\.\d{3}, own key \d+\.\d %, [\d:]+ left"
    assert re.fullmatch(beat, beats[1]), beats[1]
    monkeypatch.setattr(log, "HEARTBEAT", 60.0)
    assert "  in " not in shown(capsys, bars=False).out


def test_time_left_counts_what_a_resumed_run_has_still_to_do(monkeypatch):
    clock = iter([0.0, 10.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    table = Progress(bars=False)
    table.first_epoch = 3
    table.set_params({"epochs": 5, "steps": 10})
    table.on_train_begin()
    table._trained = 5
    assert table._left() == "00:30"  # 2 s a step, 15 of 20 steps left


def test_long_messages_are_wrapped_but_not_their_commands():
    command = "`" + "python train.py --resume runs/a " * 4 + "`"
    text = "word " * 30 + command
    lines = log._wrapped(text, 80).splitlines()
    assert command in lines and max(map(len, lines[:-1])) <= 80
    assert " ".join(lines) == text
    assert log._wrapped("  indented and short", 80) == "  indented and short"


def test_work_without_a_terminal_tells_a_line_a_minute(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("moco_tf"), "propagate", True)
    caplog.set_level(logging.INFO, "moco_tf")
    assert list(log.watched(range(3), "reading")) == [0, 1, 2]
    assert not caplog.messages
    monkeypatch.setattr(log, "HEARTBEAT", 0.0)
    assert list(log.watched(range(2000), "reading")) == list(range(2000))
    middle = re.compile(r"  reading: 1,000/2,000, [\d:]+ left")
    assert any(map(middle.fullmatch, caplog.messages))
    assert list(log.watched(iter("ab"), "spelling")) == ["a", "b"]
    assert caplog.messages[-1] == "  spelling: 2"
    caplog.clear()
    assert list(log.watched(range(3), None)) == [0, 1, 2]
    assert not caplog.messages


def test_libraries_are_quiet_but_python_is_heard(capfd):
    with log.quiet_libraries():
        os.write(2, b"from a library\n")
        print("from Python", file=sys.stderr)
    os.write(2, b"after\n")
    printed = capfd.readouterr().err
    assert "library" not in printed and "after" in printed
    script = (
        "import os, sys; from moco_tf import log\n"
        "with log.quiet_libraries():\n"
        "    os.write(2, b'from a library'); print('from Python', file=sys.stderr)\n"
        "print('end', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=ROOT)
    assert done.stderr == b"from Python\nend\n"
