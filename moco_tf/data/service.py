"""Batches that other processes make: TensorFlow's data service, in the same order."""

from __future__ import annotations

import logging
import queue
import re
import threading
from collections.abc import Callable, Iterator

import tensorflow as tf

from moco_tf.cluster import silence
from moco_tf.data.sources import DataError, Source
from moco_tf.data.threads import untuned
from moco_tf.mistakes import reason
from moco_tf.shell import command

# What an error that a worker met begins with, wherever TensorFlow wraps it.
FAILED = "the data service could not make a batch"
# Batches that wait for an earlier one before this process makes that itself.
_EARLY = 8
# Seconds without any batch before it does so.
_PATIENCE = 60
# Once that was in vain, or no more can come.
_NO_PATIENCE = 0.001
_ADDRESS = re.compile(r"grpc://([^:/]+):(\d+)")

log = logging.getLogger("moco_tf")


def require_service(address: str, source: Source, cache: bool = False) -> None:
    """Raises DataError unless a service answers, and such images can be read there.

    Args:
        address: such as "grpc://host:5000".
        source: the images.
        cache: whether they are to be kept in memory.
    """
    found = _ADDRESS.fullmatch(address)
    if not found:
        raise DataError(
            f"service={address!r} is no address of a data service; it should be like "
            "grpc://host:5000."
        )
    if source.load is None:
        raise DataError(
            f"service={address!r} cannot read a TFDS set, whose files are read from "
            "front to back; give the images as a folder, or leave it out."
        )
    if source.raw:
        raise DataError(
            f"service={address!r} cannot read TIFF, NumPy and DICOM files, which only "
            "this process decodes; leave it out, or pack the images first."
        )
    if cache:
        raise DataError(
            f"service={address!r} does not go with cache=true, as other processes "
            "read the images; leave one of them out."
        )
    if why := silence(found[1], int(found[2])):
        raise DataError(
            f"no data service answers at {address} ({why}); start one by "
            f"`{command('data-service', 'dispatcher', '--port', found[2])}` on "
            f"{found[1]}, and workers beside it."
        )


def served(
    dataset: tf.data.Dataset,
    address: str,
    steps: range,
    here: Callable[[int], tf.data.Dataset],
) -> tf.data.Dataset:
    """Has the workers of a service make the elements of a dataset, in their order.

    TensorFlow gives each step to the worker that asks for one, and loses those that a
    worker had when it died. They come in any order and are put right here; one that
    stays away is made in this process, as all are while no worker answers.

    Args:
        dataset: (step, batch); each can be made without those before it.
        address: of the service.
        steps: those of the dataset, in order.
        here: step -> the batches from that step on, made in this process.

    Returns:
        The batches.
    """
    options = tf.data.Options()
    options.deterministic = True
    service = tf.data.experimental.service
    remote = untuned(dataset.with_options(options)).apply(
        service.distribute(
            processing_mode=service.ShardingPolicy.DYNAMIC,
            service=address,
            compression=None,  # crops are nearly noise to it
        )
    )

    def batches() -> Iterator[dict]:
        arrived: queue.Queue = queue.Queue(maxsize=1)
        stop = threading.Event()
        reading = (remote, arrived, stop)
        threading.Thread(target=_read, args=reading, daemon=True).start()
        try:
            yield from _in_order(arrived, steps, here, address)
        finally:
            stop.set()

    return tf.data.Dataset.from_generator(
        batches, output_signature=dataset.element_spec[1]
    )


def _read(remote, arrived, stop):
    """Hands over (step, batch), and at the end (None, None) or (None, error)."""
    try:
        with tf.device("CPU"):
            for step, batch in remote:
                if not _handed_over(arrived, (int(step), batch), stop):
                    return
        last = None
    except tf.errors.OpError as error:
        last = error
    _handed_over(arrived, (None, last), stop)


def _handed_over(arrived, item, stop):
    while not stop.is_set():
        try:
            arrived.put(item, timeout=1)
            return True
        except queue.Full:
            continue
    return False


def _in_order(arrived, steps, here, address):
    early: dict[int, dict] = {}
    patience = _PATIENCE
    own, own_next = iter(()), None
    for step in steps:
        while step not in early and len(early) < _EARLY:
            try:
                number, batch = arrived.get(timeout=patience)
            except queue.Empty:
                if patience == _PATIENCE:
                    log.warning(
                        "The data service at %s has sent nothing for %d s; until it "
                        "does, this process makes the batches.",
                        address,
                        patience,
                    )
                patience = _NO_PATIENCE
                break
            if isinstance(batch, Exception):
                # TensorFlow keeps the message of this kind, and the type of none.
                raise ValueError(f"{FAILED}: {reason(batch)}")
            if batch is None:  # what has not come by now never will
                patience = _NO_PATIENCE
                break
            if number >= step:  # or it comes late, made here in the meantime
                early[number], patience = batch, _PATIENCE
        if step in early:
            yield early.pop(step)
            continue
        if own_next != step:
            own = iter(here(step))
        yield next(own)
        own_next = step + 1
