"""Keras callbacks: probes, training health, logs, checkpoints, progress."""

from moco_tf.callbacks.checkpoints import Checkpoints, RunError, newest_checkpoint
from moco_tf.callbacks.divergence import FiniteLoss, NotFinite
from moco_tf.callbacks.freezing import FrozenStages
from moco_tf.callbacks.health import TrainingHealth
from moco_tf.callbacks.logs import HistoryCSV, TensorBoard
from moco_tf.callbacks.probes import KNN, LinearProbe
from moco_tf.callbacks.profile import Profile
from moco_tf.callbacks.unlabelled import FeatureQuality
from moco_tf.callbacks.within import WithinEpoch
from moco_tf.report.progress import Progress

__all__ = [
    "KNN",
    "Checkpoints",
    "FeatureQuality",
    "FiniteLoss",
    "FrozenStages",
    "HistoryCSV",
    "LinearProbe",
    "NotFinite",
    "Profile",
    "Progress",
    "RunError",
    "TensorBoard",
    "TrainingHealth",
    "WithinEpoch",
    "newest_checkpoint",
]
