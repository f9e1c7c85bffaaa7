"""CIFAR-10 by this project, by PyTorch and by lightly's parts: accuracy and time.

    python -m benchmarks.peers_cifar DATA_DIR [--peers moco_tf torch lightly] \
        [--images=10000] [--epochs=8] [--width=8] [--seeds 0 1 2]

MoCo v2 with the settings of configs/moco_v2_cifar10_cpu.yaml but for those above. The
ways share network, images, crops, colours, batch, queue, temperature, momentum and
schedule, and each has one core; the order of images and all random numbers are their
own. `torch` is the step of the official CIFAR-10 demo written anew (batch norm in 8
groups, keys shuffled), `lightly` is put together of that library's loss, projection
head, shuffling and transforms as its documentation shows, whose batch norm is over the
whole batch. Both need torchvision; a peer that is not installed is left out.

kNN (k=200, temperature 0.1) is of the backbone's features of central views, with the
images that were learnt from as the bank, on the 10,000 test images, by this project's
vote for all. `images/s` is that of the epochs after the first, input and
augmentation included. DATA_DIR is TFDS's folder. Results go to
benchmarks/results/peers_cifar.csv, means and standard deviations are printed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

NEEDED = {
    "moco_tf": ("moco_tf",),
    "torch": ("torch", "torchvision"),
    "lightly": ("torch", "torchvision", "lightly"),
}
BATCH, QUEUE, DIM, GROUPS = 128, 4096, 128, 8
TEMPERATURE, KEY_MOMENTUM, RATE, DECAY = 0.1, 0.99, 0.06, 5e-4
SCALE, MEAN, STD = (0.2, 1.0), (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def main() -> None:
    """Runs every way with every seed in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", help="of TFDS, with cifar10")
    parser.add_argument("--peers", nargs="+", choices=NEEDED, default=list(NEEDED))
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--width", type=int, default=8, help="of ResNet-18")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        train(options)
        return
    from benchmarks.writing import write_results

    peers = [peer for peer in options.peers if all(map(installed, NEEDED[peer]))]
    for peer in set(options.peers) - set(peers):
        print(f"{peer} is left out: {', '.join(NEEDED[peer])} are not all installed.")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        save_images(pathlib.Path(folder), options)
        for seed in options.seeds:
            for peer in peers:
                row = {"peer": peer, "seed": seed}
                rows.append({**row, **measured(peer, seed, folder)})
                print("  ".join(map(str, rows[-1].values())), flush=True)
    for peer in peers:
        for figure in ("knn", "images/s"):
            values = [float(row[figure]) for row in rows if row["peer"] == peer]
            spread = statistics.stdev(values) if len(values) > 1 else math.nan
            print(f"{peer:8} {figure:9} {statistics.mean(values):.1f} ± {spread:.1f}")
    write_results("peers_cifar", rows)


def installed(name: str) -> bool:
    """Whether a package is there."""
    return importlib.util.find_spec(name) is not None


def save_images(folder: pathlib.Path, options: argparse.Namespace) -> None:
    """Writes the images that all ways learn from and are tested on."""
    from moco_tf.data import decoding, open_source

    for name, split in (("train", f"train[:{options.images}]"), ("test", "test")):
        source = open_source("tfds", split, name="cifar10", data_dir=options.data_dir)
        images, labels = [], []
        for element in source.dataset:
            image = element["image"]
            image = image if image.shape.rank == 3 else decoding.decode(image, 3)
            images.append(image.numpy())
            labels.append(int(element["label"]))
        np.savez(folder / f"{name}.npz", images=np.stack(images), labels=labels)


def measured(peer: str, seed: int, folder: str) -> dict[str, str]:
    """Figures of one run."""
    from moco_tf.evaluation.knn import knn_accuracy

    child = json.dumps({"peer": peer, "seed": seed, "folder": folder})
    words = [sys.executable, "-m", "benchmarks.peers_cifar", *sys.argv[1:]]
    done = subprocess.run(
        [*words, f"--child={child}"],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        sys.exit(f"error: {peer} failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    features = np.load(f"{folder}/features.npz")
    labels = [np.load(f"{folder}/{name}.npz")["labels"] for name in ("train", "test")]
    accuracy = knn_accuracy(
        features["train"], labels[0], features["test"], labels[1],
        k=200, temperature=0.1,
    )  # fmt: skip
    return {
        "knn": f"{100 * accuracy:.2f}",
        "loss": f"{found['loss']:.3f}",
        "images/s": f"{found['rate']:.0f}",
        "seconds": f"{found['seconds']:.0f}",
    }


def train(options: argparse.Namespace) -> None:
    """A run, in this process on one core; prints its loss and time as JSON."""
    child = json.loads(options.child)
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    images = {
        name: np.load(f"{child['folder']}/{name}.npz")["images"]
        for name in ("train", "test")
    }
    way = {"moco_tf": with_moco_tf, "torch": with_torch, "lightly": with_lightly}
    epoch, encode = way[child["peer"]](images["train"], child["seed"], options)
    seconds, loss = [], math.nan
    for _ in range(options.epochs):
        start = time.perf_counter()
        loss = epoch()
        seconds.append(time.perf_counter() - start)
    features = {name: encode(of_split) for name, of_split in images.items()}
    np.savez(f"{child['folder']}/features.npz", **features)
    seen = len(images["train"]) // BATCH * BATCH * (options.epochs - 1)
    rate = seen / sum(seconds[1:]) if options.epochs > 1 else math.nan
    print(json.dumps({"loss": loss, "rate": rate, "seconds": sum(seconds)}))


Way = tuple[Callable[[], float], Callable[[np.ndarray], np.ndarray]]


def with_moco_tf(images: np.ndarray, seed: int, options: argparse.Namespace) -> Way:
    """An epoch, which gives its mean loss, and the encoder: this project's."""
    import moco_tf
    from moco_tf.data import from_arrays, two_views

    # isort: split
    from tensorflow import keras

    keras.utils.set_random_seed(seed)
    steps = len(images) // BATCH
    model = moco_tf.MoCo(
        moco_tf.encoders.ResNet18(width=options.width, stem="cifar"),
        queue_size=QUEUE,
        dim=DIM,
        key_momentum=KEY_MOMENTUM,
        temperature=TEMPERATURE,
        bn_groups=GROUPS,
        augment=moco_tf.augment.cifar(),
    )
    rate = keras.optimizers.schedules.CosineDecay(RATE, options.epochs * steps)
    model.compile(moco_tf.optimizers.SGD(rate, momentum=0.9, weight_decay=DECAY))
    batches = iter(
        two_views(
            from_arrays(images),
            batch_size=BATCH,
            image_size=32,
            crop_scale=SCALE,
            seed=seed,
        )
    )

    def epoch():
        log = model.fit(batches, steps_per_epoch=steps, epochs=1, verbose=0)
        return log.history["loss"][-1]

    return epoch, lambda views: model.predict(views, batch_size=500, verbose=0)


def with_torch(images: np.ndarray, seed: int, options: argparse.Namespace) -> Way:
    """The same in PyTorch, by the step of the official CIFAR-10 demo."""
    import torch

    torch.manual_seed(seed)
    backbones = [backbone(options.width, groups=GROUPS) for _ in range(2)]
    features = 8 * options.width
    heads = [
        torch.nn.Sequential(
            torch.nn.Linear(features, features),
            torch.nn.ReLU(),
            torch.nn.Linear(features, DIM),
        )
        for _ in range(2)
    ]
    query_encoder, key_encoder = map(torch.nn.Sequential, backbones, heads)
    key_encoder.load_state_dict(query_encoder.state_dict())
    unit = torch.nn.functional.normalize
    queue = unit(torch.randn(DIM, QUEUE), dim=0)
    cursor = 0

    def loss_of(query_images, key_images):
        nonlocal cursor
        query = unit(query_encoder(query_images), dim=1)
        with torch.no_grad():
            pairs = zip(key_encoder.parameters(), query_encoder.parameters())
            for key, source in pairs:
                key.mul_(KEY_MOMENTUM).add_(source, alpha=1 - KEY_MOMENTUM)
            order = torch.randperm(len(key_images))
            keys = unit(key_encoder(key_images[order]), dim=1)[torch.argsort(order)]
        own = (query * keys).sum(1, keepdim=True)
        logits = torch.cat([own, query @ queue.clone()], 1) / TEMPERATURE
        labels = torch.zeros(len(query), dtype=torch.long)
        queue[:, cursor : cursor + BATCH] = keys.T
        cursor = (cursor + BATCH) % QUEUE
        return torch.nn.functional.cross_entropy(logits, labels)

    return torch_way(
        images, options, query_encoder.parameters(), loss_of, backbones[0], colours()
    )


def with_lightly(images: np.ndarray, seed: int, options: argparse.Namespace) -> Way:
    """The same of lightly's parts."""
    import copy

    import torch
    from lightly.loss import NTXentLoss
    from lightly.models.modules import MoCoProjectionHead
    from lightly.models.utils import (
        batch_shuffle,
        batch_unshuffle,
        deactivate_requires_grad,
        update_momentum,
    )
    from lightly.transforms import MoCoV2Transform

    torch.manual_seed(seed)
    features = 8 * options.width
    net, head = backbone(options.width), MoCoProjectionHead(features, features, DIM)
    key_net, key_head = copy.deepcopy(net), copy.deepcopy(head)
    deactivate_requires_grad(key_net)
    deactivate_requires_grad(key_head)
    criterion = NTXentLoss(temperature=TEMPERATURE, memory_bank_size=(QUEUE, DIM))

    def loss_of(query_images, key_images):
        update_momentum(net, key_net, KEY_MOMENTUM)
        update_momentum(head, key_head, KEY_MOMENTUM)
        query = head(net(query_images))
        with torch.no_grad():
            shuffled, order = batch_shuffle(key_images)
            keys = batch_unshuffle(key_head(key_net(shuffled)), order)
        return criterion(query, keys)

    views = MoCoV2Transform(
        input_size=32,
        cj_strength=1.0,
        cj_bright=0.4,
        cj_contrast=0.4,
        cj_sat=0.4,
        cj_hue=0.1,
        gaussian_blur=0.0,
        min_scale=SCALE[0],
        normalize={"mean": MEAN, "std": STD},
    )
    parameters = [*net.parameters(), *head.parameters()]
    return torch_way(images, options, parameters, loss_of, net, views.transforms[0])


def torch_way(images, options, parameters, loss_of, net, transform) -> Way:
    """The loop around a step of PyTorch, and features in inference mode."""
    import torch
    from PIL import Image
    from torchvision import transforms

    torch.set_num_threads(1)
    steps = len(images) // BATCH
    optimizer = torch.optim.SGD(parameters, RATE, momentum=0.9, weight_decay=DECAY)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, options.epochs * steps
    )

    class Views(torch.utils.data.Dataset):
        def __len__(self):
            return len(images)

        def __getitem__(self, index):
            image = Image.fromarray(images[index])
            return transform(image), transform(image)

    loader = torch.utils.data.DataLoader(Views(), BATCH, shuffle=True, drop_last=True)

    def epoch():
        net.train()
        losses = []
        for query_images, key_images in loader:
            loss = loss_of(query_images, key_images)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cosine.step()
            losses.append(loss.item())
        return statistics.mean(losses)

    normalise = transforms.Normalize(MEAN, STD)

    def encode(of_split):
        net.eval()
        found = []
        with torch.no_grad():
            for start in range(0, len(of_split), 500):
                part = torch.from_numpy(of_split[start : start + 500])
                found.append(net(normalise(part.permute(0, 3, 1, 2) / 255)).numpy())
        return np.concatenate(found)

    return epoch, encode


def colours():
    """The augmentation of the official CIFAR-10 demo, by torchvision."""
    from torchvision import transforms

    jitter = transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(32, scale=SCALE),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([jitter], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


def backbone(width: int, groups: int = 1):
    """ResNet-18 with CIFAR's stem; in training each group of a batch has statistics."""
    import torch

    from tests.networks import torch_resnet

    net = torch_resnet(torch, (2, 2, 2, 2), "basic", width, "cifar")
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):  # as torchvision's ResNets begin
            torch.nn.init.kaiming_normal_(module.weight, mode="fan_out")
    if groups > 1:
        in_groups(torch, net, groups)
    return net


def in_groups(torch, module, groups: int) -> None:
    """Replaces batch norm by one over parts of the batch, as on so many devices.

    The running statistics are the mean of the groups'.
    """

    class Grouped(torch.nn.BatchNorm2d):
        def forward(self, x):
            if not self.training:
                return super().forward(x)
            count, channels, *sides = x.shape
            wide = x.reshape(count // groups, groups * channels, *sides)
            mean = self.running_mean.repeat(groups)
            variance = self.running_var.repeat(groups)
            result = torch.nn.functional.batch_norm(
                wide, mean, variance, self.weight.repeat(groups),
                self.bias.repeat(groups), True, self.momentum, self.eps,
            )  # fmt: skip
            self.running_mean.copy_(mean.reshape(groups, channels).mean(0))
            self.running_var.copy_(variance.reshape(groups, channels).mean(0))
            return result.reshape(count, channels, *sides)

    for name, child in module.named_children():
        if isinstance(child, torch.nn.BatchNorm2d):
            setattr(module, name, Grouped(child.num_features))
        else:
            in_groups(torch, child, groups)


if __name__ == "__main__":
    main()
