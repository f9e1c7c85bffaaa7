"""What is measured of a run each epoch: where TensorBoard shows it, what it means."""

from __future__ import annotations

from typing import NamedTuple


class Measure(NamedTuple):
    """One figure in the logs.

    Attributes:
        group: under which TensorBoard shows it.
        about: what it is, in a sentence.
    """

    group: str
    about: str


MEASURES = {
    "loss": Measure(
        "contrast",
        "InfoNCE in nats, mean over the epoch. It may rise at first, while the queue "
        "gets real keys.",
    ),
    "loss_ceiling": Measure(
        "contrast",
        "ln(1+K), the loss of an encoder that tells the own key from K negatives no "
        "better than a guess.",
    ),
    "top1": Measure(
        "contrast",
        "Share of queries whose own key is nearer than all negatives; not an accuracy "
        "of classes.",
    ),
    "top5": Measure(
        "contrast", "Share of queries whose own key is among the five nearest."
    ),
    "positive_similarity": Measure(
        "contrast", "Mean cosine of a query and its own key."
    ),
    "negative_similarity": Measure(
        "contrast",
        "Mean cosine of a query and its negatives; near 1 the run has collapsed.",
    ),
    "false_negative_rate": Measure(
        "health", "Share of the negatives that are of the query's own image."
    ),
    "feature_std": Measure(
        "health",
        "Standard deviation of the embeddings per dimension times sqrt(dim): 1 where "
        "they fill the sphere, 0 where the run has collapsed.",
    ),
    "effective_rank": Measure(
        "health",
        "Dimensions that the embeddings span: exp of the entropy of their covariance's "
        "spectrum, from 1 (collapsed) to dim.",
    ),
    "queue_age": Measure("health", "Mean age of the queue's keys, in steps."),
    "key_distance": Measure(
        "health",
        "Distance of the key encoder's weights from the query encoder's, relative to "
        "the norm of these.",
    ),
    "key_momentum": Measure(
        "optimizer", "Of MoCo v3's key encoder, which rises to 1; mean over the epoch."
    ),
    "knn": Measure(
        "probe",
        "Accuracy of a weighted vote of the nearest training features on test images; "
        "epoch 0 is the encoder before training.",
    ),
    "linear": Measure(
        "probe",
        "Accuracy of a linear classifier on frozen features of test images; epoch 0 is "
        "the encoder before training.",
    ),
    "rankme": Measure(
        "quality",
        "RankMe: dimensions that the backbone's features of augmented training images "
        "span (Garrido et al. 2023); epoch 0 is the untrained encoder.",
    ),
    "alignment": Measure(
        "quality",
        "Mean squared distance of unit features of two views of an image, 0 to 4 (Wang "
        "and Isola 2020); lower where views agree.",
    ),
    "uniformity": Measure(
        "quality",
        "log of the mean of exp(-2 d^2) over pairs of images (Wang and Isola 2020); "
        "lower where features cover the sphere evenly.",
    ),
    "learning_rate": Measure("optimizer", "At the end of the epoch."),
    "gradient_norm": Measure(
        "optimizer",
        "Norm of the global batch's gradient, mean over the epoch; where it rises "
        "without end, the run diverges.",
    ),
    "weight_norm": Measure(
        "optimizer",
        "Norm of all weights that the optimiser moves, at the end of the epoch.",
    ),
    "images_per_second": Measure(
        "speed", "Over the epoch, without probes and checkpoints."
    ),
    "input_wait": Measure(
        "speed", "Share of the training time that was spent waiting for batches."
    ),
    "peak_memory_mib": Measure(
        "memory",
        "The most memory held so far: TensorFlow's on the busiest GPU, else the whole "
        "process.",
    ),
}
OTHER = Measure("health", "")
