"""The recipes that come with the project: they load, and hold the papers' values."""

import pathlib

import pytest

from moco_tf.config import dump, load_config, validate

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
RECIPES = sorted(CONFIGS.glob("*.yaml"))


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
    v1 = load_config(CONFIGS / "moco_v1_resnet50_200ep.yaml")
    v2 = load_config(CONFIGS / "moco_v2_resnet50_800ep.yaml")
    cifar = load_config(CONFIGS / "moco_v2_cifar10_resnet18.yaml")
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


def test_recipe_of_the_memory_bank_holds_the_published_values():
    bank = load_config(CONFIGS / "memory_bank_resnet50_200ep.yaml")
    assert (bank.method.name, bank.augment.recipe) == ("memory_bank", "moco_v1")
    assert (bank.method.num_negatives, bank.method.slot_momentum) == (4096, 0.5)
    assert (bank.method.temperature, bank.method.dim) == (0.07, 128)
    assert bank.effective_learning_rate == pytest.approx(0.03)
    assert bank.optimizer.milestones == (120, 160)


def test_recipes_of_moco_v3_hold_the_published_values():
    resnet = load_config(CONFIGS / "moco_v3_resnet50_100ep.yaml")
    vit = load_config(CONFIGS / "moco_v3_vit_small_300ep.yaml")
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
    path = CONFIGS / "simclr_resnet50_200ep.yaml"
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
    (tmp_path / "config.yaml").write_text(dump(config))
    assert load_config(tmp_path / "config.yaml") == config
