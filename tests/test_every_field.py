"""Every field of `train.py` and of each protocol, once, as typed in a fresh process.

That the commands below hold all of them is fast to see; running them is slow.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest
from pretrained_runs import write_images
from run_files import write_sweep
from test_labelled_sets import write_tfds
from test_protocols_segment import write_masks
from voc_folder import make_voc

from moco_tf.cli.evaluate import parse_evaluation
from moco_tf.cli.train import parse_args, parse_sweep
from moco_tf.config import Config
from moco_tf.config.reader import Reader
from moco_tf.evaluation.cluster.settings import Cluster
from moco_tf.evaluation.detection.settings import Detect
from moco_tf.evaluation.duplicates.settings import Duplicates
from moco_tf.evaluation.embed.settings import Embed
from moco_tf.evaluation.fewshot.settings import FewShot
from moco_tf.evaluation.finetune.settings import Finetune
from moco_tf.evaluation.knn.settings import KNN
from moco_tf.evaluation.linear.settings import Linear
from moco_tf.evaluation.map.settings import Map
from moco_tf.evaluation.outliers.settings import Outliers
from moco_tf.evaluation.results.settings import Compare, Tables
from moco_tf.evaluation.retrieval.settings import Retrieve
from moco_tf.evaluation.search.settings import Search
from moco_tf.evaluation.segmentation.settings import Segment

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALL = (
    "--encoder.width=4 --data.image_size=16 --train.epochs=1 --train.batch_size=32 "
    "--train.steps_per_epoch=2 --monitor.max_train=100 --monitor.max_test=50 "
    "--monitor.knn_k=10 --method.dim=16 --runs_dir={folder}/runs "
)
FOLDER = "--data.source=folder --data.data_dir={folder}/photos "
SHADES = (
    "--data.source=tfds --data.name=shades --data.data_dir={folder}/tfds "
    "--data.manual_dir={folder}/manual "
)
COMMANDS = {
    "moco": "train.py --name=moco --encoder.name=resnet18 --encoder.stem=cifar "
    "--encoder.zero_init_residual=true --method.name=moco --method.queue_size=64 "
    "--method.key_momentum=0.9 --method.temperature=0.1 --method.projection=linear "
    "--method.symmetric=true --method.mask_same_image=true --method.bn_groups=4 "
    "--method.shuffle_keys=false --augment.recipe=cifar --augment.jit_compile=false "
    "--augment.mean=[0.5,0.5,0.5] --augment.std=[0.2,0.2,0.2] --data.source=glyphs "
    "--augment.brightness=0.3 --augment.contrast=0.5 --augment.saturation=0.6 "
    "--augment.hue=0.2 --augment.jitter=0.7 --augment.grayscale=0.1 --augment.blur=0.2 "
    "--augment.blur_sigma=[0.5,3.0] --augment.solarize=0.1 "
    "--augment.horizontal_flip=0.4 --augment.vertical_flip=0.3 "
    "--augment.quarter_turns=0.75 --data.key_crop_scale=[0.1,0.5] "
    "--data.split=train --data.channels=3 --data.range=[0,255] "
    "--data.positives=image --data.crop_scale=[0.3,1.0] "
    "--data.crop_ratio=[0.8,1.25] --data.shuffle_buffer=100 --data.decode_threads=2 "
    "--data.resize=bilinear --log.histograms=true --log.every_steps=1 "
    "--log.quality_images=40 "
    "--train.stall_minutes=0.01 --train.profile=[2,3] --distribution.replicas=2 "
    "--monitor.every=1 "
    "--monitor.knn_temperature=0.2 --monitor.linear=true --monitor.batch_size=64 "
    "--monitor.train_split=train --monitor.test_split=test --optimizer.name=sgd "
    "--optimizer.learning_rate=0.1 --optimizer.momentum=0.8 "
    "--optimizer.weight_decay=1e-5 --optimizer.schedule=step "
    "--optimizer.milestones=[1] --train.epochs=2 --optimizer.decay_factor=0.2 "
    "--optimizer.per_epoch=true --optimizer.scaling=sqrt "
    "--seed=3 --train.checkpoint_every=2 --train.keep_checkpoints=1 "
    "--train.checkpoint_minutes=1e-9 --train.accumulate=2 "
    "--train.precision=mixed_bfloat16",
    "start_from": "train.py --name=again --method.queue_size=64 "
    "--train.start_from={folder}/runs/moco --method.projection=linear "
    "--train.deterministic=true --monitor.every=0",
    "first weights": "train.py --name=begun --method.queue_size=64 "
    "--encoder.weights={folder}/runs/moco --encoder.frozen_stages=2 "
    "--encoder.frozen_epochs=1 --train.epochs=2 --monitor.every=1",
    "moco_v3": "train.py --name=v3 --encoder.name=vit_small --encoder.patch_size=8 "
    "--method.name=moco_v3 --method.hidden=32 --augment.recipe=moco_v3 "
    "--optimizer.name=adamw --optimizer.warmup_epochs=1 "
    "--train.epochs=2 --train.recompute=true --distribution.gpus=[]",
    "memory_bank": "train.py --name=bank --method.name=memory_bank "
    "--method.num_negatives=8 --method.slot_momentum=0.4 --method.proximal=1.0 "
    "--data.max_unreadable=0.5 --data.cache=true --train.jit_compile=true " + FOLDER
    + "--monitor.source=folder --monitor.data_dir={folder}/photos "
    "--monitor.test_split=train",
    "tfds": "train.py --name=tfds --method.name=simclr --train.batch_size=4 " + SHADES
    + "--monitor.source=tfds --monitor.name=shades --monitor.data_dir={folder}/tfds "
    "--monitor.manual_dir={folder}/manual --monitor.max_train=6 --monitor.knn_k=3 "
    "--monitor.linear=false",
    "sweep": "train.py --sweep {folder}/sweep.yaml --method.queue_size=64",
    "knn": "evaluate.py knn {folder}/runs/moco --k=[5,10] --temperature=[0.1] "
    "--precision=mixed_bfloat16 --out={folder}/out --data.max_train=60 "
    "--data.max_test=30 --data.train_split=train --data.test_split=test "
    "--data.source=glyphs --features.batch_size=32 --features.cache=false "
    "--distribution.replicas=2",
    "knn of photos": "evaluate.py knn {folder}/runs/moco --k=[5] "
    "--data.test_split=train --data.max_unreadable=0.5 --distribution.gpus=[] "
    "--data.also_test=[{folder}/photos@train] " + FOLDER,
    "knn of shades": "evaluate.py knn {folder}/runs/moco --k=[3] " + SHADES,
    "linear": "evaluate.py linear {folder}/runs/moco --protocol=official --epochs=2 "
    "--batch_size=32 --learning_rate=1 --crop_scale=[0.5,1.0] --precision=float32 "
    "--seed=4 --out={folder}/linear --data.max_train=64 --data.max_test=32",
    "linear, swept": "evaluate.py linear {folder}/runs/moco --protocol=cached "
    "--epochs=2 --sweep.learning_rates=[0.1,1] --sweep.weight_decays=[1e-5,1e-4] "
    "--sweep.lbfgs=false --sweep.held_out=0.3 --data.max_train=64 --data.max_test=32",
    "finetune": "evaluate.py finetune {folder}/runs/moco --fraction=0.5 "
    "--learning_rates=[0.01] --head_multipliers=[1] --held_out=0.2 --epochs=2 "
    "--batch_size=16 --milestones=[1] --decay_factor=0.2 --weight_decay=1e-4 "
    "--crop_scale=[0.5,1.0] --control=false --precision=float32 --seed=2 "
    "--out={folder}/finetune --save={folder}/tuned --data.max_train=96 "
    "--data.max_test=32 --distribution.replicas=2",
    "fewshot": "evaluate.py fewshot {folder}/runs/moco --shots=[1,2] --draws=2 "
    "--inverse_penalty=0.5 --seed=1 --precision=float32 --out={folder}/fewshot "
    "--data.max_train=96 --data.max_test=32",
    "retrieve": "evaluate.py retrieve {folder}/runs/moco --k=[1,3] --gallery=test "
    "--by=label --shown=2 --precision=float32 --out={folder}/retrieve "
    "--data.max_test=60",
    "detect": "evaluate.py detect {folder}/runs/moco --image_size=64 --steps=4 "
    "--batch_size=4 --learning_rate=0.01 --warmup_steps=1 --milestones=[2] "
    "--weight_decay=1e-4 --scale_jitter=[0.8,1.0] --evaluations=1 --control=false "
    "--precision=float32 --seed=1 --out={folder}/detect --data.source=folder "
    "--data.data_dir={folder}/VOC2007 --data.train_split=train "
    "--data.test_split=test --distribution.gpus=[]",
    "segment": "evaluate.py segment {folder}/runs/moco --image_size=32 --epochs=2 "
    "--batch_size=3 --learning_rate=0.01 --control=true --seed=1 "
    "--precision=mixed_bfloat16 --out={folder}/segment --data.data_dir={folder}/masks "
    "--data.train_split=train --data.test_split=val --distribution.replicas=2 "
    "--distribution.gpus=[]",
    "embed": "evaluate.py embed {folder}/runs/moco --out={folder}/photos.npz "
    "--shard=1/1 --batch_size=8 --precision=float32 --data.split=train "
    "--data.max_unreadable=0.5 --distribution.gpus=[] " + FOLDER,
    "embed shades": "evaluate.py embed {folder}/runs/moco "
    "--out={folder}/shades.tfrecord --distribution.replicas=2 " + SHADES,
    "search": "evaluate.py search {folder}/runs/moco "
    "--query={folder}/photos/red/000.png --k=3 --shown=2 --index=exact "
    "--out={folder}/search --features.cache=false --features.batch_size=8 "
    "--precision=mixed_bfloat16 --data.max_unreadable=0.5 --data.split=train "
    "--distribution.gpus=[] " + FOLDER,
    "search shades": "evaluate.py search {folder}/runs/moco --k=2 "
    "--distribution.replicas=2 " + SHADES,
    "duplicates": "evaluate.py duplicates {folder}/photos.npz --threshold=0.99 "
    "--shown=3 --index=exact --out={folder}/duplicates --precision=float32",
    "cluster": "evaluate.py cluster {folder}/photos.npz --clusters=3 --tried=[2] "
    "--shown=3 --seed=1 --out={folder}/cluster --precision=float32",
    "outliers": "evaluate.py outliers {folder}/photos.npz --k=3 --shown=5 "
    "--index=exact "
    "--out={folder}/outliers --precision=float32",
    "map": "evaluate.py map {folder}/photos.npz --method=tsne --images=30 "
    "--perplexity=5 --thumbnails=false --seed=1 --out={folder}/map "
    "--precision=float32",
    "compare": "evaluate.py compare {folder}/runs/moco {folder}/runs/tfds "
    "--out={folder}/compared",
    "tables": "evaluate.py tables {folder}/runs/swept --figure=knn "
    "--out={folder}/tables",
}  # fmt: skip
# Typed by test_protocols_detect, for TFDS's VOC, which cannot be had here, by
# test_data_service, and set by test_tracking, for libraries that may not be here.
ELSEWHERE = {
    "evaluate.py detect": {"data.name", "data.manual_dir", "data.also_train",
                           "distribution.replicas"},
    "train.py": {"data.service", "log.project", "log.tracker"},
}  # fmt: skip


def leaves(kind):
    return set(Reader(kind).hints)


def typed(program):
    words = []
    for command in COMMANDS.values():
        if command.startswith(program):
            more = SMALL if command.startswith("train.py") else ""
            words += f"{command} {more}".split()
    return {word[2:].partition("=")[0] for word in words if word.startswith("--")}


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        ("train.py", Config),
        ("evaluate.py knn", KNN),
        ("evaluate.py linear", Linear),
        ("evaluate.py finetune", Finetune),
        ("evaluate.py fewshot", FewShot),
        ("evaluate.py retrieve", Retrieve),
        ("evaluate.py detect", Detect),
        ("evaluate.py segment", Segment),
        ("evaluate.py compare", Compare),
        ("evaluate.py tables", Tables),
        ("evaluate.py embed", Embed),
        ("evaluate.py search", Search),
        ("evaluate.py duplicates", Duplicates),
        ("evaluate.py cluster", Cluster),
        ("evaluate.py outliers", Outliers),
        ("evaluate.py map", Map),
    ],
)
def test_commands_hold_every_field(program, kind):
    # Those of data and devices are the same in all protocols that have labelled images.
    shared = {
        name
        for name in leaves(KNN)
        if name.startswith(("data.", "features.", "distribution."))
    }
    missing = leaves(kind) - typed(program)
    if program.endswith(("linear", "finetune", "fewshot", "retrieve")):
        missing -= shared
    # Those on images without labels share them likewise.
    if program.endswith(("duplicates", "cluster", "outliers", "map")):
        missing -= {
            name
            for name in leaves(Search)
            if name.startswith(("data.", "features.", "distribution."))
        }
    assert missing == ELSEWHERE.get(program, set())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fields")
    write_images(folder / "photos", 20)
    (folder / "photos" / "red" / "broken.png").write_bytes(b"\x89PNG\r\n")
    write_tfds(folder / "tfds", "png")
    (folder / "manual").mkdir()
    make_voc(folder / "VOC2007", 8, 4)
    write_masks(folder / "masks")
    write_sweep(folder / "sweep.yaml")
    return folder


def words_of(name, folder):
    program, *words = COMMANDS[name].format(folder=folder).split()
    if program == "train.py":
        given = {word.partition("=")[0] for word in words}
        small = SMALL.format(folder=folder).split()
        words += [word for word in small if word.partition("=")[0] not in given]
    return program, words


@pytest.mark.parametrize("name", COMMANDS)
def test_command_is_read(name, folder):
    program, words = words_of(name, folder)
    if name == "sweep":
        parse_sweep(words)
    elif program == "train.py":
        parse_args(words)
    else:
        parse_evaluation(words)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_command_runs_in_a_fresh_process(name, folder):
    """In the order of the list: later ones judge the runs of earlier ones."""
    if name == "detect":
        pytest.importorskip("pycocotools")
    program, words = words_of(name, folder)
    done = subprocess.run(
        [sys.executable, str(ROOT / program), *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]
    assert "Traceback" not in done.stderr
