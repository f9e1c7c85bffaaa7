"""Encoders in and out: checkpoints of other projects, files of other tools."""

from __future__ import annotations

import argparse
import collections
import re
from collections.abc import Sequence

from moco_tf import cli
from moco_tf.config.reader import FlagParser
from moco_tf.interchange.errors import InterchangeError
from moco_tf.interchange.formats import FORMATS, find_export
from moco_tf.interchange.staging import check_replaceable
from moco_tf.log import import_tensorflow
from moco_tf.paths import to_path
from moco_tf.shell import command

_IMPORT = """\
Turn a checkpoint of another project into a SavedModel folder, which evaluate.py and
`export` take.

Read are MoCo v1 and v2 (.pth.tar; the query encoder), MoCo v3 (the base encoder),
torchvision's ResNets and timm's ResNets and ViTs (.pth, .safetensors; with or without
classifier), and the TensorFlow 1 port of MoCo (.npz). Depth, width and stem come from
the file. No code in a file is ever run. What `export` wrote comes back with its own
preprocessing.
"""
_EXPORT = """\
Write a pretrained encoder in another tool's format, and read it back to check that it
gives the same features. Beside a file goes OUT.json with recipe, data, epochs, git
revision and preprocessing.

formats, and how OUT ends:
"""


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns the exit code.

    Args:
        argv: "import" or "export", and the words after it.
    """

    def run() -> int:
        options = _parser().parse_args(argv)
        # TensorFlow takes seconds to import; mistakes should not wait.
        options.check(options)
        import_tensorflow()
        options.run(options)
        return 0

    return cli.exit_code(run, lambda: "; nothing was written.")


def _check_import(options: argparse.Namespace) -> None:
    if not options.checkpoint.is_file():
        raise InterchangeError(
            f"{options.checkpoint} is not a file; name the checkpoint to import."
        )
    if options.out.resolve() == options.checkpoint.resolve():
        raise InterchangeError(
            f"{options.out} is the checkpoint itself; name another place for OUT."
        )
    check_replaceable(options.out, folder=True)


def _import(options: argparse.Namespace) -> None:
    from moco_tf.interchange.imports import import_checkpoint

    made = import_checkpoint(
        options.checkpoint, options.out, options.image_size, options.resize,
        options.mean, options.std, options.heads,
    )  # fmt: skip
    read, encoder = made.checkpoint, made.checkpoint.encoder
    size = sum(weight.shape.num_elements() for weight in encoder.weights)
    print(f"{options.checkpoint}: {read.kind}, {encoder.name}, {size:,} weights.")
    if read.left_out:
        print(
            f"Left out, as no part of the backbone: {len(read.left_out)} "
            f"tensors ({', '.join(_summed_up(read.left_out))})."
        )
    facts = ", ".join(f"{key} {value}" for key, value in made.preprocessing.items())
    hint = ""
    if made.is_guess and read.is_timm_vit:
        hint = " (a guess: many of timm's ViTs take --mean=.5,.5,.5 --std=.5,.5,.5)"
    print(f"Preprocessing: {facts}{hint}.")
    print(f"Wrote {options.out}.")


def _check_export(options: argparse.Namespace) -> None:
    find_export(options.source)
    source = options.source.resolve()
    if options.out.resolve() in (source, source / "saved_model"):
        raise InterchangeError(f"{options.out} is the encoder itself; name another.")
    FORMATS[options.to].check_name(options.out)
    check_replaceable(options.out, folder=not FORMATS[options.to].suffixes)


def _export(options: argparse.Namespace) -> None:
    from moco_tf.interchange.exports import export
    from moco_tf.interchange.loading import how_to_load
    from moco_tf.interchange.pretrained import load_pretrained

    pretrained = load_pretrained(options.source)
    deviation = export(pretrained, options.out, options.to)
    files = options.out.rglob("*") if options.out.is_dir() else [options.out]
    size = sum(file.stat().st_size for file in files if file.is_file())
    print(
        f"Wrote {options.out}, {size / 1e6:.1f} MB; features read back differ by "
        f"{deviation:.0e}\nof their norm (limit {FORMATS[options.to].tolerance:g})."
    )
    if lines := how_to_load(pretrained.encoder, options.to, options.out):
        print(lines)


def _summed_up(names: Sequence[str]) -> list[str]:
    """Names, those of one module together."""
    modules = collections.defaultdict(list)
    for name in names:
        modules[re.split(r"[./]", name)[0]].append(name)
    return [
        inside[0] if len(inside) == 1 else f"{len(inside)} of {module}"
        for module, inside in modules.items()
    ]


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.strip("[]()").split(",")]


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = FlagParser(
        prog=command("export").rpartition(" ")[0],
        description="Bring encoders in from other projects, and take yours to them.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    plain = argparse.RawDescriptionHelpFormatter

    reader = commands.add_parser(
        "import",
        help="a checkpoint of another project -> a SavedModel folder",
        description=_IMPORT,
        formatter_class=plain,
        allow_abbrev=False,
    )
    reader.add_argument("checkpoint", type=to_path, metavar="CHECKPOINT", help="file")
    reader.add_argument("out", type=to_path, metavar="OUT", help="folder to write")
    reader.add_argument(
        "--image_size",
        type=_positive,
        metavar="N",
        help="side of the centre crop (224; 32 for a 3x3 stem)",
    )
    reader.add_argument(
        "--resize",
        type=_positive,
        metavar="N",
        help="shorter side before it (8/7 of image_size; image_size itself below 64 "
        "pixels or for a 3x3 stem)",
    )
    for name in ("mean", "std"):
        reader.add_argument(
            f"--{name}",
            type=_numbers,
            metavar="A,B,C",
            help=f"{name} per channel, in 0..1 units (ImageNet's)",
        )
    reader.add_argument(
        "--heads",
        type=_positive,
        metavar="N",
        help="attention heads of a ViT (12 for MoCo v3's ViT-S, else width / 64)",
    )
    reader.set_defaults(check=_check_import, run=_import)

    formats = "\n".join(
        f"  {name:12} {' '.join(kind.suffixes) or 'a folder':26} {kind.about}"
        for name, kind in FORMATS.items()
    )
    writer = commands.add_parser(
        "export",
        help="a run directory or SavedModel -> another tool's file",
        description=_EXPORT + formats,
        formatter_class=plain,
        allow_abbrev=False,
    )
    writer.add_argument(
        "source", type=to_path, metavar="RUN_DIR_OR_SAVED", help="such as runs/demo"
    )
    writer.add_argument("--to", required=True, choices=list(FORMATS), metavar="FORMAT")
    writer.add_argument(
        "out", type=to_path, metavar="OUT", help="file or folder to write"
    )
    writer.set_defaults(check=_check_export, run=_export)
    return parser
