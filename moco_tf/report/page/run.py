"""The page of one run: `report/index.html` in its directory."""

from __future__ import annotations

import html
import json
import pathlib
import time
from typing import Any

from moco_tf.config import Config
from moco_tf.paths import each_place, to_path
from moco_tf.report.commands import next_commands
from moco_tf.report.page import sections
from moco_tf.report.page.chart import draw
from moco_tf.report.page.facts import PARTS, Facts, is_under_way, read_facts
from moco_tf.report.page.frame import (
    document,
    facts_list,
    picture,
    section,
    write_page,
)
from moco_tf.report.page.panels import panels_of
from moco_tf.report.page.plane import jpeg_address, plane
from moco_tf.shell import command

UNDER_WAY, STOPPED, FINISHED = "under way", "stopped", "finished"
# Seconds between two looks of a browser at a run that is under way, and without a word
# of it after which something may be wrong, whatever its epochs take.
_LOOK, _SILENCE = 30, 900
# Where each picture may be, of which the first one counts, and what it shows.
_PICTURES = (
    ((f"{PARTS}/views.jpg",), "Two views of some images, as augmented: query and key"),
    (
        (f"{PARTS}/neighbours.jpg", "neighbours.png"),
        "Images and their nearest neighbours by what was learnt",
    ),
    (
        (f"{PARTS}/confusion.jpg", "knn/confusion.png"),
        "Which classes kNN takes for which, in % of each label",
    ),
)


def page_path(folder: pathlib.Path) -> pathlib.Path:
    """Where the page of a run directory is."""
    return folder / "report" / "index.html"


def write_run_page(
    folder: pathlib.Path,
    config: Config | None = None,
    state: str | None = None,
    reason: str = "",
) -> pathlib.Path:
    """Writes the page of a run from what its directory holds.

    Args:
        folder: the run directory.
        config: of the run; None reads it there.
        state: `UNDER_WAY`, `STOPPED` or `FINISHED`; None finds out.
        reason: why it stopped, a sentence.

    Returns:
        Where the page is.

    Raises:
        OSError: it cannot be written.
    """
    facts = read_facts(folder, config)
    if state is None:
        state = FINISHED if facts.is_finished else STOPPED
        state = UNDER_WAY if is_under_way(folder) else state
    path = page_path(folder)
    write_page(path, run_page(facts, state, reason))
    return path


def run_page(facts: Facts, state: str, reason: str = "") -> str:
    """The page of a run as HTML.

    Args:
        facts: what is known of it.
        state: `UNDER_WAY`, `STOPPED` or `FINISHED`.
        reason: why it stopped, a sentence.
    """
    panels = enumerate(panels_of(facts))
    drawn = [draw(panel, [facts.columns], number) for number, panel in panels]
    images = _map(facts)
    refresh = _LOOK if state == UNDER_WAY else 0
    data = {
        "runs": [facts.columns],
        "panels": [told for _, told in drawn],
        "map": images,
        "refresh": refresh,
        "written": round(time.time()),
        "silence": max(_SILENCE, 3 * (sections.training_seconds(facts, 1) or 0)),
    }
    parts = {
        "Health": sections.health(facts),
        "What the features are worth": sections.figures(facts),
        "Curves": _curves([figure for figure, _ in drawn]),
        "Pictures": _pictures(facts),
        "A map of images": _plane(images),
        "Cost": sections.cost(facts),
        "Settings": sections.settings(facts),
        "Next": _next(facts, state),
    }
    body = [section(title, held) for title, held in parts.items()]
    scripts = ["base.js", "charts.js", *(["map.js"] if images else [])]
    return document(
        f"{facts.name}: {state}",
        "\n".join([_head(facts, state, reason), *body]),
        data,
        scripts,
        refresh,
    )


def _head(facts, state, reason):
    done, wanted = facts.epochs, facts.wanted
    place = f"epoch {done}" + (f" of {wanted}" if wanted else "")
    if state == FINISHED:
        place = f"{done} epochs"
    known = {
        "method": facts.config.method.name if facts.config else "",
        "encoder": facts.config.encoder.name if facts.config else "",
        "images": _images(facts),
        "begun": sections.date(facts.started),
        "newest epoch": sections.date(facts.newest),
    }
    note = html.escape(reason)
    if state == UNDER_WAY:
        left = sections.training_seconds(facts, (wanted or done) - done)
        known["left, without probes"] = f"about {sections.spoken(left)}" if left else ""
        note = (
            f"<small>Written {sections.date(time.time())}; a browser reads the page "
            f'again by itself every {_LOOK} seconds.</small> <b id="age"></b>'
        )
    return (
        f"<header><h1>{html.escape(facts.name)}</h1>"
        f'<p><span class="state {state.split()[0]}">{state}</span> {place}</p>'
        f'<progress max="{wanted or done or 1}" value="{done}">{place}</progress>'
        f"<p>{note}</p>{facts_list(known)}</header>"
    )


def _images(facts):
    words = [f"{facts.images:,}"] if facts.images else []
    if facts.config is not None:
        data = facts.config.data
        name = data.name if data.source == "tfds" else data.source
        if data.source == "folder":
            places = map(to_path, each_place(data.data_dir))
            name = ", ".join(place.name for place in places)
        words.append(name or data.source)
    return " of ".join(words)


def _curves(figures):
    if not figures:
        return "<p>They come with the first epoch.</p>"
    return (
        f'<div class="charts">{"".join(figures)}</div><details data-run="0"><summary>'
        'All figures of history.csv</summary><div class="wide"></div></details>'
    )


def _pictures(facts):
    report, found = facts.folder / "report", []
    for names, caption in _PICTURES:
        shown = (picture(report / name, caption) for name in names)
        found.append(next(filter(None, shown), ""))
    return f'<div class="pictures">{"".join(found)}</div>' if any(found) else ""


def _map(facts) -> dict[str, Any] | None:
    """What map.js draws; None where the run has none."""
    folder = facts.folder / "report" / PARTS
    try:
        data = json.loads((folder / "map.json").read_text(encoding="utf-8"))
        return {**data, "atlas": jpeg_address((folder / "map.jpg").read_bytes())}
    except (OSError, ValueError):
        return None


def _plane(images):
    if images is None:
        return ""
    return (
        f"<p>{len(images['points']):,} images by the two directions in which their "
        "features differ most. Like ones are close together; what these two directions "
        "leave out, evaluate.py map shows.</p>" + plane()
    )


def _next(facts, state):
    labelled = facts.config is not None and bool(facts.config.monitor.every)
    commands = next_commands(facts.folder, facts.images or 0, labelled)
    if state != FINISHED:  # the others ask for its encoder
        commands = {"watch the curves": commands["watch the curves"]}
    if state == STOPPED:
        commands["go on with it"] = command("train", "--resume", facts.folder)
    return "".join(
        f"<p>{html.escape(name)}:</p><pre>{html.escape(line)}</pre>"
        for name, line in commands.items()
    )
