"""What a user can mend."""

from __future__ import annotations

import os
import re


class Mistake(ValueError):
    """Told in one sentence: what was found, what was expected, how to mend it.

    The commands print it and exit with its code; from Python it is an exception as any
    other.
    """

    exit_code = 2


def require_plain(path: str | os.PathLike, what: str, kind: type[Mistake]) -> None:
    """Refuses a path that TensorFlow would take for a pattern of file names.

    It writes SavedModels and checkpoints there, and then finds none of them.

    Args:
        path: a file or folder that TensorFlow will read or write.
        what: the sentence's name for it, such as "the run directory".
        kind: of the error.

    Raises:
        Mistake: of that kind, if the path has one of the characters * ? [ ] in it.
    """
    found = [character for character in "*?[]" if character in str(path)]
    if found:
        raise kind(
            f"{what} {str(path)!r} has {' and '.join(found)} in it, which TensorFlow "
            "reads as a pattern for other names; use a path without * ? [ ]."
        )


def reason(error: BaseException, about: str = "$^") -> str:
    """What a library's error says, in a line for the middle of a sentence.

    Of TensorFlow's that is without the graph's places and its passing files.

    Args:
        error: whose lines are read.
        about: pattern of a line that says most.
    """
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    # A graph's error says what happened just above where.
    telling = [line for line in lines if re.search(about, line)]
    telling += [line for line, place in zip(lines, lines[1:]) if "[[{{node" in place]
    line = (telling or lines or [type(error).__name__])[0]
    line = re.sub(r"^\s*(\{\{.*?\}\}\s*|\(\d+\)\s*\w+:\s*)*", "", line)
    line = re.sub(r"^\S*tempstate\d+; ", "", line)
    return re.sub(r"\s*\[Op:\w+\].*$", "", line)[:200].rstrip(".")
