"""The command line's front door: commands, versions, recipes by name, printed hints."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from commands import ROOT

import moco_tf
from moco_tf import cli, shell
from moco_tf.cli.train import parse_args, parse_sweep
from moco_tf.config import ConfigError
from moco_tf.config.recipes import find, recipes

NAMES = [recipe.name for recipe in recipes()]


def test_overview_names_every_command(capsys):
    for words in ([], ["--help"]):
        assert cli.main(words) == 0
        printed = capsys.readouterr().out
        for name in cli.COMMANDS:
            assert f"\n  {name} " in printed
        assert max(map(len, printed.splitlines())) <= 80


def test_unknown_command_is_one_sentence(capsys):
    assert cli.main(["evaluat", "knn"]) == 2
    assert capsys.readouterr().err == (
        "error: 'evaluat' is not a command; did you mean evaluate?\n"
    )
    assert cli.main(["zzz"]) == 2
    assert f"use {', '.join(cli.COMMANDS)}" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--version"], ["train", "--version"]])
def test_version_names_the_package_and_what_it_runs_on(words, capsys):
    try:
        cli.main(words)
    except SystemExit as end:
        assert end.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"moco_tf {moco_tf.__version__} (tensorflow 2.")
    assert printed.count("\n") == 1 and "Python 3." in printed


def test_commands_start_as_modules_and_as_files():
    program = {**os.environ, "PYTHONPATH": str(ROOT)}
    for words in (["-m", "moco_tf"], ["-m", "moco_tf", "train"], ["train.py"]):
        done = subprocess.run(
            [sys.executable, *words, "--version"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=program,
        )
        assert done.stdout.startswith("moco_tf "), done.stderr


def test_recipe_is_found_by_name_and_a_path_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for word in ("moco_v2_resnet50_800ep", "configs/moco_v2_resnet50_800ep.yaml"):
        assert parse_args(["--config", word]).train.epochs == 800
    shutil.copy(find("demo"), tmp_path / "moco_v2_resnet50_800ep")
    assert parse_args(["--config", "moco_v2_resnet50_800ep"]).name == "demo"


def test_sweep_is_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(parse_sweep(["--sweep", "ablation"]).runs()) > 5


def test_unknown_names_lead_to_near_ones():
    with pytest.raises(ConfigError, match="did you mean moco_v2_resnet50_[28]00ep"):
        parse_args(["--config", "moco_v2_resnet50"])
    with pytest.raises(ConfigError, match="or a name: demo, folder_photos, memory"):
        parse_args(["--config", "zzz.yaml"])
    with pytest.raises(ConfigError, match="did you mean ablation"):
        parse_sweep(["--sweep", "ablations"])


def test_list_shows_each_recipe_with_its_figures(capsys):
    with pytest.raises(SystemExit) as end:
        parse_args(["--list"])
    assert not end.value.code
    printed = capsys.readouterr().out
    for recipe in [*recipes(), *recipes("sweeps")]:
        assert f"\n{recipe.name}\n" in printed
    assert len(NAMES) == len(list((ROOT / "configs").glob("*.yaml")))
    assert "67.5 +- 0.1" in printed
    assert printed.count("not yet run") >= 5
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.parametrize("recipe", recipes(), ids=NAMES)
def test_header_of_a_recipe_is_read_whole(recipe):
    assert recipe.about and recipe.expected and recipe.measured
    text = " ".join((ROOT / "configs" / f"{recipe.name}.yaml").read_text().split())
    assert recipe.expected.split()[-1] in text
    for field in (recipe.about, recipe.expected, recipe.measured):
        assert field.endswith((".", ")")) and "#" not in field


def _typed(monkeypatch, started, folder):
    monkeypatch.setattr(sys, "argv", [started])
    monkeypatch.chdir(folder)
    return shell.command("evaluate")


def test_hints_name_the_command_that_was_started(monkeypatch, tmp_path):
    python = pathlib.Path(sys.executable)
    bare = {"PATH": str(tmp_path)}
    monkeypatch.setenv("PATH", bare["PATH"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "env/bin/python"))
    assert _typed(monkeypatch, "train.py", ROOT).endswith("/env/bin/python evaluate.py")
    there = str(ROOT / "train.py")
    assert _typed(monkeypatch, there, tmp_path) == (
        f"env/bin/python {ROOT / 'evaluate.py'}"
    )
    # Somebody's own train.py, which has no evaluate.py beside it.
    assert _typed(monkeypatch, "train.py", tmp_path) == (
        "env/bin/python -m moco_tf evaluate"
    )
    assert _typed(monkeypatch, "env/bin/moco-tf", tmp_path) == (
        "env/bin/moco-tf evaluate"
    )
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PATH", str(python.parent))
    assert _typed(monkeypatch, "train.py", ROOT) == "python evaluate.py"
    assert _typed(monkeypatch, "/x/ipykernel_launcher.py", ROOT) == (
        "python -m moco_tf evaluate"
    )
    command = str(python.with_name("moco-tf"))
    assert _typed(monkeypatch, command, ROOT) == "moco-tf evaluate"


def test_python_without_the_packages_is_told_in_one_sentence(tmp_path):
    """As with a system's Python, in a checkout without and with an environment."""
    for name in ("moco_tf", "train.py", "evaluate.py", "Makefile"):
        (tmp_path / name).symlink_to(ROOT / name)

    def said(script):
        words = [sys.executable, "-S", "-c", _LACKING, script, "--help"]
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        return done.stderr

    for script in ("train.py", "evaluate.py"):
        sentence = said(script)
        assert sentence.startswith("error: ") and sentence.count("\n") == 1
        assert re.search("has no package (yaml|jsonargparse); `make ready`", sentence)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    assert f"use {os.path.join('.venv', 'bin', 'python')} instead" in said("train.py")


# Runs a script as Python does, without the third-party packages of this environment.
_LACKING = """
import runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, "")
runpy.run_path(sys.argv[0], run_name="__main__")
"""
