"""Files and folders that a reader sees old or new, whole, whatever happens in between."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Container
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "is_leftover",
    "remove_leftovers",
    "replace_folder",
    "replace_text",
    "sha256_of",
    "sha256_of_open",
    "write_atomically",
]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return sha256_of_open(file)


def sha256_of_open(file: BinaryIO) -> str:
    """SHA-256 of what is left to read of an open file, hexadecimal."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def write_atomically(path: str | Path, write: Callable[[str], None]) -> None:
    """Calls ``write(temporary name in the same folder)``, flushes to disk, then gives the file its name.

    Folders are created. After a crash at any moment, ``path`` holds the old content or the new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        write(str(temporary))
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)  # the rename itself has to reach the disk


def replace_text(path: str | Path, text: str) -> None:
    """Replaces a UTF-8 text file in one step."""
    data = text.encode()  # a text that can't be encoded fails before anything is written

    def write(temporary: str) -> None:
        with open(temporary, "wb") as file:
            file.write(data)

    write_atomically(path, write)


def replace_folder(path: Path, write: Callable[[Path], None], replaceable: Container[str]) -> None:
    """Create or replace the folder ``path`` with what ``write`` puts into an empty folder.

    Everything is written next to ``path`` under a temporary name and synced to disk before it takes its place; where
    the system can (Linux), old and new change places in one step. When anything fails, ``path`` is as it was and
    nothing temporary is left.

    Args:
        path: its parents are created; of a symbolic link, the folder that it leads to is replaced.
        write: called with the empty temporary folder.
        replaceable: names of files in an existing ``path`` that this replaces or removes. Other files are carried over.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    new = _temporary(path)
    new.mkdir()
    try:
        write(new)
        for entry in sorted(new.rglob("*")):
            _sync(entry)
        _sync(new)
        if not path.exists():
            os.rename(new, path)
        else:
            _exchange(new, path)  # `new` is the old folder from here on
            for entry in sorted(new.iterdir()):
                if entry.name not in replaceable and not (path / entry.name).exists():
                    os.rename(entry, path / entry.name)
        _sync(path.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def is_leftover(path: Path) -> bool:
    """Whether a file or folder has one of the temporary names of a write, which only a killed process leaves behind."""
    return path.name.startswith(".") and path.name.endswith((".tmp", ".old"))


def remove_leftovers(folder: Path) -> None:
    """Deletes what killed processes left of their writes into ``folder``, where everything can be written anew.

    Nothing else may be writing there.
    """
    for entry in folder.iterdir():
        if is_leftover(entry):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _temporary(path: Path) -> Path:
    """A new name beside ``path`` that `is_leftover` knows."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows can't open folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(a: Path, b: Path) -> None:
    """Let two folders change places; in one step where the system has one."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is not None:
        if rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
            return
    aside = a.with_suffix(".old")
    os.rename(b, aside)
    try:
        os.rename(a, b)
    except OSError:
        os.rename(aside, b)
        raise
    os.rename(aside, a)
