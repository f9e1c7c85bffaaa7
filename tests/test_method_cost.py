"""The cost table: what is predicted, drawn, and written where."""

import sys

import pytest

from benchmarks import method_cost
from benchmarks.writing import RESULTS

COMMITTED = RESULTS / "method_cost.csv"
# MiB and ms of MoCo and end-to-end at batches of 2 and 4: 10 and 20 MiB an image.
MEASURED = {
    ("moco", 2): (120, 10),
    ("end_to_end", 2): (140, 20),
    ("moco", 4): (140, 30),
    ("end_to_end", 4): (180, 40),
}


@pytest.fixture
def command(monkeypatch):
    """Calls the program with words; what its children would measure is `MEASURED`."""

    def run_child(options, method, batch):
        peak, time = MEASURED[method, batch]
        return {"peak_mib": peak, "step_ms": time, "device": "none"}

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["method_cost.py", *words])
        method_cost.main()

    monkeypatch.setattr(method_cost, "run_child", run_child)
    return call


def test_measurement_goes_where_out_says_with_its_picture(command, tmp_path, capsys):
    before = COMMITTED.read_bytes()
    out = tmp_path / "new" / "cost.csv"
    command("--batch_size=4", f"--out={out}")
    assert COMMITTED.read_bytes() == before
    rows = method_cost.read(out)
    assert [(r["method"], r["batch_size"]) for r in rows] == list(MEASURED)
    assert [(r["peak_mib"], r["step_ms"]) for r in rows] == list(MEASURED.values())
    assert out.with_suffix(".png").stat().st_size > 0
    shown = capsys.readouterr().out
    assert "peak_mib: MoCo / end-to-end = 0.78, published 0.68" in shown
    assert "step_ms: MoCo / end-to-end = 0.75, published 0.82" in shown
    assert f"moco: {(140 + 10 * 508) / 1024:.1f} GiB predicted for 512 images" in shown


def test_prediction_is_the_line_through_both_batches_a_device(command, tmp_path):
    out = tmp_path / "cost.csv"
    command("--batch_size=4", f"--out={out}")
    rows = method_cost.read(out)
    assert method_cost.predicted(rows, 100) == [1100 / 1024, 2100 / 1024]
    rows[2]["peak_mib"] = 120  # not more than at half the batch
    assert method_cost.predicted(rows, 100) == [None, 2100 / 1024]
    method_cost.draw(rows, 100, tmp_path / "cost.png")


def test_committed_figures_are_those_of_the_documentation(command, tmp_path):
    moco, end_to_end = method_cost.predicted(method_cost.read(COMMITTED), 512)
    assert (round(moco), round(end_to_end)) == (55, 117)
    command(f"--plot_only={tmp_path / 'drawn.png'}")
    assert (tmp_path / "drawn.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--out=cost.png"], "--out=cost.png is not a CSV"),
        (["--out=none.csv", "--plot_only=a.png"], "--out=none.csv does not exist"),
    ],
)
def test_wrong_paths_are_refused_before_measuring(command, words, sentence, capsys):
    with pytest.raises(SystemExit):
        command(*words)
    assert sentence in capsys.readouterr().err
