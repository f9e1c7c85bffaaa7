"""`evaluate.py compare`, and evaluate.py's command line as a whole."""

from __future__ import annotations

import csv
import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import sys
import typing

import numpy as np
import pytest
from pretrained_runs import write_run

from moco_tf.cli.evaluate import parse_evaluation
from moco_tf.config import ConfigError, dump, load_config
from moco_tf.evaluation import evaluate
from moco_tf.evaluation.commands import PROTOCOLS
from moco_tf.evaluation.detection import command as detect
from moco_tf.evaluation.fewshot import command as fewshot
from moco_tf.evaluation.finetune import command as finetune
from moco_tf.evaluation.knn import command as knn
from moco_tf.evaluation.linear import command as linear
from moco_tf.evaluation.results import compare as comparison
from moco_tf.evaluation.results import tables
from moco_tf.evaluation.results.output import text_table
from moco_tf.evaluation.retrieval import command as retrieval
from moco_tf.evaluation.segmentation import command as segment
from moco_tf.interchange import InterchangeError, load_pretrained

ROOT = pathlib.Path(__file__).resolve().parents[1]


def write_results(run, protocol, settings=None, **figures):
    folder = run / "report" / protocol
    folder.mkdir(parents=True)
    document = {"protocol": protocol, "figures": figures, "settings": settings or {}}
    (folder / "results.json").write_text(json.dumps(document))


def make_run(folder, name, seed, overrides=(), **knn):
    run = folder / name
    run.mkdir()
    words = [f"runs_dir={folder}", f"name={name}", f"seed={seed}", *overrides]
    (run / "config.yaml").write_text(dump(load_config(None, words)))
    if knn:
        write_results(run, "knn", **knn)
    return run


def compare(*words):
    return evaluate(parse_evaluation(["compare", *map(str, words)]))


def rows_of(folder):
    with open(folder / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_seeds_of_one_configuration_are_a_row_with_mean_and_spread(tmp_path, capsys):
    shares = (0.5, 0.6, 0.67)
    runs = [
        make_run(tmp_path, f"cold-{seed}", seed, top1=share)
        for seed, share in enumerate(shares)
    ]
    warm = make_run(tmp_path, "warm", 0, ["method.temperature=0.5"], top1=0.4)
    write_results(warm, "linear_official", top1=0.45, top5=0.9)
    results = compare(*runs, warm)
    rows = {(row["runs"], row["figure"]): row for row in rows_of(tmp_path / "compare")}
    assert set(rows) == {
        ("cold", "knn top1"),
        ("warm", "knn top1"),
        ("warm", "linear_official top1"),
        ("warm", "linear_official top5"),
    }
    cold = rows["cold", "knn top1"]
    assert float(cold["mean"]) == pytest.approx(np.mean(shares))
    assert float(cold["std"]) == pytest.approx(np.std(shares, ddof=1))
    assert (cold["count"], rows["warm", "knn top1"]["std"]) == ("3", "")
    assert results["differences"] == {"method.temperature": {"cold": 0.2, "warm": 0.5}}
    text = capsys.readouterr().out
    assert "59.0 ± 8.5" in text
    assert "method.temperature: cold 0.2, warm 0.5" in text
    assert (tmp_path / "compare" / "compare.png").stat().st_size > 5000


def test_figures_of_the_runs_own_monitor_are_shown(tmp_path):
    run = make_run(tmp_path, "a", 0)
    (run / "report").mkdir()
    summary = {"trained": {"knn": 0.3}, "untrained": {"knn": 0.1}}
    (run / "report" / "summary.json").write_text(json.dumps(summary))
    out = tmp_path / "elsewhere"
    results = compare(run, f"--out={out}")
    assert [row["figure"] for row in results["rows"]] == ["monitor knn"]
    assert (out / "results.json").exists()


def with_summary(run, **document):
    (run / "report").mkdir()
    (run / "report" / "summary.json").write_text(json.dumps(document))
    return run


def test_runs_without_labels_are_compared_by_what_needs_none(tmp_path, capsys):
    runs = [
        with_summary(
            make_run(tmp_path, f"{name}-{seed}", seed, overrides),
            quality={"rankme": rank + seed, "alignment": 0.5, "uniformity": -2.25},
        )
        for name, overrides, rank in (
            ("a", (), 10),
            ("b", ["train.epochs=3"], 20),
        )
        for seed in (0, 1)
    ]
    results = compare(*runs)
    found = {(row["runs"], row["figure"]): row["mean"] for row in results["rows"]}
    assert found["a", "rankme"] == 10.5 and found["b", "uniformity"] == -2.25
    text = capsys.readouterr().out
    assert re.search(r"RankMe +10\.50 ± 0\.71 +20\.50 ± 0\.71", text)
    assert "%" not in text.split("train.epochs")[0]
    assert not (tmp_path / "compare" / "compare.png").exists()


def test_quality_is_held_against_accuracy_over_runs(tmp_path, capsys):
    ranks = (1.0, 2.0, 5.0, 4.0, 3.0)  # one pair of neighbours in five is not in order
    accuracies = (0.1, 0.2, 0.5, 0.3, 0.4)
    runs = [
        with_summary(
            make_run(
                tmp_path, f"run{number}", 0, [f"method.temperature=0.{number + 1}"]
            ),
            trained={"knn": accuracy},
            quality={"rankme": rank, "alignment": rank, "uniformity": -1.0},
        )
        for number, (rank, accuracy) in enumerate(zip(ranks, accuracies))
    ]
    agrees = compare(*runs)["agreement"]
    # Spearman's: 1 - 6 * sum of squared differences of rank / (n (n^2 - 1)).
    expected = 1 - 6 * (1 + 1) / (5 * 24)
    assert agrees == pytest.approx({"rankme": expected, "alignment": -expected})
    said = " ".join(capsys.readouterr().out.split())
    assert "Rank correlation with monitor knn over 5 runs" in said
    assert (tmp_path / "compare" / "quality.png").stat().st_size > 5000
    assert compare(*runs[:4], f"--out={tmp_path / 'few'}")["agreement"] == {}


def test_figures_measured_in_unlike_ways_are_flagged(tmp_path, capsys):
    one = make_run(tmp_path, "one", 0)
    two = make_run(tmp_path, "two", 1)
    write_results(one, "knn", {"k": [200], "out": None, "seed": 0}, top1=0.5)
    write_results(
        two, "knn", {"k": [200], "out": "x", "save": "y", "seed": 1}, top1=0.6
    )
    assert compare(one, two)["warnings"] == []
    three = make_run(tmp_path, "three", 2)
    write_results(three, "knn", {"k": [20], "out": None, "seed": 0}, top1=0.7)
    (warning,) = compare(one, three)["warnings"]
    assert "knn were measured with different settings" in warning
    assert warning in " ".join(capsys.readouterr().out.split())


def judged(run, protocol, **encoder):
    file = run / "report" / protocol / "results.json"
    if not file.exists():
        write_results(run, protocol, top1=0.5)
    document = {**json.loads(file.read_text()), "encoder": encoder}
    file.write_text(json.dumps(document))


def test_figures_of_other_weights_are_flagged(tmp_path, capsys):
    run = make_run(tmp_path, "one", 0)
    judged(run, "knn", weights="a", architecture="x")
    judged(run, "linear_cached", weights="a")  # written before there was the latter
    assert compare(run)["warnings"] == []
    for changed in ({"weights": "b"}, {"weights": "a", "architecture": "y"}):
        judged(run, "linear_cached", **changed)
        (warning,) = compare(run)["warnings"]
        assert "one for knn, linear_cached are of different encoders" in warning
        assert warning in " ".join(capsys.readouterr().out.split())
    trained = write_run(tmp_path, "two")
    judged(trained, "knn", weights=load_pretrained(trained).digest)
    judged(trained, "linear_cached", weights="b")
    (warning,) = compare(trained)["warnings"]
    assert "two for linear_cached are of other weights than it has now" in warning


def test_same_images_named_in_two_ways_compare(tmp_path):
    runs = [make_run(tmp_path, name, 0) for name in ("one", "two", "three")]
    images = {"train": {"name": "cifar10"}}
    for run, name, facts in zip(runs, (None, "cifar10", "svhn"), (images, images, {})):
        write_results(run, "knn", {"data": {"name": name}}, top1=0.5)
        file = run / "report" / "knn" / "results.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "data": facts}))
    assert compare(runs[0], runs[1])["warnings"] == []
    assert len(compare(runs[0], runs[2])["warnings"]) == 1


def test_saved_models_stand_alone(tmp_path):
    for name in ("a", "b"):
        write_results(tmp_path / name, "knn", top1=0.5)
    results = compare(tmp_path / "a", tmp_path / "b")
    assert [row["runs"] for row in results["rows"]] == ["a", "b"]


def test_runs_without_results_are_refused(tmp_path):
    good = make_run(tmp_path, "good", 0, top1=0.5)
    empty = make_run(tmp_path, "empty", 0)
    broken = make_run(tmp_path, "broken", 0, top1=0.5)
    (broken / "report" / "knn" / "results.json").write_text('{"figures": ')
    for words, pattern in (
        ((good, empty), "empty has no results .* evaluate knn"),
        ((good, tmp_path / "none"), "none is not a directory"),
        ((good, broken), "results.json is damaged"),
        ((good, good), "named twice"),
    ):
        with pytest.raises(ConfigError, match=pattern):
            compare(*words)
    assert not (tmp_path / "compare").exists()


# The command line


def field_keys(settings):
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        if dataclasses.is_dataclass(hints[field.name]):
            inner = dataclasses.fields(hints[field.name])
            yield from (f"{field.name}.{f.name}" for f in inner)
        else:
            yield field.name


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_help_explains_every_setting(protocol, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_evaluation([protocol, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for key in field_keys(PROTOCOLS[protocol]):
        paragraph = text.partition(f"\n  --{key} ")[2].partition("\n  --")[0]
        explanation = paragraph.partition("(type:")[0]
        assert len(explanation.split()) >= 3, key
        assert "default:" in paragraph, key


def test_overview_names_every_protocol_without_importing_tensorflow(capsys):
    for words in ([], ["--help"]):
        with pytest.raises(SystemExit) as caught:
            parse_evaluation(words)
        assert caught.value.code == 0
        text = capsys.readouterr().out
        assert all(f"\n  {name} " in text for name in PROTOCOLS)
    probe = (
        "import sys, moco_tf.evaluation.commands; sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", probe], cwd=ROOT).returncode == 0


def test_paths_and_overrides_may_come_in_any_order():
    evaluation = parse_evaluation(
        ["knn", "--k", "[5]", "runs/a", "--precision=float32"]
    )
    assert evaluation.paths == (pathlib.Path("runs/a"),)
    assert evaluation.settings.k == (5,)


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("knnn runs/a", "'knnn' is not a protocol; use one of knn, linear, finetune"),
        ("knn", "was given none; name one run directory or SavedModel"),
        ("knn a b", "was given a b; name one"),
        ("compare", "compare needs runs"),
        ("knn a --kk=3", "--kk=3 is not a known key; did you mean k?"),
        ("knn a --max_test=3", "did you mean data.max_test?"),
        ("knn a --data=x", "names a whole section"),
        ("knn a --k=[0]", "k=0 is too small; use 1 or more."),
        ("knn a --k=[]", "k=[] names no number of neighbours"),
        ("knn a --k=five", "use a list of whole numbers in brackets."),
        ("knn a --temperature=[0]", "temperature=0.0 must be positive"),
        ("knn a --temperature=[.inf]", "temperature=inf is not finite"),
        ("knn a --data.max_test=0", "data.max_test=0 is too small"),
        ("knn a --data.source=web", "use one of glyphs, tfds, folder"),
        ("knn a --data.max_unreadable=2", "use a value from 0 to 1"),
        ("knn a --features.batch_size=0", "features.batch_size=0 is too small"),
        ("knn a --precision=float64", "use one of float32, mixed_bfloat16"),
        ("knn a --distribution.replicas=0", "distribution.replicas=0 is too small"),
        ("linear a --protocol=fast", "use one of official, cached, mocov3"),
        ("linear a --learning_rate=-1", "learning_rate=-1.0 must be positive"),
        ("linear a --protocol=cached --learning_rate=3", "set sweep.learning_rates"),
        ("linear a --epochs=0", "epochs=0 is too small"),
        ("linear a --crop_scale=[1,0.5]", "two rising shares"),
        ("linear a --sweep.held_out=1", "use a share between 0 and 1"),
        ("linear a --sweep.learning_rates=[]", "give at least one candidate"),
        ("linear a --sweep.weight_decays=[0]", "sweep.weight_decays=0.0 must be"),
    ],
)
def test_bad_command_is_refused_in_one_sentence(words, advice):
    with pytest.raises(ConfigError) as caught:
        parse_evaluation(words.split())
    assert advice in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value)[-1] in ".?"


def test_what_is_neither_run_nor_saved_model_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.pth").write_bytes(b"x")
    for name in ("empty", "weights.pth", "none"):
        with pytest.raises(InterchangeError):
            evaluate(parse_evaluation(["knn", str(tmp_path / name)]))
        assert not (tmp_path / name / "report").exists()


def test_out_that_is_a_file_is_refused_before_any_work(tmp_path, monkeypatch):
    def work(*args, **kwargs):
        raise AssertionError("work before the check")

    for module in (detect, fewshot, finetune, knn, linear):
        name = "_open" if module is detect else "open_labelled_sets"
        monkeypatch.setattr(module, name, work)
    monkeypatch.setattr(segment, "open_voc_masks", work)
    monkeypatch.setattr(retrieval, "open_test_set", work)
    monkeypatch.setattr(comparison, "grouped_bars", work)
    monkeypatch.setattr(tables, "_finished", work)
    run = write_run(tmp_path)
    write_results(run, "knn", top1=0.5)
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    shutil.copy(ROOT / "configs" / "sweeps" / "momentum.yaml", sweep / "sweep.yaml")
    file = tmp_path / "file"
    file.write_text("mine")
    for protocol in PROTOCOLS:
        path = str(sweep if protocol == "tables" else run)
        outs = ((file, "a file of that name exists"), (file / "x", ""))
        if protocol == "embed":  # whose out is a file itself
            outs = ((file / "x.npz", "a file of that name exists"),)
        words = ["--data.data_dir=VOC"] if protocol == "segment" else []
        for out, cause in outs:
            evaluation = parse_evaluation([protocol, path, f"--out={out}", *words])
            with pytest.raises(ConfigError, match=f"cannot be written .*{cause}"):
                evaluate(evaluation)
    assert file.read_text() == "mine"


@pytest.mark.parametrize("words", [["knn", "nowhere"], ["knn", "x", "--k=[0]"]])
def test_mistake_is_one_line_on_stderr_and_exit_code_2(words, tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "evaluate.py"), *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_wide_tables_become_several_that_fit(capsys):
    head = ["%", *(f"run number {i}" for i in range(9))]
    table = text_table(head, [["kNN", *"123456789"]])
    blocks = table.split("\n\n")
    assert len(blocks) == 2 and max(map(len, table.splitlines())) <= 80
    for block in blocks:
        names, rule, row = block.splitlines()
        assert row.startswith("  kNN") and set(rule.strip()) == {"-"}
        assert len(rule) == max(len(names), len(row))
    cells = [cell for block in blocks for cell in block.splitlines()[-1].split()]
    assert "".join(cells).replace("kNN", "") == "123456789"
