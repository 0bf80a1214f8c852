"""Everything a training run needs to go on as if it had never stopped, in one file."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdnative.files import sha256_of, write_atomically

__all__ = ["ResumeError", "capture", "differences", "read_state", "restore", "shapes", "write_state"]

FORMAT = 1
# At the end of the file, with the SHA-256 of everything before it. Readers of zip archives, as torch's files are,
# find their index from the end and step over it.
SEAL = b"\nkdnative training state, sha256 "
DIGITS = 64


class ResumeError(ValueError):
    """A saved training state that cannot be continued; the message says why and what to do."""


def random_state() -> dict[str, Any]:
    """The state of every global random number generator, as tensors and plain numbers."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    found = {
        "torch": torch.get_rng_state(),
        "python": [version, torch.tensor(words, dtype=torch.int64), gauss],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
    }
    return {**found, "cuda": torch.cuda.get_rng_state_all()} if torch.cuda.is_initialized() else found


def set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])


def capture(parts: Mapping[str, Any]) -> dict[str, Any]:
    """State dicts of the parts that have one, and the random state."""
    return {"parts": {name: part.state_dict() for name, part in parts.items()}, "random": random_state()}


def restore(state: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    """Loads what `capture` took into the same parts.

    Raises:
        ResumeError: a part does not fit. Some of the others may have been loaded by then.
    """
    missing = set(state["parts"]) ^ set(parts)
    if missing:
        raise ResumeError(f"the saved state and this run differ in {', '.join(sorted(missing))}")
    for name, part in parts.items():
        try:
            part.load_state_dict(state["parts"][name])
        except Exception as error:  # anybody's load_state_dict, and whatever a wrong value does to it
            raise ResumeError(f"the saved state of the {name} does not match this run: {_reason(error)}") from error
    try:
        set_random_state(state["random"])
    except Exception as error:
        raise ResumeError(f"the saved state of the random numbers can't be used: {_reason(error)}") from error


def write_state(path: str | Path, state: dict[str, Any]) -> None:
    """Saves tensors, numbers and strings, atomically, with a digest by which `read_state` notices any change.

    Raises:
        OSError: it can't be written; the text names the file and the likely cause.
    """
    try:
        write_atomically(path, lambda name: _write_sealed({"format": FORMAT, **state}, name))
    except (RuntimeError, OSError) as error:
        if getattr(error, "filename", None) is not None:  # an OSError that says which file and why
            raise
        # torch reports a failed write as a wrong position in its archive, without file or cause
        raise OSError(
            f"{path}: the training state can't be written, probably because the disk is full: free some "
            "space, then continue from the last saved step with --resume (resume=True) "
            f"({str(error).partition(chr(10))[0]})"
        ) from error


def read_state(path: str | Path, keys: Mapping[str, type] | None = None) -> dict[str, Any]:
    """Loads a state without executing anything (``weights_only=True``), on the CPU.

    Args:
        keys: the entries that it must have, and their types.

    Raises:
        ResumeError: it is not what `write_state` wrote, to the bit, or lacks an entry.
    """
    problem = _damage(Path(path))
    if problem is None:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            wrong = not isinstance(state, dict) or state.get("format") != FORMAT
            problem = "it has another version" if wrong else None
        except Exception as error:  # the digest is right, so somebody has made this on purpose
            problem = _reason(error)
    if problem is None:
        found = (name for name, kind in (keys or {}).items() if not isinstance(state.get(name), kind))
        problem = next((f"its entry {name!r} is missing or of another type" for name in found), None)
    if problem is not None:
        raise ResumeError(
            f"{path} is not a readable training state: {problem}; delete the file to start the training again"
        )
    return state


def _write_sealed(state: dict[str, Any], name: str) -> None:
    torch.save(state, name)
    digest = sha256_of(Path(name))
    with open(name, "ab") as file:
        file.write(SEAL + digest.encode())


def _damage(path: Path) -> str | None:
    """What speaks against a file before its content is looked at, or None."""
    if not path.is_file():
        return "it is not a file"
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END) - len(SEAL) - DIGITS
            file.seek(max(size, 0))
            seal, digest = file.read(len(SEAL)), file.read(DIGITS)
            if seal != SEAL:
                return "it is truncated, or has another version"
            file.seek(0)
            found = hashlib.sha256()
            while block := file.read(min(1 << 20, size - file.tell())):
                found.update(block)
    except OSError as error:
        return _reason(error)
    return None if found.hexdigest().encode() == digest else "it has changed since it was saved"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two descriptions of a run, in words."""
    keys = sorted(set(saved) | set(now))
    return [f"{k}: was {saved.get(k)}, now {now.get(k)}" for k in keys if saved.get(k) != now.get(k)]


def shapes(model: nn.Module) -> str:
    """A short description of a model that changes with its structure."""
    text = ";".join(f"{name}{list(p.shape)}{p.dtype}" for name, p in model.named_parameters())
    return f"{type(model).__name__} {hashlib.sha256(text.encode()).hexdigest()[:12]}"
