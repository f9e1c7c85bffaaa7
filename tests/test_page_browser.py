"""The pages in a browser: no error, figures under the pointer, nothing too wide."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
from browser import opened
from page_runs import unfinished_run

from moco_tf.evaluation.map.page import SIDE, page_of
from moco_tf.report.page.plane import atlas_of, plane_data
from moco_tf.report.page.run import write_run_page

HOVER = """
const found = [];
for (const svg of document.querySelectorAll("svg[data-panel]")) {
  const box = svg.getBoundingClientRect();
  svg.dispatchEvent(new PointerEvent("pointermove",
    { clientX: box.left + 0.97 * box.width, clientY: box.top + 20 }));
  found.push(tip.textContent);
}
document.querySelector("details[data-run]").open = true;
document.body.dataset.told = found.join("|");
setTimeout(() => {
  const cells = [...document.querySelectorAll("details[data-run] td")];
  document.body.dataset.cells = cells.map(cell => cell.textContent).join("|");
  const wide = document.documentElement.scrollWidth > innerWidth;
  document.body.dataset.wide = wide;
}, 500);
"""


@pytest.mark.parametrize("width", [1280, 500])
def test_figures_are_shown_under_the_pointer_without_an_error(tmp_path, width):
    run = unfinished_run(tmp_path)
    places, names = np.eye(4)[:, :2], ["a", "<b>", "c", "d"]
    data = plane_data(places, names, ["x", "", "y", "x"], [0], 1, 32)
    (run / "report/page/map.json").write_text(json.dumps(data))
    atlas, _ = atlas_of([np.full((32, 32, 3), 90, np.uint8)], 32)
    (run / "report/page/map.jpg").write_bytes(atlas)
    document, errors = opened(write_run_page(run), HOVER, (width, 900))
    assert errors == []
    (body,) = re.findall("<body([^>]*)>", document)
    told = re.findall(r'data-told="([^"]*)"', body)[0].split("|")
    assert told[0].startswith("epoch 2") and "loss 6" in told[0]  # 3 has none
    assert "a blind guess, ln(1+K) 6.93" in told[0]
    assert "epoch 3" in told[1] and "top-1 40" in told[1]
    assert "kNN 50" in told[2] and "kNN, raw pixels 30" in told[2]
    cells = re.findall(r'data-cells="([^"]*)"', body)[0].split("|")
    with open(run / "history.csv", newline="") as file:
        _, *rows = csv.reader(file)
    assert [float(c or "nan") for c in cells] == pytest.approx(
        [float(c or "nan") for row in rows for c in row], nan_ok=True
    )
    assert 'data-wide="false"' in body


def test_maps_are_shown_without_an_error(tmp_path):
    image = np.full((SIDE, SIDE, 3), (10, 200, 30), np.uint8)
    page = page_of(np.array([[0.5, 0.5], [0, 1]]), ["<a>", "b"], ["x", ""],
                   {0: image}, "a < b")  # fmt: skip
    (tmp_path / "map.html").write_text(page, encoding="utf-8")
    script = """
    setTimeout(() => {
      const canvas = document.querySelector("canvas");
      const box = canvas.getBoundingClientRect();
      const middle = { clientX: box.left + box.width / 2,
        clientY: box.top + box.height / 2 };
      canvas.dispatchEvent(new PointerEvent("pointermove", middle));
      document.body.dataset.told = tip.textContent;
      const at = [canvas.width / 2, canvas.height / 2].map(Math.round);
      const pen = canvas.getContext("2d");
      document.body.dataset.ink = pen.getImageData(...at, 1, 1).data;
    }, 1000);
    """
    document, errors = opened(tmp_path / "map.html", script)
    assert errors == []
    assert 'data-told="&lt;a&gt; (x)"' in document
    red, green, blue, opacity = map(
        int, re.findall(r'data-ink="([\d,]+)"', document)[0].split(",")
    )
    assert green > 180 and red < 40 and blue < 60 and opacity == 255
