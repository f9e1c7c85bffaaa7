"""Average precision of detections, as COCO defines it and pycocotools computes it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moco_tf.lanes import install


@dataclass(frozen=True)
class Boxes:
    """The boxes of one image, true or found.

    Attributes:
        id: of the image.
        boxes: float (M, 4): left, top, right, bottom in pixels of the image.
        labels: int (M,), from 0.
        difficult: bool (M,); True boxes, that need not be found. None: none is.
        scores: float (M,); confidence of boxes that were found.
    """

    id: int
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray | None = None
    scores: np.ndarray | None = None


def average_precision(
    truth: Sequence[Boxes], found: Sequence[Boxes], class_names: Sequence[str]
) -> dict:
    """COCO's AP, by pycocotools.

    A difficult box counts as COCO's crowd: nothing is lost if it is not found, and
    whatever lies mostly inside it is neither right nor wrong. VOC's own program is a
    little stricter, taking as excused one box only that overlaps it by half.

    Args:
        truth: every image of the set, also those without boxes.
        found: detections with scores; the best 100 of an image count.
        class_names: a name per label.

    Returns:
        "AP" (mean over the overlaps 0.5, 0.55 ... 0.95), "AP50" and "AP75", in [0, 1],
        means over the classes that occur; and "AP50_of_class", a dict of name -> AP50,
        None for a class that does not occur.

    Raises:
        ImportError: pycocotools is missing.
        ValueError: no box of `truth` counts.
    """
    coco, coco_eval = require_pycocotools()
    ground = [
        {**item, "iscrowd": int(flag)}
        for image in truth
        for item, flag in zip(
            _annotations(image),
            np.zeros(len(image.boxes)) if image.difficult is None else image.difficult,
        )
    ]
    if all(item["iscrowd"] for item in ground):
        raise ValueError(
            f"None of the {len(truth)} test images has a box to find; name a test "
            "split with annotations."
        )
    detections = []
    for image in found:
        assert image.scores is not None  # only true boxes have none
        detections += [
            {**item, "score": float(score)}
            for item, score in zip(_annotations(image), image.scores)
        ]
    if not detections:
        of_class: dict[str, float | None] = dict.fromkeys(class_names, 0.0)
        occurring = {item["category_id"] for item in ground if not item["iscrowd"]}
        of_class.update(
            (name, None) for i, name in enumerate(class_names) if i + 1 not in occurring
        )
        return {"AP": 0.0, "AP50": 0.0, "AP75": 0.0, "AP50_of_class": of_class}
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        expected = coco()
        expected.dataset = {
            "info": {},
            "images": [{"id": int(image.id)} for image in truth],
            "categories": [
                {"id": index + 1, "name": name}
                for index, name in enumerate(class_names)
            ],
            "annotations": [
                {**item, "id": index + 1} for index, item in enumerate(ground)
            ],
        }
        expected.createIndex()
        evaluation = coco_eval(expected, expected.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # Overlaps, recalls, classes, areas (the first: all), limits (the last: 100).
    at_half = evaluation.eval["precision"][0, :, :, 0, -1]
    of_class = {
        name: None if (column < 0).any() else float(column.mean())
        for name, column in zip(class_names, at_half.T)
    }
    names = ("AP", "AP50", "AP75")
    figures = {name: float(value) for name, value in zip(names, evaluation.stats)}
    return {**figures, "AP50_of_class": of_class}


def _annotations(image):
    for (left, top, right, bottom), label in zip(
        np.asarray(image.boxes, float).tolist(), image.labels
    ):
        yield {
            "image_id": int(image.id),
            # pycocotools takes category 0 for none in places.
            "category_id": int(label) + 1,
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
        }


def require_pycocotools() -> tuple[type, type]:
    """Returns pycocotools' COCO and COCOeval.

    Raises:
        ImportError: it is missing; the sentence says how to install it.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ImportError(
            f"AP needs pycocotools, which could not be imported ({error}); in "
            f"moco_tf's checkout, `{install('detect')}`."
        ) from error
    return COCO, COCOeval
