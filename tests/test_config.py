"""Configuration: reading, overriding, checking, printing."""

import dataclasses
import pathlib
import subprocess
import sys

import pytest
import yaml

from moco_tf.config import Config, ConfigError, dump, load_config, parse_args, validate

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "configs").glob("*.yaml"))


def run_train(*words):
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


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


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_loads_for_the_devices_it_is_meant_for(path):
    replicas = 8 if "resnet50" in path.stem else 1
    config = load_config(path, ["data.data_dir=somewhere"])
    validate(config, replicas)
    assert config.name == path.stem


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_header_states_paper_command_figure_and_measurement(path):
    header = path.read_text().split("\nname:")[0]
    for word in ("Paper:", "Command:", "Expected:", "Measured:"):
        assert f"# {word}" in header


def test_published_recipes_hold_the_published_values():
    v1 = load_config(ROOT / "configs" / "moco_v1_resnet50_200ep.yaml")
    v2 = load_config(ROOT / "configs" / "moco_v2_resnet50_800ep.yaml")
    cifar = load_config(ROOT / "configs" / "moco_v2_cifar10_resnet18.yaml")
    for config in (v1, v2):
        assert config.method.queue_size == 65536
        assert config.method.key_momentum == 0.999
        assert config.effective_learning_rate == pytest.approx(0.03)
        assert config.optimizer.weight_decay == 1e-4
    assert (v1.method.temperature, v1.method.projection) == (0.07, "linear")
    assert v1.optimizer.milestones == (120, 160)
    assert (v2.method.temperature, v2.method.projection) == (0.2, "mlp")
    assert v2.train.epochs == 800
    assert cifar.effective_learning_rate == pytest.approx(0.06)
    assert (cifar.method.queue_size, cifar.method.temperature) == (4096, 0.1)
    assert cifar.data.crop_scale == (0.08, 1.0)


def test_recipes_of_moco_v3_hold_the_published_values():
    resnet = load_config(ROOT / "configs" / "moco_v3_resnet50_100ep.yaml")
    vit = load_config(ROOT / "configs" / "moco_v3_vit_small_300ep.yaml")
    for config in (resnet, vit):
        assert (config.method.name, config.augment.recipe) == ("moco_v3", "moco_v3")
        assert (config.method.dim, config.method.hidden) == (256, 4096)
        assert config.method.key_momentum == 0.99
        assert config.train.batch_size == 4096
        assert config.train.precision == "mixed_float16"
        assert config.optimizer.schedule == "cosine" and not config.optimizer.per_epoch
    assert resnet.encoder.zero_init_residual
    assert (resnet.optimizer.name, resnet.optimizer.weight_decay) == ("lars", 1e-6)
    assert resnet.effective_learning_rate == pytest.approx(0.6 * 4096 / 256)
    assert (resnet.train.epochs, resnet.optimizer.warmup_epochs) == (100, 10)
    assert (resnet.method.temperature, resnet.data.crop_scale) == (1.0, (0.2, 1.0))
    assert (vit.optimizer.name, vit.optimizer.weight_decay) == ("adamw", 0.1)
    assert vit.effective_learning_rate == pytest.approx(1.5e-4 * 4096 / 256)
    assert (vit.train.epochs, vit.optimizer.warmup_epochs) == (300, 40)
    assert (vit.method.temperature, vit.data.crop_scale) == (0.2, (0.08, 1.0))


@pytest.mark.parametrize(("batch", "rate"), [(256, 0.3), (8192, 9.6)])
def test_recipe_of_simclr_holds_the_published_values(batch, rate):
    path = ROOT / "configs" / "simclr_resnet50_200ep.yaml"
    config = load_config(path, [f"train.batch_size={batch}"])
    assert (config.method.name, config.augment.recipe) == ("simclr", "simclr")
    assert (config.method.dim, config.method.temperature) == (128, 0.1)
    assert (config.optimizer.name, config.optimizer.weight_decay) == ("lars", 1e-6)
    assert config.effective_learning_rate == pytest.approx(rate)
    assert (config.train.epochs, config.optimizer.warmup_epochs) == (200, 10)
    assert config.encoder.zero_init_residual
    assert config.data.crop_scale == (0.08, 1.0)


@pytest.mark.parametrize("path", [None, *RECIPES], ids=lambda p: p.stem if p else "no")
def test_dumped_config_loads_to_an_equal_one(path, tmp_path):
    overrides = ["data.data_dir=x", "distribution.gpus=[0,2]", "name='7'"]
    overrides += ["augment.mean=[0.1,0.2,1e-3]", "optimizer.decay_factor=1e-2"]
    config = load_config(path, overrides)
    assert config.optimizer.decay_factor == 0.01
    assert load_config(write(tmp_path, dump(config))) == config


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


BAD_OVERRIDES = {
    "train.epoch=3": "--train.epoch=3 is not a known key; did you mean train.epochs?",
    "epochs=3": "--epochs=3 is not a known key; did you mean train.epochs?",
    "zzz=3": "see --help",
    "train={}": "names a whole section; set one field",
    "train.epochs": "expected one argument",
    "train.epochs=many": "train.epochs=many has the wrong type; use a whole number.",
    "train.epochs=true": "use a whole number",
    "train.epochs=null": "use a whole number",
    "train.epochs=0": "train.epochs=0 is too small; use 1 or more.",
    "data.cache=maybe": "use true or false",
    "data.source=web": "use one of glyphs, tfds, folder.",
    "data.crop_scale=[0.5]": "use a list of two numbers in brackets",
    "data.crop_scale=[0.5,0.2]": "data.crop_scale=[0.5, 0.2] must be two rising",
    "data.crop_scale=[0,1]": "use for instance [0.2, 1.0]",
    "data.crop_scale=[0.5,1.5]": "up to 1",
    "data.crop_ratio=[2,1]": "two rising positive ratios",
    "data.image_size=8": "use a value from 16 to 1024",
    "data.image_size=4000": "data.image_size=4000 is out of range",
    "data.channels=0": "use 1 or more",
    "data.decode_threads=0": "use 1 or more",
    "data.max_unreadable=2": "from 0 to 1",
    "data.source=tfds": "set for instance data.name=cifar10",
    "data.source=folder": "add --data.data_dir=PATH",
    "monitor.source=folder": "add --monitor.data_dir=PATH",
    "augment.mean=[0.5]": "augment.mean has 1 values but data.channels=3",
    "augment.std=[0,1,1]": "use values above 0",
    "augment.mean=[a,b]": "use a list of numbers in brackets or null",
    "method.queue_size=64": "use 128 or more",
    "method.temperature=0": "use a value above 0",
    "method.temperature=.inf": "method.temperature=inf is not finite",
    "method.key_momentum=1.1": "from 0 to 1",
    "method.bn_groups=0": "use 1 or more",
    "encoder.patch_size=0": "encoder.patch_size=0 is too small; use 1 or more.",
    "optimizer.learning_rate=-1": "use a value above 0",
    "optimizer.learning_rate=.nan": "is not finite",
    "optimizer.momentum=1": "less than 1",
    "optimizer.weight_decay=-0.1": "use 0 or more",
    "optimizer.decay_factor=0": "above 0 and up to 1",
    "optimizer.warmup_epochs=16": "less than train.epochs=16",
    "optimizer.milestones=[5]": "has no effect with optimizer.schedule=cosine",
    "train.batch_size=1": "use 2 or more",
    "distribution.replicas=0": "use 1 or more",
    "distribution.replicas=3": "use 126 or 129",
    "distribution.gpus=[0,0]": "must be different indices",
    "monitor.every=-1": "use 0 or more",
    "monitor.max_train=100": "monitor.knn_k=200 is more than monitor.max_train=100",
    "monitor.knn_temperature=0": "use a value above 0",
    "name=": "plain directory name",
    "name=../x": "plain directory name",
    "seed=-1": "use a value from 0 to 4294967295",
    "seed=4294967296": "use a value from 0 to 4294967295",
}


@pytest.mark.parametrize("override", BAD_OVERRIDES)
def test_bad_override_is_refused_in_one_sentence(override):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    sentence = str(caught.value)
    assert BAD_OVERRIDES[override] in sentence
    assert "\n" not in sentence
    assert sentence[-1] in ".?"


@pytest.mark.parametrize("milestones", ["[6,5]", "[5,5]", "[0,5]", "[5,16]"])
def test_milestones_must_rise_within_the_run(milestones):
    with pytest.raises(ConfigError, match=r"must rise and lie .* train.epochs=16"):
        load_config(
            None, ["optimizer.schedule=step", f"optimizer.milestones={milestones}"]
        )


@pytest.mark.parametrize(
    "epochs, milestones",
    [(1, ()), (2, (1,)), (4, (2, 3)), (8, (5, 6)), (200, (120, 160))],
)
def test_steps_fall_at_the_papers_shares_of_a_run_by_default(epochs, milestones):
    words = ["optimizer.schedule=step", f"train.epochs={epochs}"]
    assert load_config(None, words).milestones == milestones


def test_replicas_must_agree_with_the_chosen_gpus():
    with pytest.raises(ConfigError, match=r"replicas=4 contradicts the 2 devices"):
        load_config(None, ["distribution.replicas=4", "distribution.gpus=[0,1]"])


@pytest.mark.parametrize(
    ("overrides", "replicas", "advice"),
    [
        (["train.batch_size=100"], 8, "8 replicas; use 96 or 104."),
        (["train.batch_size=100"], 1, "1 replica of 8 batch-norm groups; use 96 or"),
        (["method.bn_groups=3"], 2, "2 replicas of 3 batch-norm groups; use 126 or"),
        (["train.batch_size=4"], 8, "8 replicas; use 8."),
    ],
)
def test_batch_must_divide_among_replicas_and_groups(overrides, replicas, advice):
    config = load_config(None, overrides)
    with pytest.raises(ConfigError) as caught:
        validate(config, replicas)
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "holds nothing; it needs keys"),
        ("- a\n", "it needs keys such as"),
        ("train: 3\n", "section train in"),
        ("train:\n", "section train in"),
        ("train: [\n", "is not valid YAML at line 2"),
        ("name: \tx: y\n", "is not valid YAML"),
        ("train: {epoch: 3}\n", "did you mean train.epochs?"),
        ("epochs: 3\n", "did you mean train.epochs?"),
        ("3: 4\n", "3 in "),
        ("train: {3: 4}\n", "train.3 in "),
        ("name: 3\n", "use text, in quotes where it looks like a number."),
        ("name: {a: 3}\n", "use text"),
        ("train: {epochs: null}\n", "not a value; use a whole number."),
        ("train: {epochs: 3.5}\n", "train.epochs=3.5 in "),
    ],
)
def test_bad_file_is_refused_in_one_sentence_that_names_it(text, advice, tmp_path):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert advice in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_or_unreadable_file_is_refused_in_one_sentence(tmp_path):
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, reason in [
        (tmp_path / "none.yaml", "no such file"),
        (tmp_path, "is a directory"),
        (binary, "not text"),
    ]:
        with pytest.raises(ConfigError, match=reason):
            load_config(path)


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["--resume", "nowhere"], "holds no config.yaml"),
        (["--resume", "nowhere", "--config", "x.yaml"], "contradicts --resume nowhere"),
        (["--resume", "nowhere", "--name=b"], "--name would move the run"),
        (["--config"], "expected one argument"),
        (["words"], "unrecognized arguments: words"),
        (["--seeds=[0,1]"], r"--seeds=\[0,1\] belongs to --sweep; .* --seed=N"),
    ],
)
def test_bad_command_line_is_refused(words, advice):
    with pytest.raises(ConfigError, match=advice):
        parse_args(words)


@pytest.mark.parametrize("words", [["--train.epoch=3"], ["--config=none.yaml"]])
def test_command_line_mistake_is_one_line_and_exit_code_2(words):
    done = run_train(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


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
