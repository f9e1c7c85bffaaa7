"""What a user can mend."""

from __future__ import annotations

import os


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
