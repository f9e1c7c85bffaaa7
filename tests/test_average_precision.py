"""Average precision against pycocotools called directly, and by hand."""

import json

import numpy as np
import pytest
from voc_folder import NAMES

from moco_tf.evaluation.detection.average_precision import Boxes, average_precision


def random_boxes(rng, count):
    corner = rng.uniform(0, 60, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(8, 40, (count, 2))], axis=1)


def random_detections(seed=0):
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for number in range(25):
        count = int(rng.integers(0, 4))
        boxes, labels = random_boxes(rng, count), rng.integers(0, 3, count)
        truth.append(Boxes(number, boxes, labels, rng.random(count) < 0.2))
        near = boxes + rng.normal(0, 1.5, boxes.shape)
        extra = int(rng.integers(0, 3))
        found.append(
            Boxes(
                number,
                np.concatenate([near, random_boxes(rng, extra)]),
                np.concatenate([labels, rng.integers(0, 3, extra)]),
                scores=rng.random(count + extra),
            )
        )
    return truth, found


def test_average_precision_equals_pycocotools_called_directly(tmp_path, capsys):
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = random_detections()

    def coco_boxes(image, **more):
        for row, (left, top, right, bottom) in enumerate(image.boxes):
            sides = [float(right - left), float(bottom - top)]
            yield {
                "image_id": image.id,
                "category_id": int(image.labels[row]) + 1,
                "bbox": [float(left), float(top), *sides],
                "area": sides[0] * sides[1],
                **{key: values[row] for key, values in more.items()},
            }

    annotations = [
        {"id": 1 + number, **item}
        for number, item in enumerate(
            item
            for image in truth
            for item in coco_boxes(image, iscrowd=image.difficult.astype(int).tolist())
        )
    ]
    (tmp_path / "truth.json").write_text(
        json.dumps(
            {
                "images": [{"id": number} for number in range(25)],
                "categories": [{"id": i + 1, "name": n} for i, n in enumerate(NAMES)],
                "annotations": annotations,
            }
        )
    )
    (tmp_path / "found.json").write_text(
        json.dumps(
            [i for image in found for i in coco_boxes(image, score=list(image.scores))]
        )
    )
    coco = COCO(str(tmp_path / "truth.json"))
    oracle = COCOeval(coco, coco.loadRes(str(tmp_path / "found.json")), "bbox")
    oracle.evaluate()
    oracle.accumulate()
    oracle.summarize()
    capsys.readouterr()
    figures = average_precision(truth, found, NAMES)
    assert [figures[name] for name in ("AP", "AP50", "AP75")] == list(oracle.stats[:3])
    of_class = list(figures["AP50_of_class"].values())
    assert np.mean(of_class) == pytest.approx(figures["AP50"], rel=1e-12)
    assert 0.1 < figures["AP75"] < figures["AP50"] < 0.95
    assert capsys.readouterr().out == ""


def test_average_precision_by_hand():
    pytest.importorskip("pycocotools")
    square = np.array([[0.0, 0, 10, 10]])
    truth = [Boxes(0, square, [0]), Boxes(1, square, [0])]
    # Best first: found, wrong place, found at an overlap of 0.6.
    found = [
        Boxes(
            0, np.array([[0.0, 0, 10, 10], [50, 50, 60, 60]]), [0, 0], None, [0.9, 0.8]
        ),
        Boxes(1, np.array([[0.0, 0, 10, 6]]), [0], None, [0.7]),
    ]
    figures = average_precision(truth, found, NAMES)
    # Of 101 recalls 51 have precision 1, and at 0.5 the other 50 have 2/3.
    half, rest = 51 / 101, 50 / 101 * 2 / 3
    assert figures["AP50"] == pytest.approx(half + rest)
    assert figures["AP75"] == pytest.approx(half)
    # Overlaps 0.5, 0.55 and 0.6 count the second.
    assert figures["AP"] == pytest.approx(half + 0.3 * rest)
    assert figures["AP50_of_class"] == {
        "disc": pytest.approx(half + rest),
        "square": None,
        "stripes": None,
    }


def test_difficult_boxes_neither_cost_nor_earn():
    pytest.importorskip("pycocotools")
    pair = np.array([[0.0, 0, 10, 10], [40, 40, 50, 50]])
    truth = [Boxes(0, pair, [0, 0], np.array([False, True]))]
    one = [Boxes(0, pair[:1], [0], None, [0.5])]
    both = [Boxes(0, pair, [0, 0], None, [0.5, 0.9])]
    for found in (one, both):
        assert average_precision(truth, found, NAMES)["AP"] == pytest.approx(1)
    truth = [Boxes(0, pair, [0, 0], np.array([False, False]))]
    assert average_precision(truth, one, NAMES)["AP50"] < 0.6


def test_nothing_found_is_zero_and_nothing_to_find_an_error():
    pytest.importorskip("pycocotools")
    square = np.array([[0.0, 0, 10, 10]])
    truth = [Boxes(0, square, [1])]
    nothing = [Boxes(0, np.zeros((0, 4)), [], None, [])]
    figures = average_precision(truth, nothing, NAMES)
    assert figures == {
        "AP": 0.0,
        "AP50": 0.0,
        "AP75": 0.0,
        "AP50_of_class": {"disc": None, "square": 0.0, "stripes": None},
    }
    with pytest.raises(ValueError, match="None of the 1 test images has a box"):
        average_precision([Boxes(0, square, [1], np.array([True]))], nothing, NAMES)
