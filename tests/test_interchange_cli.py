import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from networks import perturbed, tiny
from torch_saves import Payload, as_archive

from moco_tf.cli.weights import main
from moco_tf.data.crops import default_resize
from moco_tf.encoders import ViT
from moco_tf.interchange import export_saved_model, load_pretrained, to_torch_state_dict


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return export_saved_model(
        tiny("cifar"),
        tmp_path_factory.mktemp("cli") / "saved_model",
        image_size=16,
        resize=18,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.25, 0.3),
        provenance={"recipe": "demo", "data": "glyphs", "git_revision": "abc"},
    )


def command(*words):
    return main([str(word) for word in words])


def complaint(capsys):
    """The one line on stderr."""
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_encoder_goes_out_and_comes_back_with_its_history(saved, tmp_path, capsys):
    out, back = tmp_path / "weights.safetensors", tmp_path / "back"
    assert command("export", saved, "--to", "timm", out) == 0
    printed = capsys.readouterr().out
    assert " MB; features read back differ by 0e+00\nof their norm" in printed
    assert command("import", out, back) == 0
    printed = capsys.readouterr().out
    assert "image_size 16, resize 18, mean [0.5, 0.4, 0.3]" in printed
    before, after = load_pretrained(saved), load_pretrained(back)
    assert after.digest == before.digest
    assert (after.mean, after.resize) == (before.mean, before.resize)
    assert after.provenance["recipe"] == "demo"
    assert after.provenance["git_revision"] == "abc"
    assert after.provenance["checkpoint"] == "weights.safetensors"


def test_history_of_other_weights_is_not_taken(saved, tmp_path, capsys):
    out = tmp_path / "weights.safetensors"
    assert command("export", saved, "--to", "timm", out) == 0
    safetensors.numpy.save_file(to_torch_state_dict(perturbed(tiny("cifar"))), out)
    assert command("import", out, tmp_path / "back") == 2
    assert "weights.safetensors.json beside" in complaint(capsys)
    assert not (tmp_path / "back").exists()


def test_exported_saved_model_is_the_same_encoder(saved, tmp_path):
    assert command("export", saved, "--to", "savedmodel", tmp_path / "copy") == 0
    before, after = load_pretrained(saved), load_pretrained(tmp_path / "copy")
    assert after.digest == before.digest
    assert after.provenance == before.provenance


def test_foreign_checkpoint_gets_imagenets_preprocessing_unless_told(tmp_path, capsys):
    state = to_torch_state_dict(tiny("cifar"))
    state["fc.weight"] = np.ones((10, 16), np.float32)
    checkpoint = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(state, checkpoint)
    assert command("import", checkpoint, tmp_path / "a") == 0
    printed = capsys.readouterr().out
    assert "torchvision or timm" in printed
    assert "1 tensors (fc.weight" in printed
    usual = load_pretrained(tmp_path / "a")
    assert (usual.image_size, usual.resize) == (32, 32)
    assert usual.mean == (0.485, 0.456, 0.406)
    words = ("--image_size=24", "--resize=28", "--mean=0.1,0.2,0.3", "--std=[1,1,1]")
    assert command("import", checkpoint, tmp_path / "b", *words) == 0
    told = load_pretrained(tmp_path / "b")
    assert (told.image_size, told.resize) == (24, 28)
    assert (told.mean, told.std) == ((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))


def test_vit_keeps_its_heads_and_its_image_size(tmp_path, capsys):
    encoder = perturbed(ViT(16, 8, width=12, depth=1, heads=3))
    checkpoint = tmp_path / "vit.safetensors"
    safetensors.numpy.save_file(to_torch_state_dict(encoder), checkpoint)
    assert command("import", checkpoint, tmp_path / "a", "--heads=3") == 0
    assert load_pretrained(tmp_path / "a").image_size == 16
    assert "a guess: many of timm's ViTs take" in capsys.readouterr().out
    out = tmp_path / "again.safetensors"
    assert command("export", tmp_path / "a", "--to", "timm", out) == 0
    assert command("import", out, tmp_path / "b") == 0
    assert load_pretrained(tmp_path / "b").encoder.heads == 3
    assert "a guess" not in capsys.readouterr().out
    capsys.readouterr()
    assert command("import", out, tmp_path / "c", "--image_size=32") == 2
    assert "takes images of 16 pixels only" in complaint(capsys)


def test_crop_of_an_import_has_the_margin_of_evaluation(tmp_path):
    checkpoint = tmp_path / "vit.safetensors"
    encoder = perturbed(ViT(96, 48, width=12, depth=1, heads=3))
    safetensors.numpy.save_file(to_torch_state_dict(encoder), checkpoint)
    assert command("import", checkpoint, tmp_path / "a", "--heads=3") == 0
    assert load_pretrained(tmp_path / "a").resize == default_resize(96) == 109


def test_other_channels_need_their_normalisation(tmp_path, capsys):
    checkpoint = tmp_path / "four.safetensors"
    safetensors.numpy.save_file(
        to_torch_state_dict(tiny("cifar", channels=4)), checkpoint
    )
    assert command("import", checkpoint, tmp_path / "a") == 2
    assert "4 channels, for which" in complaint(capsys)
    assert not (tmp_path / "a").exists()
    words = ("--mean=0,0,0,0", "--std=1,1,1,1")
    assert command("import", checkpoint, tmp_path / "a", *words) == 0
    assert load_pretrained(tmp_path / "a").channels == 4


def test_mistakes_are_one_sentence_and_leave_nothing(saved, tmp_path, capsys):
    evil = as_archive(
        tmp_path / "evil.pth",
        pickle.dumps(Payload(os.system, f"touch {tmp_path}/witness")),
    )
    short = tmp_path / "short.npz"
    short.write_bytes(b"PK\x03\x04")
    out = tmp_path / "out"
    for words, message in (
        ((), "COMMAND"),
        (("import",), "CHECKPOINT, OUT; see --help"),
        (("import", tmp_path / "absent.pth", out), "is not a file"),
        (("import", evil, out), "asks for posix.system"),
        (("import", short, out), "cannot be read as an .npz"),
        (("import", short, out, "--mean=a"), "argument --mean: invalid"),
        (("import", short, out, "--heads=0"), "argument --heads: invalid"),
        (("export", saved, out), "--to"),
        (("export", saved, "--to=pdf", out), "invalid choice: 'pdf'"),
        (("export", saved, "--to=timm", out), "should end in .pth"),
        (("export", tmp_path, "--to=timm", out), "neither a run directory"),
        (("export", saved, "--to=savedmodel", saved), "is the encoder itself"),
        (("export", evil, "--to=keras", out), "is a file; turn a checkpoint"),
    ):
        assert command(*words) == 2, words
        assert message in complaint(capsys), words
    names = {entry.name for entry in tmp_path.iterdir()}
    assert names == {"evil.pth", "short.npz"}


def test_what_lies_at_out_is_never_destroyed(saved, tmp_path, capsys):
    checkpoint, photo = tmp_path / "w.safetensors", tmp_path / "photo.jpg"
    safetensors.numpy.save_file(to_torch_state_dict(tiny("cifar")), checkpoint)
    photo.write_bytes(b"photo")
    folder = tmp_path / "folder.keras"
    folder.mkdir()
    before = checkpoint.read_bytes()
    for words, message in (
        (("import", checkpoint, checkpoint), "is the checkpoint itself"),
        (("import", checkpoint, photo), "photo.jpg is a file, and a folder is to be"),
        (("import", checkpoint, tmp_path), "is a folder of other things"),
        (("export", saved, "--to=savedmodel", photo), "photo.jpg is a file, and a"),
        (("export", saved, "--to=keras", folder), "folder.keras is a folder; name a"),
    ):
        assert command(*words) == 2, words
        assert message in complaint(capsys), words
    assert (checkpoint.read_bytes(), photo.read_bytes()) == (before, b"photo")
    names = {entry.name for entry in tmp_path.iterdir()}
    assert names == {"w.safetensors", "photo.jpg", "folder.keras"}
    assert command("import", checkpoint, tmp_path / "folder.keras") == 0  # was empty


def test_spoilt_note_beside_a_checkpoint_is_named(tmp_path, capsys):
    checkpoint = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(to_torch_state_dict(tiny("cifar")), checkpoint)
    for text in ("{", "[]", json.dumps({"preprocessing": 3})):
        (tmp_path / "weights.safetensors.json").write_text(text)
        assert command("import", checkpoint, tmp_path / "out") == 2
        assert "weights.safetensors.json is not what export" in complaint(capsys)


def test_help_comes_without_waiting_for_tensorflow():
    script = (
        "import sys\n"
        "from moco_tf.cli.weights import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    for words, expected in (
        (["--help"], "import"),
        (["import", "--help"], "No code"),
        (["export", "--help"], "tflite_int8"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", script, *words], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
