"""What TensorBoard is shown: the two views of some images, and the projector's."""

import numpy as np
import pytest
import tensorflow as tf
from test_pretrain import small
from tiny import noise_batches, small_encoder

import moco_tf
from moco_tf import callbacks
from moco_tf.callbacks import TensorBoard, logs
from moco_tf.data.sources import open_source
from moco_tf.pretrain import run
from moco_tf.report import Album


def test_grid_has_each_query_beside_its_own_key_and_keeps_no_batch(
    tmp_path, monkeypatch
):
    (batch,) = noise_batches(1)
    batch["key"] = tf.gather(batch["query"], batch["position"])
    given = []
    grid = logs.view_grid
    monkeypatch.setattr(
        logs, "view_grid", lambda *views: given.append(views) or grid(*views)
    )
    board = TensorBoard(tmp_path, views=batch)
    board.set_model(moco_tf.MoCo(small_encoder(), dim=4, queue_size=32))
    board.on_train_begin()
    ((query, key),) = given
    assert len(query) == 16
    np.testing.assert_array_equal(query, key)
    assert board.views is None
    board.on_train_end()


def test_views_that_are_shown_cost_no_batch_of_training(tmp_path, monkeypatch):
    config = small(tmp_path, "train.batch_size=2048", "method.queue_size=2048")
    buffers = []
    two_views = run.two_views
    monkeypatch.setattr(
        run,
        "two_views",
        lambda source, **kwargs: (
            buffers.append(kwargs["shuffle_buffer"]) or two_views(source, **kwargs)
        ),
    )
    shown = run._shown_views(config, open_source("glyphs", "train"))
    assert len(shown["query"]) == len(shown["key"]) == 16
    assert sorted(shown["position"].numpy()) == list(range(16))
    assert buffers == [1]


def test_keys_stay_beside_their_queries_where_shuffling_is_off(tmp_path):
    config = small(tmp_path, "method.shuffle_keys=false")
    batch = next(iter(run._two_views(config, open_source("glyphs", "train"))))
    assert batch["position"].numpy().tolist() == list(range(32))


@pytest.mark.parametrize(
    ("size", "shown", "channels"), [(32, 32, 3), (224, 64, 3), (96, 64, 1)]
)
def test_sprites_are_small_and_the_sheet_only_as_large_as_they_need(
    tmp_path, size, shown, channels
):
    grey = np.arange(10, 150, 20, dtype=np.uint8)
    images = np.broadcast_to(grey[:, None, None, None], (7, size, size, channels))
    board = callbacks.TensorBoard(tmp_path)
    board._project(Album(lambda: (images, np.arange(7)), [], lambda: np.eye(7)))
    sheet = tf.io.decode_png((tmp_path / "sprites.png").read_bytes()).numpy()
    assert sheet.shape == (3 * shown, 3 * shown, channels)
    centres = sheet[shown // 2 :: shown, shown // 2 :: shown, 0]
    assert centres.ravel().tolist() == [*grey, 0, 0]
    settings = (tmp_path / "projector_config.pbtxt").read_text()
    assert settings.count(f"single_image_dim: {shown}") == 2


def test_sheet_of_many_photographs_is_within_tensorboards_limit():
    images = np.broadcast_to(np.uint8(0), (2000, 224, 224, 3))
    assert max(logs._sprites(images)[0].shape) <= 8192
