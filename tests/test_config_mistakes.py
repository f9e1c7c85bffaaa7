"""Configurations that are wrong: one sentence each, that says what to use."""

import os
import subprocess
import sys

import pytest
from commands import ROOT, run_train

from moco_tf.cli.train import parse_args, parse_sweep
from moco_tf.config import ConfigError, load_config, validate

BAD_OVERRIDES = {
    "train.epoch=3": "--train.epoch=3 is not a known key; did you mean train.epochs?",
    "epochs=3": "--epochs=3 is not a known key; did you mean train.epochs?",
    "zzz=3": "see --help",
    "optimizer.lr=1": "did you mean optimizer.learning_rate?",
    "lr=1": "did you mean optimizer.learning_rate?",
    "wd=1": "did you mean optimizer.weight_decay?",
    "moco-k=65536": "did you mean method.queue_size?",
    "method.tau=0.2": "did you mean method.temperature?",
    "train.batch-size=64": "did you mean train.batch_size?",
    "temprature=0.1": "did you mean method.temperature?",
    "encoder.name=ResNet50": "did you mean resnet50? Or use resnet18, resnet34,",
    "encoder.name=convnext": "'convnext' is unknown; use resnet18, ",
    "method.name=MoCo": "did you mean moco? Or use one of moco, moco_v3, ",
    "train={}": "names a whole section; set one field",
    "train.epochs": "expected one argument",
    "train.epochs=many": "train.epochs=many does not fit; use a whole number.",
    "train.epochs=true": "use a whole number",
    "train.epochs=null": "use a whole number",
    "train.epochs=0": "train.epochs=0 is too small; use 1 or more.",
    "data.cache=maybe": "use true or false",
    "data.source=web": "use one of glyphs, tfds, folder, synthetic.",
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
    path = tmp_path / "config.yaml"
    path.write_text(text)
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
        (["--confg", "demo"], "--confg is not a known key; did you mean config"),
        (["--sede=3"], "did you mean seed"),
        (["words"], "'words' belongs to no flag; write overrides as --section.key="),
        (["--seed=1", "words"], "'words' belongs to no flag"),
        (["configs/demo.yaml"], "did you mean --config configs/demo.yaml"),
        (["demo"], "did you mean --config demo"),
        (["ablation"], "did you mean --sweep ablation"),
        ([str(ROOT)], f"did you mean --config folder_photos --data.data_dir={ROOT}"),
        (["--config", "ablation"], "ablation is a sweep, so use --sweep ablation"),
        (
            ["--config", str(ROOT / "configs/sweeps/ablation.yaml")],
            "is a sweep, no recipe; use --sweep",
        ),
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


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["demo"], "demo is a recipe, so use --config demo"),
        ([str(ROOT / "configs/demo.yaml")], "is a recipe, no sweep; use --config"),
        (["ablation", "--seeds=[0]", "demo"], "'demo' belongs to no flag"),
    ],
)
def test_recipe_is_no_sweep(words, advice):
    with pytest.raises(ConfigError, match=advice):
        parse_sweep(["--sweep", *words])


NOT_THERE = {
    "train.py --data.source=folder --data.data_dir=no": "data.data_dir='no' is not a",
    "train.py --monitor.source=tfds --monitor.name=mnist --monitor.data_dir=no": (
        "monitor.data_dir='no' is not a folder"
    ),
    "train.py --train.start_from=no": "train.start_from=no holds no checkpoints",
    "train.py --encoder.weights=no": "encoder.weights=no is neither a folder nor a",
    "train.py --sweep ablation --data.source=folder --data.data_dir=no": (
        "data.data_dir='no' is not a folder"
    ),
    "train.py --encoder.name=nothing": "encoder.name='nothing' is unknown",
    "evaluate.py knn no": "no does not exist; give a run directory",
    "evaluate.py linear README.md": "README.md is a file; turn a checkpoint into",
    "evaluate.py detect tests": "tests is neither a run directory",
    "-m moco_tf import no.pth out": "no.pth is not a file; name the checkpoint",
    "-m moco_tf import README.md tests": "tests is a folder of other things",
    "-m moco_tf export no --to onnx x.onnx": "no does not exist; give a run",
}


@pytest.mark.parametrize("line", NOT_THERE)
def test_what_is_missing_is_said_before_tensorflow_is_imported(line, tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('imported')")
    done = subprocess.run(
        [sys.executable, *line.split()],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))},
    )
    assert done.stderr.startswith("error: "), done.stderr
    assert NOT_THERE[line] in done.stderr
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
