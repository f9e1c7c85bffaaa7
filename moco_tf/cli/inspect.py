"""`moco-tf inspect`: what a folder of pictures holds, and settings to train on it."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
from collections.abc import Sequence

from moco_tf import cli
from moco_tf.config.reader import FlagParser
from moco_tf.log import import_tensorflow, say, set_up_log
from moco_tf.mistakes import Mistake
from moco_tf.paths import is_remote, to_path
from moco_tf.shell import command

_SHOWN, _ROW = 48, 8  # images on the contact sheet, and in a row of it
_TRIED = 32  # images in a batch that is measured


def main(argv: Sequence[str]) -> int:
    """Looks through a folder and returns the exit code.

    Args:
        argv: words after the program's name.
    """
    options = _parser().parse_args(argv)
    return cli.exit_code(lambda: _inspect(options), lambda: "; nothing was written.")


def _parser():
    parser = FlagParser(
        prog=command("inspect"),
        description=(
            "Look through a folder of pictures: how many, how large, of which formats, "
            "which cannot be read, which are copies of others. A contact sheet and a "
            "configuration with the settings that these pictures and this machine "
            "suggest are written, with a reason beside each; some seconds of training "
            "tell how long it will take."
        ),
        allow_abbrev=False,
    )
    parser.add_argument("folder", help="Folder of images, nested or flat.")
    parser.add_argument(
        "--out",
        help="YAML file to write, which must not be there yet, and beside it the sheet "
        "as .png (the folder's name, here).",
    )
    parser.add_argument(
        "--no_measure",
        action="store_true",
        help="Do not train for some seconds to see how fast and in what memory.",
    )
    return parser


def _inspect(options):
    folder = to_path(options.folder)
    if is_remote(folder):
        raise Mistake(f"{folder} is on another file system; copy a part of it here.")
    if not folder.is_dir():
        raise Mistake(f"{options.folder} is not a folder; name one that has pictures.")
    folder = pathlib.Path(folder).resolve()
    out = to_path(options.out or f"{folder.name or 'photos'}.yaml")
    if out.suffix not in (".yaml", ".yml"):
        raise Mistake(f"--out={out} should end in .yaml; rename it.")
    if folder in out.absolute().resolve().parents:
        raise Mistake(
            f"{out} would lie among the pictures, and its contact sheet become one of "
            "them; name a place outside of the folder by --out."
        )
    sheet = out.with_suffix(".png")
    for file in (out, sheet):
        if file.exists():
            raise Mistake(
                f"{file} is there already; remove it, or name another file by --out."
            )
    if not out.absolute().parent.is_dir():
        raise Mistake(
            f"{out.parent} is not a folder; make it, or choose another --out."
        )
    import_tensorflow()
    set_up_log()
    from moco_tf.data.survey import survey, thumbnails
    from moco_tf.report import look
    from moco_tf.report.sheet import Tile, draw_sheet, short_name

    found = survey(str(folder))
    say(_told(folder, found))
    text, told = _suggested(options, folder, found, out)
    if text is not None:
        staging = out.with_name(f".{out.name}.tmp")
        staging.write_text(text, encoding="utf-8")
        staging.replace(out)
    say(f"\n{told}\n")
    pictures, names = thumbnails(found, _SHOWN, 200)
    if pictures:
        below = f"{len(pictures)} of {len(found.readable):,} images"
        tiles = [Tile(p, short_name(name)) for p, name in zip(pictures, names)]
        rows = [tiles[i : i + _ROW] for i in range(0, len(tiles), _ROW)]
        look.save(draw_sheet(rows, folder.name, below=below), sheet)
        say(f"Written {sheet}, {below}.")
    if text is not None:
        say(f"Written {out}, with the reasons. To train:")
        say(f"  {command('train', '--config', out)}")
    return 0


def _suggested(options, folder, found, out):
    """The configuration file's text, None where there can be none, and a sentence."""
    from moco_tf.pretrain.suggest import FEWEST, as_yaml, hours, read_back, suggest
    from moco_tf.pretrain.trial import this_machine, trial

    count = len(found.readable)
    if count < FEWEST:
        images = "1 image is" if count == 1 else f"{count} images are"
        return None, (
            f"{images} too few to learn from: at least {FEWEST} make a batch, and some "
            "thousands a useful encoder. No configuration is written."
        )
    machine, measured = this_machine(), None
    settings = suggest(folder, found, machine, None)
    if not options.no_measure:
        say("\nTraining for some seconds, to see how fast that is here.")
        measured = trial(_tried(read_back(as_yaml(settings, "", "")), machine, count))
        settings = suggest(folder, found, machine, measured)
    speed = "How long it takes was not measured."
    if measured is not None:
        speed = (
            f"It takes about {_time(hours(settings, found, measured))} here, at "
            f"{measured.images_per_second:,.1f} images/s (measured in steps of "
            f"{measured.batch_size} images)."
        )
    gpus = f"{machine.gpus} GPU{'s' * (machine.gpus > 1)}"
    where = gpus if machine.gpus else f"{machine.cores} CPU cores"
    about = f"Suggested by moco-tf inspect for {count:,} images on {where}. {speed}"
    text = as_yaml(settings, about, command("train", "--config", out))
    config = read_back(text)
    return text, (
        f"Suggested: {config.encoder.name} at {config.data.image_size} pixels, "
        f"{config.train.epochs} epochs in batches of {config.train.batch_size}, a "
        f"queue of {config.method.queue_size:,}. {speed}"
    )


def _tried(config, machine, count):
    """The configuration of a short trial; on several GPUs each has its share."""
    replace = dataclasses.replace
    batch, replicas = _TRIED * max(1, machine.gpus), None
    if batch > count:
        batch, replicas = _TRIED, 1
    return replace(
        config,
        train=replace(config.train, batch_size=batch),
        method=replace(config.method, queue_size=max(batch, config.method.queue_size)),
        distribution=replace(config.distribution, replicas=replicas),
    )


def _time(hours):
    if hours < 1:
        return f"{max(1, round(60 * hours))} minutes"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"


def _told(folder, found):
    """What was found, in lines."""
    total, count = len(found.listing.paths), len(found.readable)
    name = os.path.relpath(found.listing.root, folder.parent)
    lines = [f"{name}: {total:,} image{'s' * (total != 1)}, "
             f"{_size(found.num_bytes)}"]  # fmt: skip

    def line(title, text):
        lines.append(f"  {title:<13}{text}")

    if found.formats:
        looked = sum(found.formats.values())
        of = f" (of {looked:,} that were looked at)" * (looked < count)
        kinds = ", ".join(f"{kind} {n:,}" for kind, n in found.formats.items())
        line("formats", kinds + of)
    if len(found.sizes):
        sides = collections.Counter(map(tuple, found.sizes.tolist())).most_common()
        shown = ", ".join(f"{w} x {h} ({n:,})" for (w, h), n in sides[:4])
        more = len(sides) - 4
        line("sizes", shown + (f" and {more:,} others" if more > 0 else ""))
        shorter = found.sizes.min(axis=1)
        line("", f"shorter side {shorter.min()} to {shorter.max()} pixels, half have "
                 f"{found.shorter_side} or more")  # fmt: skip
        grey = f"; {100 * found.grey:.0f} % are grey" if found.grey else ""
        megapixels = found.sizes.prod(axis=1).mean() / 1e6
        line("", f"{megapixels:.2g} megapixels on average{grey}")
    if found.unreadable:
        line("unreadable", _some(found.unreadable))
    if found.copies:
        groups = [" = ".join(group[:3]) + " = ..." * (len(group) > 3)
                  for group in found.copies]  # fmt: skip
        number = found.superfluous
        are = "file is a copy" if number == 1 else "files are copies"
        line("copies", f"{number:,} {are} of others: {_some(groups)}")
    else:
        line("copies", "no two files have the same content")
    if found.classes:
        names = [f"{name} ({n:,})" for name, n in found.classes.items()]
        part = f"; {found.test_split}/ has them too" if found.test_split else ""
        line("sub-folders", f"{len(names)}, if they are labels: {_some(names)}{part}")
    return "\n".join(lines)


def _some(names, most=4):
    shown = ", ".join(names[:most])
    more = len(names) - most
    return shown + (f" and {more:,} more" if more > 0 else "")


def _size(size):
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
