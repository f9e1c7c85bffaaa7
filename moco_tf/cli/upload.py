"""`moco-tf upload`: an encoder to a hub, with its card."""

from __future__ import annotations

import argparse
import importlib.util
import re
from collections.abc import Sequence

from moco_tf.config.reader import FlagParser
from moco_tf.interchange.errors import InterchangeError
from moco_tf.interchange.formats import find_export
from moco_tf.log import import_tensorflow
from moco_tf.paths import to_path
from moco_tf.shell import command


def main(argv: Sequence[str]) -> int:
    """Uploads and returns the exit code.

    Args:
        argv: words after the program's name.
    """
    options = _parser().parse_args(argv)
    # TensorFlow takes seconds to import; mistakes should not wait.
    find_export(options.source)
    _check_repo(options.repo)
    if not options.dry_run:
        _check_hub()
    import_tensorflow()
    from moco_tf.interchange import hub

    files = hub.prepare(options.source, options.license)
    size = sum(file.stat().st_size for file in files.values())
    for name, file in files.items():
        print(f"{file.stat().st_size / 1e6:10,.3f} MB  {name}")
    total = f"{len(files)} files, {size / 1e6:,.1f} MB"
    if options.dry_run:
        print(f"{total}, would go to {options.repo}; nothing was sent.")
        return 0
    place = hub.upload(files, options.repo, private=not options.public)
    print(f"{total}, are at {place}.")
    return 0


def _check_repo(repo: str) -> None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise InterchangeError(
            f"--repo={repo} is no repository of a hub; write it as USER/NAME."
        )


def _check_hub() -> None:
    """Refuses to begin without the hub's library, or without a token."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise InterchangeError(
            "uploading needs huggingface_hub; install it with `pip install "
            "huggingface_hub` (the extra moco_tf[hub]), or see with --dry-run what "
            "would go."
        )
    import huggingface_hub

    if huggingface_hub.get_token() is None:
        raise InterchangeError(
            "no token of the hub is here; log in with `hf auth login`, or set "
            "HF_TOKEN to one that may write."
        )


def _parser() -> argparse.ArgumentParser:
    parser = FlagParser(
        prog=command("upload"),
        description=(
            "Upload an encoder to the Hugging Face hub. The SavedModel is checked by "
            "its golden image, its card is written with all that has been measured, "
            "and both are sent in one commit: the card as README.md, and nothing of "
            "results and pictures beside it. A new repository is private."
        ),
        allow_abbrev=False,
    )
    parser.add_argument(
        "source", type=to_path, metavar="RUN_DIR_OR_SAVED", help="such as runs/demo"
    )
    parser.add_argument("--repo", required=True, metavar="USER/NAME")
    parser.add_argument(
        "--public", action="store_true", help="make a new repository public"
    )
    parser.add_argument(
        "--license",
        metavar="NAME",
        help="of the weights, such as apache-2.0 (the card's own line)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="list what would go, and send nothing"
    )
    return parser
