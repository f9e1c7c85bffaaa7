"""Configuration: reading, overriding, checking, printing."""

import dataclasses
import subprocess
import sys

import pytest
import yaml
from commands import ROOT, run_train

from moco_tf.cli.train import parse_args
from moco_tf.config import Config, dump, load_config


def write(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def field_keys():
    for field in dataclasses.fields(Config):
        section = getattr(Config(), field.name)
        if dataclasses.is_dataclass(section):
            yield from (f"{field.name}.{f.name}" for f in dataclasses.fields(section))
        else:
            yield field.name


def test_demo_file_and_defaults_are_the_same():
    assert load_config(ROOT / "configs" / "demo.yaml") == load_config() == Config()


def test_dump_states_the_effective_learning_rate():
    config = load_config(None, ["optimizer.learning_rate=0.03", "train.batch_size=128"])
    assert config.effective_learning_rate == pytest.approx(0.015)
    assert dump(config).splitlines()[0] == (
        "# Effective learning rate 0.015 = 0.03 x batch 128 / 256."
    )


def test_square_root_scaling_is_simclrs():
    words = ["optimizer.scaling=sqrt", "optimizer.learning_rate=1.2"]
    config = load_config(None, [*words, "train.batch_size=1024"])
    assert config.effective_learning_rate == pytest.approx(0.075 * 1024**0.5)
    assert config.effective_learning_rate == pytest.approx(2.4)
    assert dump(config).splitlines()[0] == (
        "# Effective learning rate 2.4 = 1.2 x sqrt(batch 1024 / 256)."
    )


def test_overrides_win_with_or_without_dashes_and_the_last_one_counts(tmp_path):
    path = write(tmp_path, "train: {epochs: 7, batch_size: 64}")
    config = load_config(path, ["train.epochs=8", "--train.epochs=9", "name=2024"])
    assert (config.train.epochs, config.train.batch_size) == (9, 64)
    assert config.name == "2024"


def test_overrides_win_over_a_config_named_after_them(tmp_path):
    path = write(tmp_path, "train: {epochs: 7}")
    config = parse_args(["--train.epochs", "8", "--config", str(path)])
    assert config.train.epochs == 8


def test_resume_reads_the_run_where_it_now_lies(tmp_path):
    run = tmp_path / "elsewhere"
    run.mkdir()
    (run / "config.yaml").write_text(dump(load_config(None, ["train.epochs=3"])))
    config = parse_args(["--resume", str(run), "--train.epochs=4"])
    assert config.run_dir == run
    assert config.train.epochs == 4


@pytest.mark.parametrize("word", ["link", "old/exp", ".", "../exp"])
def test_resume_finds_the_run_behind_a_link(word, tmp_path, monkeypatch):
    run = tmp_path / "old" / "exp"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(dump(load_config()))
    (tmp_path / "link").symlink_to(run)
    monkeypatch.chdir(run if word.startswith(".") else tmp_path)
    assert parse_args(["--resume", word]).run_dir.resolve() == run


def test_home_directory_may_be_written_short(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert str(load_config(None, ["runs_dir=~/runs"]).run_dir) == "/home/me/runs/demo"


def test_monitor_takes_its_data_from_training_unless_told_otherwise():
    same = load_config(
        None, ["data.source=tfds", "data.name=cifar10", "data.data_dir=root"]
    )
    assert same.monitor_test == dataclasses.replace(same.data, split="test")
    other = load_config(
        None,
        ["data.source=folder", "data.data_dir=mine", "monitor.source=tfds"]
        + ["monitor.name=cifar10", "monitor.train_split=train[:50%]"],
    )
    assert other.monitor_train == dataclasses.replace(
        other.data,
        source="tfds",
        name="cifar10",
        data_dir=None,
        split="train[:50%]",
    )


def test_one_replica_gets_eight_batch_norm_groups_and_several_get_one():
    assert [Config().bn_groups(n) for n in (1, 2, 8)] == [8, 1, 1]
    assert load_config(None, ["method.bn_groups=4"]).bn_groups(8) == 4


@pytest.mark.parametrize(
    "epochs, milestones",
    [(1, ()), (2, (1,)), (4, (2, 3)), (8, (5, 6)), (200, (120, 160))],
)
def test_steps_fall_at_the_papers_shares_of_a_run_by_default(epochs, milestones):
    words = ["optimizer.schedule=step", f"train.epochs={epochs}"]
    assert load_config(None, words).milestones == milestones


def test_print_config_prints_what_load_config_reads_back(tmp_path):
    done = run_train("--train.epochs=4", "--print_config", "--data.data_dir=a b")
    assert done.returncode == 0, done.stderr
    read_back = load_config(write(tmp_path, done.stdout))
    assert read_back == load_config(None, ["train.epochs=4", "data.data_dir=a b"])
    assert set(yaml.safe_load(done.stdout)) == {
        field.name for field in dataclasses.fields(Config)
    }


def test_help_explains_every_field_without_importing_tensorflow(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_args(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for key in field_keys():
        paragraph = text.partition(f"\n  --{key} ")[2].partition("\n  --")[0]
        explanation = paragraph.partition("(type:")[0]
        assert len(explanation.split()) >= 4, key
        assert "default:" in paragraph, key
    probe = "import sys, moco_tf.config; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], cwd=ROOT).returncode == 0
