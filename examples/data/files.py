"""A folder and a tar file seen alike: a list of names, and the contents of chosen ones."""

from __future__ import annotations

import lzma
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

from examples.data.images import DataError

_MAX_DEPTH = 3  # <split>/<class>/<image>: never walk a whole disk for a mistyped path
_BROKEN_TAR = (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, OSError)


class FileTree(Protocol):
    """Files under one path, named relative to it."""

    path: Path

    def names(self) -> list[PurePosixPath]:
        """Every file's name, sorted. Hidden files are left out."""
        ...

    def read(self, names: Iterable[PurePosixPath]) -> Iterator[tuple[PurePosixPath, bytes]]:
        """The contents of ``names``, each once, in whichever order is cheapest."""
        ...


def open_tree(path: Path) -> FileTree:
    """Open a folder or a (compressed) tar file.

    Raises:
        DataError: ``path`` does not exist, or is a file that is not a tar file.
    """
    if path.is_dir():
        return _Folder(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    try:
        if tarfile.is_tarfile(path):
            return _Tar(path)
    except _BROKEN_TAR as error:
        raise _damaged(path, error) from error
    raise DataError(
        f"{path}: neither a folder nor a tar file (.tar, .tar.gz, .tar.bz2 or .tar.xz); "
        "an interrupted download or a truncated archive looks like this too"
    )


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[PurePosixPath]:
        names = []
        for root, folders, files in os.walk(self.path, followlinks=True):
            parent = Path(root).relative_to(self.path)
            if len(parent.parts) == _MAX_DEPTH:
                folders.clear()
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            names += [PurePosixPath(parent, name) for name in files if not name.startswith(".")]
        return sorted(names)

    def read(self, names: Iterable[PurePosixPath]) -> Iterator[tuple[PurePosixPath, bytes]]:
        for name in names:
            try:
                yield name, (self.path / name).read_bytes()
            except OSError as error:
                raise DataError(f"{self.path / name}: cannot be read ({error})") from error


class _Tar:
    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[PurePosixPath]:
        return sorted(name for name, _ in self._members(contents=False))

    def read(self, names: Iterable[PurePosixPath]) -> Iterator[tuple[PurePosixPath, bytes]]:
        wanted = set(names)
        for name, content in self._members(contents=True):
            if name in wanted:
                wanted.remove(name)
                yield name, content

    def _members(self, *, contents: bool) -> Iterator[tuple[PurePosixPath, bytes]]:
        # In the archive's order: seeking back in a compressed tar would unpack it from the start.
        try:
            with tarfile.open(self.path) as tar:
                for member in tar:
                    name = PurePosixPath(member.name)
                    if not member.isfile() or name.name.startswith("."):
                        continue
                    stream = tar.extractfile(member) if contents else None
                    yield name, stream.read() if stream is not None else b""
        except _BROKEN_TAR as error:
            raise _damaged(self.path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: damaged or incomplete tar file ({error})")
