"""The configuration tree; its defaults are the demo, its docstrings are `--help`."""

# ruff: noqa: UP045  (jsonargparse evaluates the hints; Python 3.9 cannot do X | None)
from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from dataclasses import dataclass, field
from typing import Any, Literal, Optional, Union

from moco_tf.config.limits import (
    BELOW_ONE,
    CROP_SHARES,
    FACTOR,
    NOT_NEGATIVE,
    POSITIVE,
    SIGMAS,
    VALUE_RANGE,
    at_least,
    between,
    limited,
    rising,
)
from moco_tf.config.methods import Grouped, Method, MoCoSettings
from moco_tf.paths import each_place, to_path

# One, or several in brackets.
Places = Optional[Union[tuple[str, ...], str]]


@dataclass(frozen=True)
class Data:
    """The images to learn from.

    Attributes:
        source: glyphs (embedded, nothing to fetch), tfds (any TensorFlow Datasets image
            set), folder (your own files, nested or flat) or synthetic (made photographs
            in ImageNet's shape, to rehearse a run whose images are not there yet).
        name: TFDS name such as cifar10 or imagenet2012; only for source tfds.
        data_dir: Root of the prepared TFDS sets (null: ~/tensorflow_datasets), or for
            source folder the folder of images itself, a text or CSV file that names
            them (`path[,label][,group]`), what moco-tf pack wrote, or several of these,
            such as [A, B].
        manual_dir: Where TFDS finds archives that you must fetch yourself (ImageNet).
        split: Split to train on, in TFDS notation such as train or train[:10%].
        image_size: Side of the square crops in pixels.
        channels: Channels per image; the colour operations of a recipe apply to 3 only.
        range: Numbers in the images that are black and white, such as [0, 4095] or
            [0.0, 1.0] (null: all that 8 or 16 bits can be; must be given of others);
            what is beyond is cut off.
        crop_scale: Least and greatest share of the image's area in a random crop.
        key_crop_scale: The same for the second view, the key's (null: crop_scale).
        crop_ratio: Least and greatest width/height of a random crop.
        resize: How a crop is reduced to image_size: pillow averages, as the reference
            does; bilinear takes the nearest four pixels, as ports on OpenCV do, and
            makes the input of photographs nearly twice as fast.
        shuffle_buffer: Examples held in memory to shuffle from; at least the number of
            examples for a full shuffle.
        cache: Keep the undecoded examples in memory after the first epoch; refused
            where they are known to be larger than what is free.
        decode_threads: Images decoded at once (null: one for each core).
        service: Address of a tf.data service whose workers read and crop the images,
            such as grpc://host:5000 (null: this machine does).
        max_unreadable: Share of unreadable images above which a run stops.
        positives: What a query's key is a view of: image, the same one; or group,
            another one of its group in a manifest (a patient's, a scene's), whose keys
            in the queue are then no negatives of it. Of method moco.
    """

    source: Literal["glyphs", "tfds", "folder", "synthetic"] = "glyphs"
    name: Optional[str] = None
    data_dir: Places = None
    manual_dir: Optional[str] = None
    split: str = "train"
    image_size: int = limited(32, between(16, 1024))
    channels: int = limited(3, at_least(1))
    range: Optional[tuple[float, float]] = limited(None, VALUE_RANGE)
    crop_scale: tuple[float, float] = limited((0.2, 1.0), CROP_SHARES)
    key_crop_scale: Optional[tuple[float, float]] = limited(None, CROP_SHARES)
    crop_ratio: tuple[float, float] = limited(
        (0.75, 4 / 3), rising("ratios", "[0.75, 1.3333]")
    )
    resize: Literal["pillow", "bilinear"] = "pillow"
    shuffle_buffer: int = limited(50000, at_least(1))
    cache: bool = False
    decode_threads: Optional[int] = limited(None, at_least(1))
    service: Optional[str] = None
    max_unreadable: float = limited(0.01, between(0, 1))
    positives: Literal["image", "group"] = "image"

    @property
    def place(self) -> dict[str, Any]:
        """What `moco_tf.data.open_source` is to open."""
        names = ("split", "name", "data_dir", "manual_dir", "max_unreadable")
        place = {name: getattr(self, name) for name in names}
        return {"kind": self.source, **place, "value_range": self.range}

    @property
    def called(self) -> str:
        """A short name of the set of images, without its place on this machine."""
        if self.source == "tfds":
            # Known parts of a set (imagenet2012_subset/1pct) go by its name.
            return re.sub(r"_subset(/.*)?$", "", self.name or "")
        if self.source == "folder":
            places = each_place(self.data_dir)
            return " ".join(to_path(place).resolve().name for place in places)
        return self.source


@dataclass(frozen=True)
class Augment:
    """What happens to a crop on the device, inside the training step.

    A recipe, and values of your own over it: null is the recipe's, 0 leaves out. Where
    the recipe treats the two views differently (moco_v3), a value is for both.

    Attributes:
        recipe: moco_v1, moco_v2, cifar (moco_v2 without blur), moco_v3 (another one
            for each view) or simclr.
        brightness: Strength of the jitter: x for a factor of 1 - x to 1 + x (null, here
            and down to quarter_turns: the recipe's).
        contrast: The same for the contrast.
        saturation: The same for the saturation.
        hue: x for a shift of the hue by up to x of a full turn either way.
        jitter: Share of views whose colours are jittered.
        grayscale: Share of views that lose their colours.
        blur: Share of views that are blurred.
        blur_sigma: Least and greatest radius of the blur, in pixels of the view.
        solarize: Share of views whose lighter half is inverted.
        horizontal_flip: Share of views mirrored left to right.
        vertical_flip: Share of views mirrored top to bottom, for pictures that have
            no up and down, such as cells, minerals or the ground from above.
        quarter_turns: Share of views turned by 90, 180 or 270 degrees; 0.75 makes all
            four ways up alike.
        mean: Value per channel subtracted from images in [0, 1] (null: the recipe's).
        std: Value per channel that images are divided by (null: the recipe's).
        jit_compile: Compile the augmentation with XLA, several times as fast; false
            where XLA does not run (a GPU machine without libdevice or ptxas).
    """

    recipe: Literal["moco_v1", "moco_v2", "cifar", "moco_v3", "simclr"] = "cifar"
    brightness: Optional[float] = limited(None, NOT_NEGATIVE)
    contrast: Optional[float] = limited(None, NOT_NEGATIVE)
    saturation: Optional[float] = limited(None, NOT_NEGATIVE)
    hue: Optional[float] = limited(None, between(0, 0.5))
    jitter: Optional[float] = limited(None, between(0, 1))
    grayscale: Optional[float] = limited(None, between(0, 1))
    blur: Optional[float] = limited(None, between(0, 1))
    blur_sigma: Optional[tuple[float, float]] = limited(None, SIGMAS)
    solarize: Optional[float] = limited(None, between(0, 1))
    horizontal_flip: Optional[float] = limited(None, between(0, 1))
    vertical_flip: Optional[float] = limited(None, between(0, 1))
    quarter_turns: Optional[float] = limited(None, between(0, 1))
    mean: Optional[tuple[float, ...]] = None
    std: Optional[tuple[float, ...]] = None
    jit_compile: bool = True

    @property
    def changes(self) -> dict[str, Any]:
        """The values over the recipe, by their fields; those that are null left out."""
        found = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("recipe", "mean", "std", "jit_compile")
        }
        return {name: value for name, value in found.items() if value is not None}


ENCODERS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "vit_small",
    "vit_base",
)


@dataclass(frozen=True)
class Encoder:
    """The backbone that is kept when training ends.

    Attributes:
        name: resnet18, resnet34, resnet50, resnet101, resnet152 (torchvision's
            arithmetic), vit_small, vit_base (MoCo v3's), or a KerasCV class such as
            EfficientNetV2B0Backbone.
        width: Channels of the ResNet's stem and first stage; 64 in the standard nets.
        stem: ResNet entry: imagenet (7x7, stride 2, max-pool) or cifar (3x3, stride 1).
        zero_init_residual: Start each residual branch of the ResNet at zero.
        patch_size: Side of the ViT's patches in pixels; divides data.image_size.
        weights: What the encoder starts from: a run directory, a SavedModel, a
            checkpoint that `moco-tf import` takes (.pth, .safetensors, ...), or
            imagenet, what KerasCV publishes of its classes (null: random weights).
        frozen_stages: Stages, from the input on, that stay as they are, batch norm's
            statistics too; a ResNet has 5 (its stem and 4 more), a ViT one for its
            patches and one for each block.
        frozen_epochs: Epochs after which they learn as well (null: they never do).
    """

    name: str = "resnet18"
    width: int = limited(16, at_least(1))
    stem: Literal["imagenet", "cifar"] = "cifar"
    zero_init_residual: bool = False
    patch_size: int = limited(16, at_least(1))
    weights: Optional[str] = None
    frozen_stages: int = limited(0, at_least(0))
    frozen_epochs: Optional[int] = limited(None, at_least(1))


@dataclass(frozen=True)
class Optimizer:
    """The optimiser, and its schedule.

    Attributes:
        name: sgd (torch's convention), lars (large batches) or adamw (ViT).
        learning_rate: Rate for a global batch of 256.
        scaling: How the rate follows train.batch_size: linear, or sqrt (SimCLR's
            alternative, whose 0.075 x sqrt(batch) is a learning_rate of 1.2 here).
        momentum: Momentum of sgd and lars, without Nesterov.
        weight_decay: L2 term added to the gradient of every parameter by sgd, of
            matrices and filters by lars; taken off the weights by adamw.
        schedule: cosine (to 0 at the last epoch) or step (drops at the milestones).
        milestones: Epochs at which the step schedule drops the rate ([]: at 60 % and
            80 % of the run, 120 and 160 of MoCo v1's 200).
        decay_factor: What each milestone multiplies the rate by.
        per_epoch: Change the rate once an epoch, as the reference, not every step.
        warmup_epochs: Epochs of linear rise from 0 before the schedule.
    """

    name: Literal["sgd", "lars", "adamw"] = "sgd"
    learning_rate: float = limited(0.12, POSITIVE)
    scaling: Literal["linear", "sqrt"] = "linear"
    momentum: float = limited(0.9, BELOW_ONE)
    weight_decay: float = limited(1e-4, NOT_NEGATIVE)
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: tuple[int, ...] = ()
    decay_factor: float = limited(0.1, FACTOR)
    per_epoch: bool = False
    warmup_epochs: int = 0


@dataclass(frozen=True)
class Train:
    """The run.

    Attributes:
        epochs: Passes over the data.
        batch_size: Global batch, over all replicas; a last partial batch is dropped.
        precision: float32, mixed_bfloat16, or mixed_float16 (with loss scaling).
        deterministic: Ask TensorFlow for bit-reproducible operations; slower on GPU.
        accumulate: Parts of a replica's batch that are encoded one after the other,
            which takes the memory of one of them and gives the same step; of moco,
            where it divides method.bn_groups.
        recompute: Compute activations again for the gradient instead of keeping them,
            for less memory and another forward pass; of the resnets and vits.
        jit_compile: Compile with XLA, on one replica the whole step, on several the
            encoders (of methods without batch norm over replicas), each replica for
            itself; can help on GPU, slows a CPU down.
        checkpoint_every: Epochs between checkpoints.
        keep_checkpoints: Latest checkpoints kept.
        checkpoint_minutes: Minutes between checkpoints within an epoch, which is then
            continued where it was (null: only when the process is asked to stop).
        stall_minutes: Minutes without a step after which the log says what the run
            waits for (null: never).
        profile: First and last step, counted from 1, that TensorFlow's profiler
            records into tensorboard/ (null: none).
        steps_per_epoch: Cut each epoch to so many steps, for rehearsals (null: all).
        start_from: Run directory whose last checkpoint gives the first weights (both
            encoders, the queue), such as a finished run's that should train longer; the
            schedule and the optimiser start anew (null: random weights).
    """

    epochs: int = limited(16, at_least(1))
    batch_size: int = limited(128, at_least(2))
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    deterministic: bool = False
    accumulate: int = limited(1, at_least(1))
    recompute: bool = False
    jit_compile: bool = False
    checkpoint_every: int = limited(1, at_least(1))
    keep_checkpoints: int = limited(2, at_least(1))
    checkpoint_minutes: Optional[float] = limited(10.0, POSITIVE)
    stall_minutes: Optional[float] = limited(10.0, POSITIVE)
    profile: Optional[tuple[int, int]] = limited(None, rising("steps", "[100, 110]"))
    steps_per_epoch: Optional[int] = limited(None, at_least(1))
    start_from: Optional[str] = None


@dataclass(frozen=True)
class Distribution:
    """Which devices share the batch.

    Attributes:
        replicas: Devices to use (null: all visible GPUs, or 1 on CPU); on a CPU,
            N makes N logical devices, to rehearse a multi-GPU run.
        gpus: Indices of the GPUs to use, such as [0, 2] (null: any; []: none, which
            rehearses on the CPU of a machine with GPUs).
    """

    replicas: Optional[int] = limited(None, at_least(1))
    gpus: Optional[tuple[int, ...]] = None


@dataclass(frozen=True)
class Monitor:
    """Labelled images on which kNN and a linear probe watch the encoder.

    Attributes:
        every: Epochs between measurements; 0 switches the monitor off.
        source: As in data (null: the training data's source).
        name: TFDS name (null: the training data's, when the source is the same).
        data_dir: As in data (null: the training data's, when the source is the same).
        manual_dir: As in data (null: the training data's, when the source is the same).
        train_split: Labelled split that serves as reference.
        test_split: Labelled split that is classified.
        max_train: Use at most so many reference images (null: all).
        max_test: Use at most so many test images (null: all).
        knn_k: Neighbours that vote.
        knn_temperature: A neighbour of cosine s votes with weight exp(s / temperature).
        linear: Also train a linear probe on the same features.
        batch_size: Images encoded at once.
    """

    every: int = limited(2, at_least(0))
    source: Optional[Literal["glyphs", "tfds", "folder", "synthetic"]] = None
    name: Optional[str] = None
    data_dir: Places = None
    manual_dir: Optional[str] = None
    train_split: str = "train"
    test_split: str = "test"
    max_train: Optional[int] = limited(None, at_least(1))
    max_test: Optional[int] = limited(None, at_least(1))
    knn_k: int = limited(200, at_least(1))
    knn_temperature: float = limited(0.1, POSITIVE)
    linear: bool = True
    batch_size: int = limited(256, at_least(1))


@dataclass(frozen=True)
class Log:
    """What is written for the eye while a run trains.

    Attributes:
        every_steps: Steps between figures within an epoch in TensorBoard, norms of
            gradients and weights too (null: only epochs).
        quality_images: Training images of whose two views the quality of features is
            measured without labels (RankMe, alignment, uniformity), at the monitor's
            epochs, or ten times in a run without one (null: never).
        histograms: Show in TensorBoard how weights and embeddings are distributed.
        tracker: Also log to wandb (Weights & Biases) or mlflow, by its own Keras
            callback and its own environment variables (null: neither).
        project: Project of wandb or experiment of mlflow (null: what that takes
            itself).
    """

    every_steps: Optional[int] = limited(50, at_least(1))
    quality_images: Optional[int] = limited(1024, at_least(2))
    histograms: bool = False
    tracker: Optional[Literal["wandb", "mlflow"]] = None
    project: Optional[str] = None


@dataclass(frozen=True)
class Config:
    """The run as a whole.

    Attributes:
        name: Name of the run; everything it makes goes to runs_dir/name.
        runs_dir: Folder that holds the runs.
        seed: Where all randomness starts from.
        data: data, the images to learn from
        augment: augment, what happens to a crop on the device
        encoder: encoder, the backbone that is kept
        method: method, how views are contrasted
        optimizer: optimizer, and its schedule
        train: train, length, batch and arithmetic of the run
        distribution: distribution, which devices share the batch
        monitor: monitor, labelled images on which kNN and a linear probe watch
        log: log, what is written for the eye
    """

    name: str = "demo"
    runs_dir: str = "runs"
    seed: int = limited(0, between(0, 2**32 - 1))
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    encoder: Encoder = field(default_factory=Encoder)
    method: Method = field(default_factory=MoCoSettings)
    optimizer: Optimizer = field(default_factory=Optimizer)
    train: Train = field(default_factory=Train)
    distribution: Distribution = field(default_factory=Distribution)
    monitor: Monitor = field(default_factory=Monitor)
    log: Log = field(default_factory=Log)

    @property
    def run_dir(self) -> pathlib.Path:
        """Directory of everything this run makes."""
        return to_path(self.runs_dir) / self.name

    @property
    def effective_learning_rate(self) -> float:
        """Peak learning rate of this run: the base rate scaled to the batch."""
        scale = self.train.batch_size / 256
        if self.optimizer.scaling == "sqrt":
            scale = math.sqrt(scale)
        return self.optimizer.learning_rate * scale

    @property
    def milestones(self) -> tuple[int, ...]:
        """Epochs at which the step schedule of this run drops the rate."""
        epochs = self.train.epochs
        usual = {round(0.6 * epochs), round(0.8 * epochs)} - {0, epochs}
        return self.optimizer.milestones or tuple(sorted(usual))

    @property
    def requested_replicas(self) -> int | None:
        """Replicas that the configuration fixes, or None when the machine decides."""
        if self.distribution.gpus:
            return len(self.distribution.gpus)
        return self.distribution.replicas

    @property
    def hyperparameters(self) -> dict[str, bool | int | float | str]:
        """What runs are compared by: settings that shape what is learnt, by key."""
        fields = {
            "data": (
                "source", "name", "split", "image_size", "crop_scale", "key_crop_scale",
            ),
            "augment": ("recipe", *self.augment.changes),
            "encoder": ("name", "width", "stem", "weights", "frozen_stages"),
            "method": [field.name for field in dataclasses.fields(self.method)],
            "optimizer": (
                "name", "learning_rate", "scaling", "momentum", "weight_decay",
                "schedule", "warmup_epochs",
            ),
            "train": ("epochs", "batch_size", "precision"),
        }  # fmt: skip
        found = {
            f"{section}.{name}": getattr(getattr(self, section), name)
            for section, names in fields.items()
            for name in names
        }
        plain = (bool, int, float, str)
        return {"seed": self.seed} | {
            key: value if isinstance(value, plain) else str(list(value))
            for key, value in found.items()
            if value is not None
        }

    def bn_groups(self, local_replicas: int) -> int:
        """Batch-norm groups within each replica.

        ShuffleBN moves keys between the replicas of a host, which does nothing on one;
        there a replica's batch is split into 8 groups, as in the reference's CIFAR-10
        notebook.

        Args:
            local_replicas: replicas of each host.
        """
        if not isinstance(self.method, Grouped):
            return 1  # its batch norm is over the global batch
        if self.method.bn_groups is not None:
            return self.method.bn_groups
        return 8 if local_replicas == 1 else 1

    @property
    def monitor_train(self) -> Data:
        """Where the monitor's labelled reference images come from."""
        return self._monitor_data(self.monitor.train_split)

    @property
    def monitor_test(self) -> Data:
        """Where the monitor's test images come from."""
        return self._monitor_data(self.monitor.test_split)

    def _monitor_data(self, split: str) -> Data:
        monitor, data = self.monitor, self.data
        same = monitor.source in (None, data.source)
        # A name or folder of another kind of source would mean something else there.
        inherited = data if same else Data()
        return dataclasses.replace(
            data,
            source=monitor.source or data.source,
            name=monitor.name or inherited.name,
            data_dir=monitor.data_dir or inherited.data_dir,
            manual_dir=monitor.manual_dir or inherited.manual_dir,
            split=split,
        )
