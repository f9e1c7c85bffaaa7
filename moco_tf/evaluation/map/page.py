"""The map as one page for a browser, which needs no network."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from moco_tf.report import look
from moco_tf.report.views import coloured

SIDE = 64


def page_of(
    places: np.ndarray,
    names: Sequence[str],
    classes: Sequence[str],
    images: Mapping[int, np.ndarray],
    title: str,
) -> str:
    """An HTML page: drag to move, the wheel to zoom, hover to see name and image.

    Args:
        places: float (images, 2), 0 to 1.
        names: of the images.
        classes: of the images, "" where they have none; give the points their colours.
        images: number of an image -> uint8 (SIDE, SIDE, C); may lack some.
        title: of the page.
    """
    kinds = sorted(set(classes) - {""})
    colours = dict(zip(kinds, look.colours(len(kinds))))
    across = max(1, int(np.ceil(np.sqrt(len(images)))))
    shown = {number: place for place, number in enumerate(sorted(images))}
    data = {
        "points": [
            [round(float(x), 5), round(float(y), 5), name, kind, shown.get(number, -1)]
            for number, ((x, y), name, kind) in enumerate(zip(places, names, classes))
        ],
        "colours": colours,
        "colour": look.BLUE,
        "across": across,
        "side": SIDE,
    }
    # Inside a script nothing may look like its end.
    text = json.dumps(data).replace("</", "<\\/")
    held = {
        "TITLE": html.escape(title),
        "ATLAS": _atlas([images[number] for number in shown], across),
        "DATA": text,
    }
    # In one pass: what is put in may have such words in it.
    return re.sub("|".join(held), lambda word: held[word[0]], _PAGE)


def _atlas(images, across):
    """All images in one JPEG, as the page's own data."""
    if not images:
        return ""
    rows = -(-len(images) // across)
    whole = np.full((rows * SIDE, across * SIDE, 3), 255, np.uint8)
    for place, image in enumerate(images):
        top, left = (SIDE * part for part in divmod(place, across))
        whole[top : top + SIDE, left : left + SIDE] = coloured(image)
    held = io.BytesIO()
    Image.fromarray(whole).save(held, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode()


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>TITLE</title>
<style>
html, body { margin: 0; height: 100%; font: 14px sans-serif; color: #333; }
body { overflow: hidden; background: #fff; }
#head { position: fixed; left: 10px; top: 8px; background: #fffd; padding: 2px 6px; }
#head span { margin-right: 10px; white-space: nowrap; }
#tip { position: fixed; display: none; pointer-events: none; background: #fff;
  border: 1px solid #bbb; padding: 6px; max-width: 320px; overflow-wrap: anywhere; }
#tip div { width: 128px; height: 128px; image-rendering: auto; }
canvas { display: block; cursor: grab; }
</style></head><body>
<canvas id="map"></canvas>
<div id="head"><b>TITLE</b><br>
<label><input type="checkbox" id="pictures" checked> pictures</label>
<input id="find" placeholder="part of a name"> <small>drag, wheel, hover</small>
<div id="legend"></div></div>
<div id="tip"><div></div><p></p></div>
<script>
"use strict";
const data = DATA, atlasData = "ATLAS";
const [canvas, tip, legend, pictures, find] =
  ["map", "tip", "legend", "pictures", "find"].map(id => document.getElementById(id));
const pen = canvas.getContext("2d");
const atlas = new Image();
let scale = 1, x0 = 0, y0 = 0, size = 1, last = null;
for (const [name, colour] of Object.entries(data.colours)) {
  const mark = document.createElement("span");
  mark.style.color = colour;
  mark.textContent = "\\u25cf " + name;
  legend.append(mark);
}
if (!atlasData) pictures.parentNode.style.display = "none";
function at(point) {
  return [x0 + point[0] * size * scale, y0 + point[1] * size * scale];
}
function draw() {
  pen.clearRect(0, 0, canvas.width, canvas.height);
  const wanted = find.value.toLowerCase();
  const side = Math.min(data.side, Math.max(14, 14 * scale));
  for (const point of data.points) {
    const [x, y] = at(point);
    if (x < -side || y < -side || x > canvas.width + side || y > canvas.height + side)
      continue;
    pen.globalAlpha = wanted && !point[2].toLowerCase().includes(wanted) ? 0.12 : 1;
    if (pictures.checked && atlas.complete && atlasData && point[4] >= 0) {
      const s = data.side, i = point[4];
      pen.drawImage(atlas, (i % data.across) * s, Math.floor(i / data.across) * s, s, s,
        x - side / 2, y - side / 2, side, side);
    } else {
      pen.fillStyle = data.colours[point[3]] || data.colour;
      pen.beginPath();
      pen.arc(x, y, Math.min(7, 2.5 + scale / 2), 0, 7);
      pen.fill();
    }
  }
  pen.globalAlpha = 1;
}
function fit() {
  canvas.width = innerWidth;
  canvas.height = innerHeight;
  size = Math.max(50, Math.min(innerWidth, innerHeight - 110) - 40);
  scale = 1;
  x0 = (innerWidth - size) / 2;
  y0 = 100;
  draw();
}
function show(event) {
  let best = null, near = 20;
  for (const point of data.points) {
    const [x, y] = at(point), d = Math.hypot(x - event.clientX, y - event.clientY);
    if (d < near) { near = d; best = point; }
  }
  tip.style.display = best ? "block" : "none";
  if (!best) return;
  const image = tip.firstElementChild, i = best[4];
  image.style.display = i >= 0 ? "block" : "none";
  image.style.backgroundPosition =
    `${-(i % data.across) * 128}px ${-Math.floor(i / data.across) * 128}px`;
  tip.lastElementChild.textContent = best[2] + (best[3] ? " (" + best[3] + ")" : "");
  tip.style.left = Math.min(event.clientX + 14, innerWidth - 200) + "px";
  tip.style.top = Math.min(event.clientY + 14, innerHeight - 210) + "px";
}
canvas.addEventListener("mousedown", event => { last = event; });
addEventListener("mouseup", () => { last = null; });
canvas.addEventListener("mousemove", event => {
  if (last) {
    x0 += event.clientX - last.clientX;
    y0 += event.clientY - last.clientY;
    last = event;
    draw();
  }
  show(event);
});
canvas.addEventListener("wheel", event => {
  event.preventDefault();
  const factor = Math.exp(-event.deltaY / 400);
  const next = Math.min(200, Math.max(0.5, scale * factor)), f = next / scale;
  x0 = event.clientX - (event.clientX - x0) * f;
  y0 = event.clientY - (event.clientY - y0) * f;
  scale = next;
  draw();
}, { passive: false });
pictures.addEventListener("change", draw);
find.addEventListener("input", draw);
addEventListener("resize", fit);
atlas.onload = draw;
if (atlasData) atlas.src = atlasData;
tip.firstElementChild.style.backgroundImage = `url(${atlasData})`;
tip.firstElementChild.style.backgroundSize = `${data.across * 128}px auto`;
fit();
</script></body></html>
"""
