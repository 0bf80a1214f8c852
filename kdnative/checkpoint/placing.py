"""Putting a checkpoint's files into a folder in which other files may lie, while others read it.

A save writes into a hidden folder inside of the checkpoint's: a *stage*, on which it holds a lock while it lives. Then,
one save at a time, it renames its files out of the stage to their places, the description last: that rename makes the
change, since the description names the tensors, whose name no other content has. Folders never change places, so mount
points, owners and permissions stay as they are.

What is ours is what a description vouches for, by name and SHA-256; everything else is the user's and is left alone.
A killed save leaves its stage with the list of what it was about to place, by which the next one knows its files.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import stat
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kdnative.checkpoint.manifest import MANIFEST, CheckpointError, is_companion_name, is_weights_name, reason_of, some
from kdnative.files import sha256_of, sync

__all__ = ["Stage", "check_folder", "place", "staging"]

_STAGE = re.compile(r"\.kdnative-[0-9a-f]{12}\.tmp")  # a name that kdnative.files.is_leftover knows
_PLAN = "plan.json"
_PATIENCE = 60.0  # seconds for another save in the same folder to rename its files

Owned = set[tuple[str, str]]
"""Name within the folder, and SHA-256, of every file that is ours."""


@dataclass
class Stage:
    """Where a save writes: the description and the tensors in ``path``, what goes with them in ``companions``."""

    folder: Path
    path: Path
    beside: bool = False  # other files may be in the folder, and no checkpoint
    keep: bool = False  # it holds the only copy of something

    @property
    def companions(self) -> Path:
        return self.path / "companions"

    @property
    def replaced(self) -> Path:
        """Copies of files whose place is taken, until the description is in place."""
        return self.path / "replaced"


def check_folder(folder: Path, beside: bool = False) -> None:
    """Refuse to write into a folder that is something else than a checkpoint.

    Raises:
        CheckpointError: it is not empty, or no folder. OSError: it can't be read.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is a file of that name; a checkpoint is a folder")
    if beside or _is_there(folder / MANIFEST):
        return
    planned = {name.partition("/")[0] for name, _ in _planned(folder)}
    others = [n for n in os.listdir(folder) if not _STAGE.fullmatch(n) and not is_weights_name(n) and n not in planned]
    if others:
        raise CheckpointError(
            f"{folder}: the folder is not empty and not a kdnative checkpoint (it has no {MANIFEST}); "
            "give another folder, or empty this one"
        )


@contextlib.contextmanager
def staging(folder: Path, beside: bool = False) -> Iterator[Stage]:
    """An empty stage inside of ``folder``, which is made if need be; gone afterwards."""
    made = _make_folders(folder)
    try:
        path, lock = _new_stage(folder)
        stage = Stage(folder, path, beside)
        try:
            stage.companions.mkdir()
            stage.replaced.mkdir()
            yield stage
        finally:
            if not stage.keep:
                shutil.rmtree(path, ignore_errors=True)
            os.close(lock)
    except BaseException:
        for each in reversed(made):
            with contextlib.suppress(OSError):
                each.rmdir()
        raise


def place(stage: Stage, describe: Callable[[dict[str, str]], bytes]) -> None:
    """Let the files of a stage take their places.

    Args:
        stage: holds one file of tensors, and companions.
        describe: the bytes of the description, given the names and SHA-256 of the companions that belong to it.

    Raises:
        CheckpointError: a companion has the name of a file of the user's. OSError: the system refused. The folder is as
            it was then.
    """
    folder = stage.folder
    weights = next(name for name in os.listdir(stage.path) if is_weights_name(name))
    found = {_relative(file, stage.companions): sha256_of(file) for file in _files_below(stage.companions)}
    for name in found:
        if not is_companion_name(name):
            raise CheckpointError(
                f"{folder}: the tokenizer or processor writes a file {name!r}, a name that checkpoints need"
            )
    _sync_all(stage.path)  # what is large, before others have to wait
    with _locked(folder), _abandoned(folder) as abandoned:
        check_folder(folder, stage.beside)
        vouched = _vouched(folder)
        owned = vouched | {item for plan in abandoned.values() for item in plan}
        theirs = _users_files(folder, found, owned)
        files = {name: digest for name, digest in found.items() if name not in theirs}
        (stage.path / MANIFEST).write_bytes(describe(files))
        plan = {*owned, *files.items(), (weights, "")}
        (stage.path / _PLAN).write_text(json.dumps(sorted(plan)), encoding="utf-8")
        for name in (MANIFEST, _PLAN):
            sync(stage.path / name)
        sync(stage.path)
        before = next((name for name, _ in vouched if is_weights_name(name)), None)
        _take_places(stage, files, weights, before)
        current = {MANIFEST, weights, *files}
        _remove(folder, sorted({name for name, _ in owned if name not in current}), owned)
        for path in abandoned:
            shutil.rmtree(path, ignore_errors=True)


def _take_places(stage: Stage, files: dict[str, str], weights: str, weights_before: str | None) -> None:
    """Rename everything, the description last; undone if that fails."""
    folder = stage.folder
    undo: list[Callable[[], object]] = []
    try:
        _hand_on(folder / (weights_before or weights), stage.path / weights)
        if not _is_there(folder / weights):
            undo.append((folder / weights).unlink)
        os.replace(stage.path / weights, folder / weights)
        for number, (name, digest) in enumerate(files.items()):
            target, source = folder / name, stage.companions / name
            if _is_file_of(target, digest):
                continue
            undo += [made.rmdir for made in _make_folders(target.parent)]
            if _is_there(target):
                copy = stage.replaced / str(number)
                shutil.copy2(target, copy)
                for new in (copy, source):
                    _hand_on(target, new)
                undo.append(partial(os.replace, copy, target))
            else:
                undo.append(target.unlink)
            os.replace(source, target)
        sync(folder)
        _hand_on(folder / MANIFEST, stage.path / MANIFEST)
        os.replace(stage.path / MANIFEST, folder / MANIFEST)
    except BaseException:
        if _is_there(stage.path / MANIFEST):  # else the change is made, and what came was an interrupt
            _undo(stage, undo)
        raise
    try:
        sync(folder)
    except OSError as error:
        warnings.warn(
            f"{folder}: the new checkpoint is in place, but the disk has not confirmed it: {reason_of(error)}",
            stacklevel=4,
        )


def _undo(stage: Stage, steps: list[Callable[[], object]]) -> None:
    for step in reversed(steps):
        try:
            step()
        except FileNotFoundError:  # it had not come to that
            pass
        except OSError as error:
            stage.keep = True
            raise CheckpointError(
                f"{stage.folder}: the checkpoint could not be written, and files beside {MANIFEST} could not be put "
                f"back: {reason_of(error)}; the model there is the old one, and copies of these files are in "
                f"{stage.replaced}"
            ) from error


def _hand_on(old: Path, new: Path) -> None:
    """Give a new file the permissions of the file whose place it takes, and its owner where that is allowed."""
    if not _is_there(old):
        return
    had, has = os.lstat(old), os.lstat(new)
    if not stat.S_ISREG(had.st_mode):
        return
    if (had.st_uid, had.st_gid) != (has.st_uid, has.st_gid):
        with contextlib.suppress(PermissionError):
            os.chown(new, had.st_uid, had.st_gid)
    os.chmod(new, stat.S_IMODE(had.st_mode))


def _remove(folder: Path, names: list[str], owned: Owned) -> None:
    """Remove files of an earlier checkpoint, unless somebody has changed them."""
    stuck = []
    for name in names:
        try:
            if _is_owned(folder, name, owned):
                (folder / name).unlink()
                for parent in [p for p in (folder / name).parents if folder in p.parents]:
                    with contextlib.suppress(OSError):  # not empty
                        parent.rmdir()
        except OSError as error:
            stuck.append(f"{name} ({reason_of(error)})")
    if stuck:
        warnings.warn(
            f"{folder}: the new checkpoint is in place, but files of the old one could not be removed: {some(stuck)}",
            stacklevel=4,
        )


# -- whose a file is ---------------------------------------------------------------------------------------------------


def _is_there(path: Path) -> bool:
    """Whether the name is taken, by whatever."""
    return os.path.lexists(path)


def _is_file_of(path: Path, digest: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode) and sha256_of(path) == digest
    except (FileNotFoundError, NotADirectoryError):
        return False


def _is_owned(folder: Path, name: str, owned: Owned) -> bool:
    """Whether the file of that name is the one that we wrote."""
    if is_weights_name(name):  # no other content has that name
        return any(name == other for other, _ in owned) and _is_there(folder / name)
    return any(_is_file_of(folder / name, digest) for other, digest in owned if other == name)


def _users_files(folder: Path, found: dict[str, str], owned: Owned) -> set[str]:
    """Names among ``found`` that files of the user's have; these hold the same, or nothing is written."""
    theirs = {name for name in found if _is_there(folder / name) and not _is_owned(folder, name, owned)}
    for name in sorted(theirs):
        if not _is_file_of(folder / name, found[name]):
            raise CheckpointError(
                f"{folder / name}: kdnative.save has not written this file, or somebody has changed it since, and the "
                "checkpoint has another one of that name: move it, or save to another folder; nothing was written"
            )
    return theirs


def _vouched(folder: Path) -> Owned:
    """What the description in a folder says that it has. It may be damaged: replacing it is a way to repair it."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        weights = manifest["weights"]["file"]
        files = _pairs(manifest["files"].items())
        return files | ({(weights, "")} if is_weights_name(weights) else set())
    except (FileNotFoundError, RecursionError, ValueError, LookupError, TypeError, AttributeError):
        # Without it we know our files of tensors by their names alone, which state what is in them.
        names = [name for name in os.listdir(folder) if is_weights_name(name)]
        return {(n, "") for n in names if sha256_of(folder / n).startswith(n.removeprefix("kdnative-")[:16])}


def _pairs(items: Any) -> Owned:
    """Names and digests as a description or a plan lists them, without names that lead out of the folder."""
    found = set()
    for name, digest in items:
        if not isinstance(name, str) or not isinstance(digest, str):
            raise ValueError("not a list of names and digests")
        if all(part not in ("", ".", "..") for part in name.split("/")) and name != MANIFEST:
            found.add((name, digest))
    return found


@contextlib.contextmanager
def _abandoned(folder: Path) -> Iterator[dict[Path, Owned]]:
    """Stages whose save was killed, and what it was to place; locked meanwhile, so that nobody begins there."""
    with contextlib.ExitStack() as handles:
        found = {}
        for name in os.listdir(folder):
            if not _STAGE.fullmatch(name):
                continue
            try:
                lock = os.open(folder / name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:  # its save has just finished, or it is no stage
                continue
            handles.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # a save is at work in it, or this file system has no locks: then nobody can know
                continue
            found[folder / name] = _plan_of(folder / name)
        yield found


def _planned(folder: Path) -> Owned:
    names = [name for name in os.listdir(folder) if _STAGE.fullmatch(name)]
    return {item for name in names for item in _plan_of(folder / name)}


def _plan_of(stage: Path) -> Owned:
    try:
        return _pairs(json.loads((stage / _PLAN).read_bytes()))
    except (OSError, RecursionError, ValueError, TypeError):  # killed before it had one, so it has placed nothing
        return set()


# -- folders and locks -------------------------------------------------------------------------------------------------


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and its parents; returns those that were not there, outermost first."""
    missing = []
    for each in (folder, *folder.parents):
        if each.exists():
            break
        missing.append(each)
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _new_stage(folder: Path) -> tuple[Path, int]:
    """An empty stage, and the handle whose lock says that somebody works in it."""
    while True:
        path = folder / f".kdnative-{uuid.uuid4().hex[:12]}.tmp"
        path.mkdir()
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # taken for abandoned before it was locked, and removed
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        except OSError:  # a file system without locks
            pass
        if path.is_dir() and os.path.samestat(os.stat(path), os.fstat(lock)):
            return path, lock
        os.close(lock)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One save at a time renames files in a folder."""
    handle, deadline = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), time.monotonic() + _PATIENCE
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CheckpointError(
                        f"{folder}: another process has been saving there for {_PATIENCE:.0f} seconds; "
                        "wait for it, or save to another folder; nothing was written"
                    ) from None
                time.sleep(0.01)
            except OSError:  # a file system without locks
                break
        yield
    finally:
        os.close(handle)


def _sync_all(folder: Path) -> None:
    for entry in sorted(folder.rglob("*")):
        sync(entry)


def _files_below(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _relative(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()
