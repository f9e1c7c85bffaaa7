"""A run that fails says why in one line, and what its end costs is counted."""

import pytest

import train
from moco_tf import callbacks
from moco_tf.callbacks import RunError
from moco_tf.config import Config, ConfigError
from moco_tf.data import DataError
from moco_tf.interchange import InterchangeError
from moco_tf.pretrain import finish, sweep


@pytest.mark.parametrize("kind", [ConfigError, DataError, InterchangeError, RunError])
def test_every_mistake_is_one_line_and_exit_code_2(kind, monkeypatch, capsys):
    def fail(config, guide=True):
        raise kind("what went wrong.")

    monkeypatch.setattr("moco_tf.pretrain.pretrain", fail)
    assert train.main([]) == 2
    with pytest.raises(SystemExit) as ended:
        sweep._pretrain(Config())
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: what went wrong.\n" * 2


@pytest.mark.parametrize(
    ("rows", "speed"),
    [
        ([], None),
        ([{"knn": 0.5}], None),
        ([{"knn": 0.5}, {"images_per_second": 80}], 80),
        ([None, {"images_per_second": 80}], 80),  # without a monitor
        ([None] + [{"images_per_second": n} for n in (80, 100, 30)], 80),
    ],
)
def test_speed_is_that_of_the_epochs_trained(tmp_path, rows, speed):
    history = callbacks.HistoryCSV(tmp_path / "history.csv")
    for epoch, row in enumerate(rows):
        if row:
            history.add(epoch, row)
    assert finish._cost(history)["images_per_second"] == speed


def test_memory_is_the_most_of_all_processes_that_trained(tmp_path):
    history = callbacks.HistoryCSV(tmp_path / "history.csv")
    for epoch, peak in enumerate((300, 2000, 400), 1):
        history.add(epoch, {"images_per_second": 80, "peak_memory_mib": peak})
    assert finish._cost(history)["peak_memory_mib"] == 2000
