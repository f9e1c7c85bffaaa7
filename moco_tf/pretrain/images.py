"""The images a run learns from: opened once, the same on all hosts, in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from moco_tf.config import Config, Data
from moco_tf.data.order import steps_per_epoch
from moco_tf.data.partners import partner_of
from moco_tf.data.pipeline import two_views
from moco_tf.data.service import require_service
from moco_tf.data.sources import DataError, Source, open_source
from moco_tf.exchange import hosts, of_hosts, together
from moco_tf.pixels import Pixels

# Images whose two views TensorBoard shows.
_SHOWN = 16


def open_data(
    data: Data, config: Config, labelled: bool = False, pixels: Pixels | None = None
) -> Source:
    """Opens images with the channels of the run.

    Args:
        data: which images.
        config: the run.
        labelled: see `open_source`.
        pixels: see `open_source`.
    """
    return open_source(
        **data.place,
        channels=config.data.channels,
        labelled=labelled,
        pixels=pixels,
    )


class Images:
    """The training images of a run.

    Args:
        config: the run.
        strategy: among whose replicas and hosts batches are cut.

    Attributes:
        source: the opened images.
        steps: batches in an epoch.

    Raises:
        DataError: they cannot be had, or differ between hosts.
    """

    def __init__(self, config: Config, strategy: tf.distribute.Strategy):
        self._config, self._strategy = config, strategy
        self._shown: Iterator[dict[str, tf.Tensor]] | None = None
        with together(strategy):
            self.source = open_data(config.data, config)
            wanted = config.train.steps_per_epoch
            self.steps = wanted or steps_per_epoch(self.source, config.train.batch_size)
            if config.data.positives == "group":
                partner_of(self.source, config.data.cache)  # refuses what has none
            if (service := config.data.service) is not None:
                require_service(service, self.source, config.data.cache)
        _require_same_data(strategy, self.source)

    def batches(self, start: int) -> tf.data.Dataset | tf.distribute.DistributedDataset:
        """The stream of batches after so many steps, cut among hosts if several."""
        service = self._config.data.service
        if hosts(self._strategy) == 1:
            return self._two_views(start_step=start, service=service)

        def of_host(context):
            shards = (context.num_input_pipelines, context.input_pipeline_id)
            batches = self._two_views(start_step=start, shards=shards, service=service)
            share = self._config.train.batch_size // context.num_replicas_in_sync
            return batches.rebatch(share, drop_remainder=True)

        return self._strategy.distribute_datasets_from_function(of_host)

    def ids(self, step: int) -> np.ndarray:
        """Ids of the images in the batch of all hosts after so many steps."""
        return next(iter(self._two_views(start_step=step)))["id"].numpy()

    def shown(self) -> dict[str, tf.Tensor]:
        """A small batch of two views, another one at each call, for the eye."""
        if self._shown is None:
            # Not one of training: at 4096 x 224 x 224 that and its shuffle buffer are
            # big. Read on from call to call, as making a stream takes its time.
            count = min(_SHOWN, self._config.train.batch_size)
            few = {"batch_size": count, "shuffle_buffer": 1, "cache": False}
            self._shown = iter(self._two_views(**few))
        return next(self._shown)

    def pairs(self, most: int) -> tf.data.Dataset:
        """Batches of two views of at most so many images, always the same ones."""
        count = min(most, self.source.num_examples)
        rows = min(count, self._config.monitor.batch_size)
        few = {"batch_size": rows, "shuffle_buffer": 1, "cache": False}
        batches = self._two_views(shuffle_keys=False, epochs=1, **few)
        return batches.take(count // rows)

    def _two_views(self, **changed):
        config, data = self._config, self._config.data
        arguments = {
            "batch_size": config.train.batch_size,
            "image_size": data.image_size,
            "channels": data.channels,
            "crop_scale": data.crop_scale,
            "key_crop_scale": data.key_crop_scale,
            "crop_ratio": data.crop_ratio,
            "antialias": data.resize == "pillow",
            "seed": config.seed,
            "shuffle_buffer": data.shuffle_buffer,
            "cache": data.cache,
            "parallel_calls": data.decode_threads,
            # Where batch norm is over the global batch their order is no matter.
            "shuffle_keys": getattr(config.method, "shuffle_keys", True),
            "positives": data.positives,
        }
        return two_views(self.source, **{**arguments, **changed})


def _require_same_data(strategy, source):
    """Refuses hosts with other images than the first's: ids would mean two images."""
    digest = int(hashlib.sha256(source.origin.encode()).hexdigest()[:7], 16)
    counts, digests = (of_hosts(strategy, n) for n in (source.num_examples, digest))
    others = [
        host
        for host, pair in enumerate(zip(counts, digests))
        if pair != (counts[0], digests[0])
    ]
    if others:
        found = f"{counts[0]} images and host {others[0]} {counts[others[0]]}"
        same = " of other names or sizes" * (counts[0] == counts[others[0]])
        raise DataError(
            f"the hosts read different data: host 0 has {found}{same}; give every host "
            "the same files."
        )
