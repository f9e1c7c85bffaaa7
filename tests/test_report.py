from __future__ import annotations

import csv

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from moco_tf.evaluation import neighbour_gallery
from moco_tf.report import (
    below_untrained,
    closing_table,
    plot_history,
    view_grid,
)

COLUMNS = (
    "epoch,loss,top1,top5,positive_similarity,negative_similarity,feature_std,"
    "effective_rank,learning_rate,knn,linear"
).split(",")


@pytest.fixture
def saved_figures(monkeypatch):
    """The figures that were saved, for looking at their artists."""
    figures, save = [], Figure.savefig

    def spy(self, *args, **kwargs):
        figures.append(self)
        return save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", spy)
    return figures


def write_history(path, epochs):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerow({"epoch": 0, "knn": 0.65, "linear": 0.7})
        for epoch in range(1, epochs + 1):
            row = dict.fromkeys(COLUMNS[1:9], 0.5)
            row.update(epoch=epoch, loss=8.0 - 0.1 * epoch)
            if epoch % 2 == 0:
                row.update(knn=0.9, linear=0.93)
            writer.writerow(row)
    return path


def texts_of(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_history_shows_every_curve_baseline_and_ceiling(tmp_path, saved_figures):
    history = write_history(tmp_path / "history.csv", 6)
    out = plot_history(
        history, tmp_path / "report" / "h.png", negatives=4096, raw_knn=0.39
    )
    assert imread(out).shape[:2] == (1200, 1800)
    texts = texts_of(saved_figures[0])
    for label in ("loss", "top-1", "top-5", "kNN", "linear", "effective rank"):
        assert label in texts
    assert {"kNN, untrained", "linear, untrained", "kNN, raw pixels"} <= set(texts)
    assert any("8.32" in text for text in texts)
    probes = saved_figures[0].axes[2]
    np.testing.assert_allclose(probes.lines[0].get_xdata(), [0, 2, 4, 6])
    np.testing.assert_allclose(probes.lines[0].get_ydata(), [65, 90, 90, 90])


@pytest.mark.parametrize("epochs", [0, 1])
def test_history_of_a_short_run_is_drawn(tmp_path, epochs):
    history = write_history(tmp_path / "history.csv", epochs)
    assert plot_history(history, tmp_path / "h.png", negatives=64).stat().st_size > 1e4


def test_history_without_probes_has_no_panel_for_them(tmp_path, saved_figures):
    path = tmp_path / "history.csv"
    path.write_text("epoch,loss,top1,top5\n1,3.0,0.1,0.2\n2,2.5,0.2,0.4\n")
    assert plot_history(path, tmp_path / "h.png").exists()
    titles = [axes.get_title(loc="left") for axes in saved_figures[0].axes]
    assert not any("frozen features" in title for title in titles)
    assert all(axes.lines for axes in saved_figures[0].axes[:2])


def test_empty_history_is_explained(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,loss\n")
    with pytest.raises(ValueError, match="holds no epochs"):
        plot_history(tmp_path / "history.csv", tmp_path / "h.png")


def gallery_data(count=12, channels=3):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    features = np.eye(3)[labels] + 0.01 * rng.normal(size=(count, 3))
    images = rng.integers(0, 256, (count, 8, 8, channels), dtype=np.uint8)
    return images, features, labels


def shown(figure):
    """The images of a gallery row by row, and its words from left to right, down."""
    (axes,) = figure.axes
    words = sorted(axes.texts, key=lambda text: text.get_position()[::-1])
    return [image.get_array() for image in axes.images], [t.get_text() for t in words]


def test_gallery_draws_neighbours_but_not_the_query_again(tmp_path, saved_figures):
    images, features, labels = gallery_data()
    neighbour_gallery(
        images, features, labels, ["a", "b", "c"], tmp_path / "g.png", queries=3, k=2
    )
    panels, words = shown(saved_figures[0])
    assert len(panels) == 3 * 3
    title, *legend = words[:3]
    assert title.startswith("nearest") and legend == ["same class", "another"]
    assert words[3:6] == ["query", "1", "2"]
    assert words[6:] == [*"aaa", *"bbb", *"ccc"]
    for row in range(3):
        query, *neighbours = panels[3 * row : 3 * row + 3]
        for neighbour in neighbours:
            assert not np.array_equal(neighbour, query)
    # A frame around each neighbour, and two in the legend.
    assert len(saved_figures[0].axes[0].patches) == 6 + 2


def test_gallery_names_the_files(tmp_path, saved_figures):
    images, features, _ = gallery_data(3)
    names = ["b/a.jpg", "holiday/2024/sunset.jpg", "a-very-long-name-of-a-file.jpg"]
    unlabelled = np.full(3, -1)
    neighbour_gallery(
        images, features, unlabelled, [], tmp_path / "g.png", file_names=names
    )
    _, words = shown(saved_figures[0])
    assert set(words[4:]) == {"b/a.jpg", "sunset.jpg", "a-very-…-file.jpg"}
    assert "same class" not in words


@pytest.mark.parametrize("channels", [1, 4])
def test_gallery_of_unlabelled_images_has_no_frames(tmp_path, saved_figures, channels):
    images, features, _ = gallery_data(5, channels)
    neighbour_gallery(images, features, np.full(5, -1), [], tmp_path / "g.png")
    panels, _ = shown(saved_figures[0])
    assert len(panels) == 5 * 5
    assert not saved_figures[0].axes[0].patches


def test_gallery_of_one_image_is_explained(tmp_path):
    images, features, labels = gallery_data(1)
    with pytest.raises(ValueError, match="at least two images"):
        neighbour_gallery(images, features, labels, [], tmp_path / "g.png")


def test_view_grid_has_the_views_of_an_image_side_by_side():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    grid = view_grid(pixels, pixels[::-1], columns=2)
    assert grid.dtype == np.uint8
    np.testing.assert_array_equal(grid[4:12, 4:12], pixels[0])
    np.testing.assert_array_equal(grid[4:12, 13:21], pixels[4])
    assert grid.shape == (3 * 12 + 4, 2 * 21 + 4, 3)


@pytest.mark.parametrize("channels", [1, 4, 16])
def test_view_grid_shows_the_first_of_other_channels_grey(channels):
    shape = (1, 8, 8, channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    grid = view_grid(pixels, pixels)
    gray = pixels[0, ..., 0]
    np.testing.assert_array_equal(grid[4:12, 4:12], np.stack([gray] * 3, axis=-1))


def test_closing_table_aligns_and_marks_what_was_not_measured():
    table = closing_table(
        [("raw pixels", 0.39, None), ("trained encoder", 0.9345, 1.0)],
        {"weights": "runs/a/saved_model"},
        {"evaluate": "python evaluate.py knn runs/a"},
    )
    assert table.splitlines() == [
        "                        kNN    linear",
        "  -----------------------------------",
        "  raw pixels         39.0 %         -",
        "  trained encoder    93.5 %   100.0 %",
        "",
        "Written",
        "  weights  runs/a/saved_model",
        "",
        "Next",
        "  evaluate:",
        "    python evaluate.py knn runs/a",
    ]


def test_closing_table_leaves_out_what_a_run_lacks():
    assert closing_table([("raw pixels", 0.39, None)], {}, {}).count("linear") == 0
    assert closing_table([], {"weights": "x"}, {}) == "Written\n  weights  x"


def test_training_that_made_the_features_worse_is_remarked():
    untrained, better = {"knn": 0.41, "linear": 0.48}, {"knn": 0.5, "linear": 0.5}
    assert below_untrained({"untrained": untrained, "trained": better}) is None
    assert below_untrained({"trained": better}) is None
    worse = {"untrained": untrained, "trained": {"knn": 0.402, "linear": 0.5}}
    remark = below_untrained(worse)
    assert "below the untrained one in kNN (40.2 % against 41.0 %):" in remark
    table = closing_table([("trained", 0.402, 0.5)], {}, {}, remark)
    assert max(map(len, table.splitlines())) <= 80 and "data.crop_scale" in table
