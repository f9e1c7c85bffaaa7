"""`evaluate.py retrieve`: whether the images most like one are of its class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from moco_tf.config import ConfigError
from moco_tf.data.sources import DataError
from moco_tf.evaluation.chance import explain_chance
from moco_tf.evaluation.embed.embeddings import Embeddings
from moco_tf.evaluation.embed.pictures import thumbnails
from moco_tf.evaluation.features import Features
from moco_tf.evaluation.images import ImageSet
from moco_tf.evaluation.knn.gallery import spread_queries
from moco_tf.evaluation.knn.vote import nearest_neighbours
from moco_tf.evaluation.labelled_sets import (
    extract,
    extract_any,
    open_labelled_sets,
    open_test_set,
    place_of_results,
)
from moco_tf.evaluation.results.output import Outcome, conclude, percent, text_table
from moco_tf.evaluation.retrieval.ranking import Ranking, rank
from moco_tf.evaluation.retrieval.settings import Retrieve
from moco_tf.evaluation.search.nearest import nearest_others
from moco_tf.evaluation.test_sets import facts_of, open_test_sets, rows_of
from moco_tf.interchange import Pretrained
from moco_tf.report.sheet import Tile, draw_sheet

_FEW, _ACROSS = 8, 12  # neighbours in the picture


@dataclass(frozen=True)
class _Embedded:
    """Images, their features, and the number of what each shares with others."""

    images: ImageSet
    features: Features
    labels: np.ndarray


def run(settings: Retrieve, pretrained: Pretrained) -> dict:
    """Ranks what is searched for each query, and writes report/retrieve[_on_IMAGES].

    Args:
        settings: what is looked for, and where.
        pretrained: the encoder.

    Returns:
        What results.json holds.

    Raises:
        ConfigError: fewer images than k, or nowhere to write.
        DataError: the data cannot be had or do not fit, or no query has anything to
            find.
    """
    folder, images = place_of_results("retrieve", settings, pretrained)
    is_labelled = settings.by == "label"
    train_set = None
    if settings.gallery == "train":
        train_set, test_set = open_labelled_sets(settings.data, pretrained)
    else:
        test_set = open_test_set(settings.data, pretrained, is_labelled)
    classes = None if train_set is None else train_set.source
    tests = open_test_sets(settings.data, pretrained, test_set, classes, is_labelled)
    for name, one in tests.items():
        _require_enough(settings, name, one, train_set)
    gallery = None
    if train_set is not None:
        gallery = _embed(train_set, settings, pretrained, "training")
    figures: list[dict[str, float]] = []
    for name, one in tests.items():
        title = name if figures else "test"
        embedded = _embed(one, settings, pretrained, title)
        ranking = _rank(embedded, gallery, title)
        if not (ranking.relevant > 0).any():
            raise DataError(
                f"no image of {name!r} has another one of its {settings.by} where it "
                "is looked for, so there is nothing to retrieve; use more images, or "
                "another set."
            )
        figures.append(ranking.figures(settings.k))
        if title == "test":
            own = embedded, ranking
    queries, ranking = own
    counts = ranking.relevant > 0
    found = figures[0]
    names = test_set.source.class_names if is_labelled else ()
    facts = {
        "queries": int(counts.sum()),
        "not_counted": int((~counts).sum()),
        "searched": len((gallery or queries).features),
        "data_set": images,
        "data": facts_of(train_set, tests),
    }
    if is_labelled:
        facts["not_counted_classes"] = [
            names[label] for label in np.unique(queries.labels[~counts])
        ]
    table = text_table(
        [f"retrieval by {settings.by}", *found],
        [["test", *map(percent, found.values())]],
    )
    outcome = Outcome(
        figures=found,
        facts=facts,
        rows=_rows(queries, ranking, settings.k, names),
        pictures={"retrieve": _draw(queries, counts, gallery, settings, pretrained)},
        table="\n\n".join(filter(None, [table, _not_counted(facts, settings)])),
        warning=explain_chance(
            float(np.mean(ranking.first[counts] == 1)),
            queries.labels[counts],
            "the encoder is untrained, or what it learnt has nothing to do with these "
            "classes; compare with an untrained encoder.",
            features=queries.features.features,
        ),
        tests=rows_of(tests, figures),
    )
    return conclude("retrieve", outcome, folder, settings, pretrained)


def _require_enough(settings, name, test_set, train_set):
    if settings.by == "group" and test_set.source.groups is None:
        raise DataError(
            f"{name!r} has no groups to retrieve by; name a manifest with a column "
            "group as data.data_dir, or use --by=label."
        )
    most = (train_set or test_set).source.num_examples - (train_set is None)
    if max(settings.k) > most:
        raise ConfigError(
            f"k={max(settings.k)} is more than the {most} images that a query of "
            f"{name!r} is looked for among; use --k=[{max(1, most)}] or smaller ones."
        )


def _embed(images, settings, pretrained, title) -> _Embedded:
    by_label = settings.by == "label"
    get = extract if by_label else extract_any
    features = get(images, pretrained, settings.features, settings.precision, title)
    labels = features.labels if by_label else images.source.groups[features.ids]
    return _Embedded(images, features, labels)


def _rank(queries: _Embedded, gallery: _Embedded | None, title: str) -> Ranking:
    return rank(
        queries.features.features,
        queries.labels,
        None if gallery is None else gallery.features.features,
        None if gallery is None else gallery.labels,
        progress=f"ranking for {title}",
    )


def _rows(queries, ranking, k, names):
    """A row of all queries, and one of each class that has a name."""
    rows = [("", np.ones(len(queries.labels), bool))]
    rows += [(name, queries.labels == label) for label, name in enumerate(names)]
    return [
        {
            "class": name,
            "queries": int((ranking.relevant[of] > 0).sum()),
            **ranking.figures(k, of),
        }
        for name, of in rows
        if (ranking.relevant[of] > 0).any()
    ]


def _not_counted(facts, settings) -> str:
    """A sentence on queries that have nothing to find; "" where there are none."""
    if not facts["not_counted"]:
        return ""
    total = facts["queries"] + facts["not_counted"]
    text = (
        f"{facts['not_counted']:,} of {total:,} queries have no other image of their "
        f"{settings.by} to be found and are not counted"
    )
    names = facts.get("not_counted_classes", ())
    if not names:
        return f"{text}."
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return f"{text}: those of {', '.join(names[:5])}{more}."


def _draw(
    queries: _Embedded,
    counts: np.ndarray,
    gallery: _Embedded | None,
    settings: Retrieve,
    pretrained: Pretrained,
) -> Figure:
    """Some queries, spread over the classes, with what is nearest to each."""
    rows = np.flatnonzero(counts)
    chosen = rows[spread_queries(queries.labels[rows], settings.shown)]
    where = gallery or queries
    features = where.features.features
    k = min(_ACROSS, max(_FEW, *settings.k), len(features) - (gallery is None))
    if gallery is None:
        whole = Embeddings((), where.labels, features)
        index, cosine = nearest_others(whole, k, chosen)
    else:
        asked = queries.features.features[chosen]
        index, cosine = nearest_neighbours(features, asked, k)

    def pictures(of, wanted):
        ids = of.features.ids[wanted]
        found = thumbnails(of.images.source, ids, pretrained.channels)
        return {row: found[number] for row, number in zip(wanted, ids.tolist())}

    asked, found = pictures(queries, chosen), pictures(where, np.unique(index))

    def caption(of, row):
        names, label = of.images.source.class_names, int(of.labels[row])
        return names[label] if settings.by == "label" and label < len(names) else ""

    tiles = []
    for query, near, alike in zip(chosen, index, cosine):
        line = [Tile(asked[query], caption(queries, query))]
        for row, value in zip(near, alike):
            is_hit = bool(where.labels[row] == queries.labels[query])
            told = f"{caption(where, row)}\n{value:.3f}".strip()
            line.append(Tile(found[row], told, is_hit))
        tiles.append(line)
    return draw_sheet(
        tiles,
        f"the nearest of {len(features):,} images, with their cosine",
        heads=("query", *map(str, range(1, k + 1))),
        legend=("the same", "another"),
        is_first_apart=True,
    )
