"""The page of a run: what it holds, whatever the directory has, and that it is safe."""

from __future__ import annotations

import csv
import fcntl
import json
import re
import time

import numpy as np
import pytest
from conftest import strip_runs
from page_runs import NAME, Page, epochs, history, unfinished_run
from test_pretrain import small

from moco_tf.cli.evaluate import parse_evaluation
from moco_tf.config import ConfigError, dump, load_config
from moco_tf.config.nearest import nearest_recipe
from moco_tf.config.recipes import recipes
from moco_tf.evaluation import evaluate
from moco_tf.evaluation.map.places import principal_places
from moco_tf.pretrain import page as page_writing
from moco_tf.pretrain import pretrain, watch
from moco_tf.pretrain.page import RunPage, page_kept
from moco_tf.report import look
from moco_tf.report.page import chart, frame
from moco_tf.report.page.panels import Line, Panel
from moco_tf.report.page.run import UNDER_WAY, write_run_page
from moco_tf.stops import Stopped


@pytest.fixture
def run(tmp_path):
    return unfinished_run(tmp_path)


def read(run, **words):
    return Page(write_run_page(run, **words).read_text(encoding="utf-8"))


def test_page_holds_the_whole_history_and_asks_for_nothing_outside(run):
    page = read(run)
    columns = page.data["runs"][0]
    with open(run / "history.csv", newline="") as file:
        for row, cells in enumerate(csv.DictReader(file)):
            for name, cell in cells.items():
                known = None if cell in ("", "nan") else float(cell)
                assert columns[name][row] == known
    assert not [a for a in page.addresses if not a.startswith("data:")]
    text = (run / "report/index.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|src=\"//|@import|url\((?!\$)", text)
    assert "default-src 'none'" in text


def test_names_are_text_and_never_elements(run):
    results = run / "report" / "knn"
    results.mkdir()
    odd = {"figures": {"<i>top1</i>": 0.5}, "warning": "<script>x</script>"}
    (results / "results.json").write_text(json.dumps(odd))
    page = read(run, state="stopped", reason="<img src=x> is not finite")
    assert NAME in page.words and "<i>top1</i>" in page.words
    assert "<img src=x> is not finite" in page.words
    assert "<script>x</script>" in page.words
    assert not {"b", "i", "img"} & set(page.tags) - {"i"}
    assert page.tags.count("script") == 2


def test_state_is_what_the_directory_says(run):
    page = read(run)
    assert "stopped epoch 3 of 5" in page.words and "--resume" in page.words
    assert page.data["refresh"] == 0
    with open(run / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        page = read(run)
    assert "under way epoch 3 of 5" in page.words and page.data["refresh"] > 0
    # 2 epochs of 7 steps of 128 images at 256 a second.
    assert "about 7 s" in page.words and abs(page.data["written"] - time.time()) < 60
    assert "evaluate knn" not in page.words
    (run / "report" / "summary.json").write_text('{"cost": {"device": "CPU"}}')
    page = read(run)
    assert "finished 3 epochs" in page.words and "evaluate knn" in page.words


def test_figures_cost_and_settings_are_told(run):
    page = read(run)
    assert "raw pixels 30.0 % untrained encoder 25.0 % trained encoder 50.0 %" in (
        page.words
    )
    assert "10 s" in page.words and "256.0" in page.words and "900 MiB" in page.words
    assert "Unlike the recipe demo" in page.words
    assert "train.epochs 16 5" in page.words


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (epochs(3), "Nothing unusual was seen."),
        ([], "Nothing is trained yet."),
        (epochs(3, feature_std=0.01), "looks collapsed.*Seen in epochs 2 to 3"),
        (epochs(2, input_wait=0.6), "waits for images 60 %.*Seen in epoch 2"),
        ([{"epoch": 0, "knn": 0.25}, *epochs(1, knn=0.2)], "is below the untrained"),
        ([{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 2.0}], "Nothing unusual"),
    ],
)
def test_health_is_told_in_words_from_the_whole_history(run, rows, said):
    history(run, rows)
    assert re.search(said, read(run).words)


def test_what_an_old_or_damaged_directory_lacks_is_left_out(run):
    (run / "data.json").unlink()
    (run / "report" / "baselines.json").write_text('{"raw_pixels": {"knn": NaN}}')
    (run / "config.yaml").write_text("name: [")
    (run / "report" / "summary.json").write_text("{")
    (run / "report" / "page" / "map.json").write_text("{")
    rows = [{"epoch": 1, "loss": 3.0}, {"epoch": 2, "knn": 0.5}, {"epoch": "x"}]
    history(run, rows)
    page = read(run)
    assert "config.yaml cannot be read" in page.words and "epoch 2" in page.words
    panels = page.data["panels"]
    assert [[one["column"] for one in panel["lines"]] for panel in panels] == [
        ["loss"],
        ["knn"],
    ]
    (run / "history.csv").unlink()
    assert "They come with the first epoch" in read(run).words


def test_curves_are_where_the_axes_say():
    values = [3.5, None, 2.0, 1.25]
    panel = Panel("x", [Line("a", 0, column="loss"), Line("b", 1, level=4.0)])
    columns = {"epoch": [1.0, 2.0, 3.0, 4.0], "loss": values}
    svg, told = chart.draw(panel, [columns], 0)
    texts = re.findall(r"<text ([^>]+)>([^<]+)", svg)
    up = {float(t): float(re.search(r' y="([\d.]+)"', a)[1]) for a, t in texts
          if 'class="up"' in a}  # fmt: skip
    across = {float(t): float(re.search(r'x="([\d.]+)"', a)[1]) for a, t in texts
              if 'class="across"' in a}  # fmt: skip
    (path,) = re.findall(r'points="([^"]+)"', svg)
    drawn = np.array([place.split(",") for place in path.split()], float)
    fits = [np.polyfit(list(axis.values()), list(axis), 1) for axis in (across, up)]
    found = [np.polyval(fit, drawn[:, i]) for i, fit in enumerate(fits)]
    np.testing.assert_allclose(found[0], [1, 3, 4], atol=0.01)
    np.testing.assert_allclose(found[1], [3.5, 2.0, 1.25], atol=0.01)
    (level,) = re.findall(r'class="level c1"[^>]* y1="([\d.]+)"', svg)
    assert np.polyval(fits[1], float(level)) == pytest.approx(4.0, abs=0.01)


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [-1.0, 1e6], [1e-9, 2e-9]])
def test_any_numbers_have_an_axis(values):
    columns = {"epoch": [float(n) for n in range(len(values))], "loss": values}
    for from_zero in (True, False):
        panel = Panel("x", [Line("a", 0, column="loss")], from_zero=from_zero)
        svg, _ = chart.draw(panel, [columns], 0)
        tops = [float(top) for top in re.findall(r'cy="([-\d.]+)"', svg)]
        assert all(8 <= top <= 186 for top in tops) and 'class="up"' in svg


def test_colours_can_be_read_on_both_grounds():
    style = frame.part("page.css")
    light, dark = re.findall(r"--ground: (#\w+); --card: (#\w+)", style)
    for grounds, colours in ((light, look.COLOURS), (dark, frame.DARK)):
        for ground in grounds:
            assert all(look.contrast(c, ground) >= 4 for c in colours), ground


@pytest.mark.parametrize("recipe", [recipe.name for recipe in recipes()])
def test_recipe_is_the_nearest_to_itself(recipe):
    words = ["data.data_dir=."] if recipe == "folder_photos" else []
    found = nearest_recipe(load_config(recipe, words))
    assert (found.recipe, found.settings) == (recipe, {})


def test_departures_from_the_nearest_recipe_are_named():
    words = ["name=x", "method.temperature=0.3", "seed=4", "data.data_dir=/there"]
    found = nearest_recipe(load_config("moco_v2_cifar10_cpu", words))
    assert found.recipe == "moco_v2_cifar10_cpu"
    assert found.settings == {"method.temperature": (0.1, 0.3)}
    assert nearest_recipe(load_config(None, ["method.name=end_to_end"])) is None


def test_map_has_the_directions_in_which_features_differ_most():
    rows = np.random.default_rng(0).normal(size=(300, 20)) * np.linspace(4, 0.5, 20)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    centred = unit - unit.mean(axis=0)
    expected = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    found = principal_places(rows)
    assert found.min() == 0 and found.max() == 1
    for one, other in zip(found.T, expected.T):
        assert abs(np.corrcoef(one, other)[0, 1]) > 0.999
    assert np.isfinite(principal_places(np.ones((5, 1)))).all()


def test_page_that_cannot_be_written_is_told_once_and_ends_nothing(run, monkeypatch):
    said = []
    monkeypatch.setattr(page_writing.log, "warning", lambda *words: said.append(words))
    page = RunPage(load_config(run / "config.yaml"), run, is_first_host=True)
    page.write(UNDER_WAY)
    before = page.path.read_text(encoding="utf-8")
    (run / "report/index.tmp").mkdir()  # in the way of what is written first
    page.write(UNDER_WAY)
    page.write(UNDER_WAY)
    ((sentence, cause),) = said
    assert "goes on without it" in sentence and "index.tmp" in cause
    assert page.path.read_text(encoding="utf-8") == before


def test_only_the_first_host_writes(run):
    page = RunPage(load_config(run / "config.yaml"), run, is_first_host=False)
    pictures = {"views": lambda epochs: np.zeros((2, 2, 3), np.uint8)}
    assert page.keeping(pictures, None) is pictures
    page.write(UNDER_WAY)
    page.finish()
    assert not page.path.exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Stopped(75, "epoch 3"), "It was asked to stop, saved up to epoch 3."),
        (ConfigError("a key is wrong; mend it."), "a key is wrong; mend it."),
        (RuntimeError("boom\nand more"), "boom"),
    ],
)
def test_what_stops_a_run_is_on_its_page(run, error, said):
    config = load_config(run / "config.yaml")
    with pytest.raises(type(error)), page_kept(config, run) as page:
        assert "under way" in Page(page.path.read_text(encoding="utf-8")).words
        raise error
    words = Page(page.path.read_text(encoding="utf-8")).words
    assert "stopped epoch 3 of 5" in words and said in words


def test_several_runs_have_a_page_with_their_curves_over_one_another(tmp_path, capsys):
    names = ["a#1", "<i>b", "c"]
    for name in names:
        (tmp_path / name / "report").mkdir(parents=True)
        words = [f"runs_dir={tmp_path}", f"name={name}"]
        words += ["seed=1"] if name == "c" else [f"method.dim={16 + len(name)}"]
        (tmp_path / name / "config.yaml").write_text(dump(load_config(None, words)))
        history(tmp_path / name, epochs(2 + len(name)))
    closing = {"trained": {"knn": 0.5}, "quality": {}}
    (tmp_path / "c" / "report" / "summary.json").write_text(json.dumps(closing))
    write_run_page(tmp_path / "a#1")
    evaluate(parse_evaluation(["compare", *(str(tmp_path / name) for name in names)]))
    page = Page((tmp_path / "compare/index.html").read_text(encoding="utf-8"))
    loss = page.data["panels"][0]["lines"]
    assert [line["name"] for line in loss] == names
    assert [len(page.data["runs"][line["run"]]["epoch"]) for line in loss] == [5, 6, 3]
    assert "<i>b: 6 of 16 epochs" in page.words and "i" not in page.tags[:5]
    assert "method.dim 19 20 128" in page.words and "50.0" in page.words
    assert page.addresses == ["data:,", "../a%231/report/index.html"]
    # Of one run its own page, which has nothing measured yet, and none before.
    assert not (tmp_path / "<i>b/report/index.html").exists()
    evaluate(parse_evaluation(["compare", str(tmp_path / "<i>b")]))
    assert "Nothing is measured yet" in capsys.readouterr().out
    text = (tmp_path / "<i>b/report/index.html").read_text(encoding="utf-8")
    assert "stopped epoch 6 of 16" in Page(text).words


def test_run_shows_what_tensorboard_draws_and_draws_nothing_twice(
    tmp_path, monkeypatch
):
    strip_runs(monkeypatch, board=True)
    drawn = []
    grid = watch.view_grid
    monkeypatch.setattr(
        watch, "view_grid", lambda *views: drawn.append(0) or grid(*views)
    )
    pretrain(small(tmp_path, "data.channels=3"))
    text = (tmp_path / "run/report/index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(drawn) == 2  # of before training and of the last epoch
    assert page.tags.count("img") == 3
    assert page.data["runs"][0]["epoch"] == [0, 1, 2]
    points = page.data["map"]["points"]
    assert len(points) == 100 and {point[4] for point in points} == set(range(100))
    assert all(0 <= place <= 1 for point in points for place in point[:2])
    assert {point[3] for point in points} == set(page.data["map"]["colours"])
    assert page.data["map"]["atlas"].startswith("data:image/jpeg;base64,")
    assert "2 of 2" in page.words
