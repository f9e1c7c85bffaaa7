"""What TensorBoard is shown: the two views of some images, and the projector's."""

import numpy as np
import pytest
import tensorflow as tf
from commands import ROOT
from conftest import strip_runs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from test_pretrain import small
from tiny import noise_batches, small_encoder

import moco_tf
from moco_tf import callbacks
from moco_tf.callbacks import logs
from moco_tf.callbacks.measures import MEASURES
from moco_tf.config import load_config
from moco_tf.evaluation.knn.gallery import Album
from moco_tf.pretrain import images, pretrain, watch


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """What TensorBoard reads of a run of two epochs."""
    folder = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as patch:
        strip_runs(patch, board=True)
        pretrain(small(folder, "log.histograms=true", "log.every_steps=1"))
    keep_all = dict.fromkeys(("scalars", "tensors", "images", "histograms"), 0)
    read = EventAccumulator(str(folder / "run" / "tensorboard"), keep_all)
    return read.Reload()


def test_grid_has_each_query_beside_its_own_key(tmp_path, monkeypatch):
    (batch,) = noise_batches(1)
    batch["key"] = tf.gather(batch["query"], batch["position"])
    given = []
    grid = watch.view_grid
    monkeypatch.setattr(
        watch, "view_grid", lambda *views: given.append(views) or grid(*views)
    )
    model = moco_tf.MoCo(small_encoder(), dim=4, queue_size=32)
    album = Album(lambda: (), [], lambda: ())
    pictures = watch.board_pictures(load_config(), model, None, album, lambda: batch)
    drawn = pictures["views/query and key"](0)
    ((query, key),) = given
    assert len(query) == 16 and drawn.dtype == np.uint8
    np.testing.assert_array_equal(query, key)


def test_untrained_encoder_is_the_point_at_epoch_0(events):
    def steps(tag):
        return [event.step for event in events.Tensors(tag)]

    assert steps("probe/knn") == [0, 2]
    assert steps("contrast/loss") == [1, 2]


def test_steps_are_counted_over_the_whole_run(events):
    for name in ("loss", "gradient_norm", "weight_norm", "images_per_second"):
        assert [event.step for event in events.Tensors(f"steps/{name}")] == [1, 2, 3, 4]


def test_every_tag_has_a_description_of_its_own(events):
    tags = [tag for tag in events.Tags()["tensors"] if "/" in tag]
    scalars = {
        tag: events.SummaryMetadata(tag).summary_description
        for tag in tags
        if events.SummaryMetadata(tag).plugin_data.plugin_name == "scalars"
    }
    assert len(scalars) >= 14
    assert all(scalars.values()) and len(set(scalars.values())) == len(scalars)
    assert "not an accuracy of classes" in scalars["contrast/top1"]


def test_glossary_explains_every_measure():
    glossary = (ROOT / "docs" / "glossary.md").read_text()
    assert all(f"`{name}`" in glossary for name in MEASURES)


def test_pictures_come_before_training_and_through_it(events):
    for tag in ("views/query and key", "neighbours", "confusion"):
        drawn = events.Tensors(tag)
        assert [event.step for event in drawn] == [0, 2], tag
        first, last = (event.tensor_proto.string_val[2] for event in drawn)
        assert first != last  # other views, other features
        assert tf.io.decode_png(first).shape[-1] == 3


def test_histograms_come_on_request(events):
    histograms = [
        tag
        for tag in events.Tags()["tensors"]
        if events.SummaryMetadata(tag).plugin_data.plugin_name == "histograms"
    ]
    assert "embeddings" in histograms
    assert any(tag.startswith("weights/") for tag in histograms)


def test_hyperparameters_are_those_that_the_run_was_shaped_by(events):
    data = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    info = plugin_data_pb2.HParamsPluginData.FromString(data).session_start_info
    names = set(info.hparams)
    assert {"method.queue_size", "optimizer.learning_rate", "seed"} <= names
    assert not {"method.hidden", "method.proximal", "runs_dir"} & names
    assert len(names) < 35


def test_views_that_are_shown_cost_no_batch_of_training(tmp_path, monkeypatch):
    config = small(tmp_path, "train.batch_size=2048", "method.queue_size=2048")
    buffers = []
    two_views = images.two_views
    monkeypatch.setattr(
        images,
        "two_views",
        lambda source, **kwargs: (
            buffers.append(kwargs["shuffle_buffer"]) or two_views(source, **kwargs)
        ),
    )
    shown = images.Images(config, tf.distribute.get_strategy()).shown()
    assert len(shown["query"]) == len(shown["key"]) == 16
    assert sorted(shown["position"].numpy()) == list(range(16))
    assert buffers == [1]


def test_keys_stay_beside_their_queries_where_shuffling_is_off(tmp_path):
    config = small(tmp_path, "method.shuffle_keys=false")
    batch = next(iter(images.Images(config, tf.distribute.get_strategy()).batches(0)))
    assert batch["position"].numpy().tolist() == list(range(32))


@pytest.mark.parametrize(
    ("size", "shown", "channels"), [(32, 32, 3), (224, 64, 3), (96, 64, 1)]
)
def test_sprites_are_small_and_the_sheet_only_as_large_as_they_need(
    tmp_path, size, shown, channels
):
    grey = np.arange(10, 150, 20, dtype=np.uint8)
    images = np.broadcast_to(grey[:, None, None, None], (7, size, size, channels))
    callbacks.TensorBoard(tmp_path)._project(
        Album(lambda: (images, np.arange(7)), [], lambda: np.eye(7))
    )
    sheet = tf.io.decode_png((tmp_path / "sprites.png").read_bytes()).numpy()
    assert sheet.shape == (3 * shown, 3 * shown, channels)
    centres = sheet[shown // 2 :: shown, shown // 2 :: shown, 0]
    assert centres.ravel().tolist() == [*grey, 0, 0]
    settings = (tmp_path / "projector_config.pbtxt").read_text()
    assert settings.count(f"single_image_dim: {shown}") == 2


def test_sheet_of_many_photographs_is_within_tensorboards_limit():
    images = np.broadcast_to(np.uint8(0), (2000, 224, 224, 3))
    assert max(logs._sprites(images)[0].shape) <= 8192
