"""A run of each method that MoCo is compared with, from configuration to SavedModel."""

import csv

import numpy as np
import pytest
from tensorflow import keras
from tiny import small_encoder

from moco_tf import methods, optimizers
from moco_tf.config import load_config
from moco_tf.pretrain import build as build_module
from moco_tf.pretrain import build_model, pretrain, run

SMALL = (
    "encoder.width=4",
    "augment.jit_compile=false",
    "data.image_size=16",
    "method.dim=16",
    "train.epochs=1",
    "train.batch_size=32",
    "train.steps_per_epoch=2",
    "monitor.every=0",
)
LARS = ("optimizer.name=lars",)
SETTINGS = {
    "moco_v3": (
        methods.MoCoV3,
        optimizers.LARS,
        (*LARS, "augment.recipe=moco_v3", "method.hidden=32"),
    ),
    "simclr": (methods.SimCLR, optimizers.LARS, (*LARS, "augment.recipe=simclr")),
    "end_to_end": (methods.EndToEnd, optimizers.SGD, ()),
    "memory_bank": (
        methods.MemoryBank,
        optimizers.SGD,
        ("method.num_negatives=64",),
    ),
}


@pytest.mark.parametrize("method", SETTINGS)
def test_method_runs_from_its_configuration_to_its_end(method, tmp_path, monkeypatch):
    made = []

    def build_noted(*arguments):
        made.append(build_model(*arguments))
        return made[-1]

    monkeypatch.setattr(run, "build_model", build_noted)
    monkeypatch.setattr(build_module, "build_encoder", lambda config: small_encoder())
    kind, optimizer, overrides = SETTINGS[method]
    words = (f"method.name={method}", f"runs_dir={tmp_path}", "name=run", *overrides)
    pretrain(load_config(None, (*SMALL, *words)))
    (model,) = made
    assert type(model) is kind and type(model.optimizer) is optimizer
    assert int(model.optimizer.iterations) == 2
    with open(tmp_path / "run" / "history.csv") as file:
        _, row = csv.DictReader(file)  # the first one is of the untrained encoder
    assert np.isfinite(float(row["loss"]))
    assert (tmp_path / "run" / "saved_model" / "saved_model.pb").stat().st_size > 0


def test_vit_of_moco_v3_gets_adamw_and_loss_scaling_in_mixed_precision(policy):
    words = (
        "encoder.name=vit_small",
        "data.image_size=32",
        "method.name=moco_v3",
        "method.hidden=32",
    )
    words += ("optimizer.name=adamw", "optimizer.weight_decay=0.1")
    policy("mixed_float16")
    model = build_model(load_config(None, (*SMALL, *words)), 2, 1, 64)
    assert isinstance(model.optimizer, keras.mixed_precision.LossScaleOptimizer)
    assert type(model.optimizer.inner_optimizer) is keras.optimizers.AdamW
    assert model.optimizer.inner_optimizer.weight_decay == 0.1
    assert model.encoder.output_shape == (None, 384)
