"""What can be asked of `moco-tf evaluate`: a protocol, its settings, what to judge."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass
from typing import Union

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

Judging = Union[KNN, Linear, FewShot, Retrieve, Finetune, Detect, Segment]
OnImages = Union[Embed, Search, Duplicates, Cluster, Outliers, Map]
Settings = Union[Judging, OnImages, Compare, Tables]

PROTOCOLS: dict[str, type[Settings]] = {
    "knn": KNN,
    "linear": Linear,
    "finetune": Finetune,
    "fewshot": FewShot,
    "retrieve": Retrieve,
    "detect": Detect,
    "segment": Segment,
    "compare": Compare,
    "tables": Tables,
    "embed": Embed,
    "search": Search,
    "duplicates": Duplicates,
    "cluster": Cluster,
    "outliers": Outliers,
    "map": Map,
}
# Commands on finished runs: they read results, not encoders. Which, and an example.
ON_RESULTS = {
    "compare": ("runs that were evaluated before", "runs/a runs/b"),
    "tables": ("sweeps", "runs/ablation"),
}
# Commands on images without labels: an encoder and a folder, or files of embeddings.
ON_IMAGES = ("embed", "search", "duplicates", "cluster", "outliers", "map")


@dataclass(frozen=True)
class Evaluation:
    """One command.

    Attributes:
        protocol: one of `PROTOCOLS`.
        paths: run directories or SavedModels, of most protocols exactly one; those
            `ON_IMAGES` take what `moco_tf.evaluation.given` sorts.
        settings: the protocol's, checked.
    """

    protocol: str
    paths: tuple[pathlib.Path, ...]
    settings: Settings
