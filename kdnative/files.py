"""Files and folders that a reader sees old or new, whole, whatever happens in between."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "cache_dir",
    "is_leftover",
    "remove_leftovers",
    "replace_text",
    "sha256_of",
    "sha256_of_open",
    "sync",
    "write_atomically",
]


def cache_dir() -> Path:
    """The user's cache: $KDNATIVE_CACHE, else $XDG_CACHE_HOME/kdnative, else ~/.cache/kdnative. Not created here."""
    own = os.environ.get("KDNATIVE_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "kdnative"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return sha256_of_open(file)


def sha256_of_open(file: BinaryIO) -> str:
    """SHA-256 of what is left to read of an open file, hexadecimal."""
    digest = hashlib.sha256()
    while block := file.read(1 << 16):
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
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)  # the rename itself has to reach the disk


def replace_text(path: str | Path, text: str) -> None:
    """Replaces a UTF-8 text file in one step."""
    data = text.encode()  # a text that can't be encoded fails before anything is written

    def write(temporary: str) -> None:
        with open(temporary, "wb") as file:
            file.write(data)

    write_atomically(path, write)


def is_leftover(path: Path) -> bool:
    """Whether a file or folder has one of the temporary names of a write, which only a killed process leaves behind."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


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


def sync(path: Path) -> None:
    """Let what was written to a file, or renamed in a folder, survive a power cut."""
    if path.is_dir() and os.name == "nt":  # Windows can't open folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
