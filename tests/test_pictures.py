"""Pictures can be read: contrast, distinct colours, labels apart, honest lines."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont

from moco_tf.config.sweep import Row, Sweep
from moco_tf.evaluation.knn.gallery import draw_neighbours
from moco_tf.evaluation.results.pictures import (
    Panel,
    by_number,
    by_row,
    curves,
    grouped_bars,
)
from moco_tf.evaluation.results.tables import picture
from moco_tf.report import (
    confusion_matrix,
    heat_map,
    letters,
    look,
    plot_history,
)


def texts(figure):
    own = [text.get_text() for text in figure.texts]
    return own + [text.get_text() for axes in figure.axes for text in axes.texts]


def test_every_colour_of_text_can_be_read_on_white():
    assert look.contrast("white", "black") == pytest.approx(21)
    for colour in (*look.COLOURS, look.INK, look.GREY):
        assert look.contrast(colour, "white") >= 4.5, colour


def test_numbers_on_maps_can_be_read():
    for figure in (
        confusion_matrix(np.diag(np.arange(1, 12)) + 3, list("abcdefghijk"), ""),
        heat_map(np.linspace(0, 1, 12).reshape(3, 4), "abc", "abcd", "", ("", "")),
    ):
        (axes,) = figure.axes
        colours = axes.images[0]
        for text in axes.texts:
            column, row = text.get_position()
            ground = colours.cmap(colours.norm(colours.get_array()[row, column]))
            assert look.contrast(text.get_color(), ground) >= 4.5


def test_up_to_ten_series_have_ten_colours():
    assert len(set(look.colours(10))) == 10
    assert len(look.colours(13)) == 13
    bars = grouped_bars("", ["a"], {str(i): [[0.1 * i]] for i in range(9)})
    drawn = {patch.get_facecolor() for patch in bars.axes[0].patches}
    assert len(drawn) == 9
    assert bars.axes[0].get_xlim()[0] == 0


@pytest.mark.parametrize("places", [[0.1, 0.5, 0.9], [0.5, 0.51, 0.52], [0, 0, 0, 1]])
def test_labels_keep_apart_and_near_their_lines(places):
    gaps = [0.1] * (len(places) - 1)
    found = look.apart(places, gaps)
    assert (np.diff(found) >= 0.1 - 1e-9).all()
    # Crowded labels spread evenly around their lines, the others stay.
    assert np.mean(found) == pytest.approx(np.mean(places))
    if np.diff(places).min() >= 0.1:
        assert found == pytest.approx(places)


@pytest.mark.parametrize(("first", "last"), [(0, 1), (0, 20), (1, 7), (0, 200), (3, 3)])
def test_last_epoch_is_a_tick(first, last):
    axes = grouped_bars("", ["a"], {"b": [[0.5]]}).axes[0]
    look.whole_ticks(axes, first, last)
    ticks = axes.get_xticks()
    assert ticks[-1] == last and (ticks == np.round(ticks)).all()
    assert len(ticks) <= 11


def sweep_of(rows, **fields):
    return Sweep(name="s", title="A sweep", rows=tuple(rows), **fields)


def rows_of(sweep, stds):
    return [
        {"runs": 1 + 2 * (std is not None), "mean": 0.1 * i, "std": std,
         "published": None if row.published is None else row.published / 100,
         "images_per_second": 100.0, "peak_memory_mib": None}
        for i, (row, std) in enumerate(zip(sweep.rows, stds))
    ]  # fmt: skip


def test_sweep_says_what_it_is_of_and_marks_the_winner():
    sweep = sweep_of([Row("a", published=60.0), Row("b")], cost=True)
    figure = picture(sweep, rows_of(sweep, [0.01, 0.02]), "knn", "glyphs train")
    assert {"A sweep", "10.0 best"} <= set(texts(figure))
    assert any("glyphs train; 3 seeds a row" in text for text in texts(figure))
    measured, published, speed, memory = figure.axes
    assert published.get_title(loc="left") == "published, %"
    assert speed.get_xlim()[0] == 0


@pytest.mark.parametrize("std", [None, 0.02])
def test_one_seed_alone_is_not_drawn_as_a_trend(std):
    rows = [Row(str(x), x=x, series="head", published=x) for x in (1, 2, 4)]
    sweep = sweep_of(rows, x_label="temperature")
    figure = picture(sweep, rows_of(sweep, [std] * 3), "knn", "glyphs")
    measured, published = figure.axes
    assert (measured.lines[0].get_linestyle() == "None") == (std is None)
    assert published.lines[0].get_linestyle() == "-"


def test_one_legend_serves_all_panels():
    values, none = np.array([1.0, 2.0]), np.full(2, np.nan)
    panels = [Panel("one", values, none), Panel("images/s", values, none, True)]
    figure = by_number([("a", 1), ("b", 2)], panels, "K", "title", "data")
    assert len(figure.legends) == 1
    assert not any(axes.get_legend() for axes in figure.axes)
    assert figure.axes[1].get_ylim()[0] == 0


def test_dollars_in_names_are_no_formula(tmp_path):
    names = ["$20_$50", "a^$x$"]
    history = tmp_path / "history.csv"
    history.write_text("epoch,loss,top1,top5\n1,3.0,0.1,0.2\n")
    plot_history(history, tmp_path / "h.png", title=names[0])
    images = np.zeros((4, 8, 8, 3), np.uint8)
    drawn = draw_neighbours(images, np.eye(4), np.array([0, 1, 0, 1]), names)
    none = np.full(2, np.nan)
    panels = [Panel("knn", np.array([1.0, 2.0]), none)]
    for number, figure in enumerate(
        (
            drawn,
            confusion_matrix(np.eye(2), names, names[0]),
            heat_map(np.eye(2), names, names, names[0], ("a", "b")),
            curves([1, 2], {"loss": {name: [1, 2] for name in names}}),
            grouped_bars(names[0], names, {name: [[0.1], [0.2]] for name in names}),
            by_row(names, panels, names[0], names[1]),
            by_number([(name, 1.0) for name in names], panels, "x", *names),
        )
    ):
        look.save(figure, tmp_path / f"{number}.png")
        assert look.pixels(figure).shape[-1] == 3


def named_bars(names):
    figure = Figure()
    axes = figure.add_subplot(title=f"of {names[0]}")
    axes.bar(range(len(names)), 1, tick_label=names)
    axes.legend(axes.patches, names)
    return figure, axes


def test_letters_that_the_usual_font_lacks_come_from_another_one(tmp_path, caplog):
    stix = letters._letters(findfont("STIXGeneral"))
    letter = min(stix - letters._usual())
    figure, axes = named_bars([f"a {letter}", "ünï"])
    look.save(figure, tmp_path / "a.png")  # a missing glyph would be a warning
    assert [t.get_text() for t in axes.get_xticklabels()] == [f"a {letter}", "ünï"]
    for text in (axes.title, axes.get_xticklabels()[0], *axes.get_legend().texts[:1]):
        assert len(text.get_fontfamily()) == 2, text
    assert len(axes.get_xticklabels()[1].get_fontfamily()) == 1
    assert not caplog.records


def test_words_that_no_font_can_draw_are_numbers_with_a_legend(
    tmp_path, caplog, monkeypatch
):
    boxes = [f for f in letters.fontManager.ttflist if "Last Resort" in f.name]
    monkeypatch.setattr(letters, "fontManager", SimpleNamespace(ttflist=boxes))
    letters._family.cache_clear()
    figure, axes = named_bars(["the 猫", "cat", "鳥"])
    look.save(figure, tmp_path / "a.png")
    letters._family.cache_clear()
    found = ["the #1", "cat", "#2"]
    assert [text.get_text() for text in axes.get_xticklabels()] == found
    assert [text.get_text() for text in axes.get_legend().texts] == found
    assert axes.get_title() == "of the #1"
    (record,) = caplog.records
    assert "in a.png, where #1 stands for 猫, #2 stands for 鳥;" in record.getMessage()
