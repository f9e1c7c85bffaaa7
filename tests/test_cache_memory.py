"""A set that memory cannot hold is not cached."""

from types import SimpleNamespace

import psutil
import pytest
from pretrained_runs import write_images

from moco_tf.data import DataError, open_source, two_views


def test_cache_that_does_not_fit_is_refused_before_a_step(tmp_path, monkeypatch):
    write_images(tmp_path / "photos", 8)
    source = open_source("folder", "train", data_dir=str(tmp_path / "photos"))
    files = list((tmp_path / "photos").rglob("*.png"))
    assert source.num_bytes == sum(path.stat().st_size for path in files)

    def batches(free):
        memory = SimpleNamespace(available=free)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
        return two_views(source, batch_size=4, image_size=16, cache=True)

    assert batches(2 * source.num_bytes)
    with pytest.raises(DataError, match="cache=true would keep 0.0 GiB .*leave it out"):
        batches(source.num_bytes)
    assert two_views(source, batch_size=4, image_size=16)


def test_size_of_a_tfds_set_is_known(shared_data):
    whole, tenth = (
        open_source(
            "tfds",
            split,
            name="cifar10",
            data_dir=str(shared_data / "tensorflow_datasets"),
        )
        for split in ("train", "train[:10%]")
    )
    # The JPEG copies of the shared set are of a kilobyte each.
    assert 5e7 / 2 < whole.num_bytes < 2e8
    assert tenth.num_bytes is None
