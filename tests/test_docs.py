"""Every command of README and docs works: parsed at once, typed by the slow tests.

`pytest -m slow tests/test_docs.py` copies the working tree and types each there, in
the shell that `make demo` leaves (its environment first on the path), scaled down by
the overrides in `SCALE` and with made files for the user's own.
"""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from commands import ROOT
from doc_commands import commands, python_blocks
from pretrained_runs import write_images
from test_protocols_segment import write_masks

from moco_tf.cli import data_service, launch, upload, weights
from moco_tf.cli.evaluate import parse_evaluation
from moco_tf.cli.train import parse_args, parse_sweep

# Not typed, and why.
LEFT_OUT = {
    "docker ": "TensorFlow Serving's server is not on PyPI",
    "curl ": "it asks that server",
    "python train_net.py": "Detectron2's own script",
    "pip install": "the environment is there; test_package.py installs the package",
    ". .venv/bin/activate": "the shell here has it",
    "make constraints": "it needs uv and writes the pinned versions",
    "make demo LANE": "test_package and .ci/run make the environments",
    "make test": "this is it",
    "make test-slow": "this is it",
    "make lint": "continuous integration runs it",
    "make docs": "continuous integration runs it; test_site.py",
    "python -m benchmarks.": "minutes of measuring; each says how long",
    "python benchmarks/": "minutes of measuring; each says how long",
    "benchmarks/gpu.sh": "it needs a GPU; test_benchmarks.py runs it and its parts",
    "python -m moco_tf": "the word alone, as a name",
    "moco-tf train": "the word alone, as a name",
    "moco-tf evaluate": "the word alone, as a name",
    "python models/encoder/1/assets.extra/check.py": "it asks that server",
    "moco-tf export": "the word alone, as a name",
    "moco-tf import": "the word alone, as a name",
    "moco-tf upload": "the word alone, as a name",
    "python train.py --config configs/folder_photos.yaml --runs_dir=gs:": "no bucket",
    "python evaluate.py knn gs:": "no bucket here",
    "moco-tf export gs:": "no bucket here",
    "moco-tf pack": "test_pack.py types it",
    "moco-tf inspect": "test_inspect.py types it",
    "python train.py --config PHOTOS.yaml": "inspect writes that; test_inspect.py",
    "moco-tf data-service": "a server; test_data_service.py types it",
    "moco-tf upload runs/NAME --repo=USER/NAME --license": "no hub; test_upload.py",
}
# Names that stand for a user's own.
NAMES = {
    "PROTOCOL": "knn",
    "RUN_DIR_OR_SAVED_MODEL": "runs/NAME",
    "RUN_DIR_OR_SAVED": "runs/NAME",
    "configs/sweeps/NAME.yaml": "configs/sweeps/ablation.yaml",
    "runs/cifar10/NAME": "runs/cifar10/ablation",
    "RECIPE": "demo",
    "FORMAT OUT": "onnx out.onnx",
    "PHOTOS/ONE.jpg": "PHOTOS/red/000.png",
    "[--key=value ...]": "",
    "[--section.key=value ...]": "",
}
ALL = commands()


def reason_to_leave_out(command):
    for start, reason in LEFT_OUT.items():
        whole = "alone" in reason or start.startswith("make test")
        if command.text == start or (not whole and command.text.startswith(start)):
            return reason
    return None


TYPED = [command for command in ALL if reason_to_leave_out(command) is None]


def test_commands_are_found_on_every_page_that_has_some():
    pages = {command.page for command in ALL}
    assert {"README.md", "docs/evaluation.md", "docs/transfer.md"} <= pages
    assert len(TYPED) > 45
    assert {reason_to_leave_out(command) for command in ALL} - {None} <= set(
        LEFT_OUT.values()
    )
    unused = [start for start in LEFT_OUT if not any(
        command.text.startswith(start) for command in ALL)]  # fmt: skip
    assert not unused


@pytest.mark.parametrize("command", TYPED, ids=str)
def test_command_is_one_that_the_program_takes(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    first, *words = shlex.split(placed(command))
    if first == "python" and words[0].endswith("check.py"):
        return  # written beside each SavedModel
    if first == "python" and words[0].startswith("tests/"):
        assert (ROOT / words[0]).is_file()
        return
    if first == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.M)
        return
    if first == "moco-tf" and words[0] == "launch":
        words = launch._split(words[1:])[1]
    program = words.pop(0) if first == "python" else {"train": "train.py",
        "evaluate": "evaluate.py"}.get(words[0], "moco-tf")  # fmt: skip
    if first == "moco-tf" and program != "moco-tf":
        words = words[1:]
    try:
        if words[:1] == ["data-service"]:
            data_service._parser().parse_args(words[1:])
        elif words[:1] == ["upload"]:
            upload._parser().parse_args(words[1:])
        elif program == "moco-tf":
            weights._parser().parse_args(words)
        elif program == "evaluate.py":
            parse_evaluation(words)
        elif "--sweep" in words:
            parse_sweep(words).runs()
        else:
            parse_args(words)
    except SystemExit as end:  # --help and --list
        assert not end.code


def placed(command):
    text = command.text
    for name, place in NAMES.items():
        text = text.replace(name, place)
    return text


def test_python_blocks_compile():
    for page, blocks in python_blocks():
        for number, block in enumerate(blocks):
            compile(block, f"{page}, block {number}", "exec")


# ---------------------------------------------------------------- typed, slow

SCALE = {
    "train.py": (
        "--train.epochs=1", "--train.steps_per_epoch=2", "--train.batch_size=32",
        "--encoder.width=8", "--data.image_size=32",
        "--monitor.every=0", "--optimizer.warmup_epochs=0",
    ),
    "knn": ("--k=[5]",),
    "linear": ("--epochs=1", "--batch_size=32"),
    "finetune": ("--epochs=1", "--milestones=[]", "--batch_size=16",
                 "--learning_rates=[0.01]", "--head_multipliers=[1]",
                 "--fraction=0.5"),
    "fewshot": ("--draws=2",),
    "segment": ("--image_size=32", "--epochs=1"),
    "detect": ("--steps=4", "--evaluations=1", "--batch_size=4", "--image_size=64",
               "--milestones=[]", "--warmup_steps=1"),
}  # fmt: skip
# In Python blocks.
SHORTER = {
    'huggingface_hub.snapshot_download("USER/NAME")': '"encoder"',
    "ResNet50()": "ResNet18(width=8)",
    "epochs=200": "epochs=1",
    "batch_size=256": "batch_size=16",
    "source, 256": "source, 16",
    "image_size=224": "image_size=32",
}
FEW = ("--data.source=glyphs", "--data.max_train=200", "--data.max_test=60")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A clone of the working tree with a finished run under every name of the pages."""
    clone = tmp_path_factory.mktemp("clone") / "moco_tf"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
    write_images(clone / "PHOTOS", 40)
    shutil.copytree(clone / "PHOTOS", clone / "SCANS")
    (clone / "BANDS").mkdir()
    for number in range(40):
        np.save(clone / f"BANDS/{number}.npy", np.full((20, 20, 13), 250 * number))
    files = sorted((clone / "PHOTOS").rglob("*.png"))
    rows = [f"{file.relative_to(clone)},,{n // 3}\n" for n, file in enumerate(files)]
    (clone / "patients.csv").write_text("".join(rows))
    few = ("--monitor.max_train=200", "--monitor.max_test=60", "--monitor.knn_k=20")
    run = [
        arg for arg in SCALE["train.py"] if "width" not in arg and "every" not in arg
    ]
    # With torchvision's own stem and width every format can be written.
    run += ["--encoder.width=64", "--encoder.stem=imagenet", *few]
    typed(clone, f"python train.py --name NAME {' '.join(run)}")
    for name in ("A", "B", "RUN", "demo", "a-seed0", "a-seed1", "b", "cifar10",
                 "moco_v2_cifar10_cpu", "moco_v2_resnet50_200ep"):  # fmt: skip
        shutil.copytree(clone / "runs/NAME", clone / "runs" / name)
    words = " ".join([*FEW, "--k=[5]"])
    for name in ("A", "B", "a-seed0", "a-seed1", "b"):
        typed(clone, f"python evaluate.py knn runs/{name} {words}")
    typed(clone, "moco-tf export runs/NAME --to savedmodel saved/cifar10/control")
    for saved in ("SAVED", "saved/mine", "encoder"):
        typed(clone, f"moco-tf export runs/NAME --to savedmodel {saved}")
    typed(clone, "moco-tf export runs/NAME --to timm CHECKPOINT.safetensors")
    typed(clone, "python tests/voc_folder.py SHAPES SHAPES_ENCODER")
    for name in ("VOC2007", "VOCdevkit/VOC2007"):
        shutil.copytree(clone / "SHAPES", clone / name)
    write_masks(clone / "VOCdevkit/VOC2012")
    for name in ("PHOTOS", "SCANS"):
        typed(clone, f"moco-tf pack {name} packed/{name.lower()}")
    return clone


def typed(clone, line):
    """Types a line in the clone, in the shell that `make demo` leaves."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    binaries = pathlib.Path(sys.executable).parent
    environment["PATH"] = f"{binaries}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        line, shell=True, cwd=clone, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr, line
    return done.stdout


def scaled(command):
    """The command with made files for the user's, and overrides at its end."""
    text = placed(command)
    text = text.replace("moco_v2_800ep_pretrain.pth.tar", "CHECKPOINT.safetensors")
    text = text.replace("CHECKPOINT OUT", "CHECKPOINT.safetensors OUT")
    words = shlex.split(text)
    if "--help" in words or "--list" in words:
        return text
    more: list[str] = []
    if words[1] in ("train.py", "launch"):
        more = [*SCALE["train.py"]]
        if "--sweep" in words:
            more += ["--seeds=[0]", "--monitor.every=1", "--monitor.max_train=100",
                     "--monitor.max_test=50", "--monitor.knn_k=5"]  # fmt: skip
        if "folder_photos" not in text and "synthetic" not in text:
            # No set is fetched here.
            keys = r"(data|monitor)\.(name|data_dir|manual_dir|split|train_split)"
            text = re.sub(rf"'?--{keys}=\S+", "", text)
            more += ["--data.source=glyphs", "--monitor.source=glyphs",
                     "--data.split=train", "--monitor.train_split=train",
                     "--monitor.test_split=test"]  # fmt: skip
        if "start_from" in text or "encoder.weights" in text:
            more += ["--encoder.width=64", "--encoder.stem=imagenet"]
        if "--sweep" not in words:
            page = pathlib.Path(command.page).stem
            more.append(f"--name={page}{command.line}")
    elif words[1] == "evaluate.py" and len(words) > 2 and words[2] in SCALE:
        more = [*SCALE[words[2]]]
        if words[2] == "linear" and "--protocol=cached" in words:
            more = []
        if words[2] in ("detect", "segment"):
            text = text if "SHAPES" in text or "VOC" in text else (
                f"{text} --data.source=folder --data.data_dir=VOC2007")  # fmt: skip
            text = re.sub(r"--data\.also_train=\S+", "", text)
        else:
            text = re.sub(r"--data\.\w+=\S+", "", text)
            more += FEW
    return " ".join([text, *(f"'{word}'" for word in more)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [c for c in TYPED if c.text != "make demo"], ids=str
)
def test_command_runs_as_typed(command, world):
    assert typed(world, scaled(command)).strip() or "--print_config" in command.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "blocks"), python_blocks(), ids=[page for page, _ in python_blocks()]
)
def test_python_blocks_run(page, blocks, world):
    typed(world, "moco-tf export runs/NAME --to savedmodel encoder")
    for kind, name in (("torchvision", "pth"), ("timm", "safetensors"),
                       ("tflite", "tflite"), ("onnx", "onnx")):  # fmt: skip
        typed(world, f"moco-tf export runs/NAME --to {kind} encoder.{name}")
    photo = next((world / "PHOTOS").rglob("*.png"))
    (world / "cat.jpg").write_bytes(photo.read_bytes())  # content decides
    start = (
        "import moco_tf, numpy as np, tensorflow as tf\n"
        "images = np.zeros((2, 32, 32, 3), np.uint8)\n"
        "pixels = np.zeros((1, 32, 32, 3), np.float32)\n"
        "from moco_tf.interchange import load_pretrained\n"
        "pretrained = load_pretrained('runs/NAME')\n"
    )
    for number, block in enumerate(blocks):
        needed = re.findall(r"^(?:import|from) (\w+)", block, re.M)
        if re.search(r"import torch, torchvision", block):
            needed.append("torchvision")
        if not all(map(found, needed)):
            continue
        for long, short in SHORTER.items():
            block = block.replace(long, short)
        script = world / f"block_{number}.py"
        script.write_text(start + block)
        typed(world, f"python {script.name}")


def found(module):
    done = subprocess.run([sys.executable, "-c", f"import {module}"],
                          capture_output=True)  # fmt: skip
    return done.returncode == 0


def test_files_that_the_architecture_names_are_there():
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`((?:moco_tf|tests|examples)/[\w/]+\.py)`", text)
    assert len(named) > 25
    assert not [name for name in named if not (ROOT / name).is_file()]
