"""Records anew what the official MoCo computes from the inputs in this folder.

    python tests/data/reference/record.py ~/moco [--out FOLDER]

The first argument is a checkout of https://github.com/facebookresearch/moco. It needs
PyTorch and torchvision, and neither a GPU nor moco_tf; two minutes on two cores.
README.md says what is recorded.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import pathlib
import sys
import tempfile
from types import SimpleNamespace

import numpy as np
import torch
import torch.distributed
import torch.multiprocessing
from record_images import augmented
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

HERE = pathlib.Path(__file__).resolve().parent
EPOCHS, STEPS = 3, 10
COMMON = {"dim": 32, "K": 256, "lr": 0.06, "sgd_momentum": 0.9, "weight_decay": 1e-4}
VERSIONS = {
    "v1": {**COMMON, "mlp": False, "T": 0.07, "m": 0.97, "cos": False},
    "v2": {**COMMON, "mlp": True, "T": 0.2, "m": 0.999, "cos": True},
}
SEEDS = {"v1": 21313, "v2": 22330}  # of the permutations, plus 10 for each process
LINEAR = {"lr": 30.0, "momentum": 0.9, "weight_decay": 0.0, "classes": 10}


def main():
    """Records everything, one file after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=HERE)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for version in VERSIONS:
        for world in (1, 2):
            trace = pretrained(options.checkout, version, world, "float64")
            single = pretrained(options.checkout, version, world, "float32")
            trace["f32/loss_mean"] = single["trace/loss_mean"][:1]
            save(options.out / f"trace_{version}_w{world}.npz", trace)
    save(options.out / "lincls.npz", classified(options.checkout))
    save(options.out / "augment_ops.npz", augmented(load("augment_ops.npz")))


def load(name):
    """The arrays of a file of this folder."""
    with np.load(HERE / name, allow_pickle=False) as file:
        return dict(file)


def save(path, arrays):
    """Writes arrays, and says so."""
    np.savez_compressed(path, **arrays)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


# --------------------------------------------------------------------- networks, inputs


class Narrow(ResNet):
    """torchvision's ResNet of one bottleneck a stage, 8 channels wide instead of 64."""

    def __init__(self, num_classes):
        nn.Module.__init__(self)
        self._norm_layer = nn.BatchNorm2d
        self.inplanes, self.dilation, self.groups, self.base_width = 8, 1, 1, 64
        self.conv1 = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        for stage in range(4):
            made = self._make_layer(Bottleneck, 8 * 2**stage, 1, 1 + (stage > 0))
            setattr(self, f"layer{stage + 1}", made)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(256, num_classes)


def views(inputs, index, crops, dtype):
    """A batch of normalised crops, in this order of operations, as torch takes them."""
    size = int(inputs["crop_size"])
    batch = []
    for image, (top, left, flip) in zip(inputs["base_images"][index], crops):
        view = image[top : top + size, left : left + size]
        batch.append(view[:, ::-1] if flip else view)
    mean, std = inputs["mean"].astype(dtype), inputs["std"].astype(dtype)
    normalised = (np.stack(batch).astype(dtype) / 255 - mean) / std
    return torch.from_numpy(np.ascontiguousarray(normalised.transpose(0, 3, 1, 2)))


class Losses(nn.CrossEntropyLoss):
    """The loss, which remembers what it was."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, output, target):
        """Computes it, as the class above."""
        loss = super().forward(output, target)
        self.seen.append(loss.item())
        return loss


class Accuracies:
    """In the place of the official `accuracy`, whose `view` today's torch refuses."""

    def __init__(self):
        self.seen = []

    def __call__(self, output, target, topk):
        """Percent of the rows whose target is among the first k, for each k."""
        rank = output.topk(max(topk), dim=1).indices == target[:, None]
        shares = [100 * rank[:, :k].any(dim=1).double().mean().reshape(1) for k in topk]
        self.seen.append([float(share) for share in shares])
        return shares


def import_official(checkout, name):
    """A module of the checkout, with everything left on the CPU."""
    sys.path.insert(0, str(checkout.expanduser()))
    stay = lambda self, *args, **kwargs: self  # noqa: E731
    torch.Tensor.cuda = nn.Module.cuda = stay
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    return __import__(name, fromlist=["*"])


# ------------------------------------------------------------------------- pretraining


def pretrained(checkout, version, world, dtype):
    """Trains 30 steps on so many processes; what the first of them recorded."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (checkout, version, world, dtype, folder)
        torch.multiprocessing.spawn(pretrain, arguments, nprocs=world)
        with np.load(f"{folder}/trace.npz") as file:
            return dict(file)


def pretrain(rank, checkout, version, world, dtype, folder):
    """One process of a training by the official `train`."""
    builder = import_official(checkout, "moco.builder")
    official = import_official(checkout, "main_moco")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    meta = VERSIONS[version]
    facts = {key: meta[key] for key in ("dim", "K", "m", "T", "mlp")}
    model = builder.MoCo(Narrow, **facts)
    start = {
        name[len("init/") :]: torch.from_numpy(array)
        for name, array in load(f"init_{version}.npz").items()
    }
    missing, unexpected = model.load_state_dict(start, strict=False)
    model.encoder_k.load_state_dict(model.encoder_q.state_dict())
    assert not unexpected and all(name.startswith("encoder_k.") for name in missing)
    model = model.to(getattr(torch, dtype))
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(
        model.parameters(),
        meta["lr"],
        momentum=meta["sgd_momentum"],
        weight_decay=meta["weight_decay"],
    )
    permutations = []
    permute = torch.randperm

    def noted(count):
        permutations.append(permute(count))
        return permutations[-1]

    torch.randperm = noted
    torch.manual_seed(SEEDS[version] + 10 * world)
    inputs = load("inputs_train.npz")
    rows = slice(rank * 32 // world, (rank + 1) * 32 // world)
    settings = SimpleNamespace(
        lr=meta["lr"], cos=meta["cos"], schedule=(1, 2), epochs=EPOCHS,
        gpu=None, print_freq=1000,
    )  # fmt: skip
    official.accuracy, losses, rates = Accuracies(), Losses(), []
    for epoch in range(EPOCHS):
        batches = []
        for step in range(epoch * STEPS, (epoch + 1) * STEPS):
            index = inputs["index"][step, rows]
            crops = (inputs[name][step, rows] for name in ("crop_q", "crop_k"))
            batches.append([views(inputs, index, crop, dtype) for crop in crops])
        official.adjust_learning_rate(optimizer, epoch, settings)
        rates += [optimizer.param_groups[0]["lr"]] * STEPS
        with contextlib.redirect_stdout(io.StringIO()):
            official.train(
                [(pair, None) for pair in batches],
                parallel, losses, optimizer, epoch, settings,
            )  # fmt: skip
    every = [torch.zeros(EPOCHS * STEPS, dtype=torch.float64) for _ in range(world)]
    torch.distributed.all_gather(every, torch.tensor(losses.seen, dtype=torch.float64))
    if rank == 0:
        trace = {f"meta/{name}": np.array(value) for name, value in meta.items()}
        trace["trace/lr"] = np.array(rates)
        trace["trace/idx_shuffle"] = torch.stack(permutations).numpy()
        trace["trace/loss_mean"] = torch.stack(every).mean(dim=0).numpy()
        state = {name: array.numpy() for name, array in model.state_dict().items()}
        trace |= final(state)
        np.savez(f"{folder}/trace.npz", **trace)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def final(state):
    """A state at the end: small tensors whole, weights by `digest`."""
    kept = {}
    for name, array in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        is_whole = array.ndim < 2 or name == "queue"
        kept[f"{'final' if is_whole else 'digest'}/{name}"] = (
            array if is_whole else digest(array)
        )
    return kept


def digest(array):
    """Two numbers of a tensor: its norm, and its product with a fixed wave."""
    flat = array.astype(np.float64).ravel()
    return np.array([np.linalg.norm(flat), flat @ np.cos(np.arange(flat.size))])


# ------------------------------------------------------------------------------ linear


def classified(checkout):
    """Trains the official linear classifier on images, and its head on features."""
    official = import_official(checkout, "main_lincls")
    given, inputs = load("lincls.npz"), load("inputs_train.npz")
    record = {
        name: given[name]
        for name in (
            "index", "crop", "labels", "val_index", "val_crop", "val_labels",
            "val_batch_size", "head_init_weight", "head_init_bias",
        )
    }  # fmt: skip
    record |= {f"meta/{name}": np.array(value) for name, value in LINEAR.items()}
    encoder = {name: given[name] for name in given if name.startswith("encoder/")}
    record |= encoder
    network = Narrow(LINEAR["classes"])
    state = {k[len("encoder/") :]: torch.from_numpy(a) for k, a in encoder.items()}
    _, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected
    trunk = nn.Sequential(*list(network.children())[:-1], nn.Flatten()).eval()
    batches = [
        views(inputs, index, crop, "float32")
        for index, crop in zip(given["index"], given["crop"])
    ]
    size = int(given["val_batch_size"])
    parts = np.split(np.arange(320), range(size, 320, size))
    validation = [
        views(inputs, given["val_index"][part], given["val_crop"][part], "float32")
        for part in parts
    ]
    with torch.no_grad():
        features = [trunk(batch) for batch in batches]
        val_features = [trunk(batch) for batch in validation]
    record["features"] = torch.stack(features).numpy()
    record["val_features"] = torch.cat(val_features).numpy()
    labels = [torch.from_numpy(part) for part in given["labels"]]
    val_labels = [torch.from_numpy(given["val_labels"][part]) for part in parts]
    for parameter in network.parameters():
        parameter.requires_grad = False
    head = nn.Linear(256, LINEAR["classes"]).double()
    for prefix, model, layer, train, val in (
        ("", network, network.fc, batches, validation),
        ("f64_", head, head, double(features), double(val_features)),
    ):
        layer.weight.data.copy_(torch.from_numpy(given["head_init_weight"]))
        layer.bias.data.copy_(torch.from_numpy(given["head_init_bias"]))
        layer.requires_grad_(True)
        pairs, val_pairs = list(zip(train, labels)), list(zip(val, val_labels))
        record |= {
            prefix + name: value
            for name, value in fitted(official, model, layer, pairs, val_pairs).items()
        }
    return record


def double(batches):
    """Batches in float64."""
    return [batch.double() for batch in batches]


def fitted(official, model, layer, pairs, val_pairs):
    """What the official `train` and `validate` give, step by step."""
    optimizer = torch.optim.SGD(
        layer.parameters(),
        LINEAR["lr"],
        momentum=LINEAR["momentum"],
        weight_decay=LINEAR["weight_decay"],
    )
    settings = SimpleNamespace(
        lr=LINEAR["lr"], schedule=(60, 80), epochs=100, gpu=None, print_freq=1000
    )
    official.adjust_learning_rate(optimizer, 0, settings)
    losses, official.accuracy = Losses(), Accuracies()
    record, before = {}, 0
    with contextlib.redirect_stdout(io.StringIO()):
        for step in (1, 30, 64):
            official.train(pairs[before:step], model, losses, optimizer, 0, settings)
            record[f"head_weight_after_{step}"] = layer.weight.detach().numpy().copy()
            record[f"head_bias_after_{step}"] = layer.bias.detach().numpy().copy()
            before = step
        record["loss"] = np.array(losses.seen)
        record["acc1"], record["acc5"] = np.array(official.accuracy.seen).T
        losses.seen.clear()
        accuracy = official.validate(val_pairs, model, losses, settings)
    record["val_acc1"] = np.array(float(accuracy))
    sizes = [len(labels) for _, labels in val_pairs]
    record["val_loss"] = np.average(losses.seen, weights=sizes)
    return record


if __name__ == "__main__":
    main()
