"""A checkpoint's folder, open for reading: its files are opened through one handle, and are files."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import Any

from kdnative.checkpoint.manifest import MANIFEST, MOST_BYTES, CheckpointError, parse, reason_of

__all__ = ["Folder", "read_manifest"]

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Folder:
    """A folder, even if another one takes its name meanwhile; a context manager.

    Raises:
        CheckpointError: there is no such folder, or it can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise CheckpointError(
                f"{path / MANIFEST}: there is no such file; is {path} a kdnative checkpoint?"
            ) from None
        except NotADirectoryError:
            raise CheckpointError(
                f"{path}: this is a file, or lies below one; a checkpoint is the folder that holds {MANIFEST}: "
                "give that"
            ) from None
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise CheckpointError(f"{path}: can't be read: {_reason(error)}") from error

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._handle)

    def open(self, name: str) -> io.BufferedReader:
        """A file of the folder, for reading.

        Raises:
            FileNotFoundError: there is none of that name. CheckpointError: it is no file, or can't be read.
        """
        try:
            # Without O_NONBLOCK a pipe would wait for somebody who writes to it.
            handle = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._handle)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise CheckpointError(f"{self.path / name}: can't be read: {_reason(error)}") from error
        kind = stat.S_IFMT(os.fstat(handle).st_mode)
        if kind != stat.S_IFREG:
            os.close(handle)
            raise CheckpointError(
                f"{self.path / name}: can't be read: there is {_KINDS.get(kind, 'something else')} of that name where "
                "a file is expected; save or copy the checkpoint again"
            )
        return os.fdopen(handle, "rb")

    def description(self) -> bytes:
        """The content of the description.

        Raises:
            CheckpointError: it is missing, can't be read, or is too large.
        """
        file = self.path / MANIFEST
        try:
            with self.open(MANIFEST) as opened:
                data = opened.read(MOST_BYTES + 1)
        except FileNotFoundError:
            raise CheckpointError(f"{file}: there is no such file; is {self.path} a kdnative checkpoint?") from None
        except OSError as error:
            raise CheckpointError(f"{file}: can't be read: {_reason(error)}") from error
        if len(data) > MOST_BYTES:
            raise CheckpointError(f"{file}: damaged: it is larger than {MOST_BYTES:,} bytes")
        return data


def read_manifest(path: Path) -> dict[str, Any]:
    """The checked description in a checkpoint's folder.

    Raises:
        CheckpointError: it is missing, can't be read, is damaged, changed, or of another format.
    """
    with Folder(path) as folder:
        return parse(folder.description(), path / MANIFEST)


def _reason(error: OSError | ValueError) -> str:
    return reason_of(error) if isinstance(error, OSError) else str(error)
