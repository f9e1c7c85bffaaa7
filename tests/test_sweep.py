"""Sweeps: every row with every seed, once, and a table beside the paper's figures."""

import csv
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest
from run_files import history

from moco_tf.cli.train import parse_sweep
from moco_tf.config import ConfigError, dump, load_config
from moco_tf.config.identity import is_finished, other_run
from moco_tf.config.sweep import dump_sweep, load_sweep
from moco_tf.evaluation.results import tables
from moco_tf.evaluation.results.settings import Tables
from moco_tf.pretrain import sweep as sweep_module
from moco_tf.pretrain.sweep import run_sweep

ROOT = pathlib.Path(__file__).resolve().parents[1]
SWEEP = """
name: heads
title: Two heads
source: a paper
seeds: [0, 3]
overrides: [train.epochs=1, method.dim=16]
rows:
  - {name: mlp, published: 66.2}
  - {name: linear, overrides: [method.projection=linear, method.dim=8]}
"""

TINY = (
    "encoder.width=4", "data.image_size=16", "method.queue_size=64",
    "train.batch_size=32", "train.steps_per_epoch=1",
)  # fmt: skip


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "heads.yaml"
    path.write_text(SWEEP)
    return path


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs/sweeps").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_sweep_of_the_project_resolves(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    runs = load_sweep(path).runs()
    assert len({config.run_dir for _, config in runs}) == len(runs) > 1
    assert all(config.monitor.every for _, config in runs)


def test_rows_override_the_sweep_and_seeds_go_round_last(file, tmp_path):
    runs = load_sweep(file, ["--runs_dir=" + str(tmp_path)]).runs()
    assert [config.name for _, config in runs] == [
        "mlp-seed0", "linear-seed0", "mlp-seed3", "linear-seed3",
    ]  # fmt: skip
    assert [config.method.dim for _, config in runs] == [16, 8, 16, 8]
    assert [config.seed for _, config in runs] == [0, 0, 3, 3]
    assert runs[0][1].run_dir == tmp_path / "heads" / "mlp-seed0"


def test_seeds_on_the_command_line_replace_those_of_the_file(file):
    sweep = parse_sweep(["--sweep", str(file), "--seeds=[7]", "--train.epochs=2"])
    assert sweep.seeds == (7,)
    for seeds in ("7", "[a]", "[", "[]"):
        with pytest.raises(ConfigError, match="must be a list of whole numbers"):
            parse_sweep(["--sweep", str(file), f"--seeds={seeds}"])


@pytest.mark.parametrize("epochs", [4, 200])
def test_ablation_keeps_its_shape_at_any_length(epochs, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = load_sweep("configs/sweeps/ablation.yaml", [f"train.epochs={epochs}"])
    rows = {row.name: config for row, config in sweep.runs()}
    expected = {4: (2, 3), 200: (120, 160)}[epochs]
    assert rows["v1"].milestones == rows["mlp_aug"].milestones == expected
    assert rows["mlp_aug_cos"].optimizer.schedule == "cosine"
    assert rows["mlp_aug_cos_4x"].train.epochs == 4 * epochs


@pytest.mark.parametrize("name", ["ablation", "temperature", "mechanisms", "momentum"])
def test_another_recipe_brings_its_own_scale(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = ["--sweep", f"configs/sweeps/{name}.yaml", "--data.data_dir", "/data"]
    sweep = parse_sweep([*words, "--config", "configs/moco_v1_resnet50_200ep.yaml"])
    for row, config in sweep.runs():
        assert config.encoder.width == 64 and config.data.data_dir == "/data"
        assert config.train.epochs == 200 * row.epochs_factor
    assert all(config.train.epochs <= 32 for _, config in parse_sweep(words).runs())


def test_sweep_survives_being_written(file, tmp_path):
    sweep = load_sweep(file, ["train.batch_size=64"])
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_sweep(sweep))
    assert load_sweep(copy) == sweep


@pytest.mark.parametrize(
    "old, new, sentence",
    [
        ("rows:", "lines:", "lines in sweep .* is not a known key; use name, title"),
        ("title: Two heads", "", "has no title"),
        ("seeds: [0, 3]", "seeds: 3", r"seeds=3 .* use for instance \[0, 1, 2\]"),
        ("name: linear", "name: mlp", "two rows named mlp"),
        ("dim=8", "dimm=8", "row linear of sweep heads: .*dimm.*not a known key"),
        ("[method.projection=linear, method.dim=8]", "8", "must be a list of key=val"),
        ("published: 66.2", "published: good", "published='good' of row 1 of sweep"),
        ("source: a paper", "x_label: epochs", "row mlp of sweep .* has no x"),
        ("name: mlp", "name: m/l", "must be a plain directory name"),
        (
            "title:",
            "cost: much\ntitle:",
            "cost='much' of sweep .* is not true or false",
        ),
        ("published: 66.2", "epochs_factor: 0", "epochs_factor=0 of row 1 .* from 1"),
        ("method.dim=16", "seed=5", "seed is not for a sweep's overrides"),
        ("method.dim=8", "name=mine", "name is not for a sweep's overrides"),
        ("name: heads", "name: 2024", "name=2024 of sweep .* put it in quotes"),
        ("published: 66.2", "series: 1", "series=1 of row 1 .* put it in quotes"),
    ],
)
def test_mistake_in_a_sweep_is_one_sentence(file, old, new, sentence):
    file.write_text(SWEEP.replace(old, new))
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_sweep(file).runs()
    assert "\n" not in str(caught.value)


def test_flags_of_single_runs_are_refused(file):
    for word in ("--print_config", "--resume=runs/demo", "--seed=3"):
        with pytest.raises(ConfigError, match="sweep"):
            parse_sweep(["--sweep", str(file), word])


def finish(config, linear):
    (config.run_dir / "report").mkdir(parents=True)
    (config.run_dir / "config.yaml").write_text(dump(config))
    cost = {"images_per_second": 1200.0, "peak_memory_mib": 1536, "device": "CPU"}
    summary = {"trained": {"knn": 0.5, "linear": linear}, "cost": cost}
    (config.run_dir / "report" / "summary.json").write_text(json.dumps(summary))


def test_table_has_mean_spread_and_published_figures(file, tmp_path, capsys):
    sweep = load_sweep(file, [f"runs_dir={tmp_path}"])
    for (_, config), linear in zip(sweep.runs(), (0.60, 0.50, 0.64)):
        finish(config, linear)
    folder = tmp_path / "heads"
    (folder / "sweep.yaml").write_text(dump_sweep(sweep))
    tables.run(Tables(), [folder])
    with open(folder / "table" / "results.csv") as rows:
        mlp, linear = csv.DictReader(rows)
    assert float(mlp["mean"]) == pytest.approx(0.62)
    assert float(mlp["std"]) == pytest.approx(0.02 * 2**0.5)
    assert (mlp["published"], linear["published"]) == ("0.662", "")
    assert (linear["runs"], linear["std"]) == ("1", "")  # its other run is not finished
    assert (folder / "table" / "table.png").stat().st_size > 0
    shown = capsys.readouterr().out
    assert "62.0 ± 2.8" in shown and "66.2" in shown and "a paper" in shown
    assert "1,200" in shown and "1.50" in shown
    assert float(mlp["peak_memory_mib"]) == 1536


def test_table_leaves_out_a_broken_summary_and_names_the_figures_there_are(
    file, tmp_path
):
    sweep = load_sweep(file, [f"runs_dir={tmp_path}"])
    (_, first), (_, second), *_ = sweep.runs()
    for config in (first, second):
        finish(config, 0.5)
    (second.run_dir / "report" / "summary.json").write_text("")
    assert is_finished(first) and not is_finished(second)
    folder = tmp_path / "heads"
    (folder / "sweep.yaml").write_text(dump_sweep(sweep))
    document = tables.run(Tables(), [folder])[str(folder)]
    assert [row["runs"] for row in document["rows"]] == [1, 0]
    with pytest.raises(ConfigError, match="use --figure=knn"):
        tables.run(Tables(figure="recall"), [folder])


def test_runs_of_another_scale_are_refused_before_any_starts(file, tmp_path):
    (_, first), *_ = load_sweep(file, [f"runs_dir={tmp_path}"]).runs()
    finish(first, 0.5)
    moved = load_sweep(file, [f"runs_dir={tmp_path}", "data.data_dir=/moved"])
    assert not other_run(moved.runs()[0][1])
    longer = load_sweep(file, [f"runs_dir={tmp_path}", "train.epochs=2"], "[3, 0]")
    with pytest.raises(ConfigError, match="train.epochs was 1 and is 2.*--runs_dir"):
        run_sweep(longer)
    assert [path.name for path in (tmp_path / "heads").iterdir()] == ["mlp-seed0"]


def test_table_of_what_is_no_sweep_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no sweep.yaml"):
        tables.run(Tables(), [tmp_path])


def test_finished_run_is_not_repeated(file, tmp_path, capfd):
    small = [
        f"runs_dir={tmp_path}", *TINY, "monitor.max_train=100", "monitor.max_test=20",
        "monitor.knn_k=5", "monitor.linear=false",
    ]  # fmt: skip
    file.write_text(SWEEP.replace("[0, 3]", "[0]"))
    sweep = load_sweep(file, small)
    (_, first), (_, second) = sweep.runs()
    finish(first, 0.5)
    folder = run_sweep(sweep)
    assert capfd.readouterr().out.count("finished before") == 1
    assert is_finished(second)
    assert load_sweep(folder / "sweep.yaml") == sweep
    made = (second.run_dir / "history.csv").stat().st_mtime_ns
    run_sweep(sweep)
    assert (second.run_dir / "history.csv").stat().st_mtime_ns == made
    assert load_config(second.run_dir / "config.yaml").method.projection == "linear"


def test_failed_run_is_named_at_the_end_and_run_again(
    file, tmp_path, capfd, monkeypatch
):
    fails = {"mlp-seed0"}

    def in_process(config):
        if config.name in fails:
            return 2
        finish(config, 0.5)
        return 0

    monkeypatch.setattr(sweep_module, "_in_process", in_process)
    file.write_text(SWEEP.replace("[0, 3]", "[0]"))
    sweep = load_sweep(file, [f"runs_dir={tmp_path}"])
    (_, first), (_, second) = sweep.runs()
    with pytest.raises(ConfigError, match=r"1 of 2 runs .* \(mlp-seed0 with code 2\)"):
        run_sweep(sweep)
    assert is_finished(second)
    fails.clear()
    run_sweep(sweep)
    assert is_finished(first)
    assert capfd.readouterr().out.count("finished before") == 1


def start(file, *words):
    return subprocess.Popen(
        [sys.executable, "train.py", "--sweep", str(file), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        # Tests in the background of a shell have it ignored, and pass that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_interrupted_run_of_a_sweep_continues(file, tmp_path):
    small = [
        f"--runs_dir={tmp_path}", "--encoder.width=4", "--data.image_size=16",
        "--method.queue_size=64", "--train.batch_size=32", "--train.epochs=4",
        "--train.steps_per_epoch=10", "--monitor.every=0",
    ]  # fmt: skip
    file.write_text(SWEEP.replace("[0, 3]", "[0]").partition("  - {name: linear")[0])
    ((_, config),) = load_sweep(file, small).runs()
    with start(file, *small) as process:
        shown = []
        for line in process.stdout:
            shown.append(line)
            if line.startswith("  1/4"):  # its checkpoint is written
                os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    assert process.returncode == 130, "".join(shown)
    assert not is_finished(config)
    before = history(config.run_dir)
    with start(file, *small) as process:
        shown = process.stdout.read()
    assert process.returncode == 0, shown
    place = r"Continuing after (step \d+ of )?epoch (\d) of 4"
    within, epoch = re.search(place, shown).groups()
    done = int(epoch) - bool(within)
    assert f"\n  {done}/4" not in shown and f"\n  {done + 1}/4" in shown
    assert "Written" not in shown and "Next" not in shown
    after = history(config.run_dir)
    assert [row["epoch"] for row in after] == ["0", "1", "2", "3", "4"]
    assert after[: done + 1] == before[: done + 1]  # the untrained encoder too
    assert is_finished(config)
