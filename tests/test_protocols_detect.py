"""`evaluate.py detect`: its files, its control, and sentences for mistakes."""

import json
import re

import pytest
from voc_folder import annotation, make_voc, save_encoder

import evaluate
import moco_tf


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "saved"
    save_encoder(path)
    return path


def words(saved, root, out, *more):
    data = ("--data.source=folder", f"--data.data_dir={root}", "--image_size=64")
    small = ("--steps=4", "--evaluations=2", "--batch_size=4", "--warmup_steps=1")
    return [
        "detect",
        str(saved),
        *data,
        *small,
        "--milestones=[3]",
        f"--out={out}",
        *more,
    ]


def test_command_writes_results_of_encoder_and_control(saved, voc, tmp_path, capsys):
    pytest.importorskip("pycocotools")
    out = tmp_path / "out"
    assert evaluate.main(words(saved, voc[0], out, "--precision=mixed_bfloat16")) == 0
    document = json.loads((out / "results.json").read_text())
    assert document["protocol"] == "detect" and "Faster R-CNN" in document["warning"]
    assert [arm["start"] for arm in document["arms"]] == ["pretrained", "from scratch"]
    for arm in document["arms"]:
        assert [one["step"] for one in arm["measured"]] == [2, 4]
        assert len(arm["loss"]) == 2
    assert set(document["figures"]) == {"AP", "AP50", "AP75", "from scratch AP"}
    assert len((out / "results.csv").read_text().splitlines()) == 5
    for name in ("curves", "classes"):
        assert (out / f"{name}.png").stat().st_size > 10_000
    assert "AP50" in capsys.readouterr().out


def test_size_whose_objects_can_match_no_anchor_is_told(tmp_path, capsys):
    pytest.importorskip("pycocotools")
    encoder = moco_tf.encoders.ResNet((1, 1, 1, 1), "basic", width=2, stem="cifar")
    save_encoder(tmp_path / "saved", encoder)
    for size, told in ((256, False), (288, True)):
        more = (f"--image_size={size}", "--data.data_dir=nowhere")
        command = words(tmp_path / "saved", "nowhere", tmp_path / "out", *more)
        assert evaluate.main(command) == 2
        shown = capsys.readouterr().out
        assert ("objects of more than 287 pixels" in shown) == told


@pytest.mark.parametrize(
    "more, message",
    [
        (["--image_size=100"], "image_size=100 must be a multiple of 32.*use 96"),
        (["--steps=5"], "evaluations=2 does not divide steps=5"),
        (
            ["--batch_size=3", "--distribution.replicas=2"],
            "batch_size=3 does not give 2",
        ),
        (["--batch_size=40"], "batch_size=40 is more than the 12 examples"),
        (["--data.test_split=val"], "split='val' is not in .*which has test, train"),
        (["--data.data_dir=/nowhere"], "has no ImageSets/Main"),
        (
            ["--evaluations=1", "--learning_rate=1e30"],
            "loss is not finite: learning_rate=1e.30",
        ),
    ],
)
def test_command_explains_bad_input(saved, voc, tmp_path, capsys, more, message):
    pytest.importorskip("pycocotools")
    out = tmp_path / "out"
    assert evaluate.main(words(saved, voc[0], out, "--control=false", *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(message, error)
    assert not out.exists()


def test_test_images_that_are_all_difficult_are_explained(saved, own_voc, capsys):
    pytest.importorskip("pycocotools")
    for path in (own_voc / "Annotations").glob("test*.xml"):
        path.write_text(annotation([("disc", (0, 0, 9, 9))], difficult={0}))
    assert evaluate.main(words(saved, own_voc, own_voc / "out")) == 2
    assert "'test' has no boxes to find" in capsys.readouterr().err


@pytest.mark.slow
def test_detection_of_made_shapes_is_learnt(saved, tmp_path):
    pytest.importorskip("pycocotools")
    root, out = tmp_path / "VOC2007", tmp_path / "out"
    make_voc(root, 48, 24)
    more = (
        "--image_size=128",
        "--steps=120",
        "--evaluations=3",
        "--batch_size=8",
        "--learning_rate=0.04",
        "--warmup_steps=20",
        "--milestones=[100]",
        "--control=false",
    )
    assert evaluate.main(words(saved, root, out, *more)) == 0
    document = json.loads((out / "results.json").read_text())
    curve = [one["AP50"] for one in document["arms"][0]["measured"]]
    assert curve[-1] > 0.5 and curve[-1] > curve[0]
