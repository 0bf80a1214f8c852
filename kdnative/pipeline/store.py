"""Outputs of stages, kept under what they were made from: runs that ask for the same thing share it.

Layout::

    STORE/STAGE/KEY/entry.json   what it was made from, and the SHA-256 of every file
    STORE/STAGE/KEY/...          the files of the finished stage
    STORE/STAGE/KEY.lock         held by the run that makes it, or takes it
    STORE/STAGE/.KEY.*.tmp       being written, or deleted; what a killed process left goes with the next use of the key

Weights and soft labels are hard links to those in run folders where the file system allows that; all else is copied. So
a run folder is whole without the store, and the store costs little space for what a run folder has.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from kdnative import __version__
from kdnative.files import is_leftover, sha256_of, sync
from kdnative.pipeline.folder import KEY, RECORD, STATE, PipelineError, read_json, write_json

__all__ = ["Entry", "Store", "store_path"]

ENTRY = "entry.json"
_LINKED = ".safetensors"  # large, and never written in place
_IN_A_NAME = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")  # a key
_ENTRY_KEYS = {"origin": dict, "files": dict}


def store_path(given: str | None = None) -> Path:
    """Where the store lies: as given, else $KDNATIVE_STORE, else "store" in the user's cache."""
    from kdnative.data import cache_dir

    chosen = given or os.environ.get("KDNATIVE_STORE")
    return Path(chosen).expanduser().absolute() if chosen else cache_dir() / "store"


@dataclass(frozen=True)
class Entry:
    """One output: its stage, key, bytes of its files, and when it was made (seconds since 1970)."""

    stage: str
    key: str
    bytes: int
    made: float


class Store:
    """A folder of outputs that several runs use at a time."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @staticmethod
    def key(stage: str, version: int, origin: dict, made_with: Mapping[str, object] = MappingProxyType({})) -> str:
        """SHA-256 (hex) of everything that decides an output.

        Args:
            version: of the stage's code.
            origin: what the stage is made from.
            made_with: what may change from run to run of one folder, and changes bits: device, precision, libraries.
        """
        code = {"kdnative": __version__, "stage": stage, "version": version}
        made_of = {**code, "origin": origin, "made_with": dict(made_with)}
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()

    @contextmanager
    def held(self, stage: str, key: str, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
        """While this lasts, no other process makes or takes this output; `waits` is called before waiting for one."""
        (self.path / stage).mkdir(parents=True, exist_ok=True)
        lock = _lock(self._lock_file(stage, key), waits)
        try:
            self._remove_leftovers(stage, key)
            yield
        finally:
            os.close(lock)

    def has(self, stage: str, key: str) -> bool:
        """Whether the output is there as it was put; one that is not, is removed. Call it while it is `held`."""
        place = self._place(stage, key)
        if not place.exists():
            return False
        try:
            files = read_json(place / ENTRY, _ENTRY_KEYS)["files"]
            inside = RECORD in files and all(_is_inside(place, name) for name in files)
            whole = inside and all(sha256_of(place / name) == digest for name, digest in files.items())
        except (PipelineError, OSError, ValueError):
            whole = False
        if not whole:
            self._remove(stage, key)
        return whole

    def take(self, stage: str, key: str, target: Path) -> None:
        """Puts the files of an output that the store `has` into an empty folder."""
        place = self._place(stage, key)
        _link_all(place, target, list(read_json(place / ENTRY, _ENTRY_KEYS)["files"]))

    def put(self, stage: str, key: str, origin: dict, source: Path) -> None:
        """Keeps the files of a finished stage in place of what is there. Call it while it is `held`.

        An interruption leaves the old output, the new one, or none: then it is made again.
        """
        names = sorted(
            f.relative_to(source).as_posix()
            for f in source.rglob("*")
            if f.is_file()
            and f.name not in (STATE, KEY)
            and not any(is_leftover(Path(p)) for p in f.relative_to(source).parts)
        )
        rest = self._temporary(stage, key)
        try:
            rest.mkdir()
            _link_all(source, rest, names)
            files = {name: sha256_of(rest / name) for name in names}
            write_json(rest / ENTRY, {"origin": origin, "files": files})
            self._remove(stage, key)
            os.rename(rest, self._place(stage, key))
            sync(self.path / stage)
        finally:
            shutil.rmtree(rest, ignore_errors=True)

    def entries(self) -> list[Entry]:
        """All outputs, by stage, the newest last."""
        found = [entry for stage, key in self._keys() if (entry := self._entry(stage, key)) is not None]
        return sorted(found, key=lambda entry: (entry.stage, entry.made, entry.key))

    def clear(self) -> tuple[list[Entry], list[Entry]]:
        """Deletes all that no run is making or taking at the moment, what killed runs left and locks included.

        Returns:
            The outputs that were deleted, and those that were kept.
        """
        removed, kept = [], []
        for stage, key in self._keys():
            entry, lock = self._entry(stage, key), _try_lock(self._lock_file(stage, key))
            if lock is not None:
                try:
                    self._remove(stage, key)
                    self._remove_leftovers(stage, key)
                    self._lock_file(stage, key).unlink(missing_ok=True)
                finally:
                    os.close(lock)
            if entry is not None:
                (kept if lock is None else removed).append(entry)
        return removed, kept

    def _keys(self) -> list[tuple[str, str]]:
        """Stage and key of all that lies in the store: outputs, locks, and what killed runs left."""
        found = {(f.parent.name, match[0]) for f in self.path.glob("*/*") if (match := _IN_A_NAME.search(f.name))}
        return sorted(found)

    def _entry(self, stage: str, key: str) -> Entry | None:
        """An output; None where there is none, or another process deletes it at the moment."""
        place = self._place(stage, key)
        try:
            made = (place / ENTRY).stat().st_mtime
            size = sum(f.stat().st_size for f in place.rglob("*") if f.is_file())
        except FileNotFoundError:
            return None
        return Entry(stage, key, size, made)

    def _place(self, stage: str, key: str) -> Path:
        return self.path / stage / key

    def _lock_file(self, stage: str, key: str) -> Path:
        return self.path / stage / f"{key}.lock"

    def _temporary(self, stage: str, key: str) -> Path:
        return self.path / stage / f".{key}.{uuid.uuid4().hex[:12]}.tmp"

    def _remove_leftovers(self, stage: str, key: str) -> None:
        for rest in (self.path / stage).glob(f".{key}.*.tmp"):
            shutil.rmtree(rest, ignore_errors=True)

    def _remove(self, stage: str, key: str) -> None:
        """Deletes under another name: what an interruption leaves can't be taken for an output."""
        if self._place(stage, key).exists():
            rest = self._temporary(stage, key)
            os.rename(self._place(stage, key), rest)
            shutil.rmtree(rest, ignore_errors=True)


def _is_inside(place: Path, name: str) -> bool:
    """Whether an entry's name is that of a file below its folder: whoever wrote it could lead out of there."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name:
        return False
    return not any((place / part).is_symlink() for part in (path, *path.parents))


def _link_all(source: Path, target: Path, names: list[str]) -> None:
    """The same files in another folder, on the disk when this returns."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if not (name.endswith(_LINKED) and _link(source / name, target / name)):
            shutil.copyfile(source / name, target / name)
            sync(target / name)
    for folder in {target, *((target / name).parent for name in names)}:
        sync(folder)


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except FileExistsError:  # copying would write into whatever is there
        raise
    except OSError:  # another file system, or one without hard links
        return False
    return True


def _lock(path: Path, waits: Callable[[], None]) -> int:
    """An exclusive lock on a file, however long that takes; closing the number that it returns gives it back."""
    waited = False
    while (lock := _try_lock(path, wait=waited)) is None:
        if not waited:
            waits()
        waited = True
    return lock


def _try_lock(path: Path, wait: bool = False) -> int | None:
    """The lock, or None where another process has it, or has deleted the file while this one waited."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        import fcntl
    except ImportError:  # no advisory locks on this system
        return descriptor
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
