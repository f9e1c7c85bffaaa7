"""The page on scaling: its arithmetic against the graphs of real steps."""

import pytest
from commands import ROOT

from benchmarks import scaling
from moco_tf import encoders, methods

ROWS, SIZE = 8, 16


def narrow():
    return encoders.ResNet18(width=4, stem="cifar")


@pytest.mark.parametrize("replicas", [2, 4])
def test_bytes_of_a_step_are_those_of_the_arithmetic(replicas):
    model = methods.MoCo(narrow(), dim=16, queue_size=64)
    expected = scaling.moved(scaling.parameters_of(model), 16, ROWS * replicas)
    found = scaling.counted(model, SIZE, ROWS, replicas)
    scaling.require_same(found, expected)
    with pytest.raises(SystemExit, match="but the arithmetic says"):
        scaling.require_same({**found, "gradients": 1}, expected)


def test_batch_norm_over_replicas_moves_its_sums():
    model = methods.SimCLR(narrow(), dim=16)
    found = scaling.counted(model, SIZE, ROWS)
    channels = sum(
        layer.moving_mean.shape[0]
        for layer in model._flatten_layers()
        if hasattr(layer, "moving_mean")
    )
    # Two sums of float64 a channel, forward and backward; both views in one batch.
    assert found["statistics"] == 2 * 2 * 8 * channels
    assert found["gradients"] > 4 * scaling.parameters_of(model)


def test_more_gpus_never_lose_less():
    _, rows = scaling.gpu_rows({"any": 500.0}, 28_000_000, 32)
    shares = [int(cell.rstrip(" %")) for cell in rows[0][3:]]
    assert 100 > shares[0] > shares[1] > shares[2] > 0


def test_page_has_the_tables_that_the_script_prints():
    page = (ROOT / "docs" / "scaling.md").read_text()
    count = scaling.resnet50_parameters()
    assert scaling.table(*scaling.gpu_rows(scaling.SPEEDS, count, 32)) in page
    assert scaling.table(*scaling.host_rows(scaling.SPEEDS)) in page
    moco = scaling.moved(count, 128, 2 * 32)
    assert scaling.table(*scaling.count_rows({"moco": moco})).splitlines()[2] in page
