"""The settings of each method, with the fields that it has and no others."""

# ruff: noqa: UP045  (jsonargparse evaluates the hints; Python 3.9 cannot do X | None)
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Optional, Union

from moco_tf.config.limits import (
    BELOW_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    at_least,
    between,
    limited,
)


@dataclass(frozen=True)
class Contrastive:
    """How views are contrasted.

    Attributes:
        name: moco (v1 and v2), moco_v3, and what the papers compare with: simclr,
            end_to_end and memory_bank; each has fields of its own.
        dim: Length of a projection.
        temperature: Divides the similarities in the loss.
    """

    name: str = ""
    dim: int = limited(128, at_least(1))
    temperature: float = limited(0.2, POSITIVE)


@dataclass(frozen=True)
class Grouped(Contrastive):
    """What methods have whose batch norm is within replicas, or groups.

    Attributes:
        projection: Head on the backbone: linear (v1) or mlp (v2).
        bn_groups: Groups within a replica that have their own batch-norm statistics
            (null: 8 where a host has one replica, as nothing else hides the key's
            batch there, else 1).
        shuffle_keys: Shuffle the keys' images over replicas and groups (ShuffleBN), so
            that a query and its key meet different batch statistics; false leaves them
            beside each other, an ablation.
    """

    projection: Literal["mlp", "linear"] = "mlp"
    bn_groups: Optional[int] = limited(None, at_least(1))
    shuffle_keys: bool = True


@dataclass(frozen=True)
class MoCoSettings(Grouped):
    """MoCo v1 and v2: a momentum encoder's keys in a queue.

    Attributes:
        dim: Length of a projection.
        temperature: Divides the similarities in the loss; 0.07 in v1, 0.2 in v2.
        key_momentum: Rate at which the key encoder keeps its weights.
        queue_size: Keys kept as negatives; at least the global batch.
        mask_same_image: Leave the queue's keys of the query's own image out of the
            negatives.
        symmetric: Contrast the views in both directions, at twice the cost.
    """

    name: Literal["moco"] = "moco"
    key_momentum: float = limited(0.99, between(0, 1))
    queue_size: int = limited(1024, at_least(1))
    mask_same_image: bool = False
    symmetric: bool = False


@dataclass(frozen=True)
class MoCoV3Settings(Contrastive):
    """MoCo v3: a momentum encoder, a prediction head, no queue.

    Attributes:
        key_momentum: Rate at which the key encoder keeps its weights at first; it
            rises to 1.
        hidden: Width inside the heads; 4096 in the paper.
    """

    name: Literal["moco_v3"] = "moco_v3"
    key_momentum: float = limited(0.99, between(0, 1))
    hidden: int = limited(4096, at_least(1))


@dataclass(frozen=True)
class SimCLRSettings(Contrastive):
    """SimCLR: all other views of the batch as negatives."""

    name: Literal["simclr"] = "simclr"


@dataclass(frozen=True)
class EndToEndSettings(Grouped):
    """The end-to-end mechanism of MoCo's paper: both encoders by gradients."""

    name: Literal["end_to_end"] = "end_to_end"


@dataclass(frozen=True)
class MemoryBankSettings(Grouped):
    """The memory bank of Wu et al. 2018: an embedding of every image.

    Attributes:
        num_negatives: Slots drawn for a step.
        slot_momentum: Rate at which a slot keeps its embedding.
        proximal: Weight of the proximal term.
    """

    name: Literal["memory_bank"] = "memory_bank"
    num_negatives: int = limited(4096, at_least(1))
    slot_momentum: float = limited(0.5, BELOW_ONE)
    proximal: float = limited(0.0, NOT_NEGATIVE)


Method = Union[
    MoCoSettings, MoCoV3Settings, SimCLRSettings, EndToEndSettings, MemoryBankSettings
]
