"""What can be asked of `moco-tf evaluate`: a protocol, its settings, what to judge."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass
from typing import Union

from moco_tf.evaluation.detection.settings import Detect
from moco_tf.evaluation.fewshot.settings import FewShot
from moco_tf.evaluation.finetune.settings import Finetune
from moco_tf.evaluation.knn.settings import KNN
from moco_tf.evaluation.linear.settings import Linear
from moco_tf.evaluation.results.settings import Compare, Tables
from moco_tf.evaluation.segmentation.settings import Segment

Settings = Union[KNN, Linear, FewShot, Finetune, Detect, Segment, Compare, Tables]

PROTOCOLS: dict[str, type[Settings]] = {
    "knn": KNN,
    "linear": Linear,
    "finetune": Finetune,
    "fewshot": FewShot,
    "detect": Detect,
    "segment": Segment,
    "compare": Compare,
    "tables": Tables,
}
# Commands on finished runs: they read results, not encoders. Which, and an example.
ON_RESULTS = {
    "compare": ("runs that were evaluated before", "runs/a runs/b"),
    "tables": ("sweeps", "runs/ablation"),
}


@dataclass(frozen=True)
class Evaluation:
    """One command.

    Attributes:
        protocol: one of `PROTOCOLS`.
        paths: run directories or SavedModels; exactly one but for compare.
        settings: the protocol's, checked.
    """

    protocol: str
    paths: tuple[pathlib.Path, ...]
    settings: Settings
