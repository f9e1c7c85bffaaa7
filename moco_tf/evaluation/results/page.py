"""What `compare` found, as one page with the runs' curves over one another."""

from __future__ import annotations

import html
import os
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence

from moco_tf.paths import is_remote
from moco_tf.report import look
from moco_tf.report.page import sections
from moco_tf.report.page.chart import draw
from moco_tf.report.page.facts import Facts, is_run, read_facts
from moco_tf.report.page.frame import document, section, table
from moco_tf.report.page.panels import shared_panels
from moco_tf.report.page.run import page_path, write_run_page


def own_page(paths: Sequence[pathlib.Path]) -> pathlib.Path | None:
    """Writes the page of a single run anew; None where there are several, or no run."""
    if len(paths) > 1 or not is_run(paths[0]):
        return None
    return write_run_page(paths[0])


def shared_page(
    folder: pathlib.Path,
    rows: Mapping[pathlib.Path, int],
    names: Sequence[str],
    tables: Sequence[tuple[str, Sequence[Sequence[str]]]],
    found: Mapping,
) -> str:
    """The page of several runs as HTML.

    Args:
        folder: where it will be, from which links go to the runs' own pages.
        rows: path of each run -> its row in the tables; those of one row have a colour.
        names: of these rows.
        tables: what each is of, and its lines: a figure, and its text for each row.
        found: what results.json holds.
    """
    runs = {path: read_facts(path) for path in rows if is_run(path)}
    labels = [facts.name for facts in runs.values()]
    colours = [rows[path] % len(look.COLOURS) for path in runs]
    columns = [facts.columns for facts in runs.values()]
    panels = enumerate(shared_panels(list(runs.values()), labels, colours))
    drawn = [draw(panel, columns, number) for number, panel in panels]
    curves = "".join(figure for figure, _ in drawn)
    measured = "".join(table([of, *names], lines) for of, lines in tables)
    settings = [
        [key, *(str(values.get(name)) for name in names)]
        for key, values in found["differences"].items()
    ]
    told = "".join(f"<li>{html.escape(text)}</li>" for text in found["warnings"])
    title = f"{len(rows)} runs: {', '.join(names)}" if len(rows) > 1 else names[0]
    body = [
        f"<header><h1>{html.escape(title)}</h1></header>",
        section("What was measured", measured or "<p>Nothing so far.</p>"),
        section("Take care", f"<ul>{told}</ul>" if told else ""),
        section("Settings in which they differ", table(["", *names], settings)),
        section("Curves", f'<div class="charts">{curves}</div>' if curves else ""),
        section("Runs", _links(folder, rows, runs)),
    ]
    data = {"runs": columns, "panels": [panel for _, panel in drawn]}
    return document(title, "\n".join(body), data, ("base.js", "charts.js"))


def _links(folder, rows, runs: Mapping[pathlib.Path, Facts]):
    items = []
    for path in rows:
        facts = runs.get(path)
        name = html.escape(path.resolve().name)
        if page_path(path).is_file() and not is_remote(path):
            place = os.path.relpath(page_path(path).resolve(), folder.resolve())
            address = urllib.parse.quote(place.replace(os.sep, "/"))
            name = f'<a href="{address}">{name}</a>'
        items.append(f"<li>{name}{html.escape(_in_words(facts))}</li>")
    return f"<ul>{''.join(items)}</ul>"


def _in_words(facts):
    if facts is None:  # a SavedModel
        return ""
    words = f": {facts.epochs} of {facts.wanted or '?'} epochs"
    if seconds := sections.training_seconds(facts, facts.epochs):
        words += f", {sections.spoken(seconds)} of training"
    return words
