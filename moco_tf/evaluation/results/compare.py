"""`evaluate.py compare`: what was measured of several runs, side by side."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence

from moco_tf.config import ConfigError
from moco_tf.evaluation.results.output import (
    mean_and_spread,
    results_folder,
    summary,
    text_table,
    write_results,
)
from moco_tf.evaluation.results.page import own_page, shared_page
from moco_tf.evaluation.results.pictures import grouped_bars
from moco_tf.evaluation.results.quality import (
    agreement,
    describe,
    draw_agreement,
    quality_rows,
    quality_table,
)
from moco_tf.evaluation.results.reading import read_run
from moco_tf.evaluation.results.settings import Compare
from moco_tf.evaluation.results.unlike import unlike_conditions, unlike_weights
from moco_tf.log import say
from moco_tf.paths import to_path
from moco_tf.shell import tensorboard

_KNN = "monitor knn"


def run(settings: Compare, paths: Sequence[pathlib.Path]) -> dict:
    """Makes a table, a picture and a page; runs that differ by seed alone are one row.

    Args:
        settings: where to write.
        paths: run directories, or SavedModels that were evaluated before. Of a single
            run its own page is written anew, too.

    Returns:
        What results.json holds.

    Raises:
        ConfigError: a path has no results, or nowhere to write.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("a run is named twice; name each run once.")
    runs = [read_run(path) for path in paths]
    beside = to_path(paths[0]).absolute().parent
    folder = results_folder(beside / "compare", settings.out)
    groups = _group(runs)
    names = _names(groups)
    figures = list(dict.fromkeys(figure for one in runs for figure in one.figures))
    values = {
        figure: [
            [one.figures[figure] for one in group if figure in one.figures]
            for group in groups
        ]
        for figure in figures
    }
    rows = [
        {"runs": name, "figure": figure, **summary(values[figure][i])}
        for i, name in enumerate(names)
        for figure in figures
        if values[figure][i]
    ]
    rows += [
        {"runs": name, "figure": key, **summary([one.quality[key] for one in having])}
        for name, group in zip(names, groups)
        if (having := [one for one in group if one.quality])
        for key in having[0].quality
    ]
    both = [one for one in runs if one.quality and _KNN in one.figures]
    qualities, accuracies = (
        [one.quality for one in both],
        [one.figures[_KNN] for one in both],
    )
    agrees = agreement(qualities, accuracies)
    document = {
        "protocol": "compare",
        "rows": rows,
        "runs": [dataclasses.asdict(one) for one in runs],
        "agreement": agrees,
        "differences": _differences(groups, names),
        "warnings": [*unlike_conditions(runs), *unlike_weights(runs)],
    }
    # Top-5 is in results.csv; what a person compares is the top-1.
    shown = {
        figure.removesuffix(" top1").replace("_", " "): values[figure]
        for figure in figures
        if not figure.endswith(" top5")
    }
    by_run = {
        name: [of_runs[i] for of_runs in shown.values()] for i, name in enumerate(names)
    }
    pictures = {}
    if shown:  # runs without labels have no accuracies
        title = "Figures by run, %"
        pictures["compare"] = grouped_bars(title, list(shown), by_run)
    if agrees:
        pictures["quality"] = draw_agreement(qualities, accuracies, agrees, _KNN)
    table = [[name, *map(mean_and_spread, of_runs)] for name, of_runs in shown.items()]
    if any(len(group) > 1 for group in groups):
        table.insert(0, ["runs", *(str(len(group)) for group in groups)])
    unlabelled = [[one.quality for one in group] for group in groups]
    number = {id(one): i for i, group in enumerate(groups) for one in group}
    page = shared_page(
        folder,
        {path: number[id(one)] for path, one in zip(paths, runs)},
        names,
        [("%", table), ("without labels", quality_rows(unlabelled))],
        document,
    )
    write_results(folder, document, rows, pictures, {"index.html": page})
    texts = [
        text_table(["%", *names], table) if shown else "",
        quality_table(names, unlabelled),
    ]
    say("\n\n".join(filter(None, texts)) or "Nothing is measured yet.")
    if agrees:
        say(f"\n{describe(agrees, len(both), _KNN)}")
    if document["differences"]:
        say("")
    for key, settings_of in document["differences"].items():
        say(f"{key}: " + ", ".join(f"{n} {v}" for n, v in settings_of.items()))
    for warning in document["warnings"]:
        say(f"\n{warning}")
    print(f"\nWritten to {folder}; index.html there is a page of all for a browser.")
    if own := own_page(paths):
        print(f"The run's own page is written anew: {own}")
    logged = [path for path in paths if (path / "tensorboard").is_dir()]
    if len(logged) > 1:
        print(f"\nTheir curves side by side:\n  {tensorboard(*logged)}")
    return document


def _group(runs):
    """Lists of runs of equal setting, in the order of their first run."""
    groups = []
    for one in runs:
        for group in groups:
            if group[0].setting == one.setting:
                group.append(one)
                break
        else:
            groups.append([one])
    return groups


def _names(groups):
    """A name for each group: its runs' common beginning, made distinct."""
    names = []
    for group in groups:
        common = os.path.commonprefix([one.name for one in group])
        names.append(common.rstrip("-_.") or group[0].name)
    return [
        name if names.count(name) == 1 else f"{name} ({number})"
        for number, name in enumerate(names, start=1)
    ]


def _differences(groups, names):
    """Key of the configuration -> name of a group -> its value, where they differ."""
    settings = [group[0].setting for group in groups]
    differing = {}
    for key in dict.fromkeys(key for setting in settings for key in setting):
        values = [setting.get(key) for setting in settings]
        if any(value != values[0] for value in values) and key != "path":
            differing[key] = dict(zip(names, values))
    return differing
