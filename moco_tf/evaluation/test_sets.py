"""Several test sets in one command: their images, and a row of figures for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from moco_tf.config import ConfigError, Data
from moco_tf.data.sources import Source, check_same_classes
from moco_tf.data.sources.places import test_split
from moco_tf.evaluation.features import Features
from moco_tf.evaluation.images import ImageSet, open_images
from moco_tf.evaluation.labelled_sets import extract, resolve_labelled, told
from moco_tf.evaluation.settings import LabelledData
from moco_tf.interchange import Pretrained
from moco_tf.paths import each_place, to_path

_TFDS = "tfds:"


def open_test_sets(
    data: LabelledData,
    pretrained: Pretrained,
    test_set: ImageSet,
    train: Source | None,
    labelled: bool = True,
) -> dict[str, ImageSet]:
    """All test sets by their names, the command's own first.

    Args:
        data: what the user asked for, with further sets in `also_test`.
        pretrained: the encoder, whose channels the images must have.
        test_set: the command's own, opened.
        train: whose classes further sets must have; None where none is learnt.
        labelled: whether the images must have labels.

    Raises:
        ConfigError: a further set is named twice.
        DataError: one cannot be opened, or its classes are others.
    """
    own = resolve_labelled(data, pretrained)
    words = each_place(data.also_test)
    if len(set(words)) < len(words):
        raise ConfigError(
            f"data.also_test={list(words)} names a set twice; name each once."
        )
    asked = [_asked(word, own[0]) for word in words]
    names = [f"{one.called} {one.split}" for one in (own[1], *asked)]
    if len(set(names)) < len(names):  # of the same name, in other places
        names[1:] = words
    sets = {names[0]: test_set}
    for name, one in zip(names[1:], asked):
        further = open_images(one, pretrained, data.max_test, labelled)
        if train is not None:
            check_same_classes(train, further.source, "The training set", repr(name))
        told("Test", further)
        sets[name] = further
    return sets


def _asked(word: str, base: Data) -> Data:
    """What tfds:NAME@SPLIT or PLACE@SPLIT means, @SPLIT being optional."""
    place, _, split = word.rpartition("@")
    if not place or (not word.startswith(_TFDS) and to_path(word).exists()):
        place, split = word, ""  # a folder may have an @ in its name
    if not word.startswith(_TFDS):
        split = split or test_split(place)
        return replace(base, source="folder", name=None, data_dir=place, split=split)
    is_same = base.source == "tfds"
    return replace(
        base,
        source="tfds",
        name=place[len(_TFDS) :],
        data_dir=base.data_dir if is_same else None,
        manual_dir=base.manual_dir if is_same else None,
        split=split or "test",
    )


def extract_all(
    train_set: ImageSet,
    tests: Mapping[str, ImageSet],
    settings: Any,
    pretrained: Pretrained,
) -> list[Features]:
    """Features of the training images, and of each test set; see `extract`.

    Args:
        train_set: what is learnt from.
        tests: as `open_test_sets` gives them.
        settings: a protocol's, with `features` and `precision`.
        pretrained: the encoder.
    """
    titles = ["training", "test", *list(tests)[1:]]
    return [
        extract(one, pretrained, settings.features, settings.precision, title)
        for title, one in zip(titles, (train_set, *tests.values()))
    ]


def facts_of(train_set: ImageSet | None, tests: Mapping[str, ImageSet]) -> dict:
    """What the images of a protocol are, for results.json.

    Args:
        train_set: what is learnt from; None where nothing is.
        tests: as `open_test_sets` gives them.
    """
    own, *others = tests.values()
    facts = {} if train_set is None else {"train": train_set.facts}
    facts["test"] = own.facts
    if others:
        also = zip(list(tests)[1:], others)
        facts["also_test"] = {name: one.facts for name, one in also}
    return facts


def rows_of(
    tests: Mapping[str, ImageSet], figures: Sequence[Mapping[str, float]]
) -> list[dict[str, object]]:
    """A row for each test set, where there are several.

    Args:
        tests: as `open_test_sets` gives them.
        figures: of each of them, shares by name.
    """
    if len(tests) == 1:
        return []
    return [
        {"test_set": name, "images": one.source.num_examples, **shares}
        for (name, one), shares in zip(tests.items(), figures)
    ]
