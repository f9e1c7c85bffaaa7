"""Each method has its own fields, and those of others are refused."""

import dataclasses
import re

import pytest
import yaml

from moco_tf.cli.train import parse_args
from moco_tf.config import ConfigError, dump, load_config
from moco_tf.config.methods import MoCoSettings, SimCLRSettings
from moco_tf.config.reader import Reader
from moco_tf.config.tree import Config

# What version 0.1 wrote: the fields of all methods.
VERSION_0_1 = {
    "name": "moco", "projection": "linear", "dim": 16, "temperature": 0.07,
    "bn_groups": None, "shuffle_keys": True, "key_momentum": 0.999, "queue_size": 256,
    "mask_same_image": False, "symmetric": False, "num_negatives": 4096,
    "slot_momentum": 0.5, "proximal": 0.0, "hidden": 4096,
}  # fmt: skip


def written(tmp_path, **method):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"method": method}))
    return path


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["method.name=simclr", "method.queue_size=128"],
            "method.queue_size=128 is a field of method.name=moco, but simclr has only "
            "dim, temperature; leave it out, or choose another method",
        ),
        (["method.hidden=8"], "field of method.name=moco_v3, but moco has only"),
        (
            ["method.name=moco_v3", "method.projection=mlp"],
            "method.name=moco or end_to_end or memory_bank, but moco_v3",
        ),
        (["method.name=SimCLR"], "did you mean simclr[?] Or use one of moco, moco_v3"),
    ],
)
def test_field_of_another_method_is_refused(words, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_config(None, words)
    # As two words, and in any order.
    split = [part for word in reversed(words) for part in f"--{word}".split("=")]
    with pytest.raises(ConfigError, match=sentence):
        parse_args(split)


def test_field_of_another_method_in_a_file_is_refused(tmp_path):
    path = written(tmp_path, name="simclr", queue_size=64)
    sentence = "method.queue_size in .*config.yaml is a field of method.name=moco"
    with pytest.raises(ConfigError, match=sentence):
        load_config(path)
    with pytest.raises(ConfigError, match="method.name=simclir in .*yaml does not fit"):
        load_config(written(tmp_path, name="simclir"))


def test_another_method_than_the_files_keeps_what_both_have(tmp_path):
    path = written(tmp_path, name="moco", queue_size=256, temperature=0.07, dim=16)
    method = load_config(path, ["method.name=simclr"]).method
    assert method == SimCLRSettings(dim=16, temperature=0.07)


@pytest.mark.parametrize("name", ["moco", "moco_v3", "simclr", "memory_bank"])
def test_runs_of_version_0_1_hold_the_fields_of_all_methods(tmp_path, name):
    config = load_config(written(tmp_path, **{**VERSION_0_1, "name": name}))
    own = {field.name for field in dataclasses.fields(config.method)}
    found = dataclasses.asdict(config.method)
    assert found == {k: v for k, v in VERSION_0_1.items() if k in own} | {"name": name}


def test_only_the_fields_of_the_method_are_written(tmp_path):
    config = load_config(None, ["method.name=simclr"])
    text = dump(config)
    assert set(yaml.safe_load(text)["method"]) == {"name", "dim", "temperature"}
    (tmp_path / "again.yaml").write_text(text)
    assert load_config(tmp_path / "again.yaml") == config
    assert load_config(None).method == MoCoSettings()


def test_help_shows_fields_under_their_method(capsys):
    with pytest.raises(SystemExit):
        parse_args(["--help"])
    text = capsys.readouterr().out
    parts = re.split(r"with method.name=(\w+):", text)
    shared, shown = parts[0], dict(zip(parts[1::2], parts[2::2]))
    kinds = Reader(Config).sections["method"]
    assert list(shown) == [name for name in kinds if name != "simclr"]
    for name, kind in kinds.items():
        for field in dataclasses.fields(kind):
            key = f"--method.{field.name} "
            assert key in shared or key in shown[name].partition("optimizer,")[0]
