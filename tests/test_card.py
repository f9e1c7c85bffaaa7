"""The card of a SavedModel: what is in it, where that comes from, and what is kept."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf
import yaml
from networks import perturbed, tiny
from pretrained_runs import MEAN, STD, copy_run, tiny_encoder, write_run
from test_savedmodel import export
from test_savedmodel import tiny_encoder as convolution

from moco_tf.cli.evaluate import parse_evaluation
from moco_tf.config import load_config
from moco_tf.evaluation import evaluate
from moco_tf.interchange import export_saved_model, load_pretrained
from moco_tf.interchange.card import CARD, write_card
from moco_tf.interchange.exports import export as export_to
from moco_tf.pixels import Pixels

HISTORY = """epoch,knn,linear,loss,rankme
0,0.2,0.15,,3.0
1,,,2.8,
2,0.7,0.812,1.9,7.123
3,,,1.8,
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run that has been judged, and what knn found."""
    run = write_run(tmp_path_factory.mktemp("runs"), "photos_run")
    (run / "history.csv").write_text(HISTORY)
    found = evaluate(parse_evaluation(["knn", str(run), "--k=[1,5]"]))
    return run, found


@pytest.fixture
def run(made, tmp_path):
    return copy_run(made[0], tmp_path)


def card_of(folder):
    return (folder / CARD).read_text()


def front_matter(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_every_export_has_a_card_of_its_facts(made):
    run, _ = made
    card, pretrained = card_of(run / "saved_model"), load_pretrained(run)
    assert f"| weights SHA-256 | {pretrained.digest} |" in card
    count = sum(int(np.prod(w.shape)) for w in pretrained.encoder.weights)
    assert f"| weights | {count:,} of float32 |" in card
    assert "| encoder | ResNet, depths [1, 1, 1, 1], block basic, width 4" in card
    assert f"tensorflow {tf.__version__}" in card
    assert "(N, 32)" in card and f"mean {list(MEAN)}" in card and str(STD[0]) in card
    head = front_matter(card)
    assert head["library_name"] == "tensorflow" and "moco_tf" in head["tags"]
    assert "license" not in head and "\n# license: yours" in card


def test_figures_have_their_images_and_commands(made, monkeypatch):
    run, found = made
    card = card_of(run / "saved_model")  # which evaluate has written anew
    row = "| kNN (k 200, temperature 0.1), epoch 2 | 70.0 % | images test | "
    assert f"{row}`moco-tf train --config photos_run/config.yaml` |" in card
    assert "| linear probe, epoch 2 | 81.2 % | images test |" in card
    assert "| RankMe, epoch 2 | 7.123 | 1,024 of images, two views of each |" in card
    share = 100 * found["figures"]["top1"]
    row = (
        f"| kNN (k 5, temperature 0.07), top1 | {share:.1f} % | images test, 30 images"
    )
    command = "moco-tf evaluate knn photos_run --k=[1,5]"
    assert row in card and command in card.replace("'", "")
    assert str(run.parent) not in card
    monkeypatch.chdir(run.parent)
    words = found["command"].replace("'", "").split()[2:]
    assert parse_evaluation(words).settings.k == (1, 5)
    results = front_matter(card)["model-index"][0]["results"]
    assert [one["metrics"][0]["value"] for one in results[:2]] == [0.7, 0.812]
    assert "Not measured: few-shot classification, fine-tuning, object" in card


def test_figures_of_other_weights_are_left_out(run):
    file = run / "report" / "knn" / "results.json"
    results = json.loads(file.read_text())
    results["encoder"]["weights"] = "0" * 64
    file.write_text(json.dumps(results))
    (run / "saved_model" / "assets.extra" / "card.json").unlink()
    card = write_card(run / "saved_model")
    assert "top1" not in card and "linear probe, epoch 2" in card


def test_licence_and_own_words_are_kept(run):
    saved = run / "saved_model"
    edited = card_of(saved).replace("# license: yours", "license: mit  # yours", 1)
    (saved / CARD).write_text(f"{edited.rstrip()} Ours: MIT.\n")
    evaluate(parse_evaluation(["knn", str(run), "--k=[3]"]))
    card = card_of(saved)
    assert front_matter(card)["license"] == "mit"
    assert card.endswith("of the images. Ours: MIT.\n")
    assert "k 3, " in card
    assert front_matter(write_card(saved, license="apache-2.0"))["license"] == (
        "apache-2.0"
    )


def test_figures_go_along_to_a_copy_and_not_to_other_weights(run, tmp_path):
    out = tmp_path / "copy"
    export_to(load_pretrained(run), out, "savedmodel")
    assert "linear probe, epoch 2" in card_of(out) and "top1 |" in card_of(out)
    assert "linear probe, epoch 2" in write_card(out)  # of what lies in it alone
    other = perturbed(tiny_encoder())
    export_saved_model(other, out, image_size=16, resize=16, mean=MEAN, std=STD,
                       provenance={"recipe": "x | y"})  # fmt: skip
    assert "Nothing yet." in card_of(out) and "| recipe | x \\| y |" in card_of(out)


@pytest.mark.parametrize(
    ("channels", "pixels"),
    [(3, Pixels()), (3, Pixels("uint16", 0, 4095)), (16, Pixels("float32", 0, 1))],
)
def test_signatures_and_the_lines_that_load_it_are_true(channels, pixels, tmp_path):
    saved = export(convolution(channels), tmp_path / "model", channels=channels,
                   pixels=pixels)  # fmt: skip
    card = card_of(saved)
    listed = re.findall(r"^\| `(\w+)` \|", card, re.M)
    assert set(listed) == set(tf.saved_model.load(str(saved)).signatures)
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    world = {"images": pixels.noise((2, 16, 16, channels))}
    exec(code.replace("FOLDER", str(saved)), world)
    width = re.search(r"`features`, float32 \(N, (\d+)\)", card)[1]
    assert world["features"].shape == (2, int(width))
    assert pixels.words in code


def test_import_writes_one_too(tmp_path):
    from moco_tf.interchange import import_checkpoint

    out = tmp_path / "weights.safetensors"
    saved = export(tiny("cifar"), tmp_path / "model")
    export_to(load_pretrained(saved), out, "timm")
    import_checkpoint(out, tmp_path / "back")
    card = card_of(tmp_path / "back")
    assert "| checkpoint | weights.safetensors |" in card and "Nothing yet." in card
    assert str(tmp_path) not in card


def test_folder_that_is_only_to_be_read_keeps_its_card(run, monkeypatch):
    from moco_tf.interchange import card

    def refuse(path, text):
        raise PermissionError(13, "Permission denied", str(path))

    before = card_of(run / "saved_model")
    monkeypatch.setattr(card, "_put", refuse)
    card.refresh_card(run)
    assert card_of(run / "saved_model") == before
    assert load_config(run / "config.yaml").name == "photos_run"
