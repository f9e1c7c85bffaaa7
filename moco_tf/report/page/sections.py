"""The parts of a run's page that are words and numbers."""

from __future__ import annotations

import html
import statistics
import time

from moco_tf.config.nearest import nearest_recipe
from moco_tf.report.history import PROBES
from moco_tf.report.page.facts import Facts, signs
from moco_tf.report.page.frame import facts_list, percent, table
from moco_tf.report.table import below_untrained

_QUALITY = {"rankme": "RankMe", "alignment": "alignment", "uniformity": "uniformity"}


def health(facts: Facts) -> str:
    """What looks wrong, or that nothing does."""
    sentences = []
    for sentence, since, last in signs(facts).values():
        when = f"in epoch {since}" if since == last else f"in epochs {since} to {last}"
        sentences.append(f"{sentence} (Seen {when}.)")
    if facts.has_diverged and not facts.is_finished:
        sentences.append(
            "The loss was not finite; report/not_finite.json lists the images of the "
            "first such step."
        )
    known = {
        "untrained": facts.baselines.get("untrained", {}),
        "trained": facts.accuracies,
    }
    if remark := below_untrained(known, facts.is_begun):
        sentences.append(remark)
    sentences += [f"{one.name}: {one.remark}" for one in facts.measured if one.remark]
    if not sentences:
        seen = "Nothing unusual was seen" if facts.epochs else "Nothing is trained yet"
        return f"<p>{seen}.</p>"
    return f"<ul>{''.join(f'<li>{html.escape(one)}</li>' for one in sentences)}</ul>"


def figures(facts: Facts) -> str:
    """Accuracies beside what is to be beaten, and what needs no labels."""
    rows = {
        "raw pixels": facts.baselines.get("raw_pixels", {}),
        "encoder at the start" if facts.is_begun else "untrained encoder": (
            facts.baselines.get("untrained", {})
        ),
        "trained encoder": facts.accuracies,
    }
    shown = [name for name in PROBES if any(name in row for row in rows.values())]
    accuracies = [
        [title, *(percent(row.get(name)) for name in shown)]
        for title, row in rows.items()
        if row
    ]
    quality = [
        [title, _decimals(facts.first(name)), _decimals(facts.last(name))]
        for name, title in _QUALITY.items()
        if facts.last(name) is not None
    ]
    measured = [
        [f"{one.name}: {name}", percent(share)]
        for one in facts.measured
        for name, share in one.figures.items()
    ]
    tables = (
        table(["", *(PROBES[name] for name in shown)], accuracies)
        + table(["without labels", "before training", "now"], quality)
        + table(["measured by evaluate.py", ""], measured)
    )
    return tables and f'<div class="tables">{tables}</div>'


def cost(facts: Facts) -> str:
    """Time, speed and memory."""
    speeds, waits, peaks = (
        [value for value in facts.columns.get(name, ()) if value is not None]
        for name in ("images_per_second", "input_wait", "peak_memory_mib")
    )
    known = {}
    if trained := sum(facts.epoch_images / speed for speed in speeds if speed):
        known["training, without probes"] = spoken(trained)
    if speeds:
        known["images a second (median)"] = f"{statistics.median(speeds):,.1f}"
    if waits:
        known["waiting for images"] = percent(statistics.median(waits))
    if peaks:
        known["most memory held"] = f"{max(peaks):,.0f} MiB"
    known["device"] = facts.closing.get("cost", {}).get("device", "")
    return facts_list(known)


def training_seconds(facts: Facts, epochs: int) -> float | None:
    """How long so many epochs train, without probes; None where that is not known."""
    speeds = [value for value in facts.columns.get("images_per_second", ()) if value]
    images = epochs * facts.epoch_images
    return images / statistics.median(speeds) if speeds and images else None


def settings(facts: Facts) -> str:
    """In what the run departs from a recipe, and all that shapes what is learnt."""
    config = facts.config
    if config is None:
        return "<p>config.yaml cannot be read.</p>"
    near, departing = nearest_recipe(config), ""
    if near is not None and near.settings:
        rows = [[key, *map(_value, pair)] for key, pair in near.settings.items()]
        about = f"Unlike the recipe {near.recipe}, the nearest one:"
        departing = f"<p>{html.escape(about)}</p>" + table(
            ["", near.recipe, "here"], rows
        )
    elif near is not None:
        departing = f"<p>Those of the recipe {html.escape(near.recipe)}.</p>"
    rate = f"{config.effective_learning_rate:.4g}"
    shaping = {**config.hyperparameters, "learning rate at this batch": rate}
    rows = [[key, _value(value)] for key, value in shaping.items()]
    return (
        f"{departing}<details><summary>All that shapes what is learnt</summary>"
        f"{table([], rows)}</details>"
    )


def date(seconds: float | None) -> str:
    """A time since 1970 as this machine's clock has it; "" for None."""
    if seconds is None:
        return ""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def spoken(seconds: float) -> str:
    """A duration in two units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _value(value):
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _decimals(value):
    return "-" if value is None else f"{value:.2f}"
