"""From a source to batches of two views, or of labelled images."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from moco_tf.data.crops import DRAWS, centre_crop, default_resize, random_crops
from moco_tf.data.decoding import decode
from moco_tf.data.order import (
    SHUFFLE_KEYS,
    VIEWS,
    EpochOrder,
    finished,
    steps_per_epoch,
    stream_key,
)
from moco_tf.data.partners import partner_of
from moco_tf.data.service import require_service, served
from moco_tf.data.sources import DataError, Source, check_channels
from moco_tf.data.threads import CORES


def two_views(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    channels: int = 3,
    crop_scale: tuple[float, float] = (0.2, 1.0),
    key_crop_scale: tuple[float, float] | None = None,
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
    antialias: bool = True,
    seed: int = 0,
    start_step: int = 0,
    epochs: int | None = None,
    shuffle_buffer: int = 50_000,
    cache: bool = False,
    parallel_calls: int | None = None,
    shards: tuple[int, int] = (1, 0),
    shuffle_keys: bool = True,
    service: str | None = None,
    positives: str = "image",
) -> tf.data.Dataset:
    """Batches of two random crops of each image, for contrastive pretraining.

    Each image is decoded once and cropped twice. Every random number is a function of
    (seed, epoch, example id, view) or of (seed, step): the same arguments give the
    same batches, however many threads make them, and a stream started at a later step
    equals the rest of one that was not interrupted. Flips and colours are not done
    here but on the device.

    ShuffleBN: the key views are permuted within the batch, so that replicas (or groups)
    normalise a query and its key with different images. ``key[n]`` is a view of the
    image of ``query[position[n]]``; ``tf.gather(keys, tf.argsort(position))`` restores
    the order of the queries.

    Args:
        source: the images.
        batch_size: images in a global batch, over all hosts.
        image_size: side of the crops.
        channels: of the crops.
        crop_scale: least and greatest share of the image's area in a crop.
        key_crop_scale: the same for the key view; None is crop_scale.
        crop_ratio: least and greatest width/height of a crop.
        antialias: average where a crop is reduced, as Pillow and the reference do;
            False is faster, see `moco_tf.data.crops.resize`.
        seed: any integer of 63 bits.
        start_step: global step of the first batch.
        epochs: the stream ends after so many, counted from step 0; None: never.
        shuffle_buffer: elements held to shuffle from, where the source cannot read
            any example at once (where it can, the whole epoch is shuffled).
        cache: keep the elements in memory, undecoded: photos are 10 times smaller
            that way, and tiny images decode in no time. No use for arrays.
        parallel_calls: images processed at once; None: one for each core.
        shards: number of hosts and index of this one. Each takes its
            batch_size / hosts rows of every global batch and permutes keys among
            these; `position` counts in the global batch.
        shuffle_keys: False leaves the keys in the order of the queries.
        service: address of a tf.data service, such as "grpc://host:5000", whose workers
            read and crop the images; the batches are the same ones.
        positives: "image" takes both views of one image; "group" takes the key view of
            another image of its group, any of them with the same probability, and of
            the image itself where there is no other.

    Returns:
        A dataset of dicts: "query" and "key" (n, image_size, image_size, channels) of
        the type of the source's pixels, uint8 for photographs, "position" int32 (n,),
        "id" int64 (n,) of the queries, "query_seed" and "key_seed" int32 (n, 2), a seed
        per image and view for the augmentation, the latter in the order of the keys. n
        is batch_size / hosts. With positives "group" also "group" int64 (n,), that of
        the queries. Every epoch has
        `steps_per_epoch` batches and another order. Its cardinality is known, and
        infinite without `epochs`.

    Raises:
        DataError: the source is smaller than a batch, its channels are others, or
            batch_size does not divide among the hosts, or the service does not
            answer or cannot read such a source.
    """
    arguments = dict(locals())  # to make the same stream from a later step on
    check_channels(source, channels)
    partner = partner_of(source, cache) if positives == "group" else None
    steps = steps_per_epoch(source, batch_size)
    hosts, host = shards
    if batch_size % hosts:
        raise DataError(
            f"batch_size={batch_size} does not divide among {hosts} hosts; use a "
            f"multiple of {hosts}."
        )
    rows = batch_size // hosts
    scales = np.array([crop_scale, key_crop_scale or crop_scale])
    order = EpochOrder(source, batch_size, shards, seed, shuffle_buffer, cache)
    last = epochs if epochs is not None else tf.int64.max // steps
    first_epoch, first_step = divmod(start_step, steps)

    def epoch_elements(epoch):
        skipped = tf.where(epoch == first_epoch, tf.constant(first_step, tf.int64), 0)
        view_key = stream_key(seed, VIEWS, epoch)
        elements = order.elements(epoch, skipped)
        return elements.map(lambda element: {**element, "view_key": view_key})

    def step_elements(step, ids):
        of_step = {"view_key": stream_key(seed, VIEWS, step // steps), "step": step}
        elements = tf.data.Dataset.from_tensor_slices(ids)
        return elements.map(lambda example_id: {**of_step, "id": example_id})

    def views(element):
        if source.load is not None and not order.streams:
            element = {**source.load(element["id"]), **element}
        bits = tf.random.stateless_uniform(
            (2, DRAWS + 2),
            tf.stack([element["view_key"], element["id"]]),
            minval=None,
            maxval=None,
            dtype=tf.int32,
        )
        # The sign bit dropped, 24 of the others kept: exact in float32.
        words = tf.bitwise.right_shift(bits[:, 2:] & 0x7FFFFFFF, 7)
        uniforms = tf.cast(words, tf.float32) * 2.0**-24

        def crops(image, uniforms, scales):
            return random_crops(
                image, uniforms, channels, scales, crop_ratio, image_size,
                antialias, source.pixels, source.raw,
            )  # fmt: skip

        more = {"step": element["step"]} if "step" in element else {}
        if partner is None:
            query, key = crops(element["image"], uniforms, scales)
        else:
            other, more["group"] = partner(element["id"], element["view_key"])
            (query,) = crops(element["image"], uniforms[:1], scales[:1])
            (key,) = crops(source.load(other)["image"], uniforms[1:], scales[1:])
        return {
            **more,
            "query": query,
            "key": key,
            "id": element["id"],
            "query_seed": bits[0, :2],
            "key_seed": bits[1, :2],
        }

    def permute(step, batch):
        permutation = tf.range(rows)
        if shuffle_keys:
            stream = tf.stack([stream_key(seed, SHUFFLE_KEYS, step), host])
            permutation = tf.argsort(tf.random.stateless_uniform((rows,), stream))
        return {
            **batch,
            "key": tf.gather(batch["key"], permutation),
            "key_seed": tf.gather(batch["key_seed"], permutation),
            "position": permutation + host * rows,
        }

    if service is None:
        dataset = tf.data.Dataset.range(first_epoch, last).flat_map(epoch_elements)
    else:
        require_service(service, source, cache)
        dataset = order.steps_apart(start_step, last * steps).flat_map(step_elements)
    calls = parallel_calls or CORES
    dataset = dataset.map(views, num_parallel_calls=calls, deterministic=True)
    dataset = dataset.batch(rows, drop_remainder=True)
    if service is None:
        dataset = dataset.enumerate(start_step).map(permute)
    else:

        def numbered(batch):
            step = batch.pop("step")[0]
            return step, permute(step, batch)

        def here(step):
            return two_views(**{**arguments, "service": None, "start_step": step})

        all_steps = range(start_step, last * steps)
        dataset = served(dataset.map(numbered), service, all_steps, here)
    dataset = finished(dataset)
    # Keras ends an epoch by it, or asks for steps_per_epoch.
    known = tf.data.INFINITE_CARDINALITY
    if epochs is not None:
        known = max(0, epochs * steps - start_step)
    return dataset.apply(tf.data.experimental.assert_cardinality(known))


def labelled_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    resize: int | None = None,
    channels: int = 3,
) -> tf.data.Dataset:
    """Batches of whole images for evaluation, in the source's order.

    Args:
        source: the images, labelled or not.
        batch_size: images in a batch; the last one may have fewer.
        image_size: side of the central crop.
        resize: length that the shorter side is resized to before; None is
            image_size * 256 / 224 from 64 pixels on (the ImageNet protocol), and
            image_size below (the CIFAR protocol).
        channels: of the images.

    Returns:
        A dataset of dicts: "image" (n, image_size, image_size, channels) of the type
        of the source's pixels, uint8 for photographs, "label" int64 (n,), -1 when
        unlabelled, "id" int64 (n,).

    Raises:
        DataError: the source's channels are others, or resize is below image_size.
    """
    check_channels(source, channels)
    if resize is None:
        resize = default_resize(image_size)
    if resize < image_size:
        raise DataError(
            f"resize={resize} is below image_size={image_size}, so the crop would not "
            "fit; make it at least as large."
        )

    def prepare(element):
        image = decode(element["image"], channels, source.pixels, source.raw)
        image = centre_crop(image, resize, image_size, source.pixels)
        return {**element, "image": image}

    dataset = source.dataset.map(prepare, num_parallel_calls=CORES, deterministic=True)
    return finished(dataset.batch(batch_size))
