"""Paths on this machine, and on others' file systems that TensorFlow knows."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import functools
import os
import pathlib
import posixpath
import re
import shutil
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

from moco_tf.mistakes import Mistake, reason

_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class RemoteError(Mistake, OSError):
    """Another file system cannot be reached, does not allow it, or is not known."""

    def __init__(self, path: Remote, reason: str):
        super().__init__(
            f"{path} cannot be used ({reason}); check the path and access."
        )
        self.strerror, self.filename = reason, str(path)

    def __str__(self) -> str:
        """The sentence."""
        return str(self.args[0])


def to_path(path: str | os.PathLike | Remote) -> pathlib.Path:
    """The path that a user means: "~" is the home, "gs://bucket/x" another file system.

    Args:
        path: as it was given.

    Returns:
        A `pathlib.Path`; of another file system a `Remote`, which has its methods.
    """
    if isinstance(path, Remote):
        return cast(pathlib.Path, path)
    text = os.fspath(path)
    if isinstance(text, str) and _REMOTE.match(text):
        return cast(pathlib.Path, Remote(text))
    return pathlib.Path(path).expanduser()


def each_place(places: str | Sequence[str] | None) -> tuple[str, ...]:
    """What a user named, one place or several, as a tuple; () of None."""
    if places is None or places == "":
        return ()
    return (str(places),) if isinstance(places, (str, os.PathLike)) else tuple(places)


def is_remote(path: pathlib.Path) -> bool:
    """Whether it is on another file system, without locks or folders that move."""
    return isinstance(path, Remote)


def remove(path: pathlib.Path) -> None:
    """Takes a file or a folder away, with all that is in it."""
    if isinstance(path, Remote):
        path.remove()
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a file of this machine, or a folder's files, the outermost ones last."""
    if source.is_file():
        target.write_bytes(source.read_bytes())
        return
    files = [path for path in source.rglob("*") if path.is_file()]
    depth = len(source.parts)
    for path in sorted(files, key=lambda path: depth - len(path.parts)):
        to = target.joinpath(*path.parts[depth:])
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(path.read_bytes())


class Remote:
    """A path on another file system, with the methods of `pathlib.Path` that are used.

    It is no `os.PathLike`: what only works on this machine's files refuses it, and does
    not make a folder called "gs:". TensorFlow is given `str(path)`. Errors are those of
    `pathlib`.
    """

    def __init__(self, path: str):
        scheme, _, rest = path.partition("://")
        self._start = f"{scheme}://"
        self._rest = posixpath.normpath(rest) if rest.strip("/") else ""

    def __str__(self) -> str:
        """Such as gs://bucket/runs."""
        return self._start + self._rest

    def __repr__(self) -> str:
        """With its kind."""
        return f"Remote({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        """Whether it is the same path."""
        return isinstance(other, Remote) and str(self) == str(other)

    def __lt__(self, other: Remote) -> bool:
        """Order of the names."""
        return str(self) < str(other)

    def __hash__(self) -> int:
        """Of the name."""
        return hash(str(self))

    def __truediv__(self, name: object) -> Remote:
        """A path inside."""
        return self.joinpath(str(name))

    def joinpath(self, *names: str) -> Remote:
        """A path inside."""
        return Remote(self._start + posixpath.join(self._rest, *names))

    @property
    def name(self) -> str:
        """The last part."""
        return posixpath.basename(self._rest)

    @property
    def stem(self) -> str:
        """The last part without its ending."""
        return pathlib.PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The ending of the last part."""
        return pathlib.PurePosixPath(self.name).suffix

    @property
    def parent(self) -> Remote:
        """The folder that it is in."""
        return Remote(self._start + posixpath.dirname(self._rest))

    @property
    def parts(self) -> tuple[str, ...]:
        """File system and names."""
        return (self._start, *filter(None, self._rest.split("/")))

    def with_suffix(self, suffix: str) -> Remote:
        """The same with another ending."""
        return self.parent / f"{self.stem}{suffix}"

    def with_name(self, name: str) -> Remote:
        """Another path in the same folder."""
        return self.parent / name

    def expanduser(self) -> Remote:
        """Itself."""
        return self

    resolve = absolute = expanduser

    def exists(self) -> bool:
        """Whether there is a file or a folder."""
        return self._do("exists")

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return self.exists() and self._do("isdir")

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self.exists() and not self.is_dir()

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Makes the folder."""
        if not exist_ok and self.exists():
            raise FileExistsError(errno.EEXIST, "File exists", str(self))
        self._do("makedirs" if parents else "mkdir")

    def iterdir(self) -> Iterator[Remote]:
        """What is in the folder."""
        for name in self._do("listdir"):
            yield self / name.rstrip("/")

    def glob(self, pattern: str) -> Iterator[Remote]:
        """What is in the folder, and has such a name."""
        if self.is_dir():
            names = sorted(path.name for path in self.iterdir())
            yield from (self / name for name in fnmatch.filter(names, pattern))

    def rglob(self, pattern: str) -> Iterator[Remote]:
        """What is anywhere in the folder, and has such a name."""
        for path in sorted(self.iterdir()):
            if fnmatch.fnmatch(path.name, pattern):
                yield path
            if path.is_dir():
                yield from path.rglob(pattern)

    def stat(self) -> SimpleNamespace:
        """st_size in bytes and st_mtime_ns."""
        found = self._do("stat")
        return SimpleNamespace(st_size=found.length, st_mtime_ns=found.mtime_nsec)

    @contextlib.contextmanager
    def open(self, mode: str = "r", **_: Any) -> Iterator[Any]:
        """A file object; what `pathlib` has for texts is UTF-8 here."""
        tf = _tensorflow()
        with _as_os_errors(self), tf.io.gfile.GFile(str(self), mode) as file:
            yield file

    def read_text(self, **_: Any) -> str:
        """The file as text."""
        with self.open() as file:
            return file.read()

    def read_bytes(self) -> bytes:
        """The file."""
        with self.open("rb") as file:
            return file.read()

    def write_text(self, text: str, **_: Any) -> None:
        """Writes the file anew."""
        with self.open("w") as file:
            file.write(text)

    def write_bytes(self, data: bytes) -> None:
        """Writes the file anew."""
        with self.open("wb") as file:
            file.write(data)

    def unlink(self) -> None:
        """Takes the file away."""
        self._do("remove")

    def remove(self) -> None:
        """Takes the file or the folder away, with all that is in it."""
        self._do("rmtree" if self.is_dir() else "remove")

    def replace(self, target: Remote) -> None:
        """Gives it the place of another one."""
        self._do("rename", str(target), overwrite=True)

    def _do(self, name: str, *args: object, **options: object) -> Any:
        with _as_os_errors(self):
            return getattr(_tensorflow().io.gfile, name)(str(self), *args, **options)


@functools.cache  # quieting its import is work, and files are asked for often
def _tensorflow():
    """TensorFlow, which a command may not have needed so far."""
    # Where a package is missing, the commands say so without this one's.
    from moco_tf.log import import_tensorflow

    import_tensorflow()
    import tensorflow

    return tensorflow


@contextlib.contextmanager
def _as_os_errors(path: Remote) -> Iterator[None]:
    tf = _tensorflow()
    try:
        yield
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(
            errno.ENOENT, "No such file or directory", str(path)
        ) from error
    except tf.errors.UnimplementedError as error:
        raise RemoteError(
            path, "TensorFlow has no such file system here, or not without a plugin"
        ) from error
    except tf.errors.OpError as error:
        raise RemoteError(path, reason(error)) from error
