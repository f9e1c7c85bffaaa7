"""`evaluate.py embed`: features of any images, with their names, in a file."""

from __future__ import annotations

import pathlib
import time

from moco_tf.evaluation.embed.making import asked_images, embed_images
from moco_tf.evaluation.embed.settings import Embed
from moco_tf.evaluation.embed.writing import require_writable
from moco_tf.evaluation.given import Given
from moco_tf.evaluation.results.output import plain_name, results_folder
from moco_tf.interchange import Pretrained
from moco_tf.shell import command


def run(settings: Embed, given: Given, pretrained: Pretrained) -> dict:
    """Writes the file, and says what can be asked of it.

    Args:
        settings: where it goes, which share, which images.
        given: the encoder's path and the folder.
        pretrained: the encoder.

    Returns:
        "file", "images" and "encoded", how many of them were encoded now.

    Raises:
        ConfigError: features that are not finite, no images named, nowhere to write.
        DataError: the images cannot be had.
    """
    data = asked_images(settings.data, given, pretrained)
    out = settings.file
    if out is None:
        out = results_folder(pretrained.path / "report" / "embed", None)
        out = out / f"{plain_name(data.called)}.npz"
    results_folder(out.parent, None)  # raises where it cannot be written
    require_writable(out)
    start = time.monotonic()
    count, encoded = embed_images(
        data, pretrained, out, settings.precision, settings.batch_size, settings.share
    )
    rate = encoded / max(time.monotonic() - start, 1e-9)
    if not encoded:
        print(f"{out} has the features of these {count:,} images already.")
    else:
        print(f"Features of {count:,} images ({rate:,.0f} a second) are in {out}.")
    print("Ask it for instance:")
    example = pathlib.Path(f"{given.folder}/ONE.jpg" if given.folder else "PICTURE.jpg")
    search = command("evaluate", "search", pretrained.path, out, f"--query={example}")
    print(f"  {search}")
    for name in ("duplicates", "cluster", "map"):
        print(f"  {command('evaluate', name, out)}")
    return {"file": str(out), "images": count, "encoded": encoded}
