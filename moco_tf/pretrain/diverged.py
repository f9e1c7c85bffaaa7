"""What is kept of a run that has diverged."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Iterator

from moco_tf.callbacks import NotFinite
from moco_tf.pretrain.claim import write_whole
from moco_tf.pretrain.images import Images


@contextlib.contextmanager
def first_bad_batch_kept(run_dir: pathlib.Path, images: Images) -> Iterator[None]:
    """Lists the images of the first step whose loss was not finite, for the eye.

    Those of the step before it too, which may have made the weights what they are.

    Args:
        run_dir: gets report/not_finite.json.
        images: that the body trains on.

    Raises:
        NotFinite: of the body; its sentence then names the list.
    """
    try:
        yield
    except NotFinite as error:
        done = error.epoch * images.steps + error.step
        steps = [step for step in (done - 1, done) if step >= 0]
        batches = [_batch(images, step) for step in steps]
        path = run_dir / "report" / "not_finite.json"
        write_whole(path, json.dumps(batches, indent=2) + "\n")
        error.args = (
            f"{error} It was finite up to step {error.step} of that epoch; the images "
            f"of that one and the next are in {path}.",
        )
        raise


def _batch(images, step):
    epoch, step_of_epoch = divmod(step, images.steps)
    ids, names = images.ids(step).tolist(), images.source.file_names
    return {
        "epoch": epoch + 1,
        "step": step_of_epoch + 1,
        "ids": ids,
        "files": [names[index] for index in ids] if names else [],
    }
