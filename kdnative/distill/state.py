"""Everything a training run needs to go on as if it had never stopped, in one file."""

from __future__ import annotations

import hashlib
import pickle
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdnative.files import write_atomically

__all__ = ["ResumeError", "capture", "differences", "read_state", "restore", "shapes", "write_state"]

FORMAT = 1


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
    """Loads what `capture` took into the same parts. Raises ResumeError where a part does not fit."""
    missing = set(state["parts"]) ^ set(parts)
    if missing:
        raise ResumeError(f"the saved state and this run differ in {', '.join(sorted(missing))}; start afresh")
    for name, part in parts.items():
        try:
            part.load_state_dict(state["parts"][name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ResumeError(f"the saved state of the {name} does not fit this run's: {error}") from error
    set_random_state(state["random"])


def write_state(path: str | Path, state: dict[str, Any]) -> None:
    """Saves tensors, numbers and strings, atomically.

    Raises:
        OSError: it can't be written; the text names the file and the likely cause.
    """
    try:
        write_atomically(path, lambda name: torch.save({"format": FORMAT, **state}, name))
    except (RuntimeError, OSError) as error:
        if getattr(error, "filename", None) is not None:  # an OSError that says which file and why
            raise
        # torch reports a failed write as a wrong position in its archive, without file or cause
        raise OSError(
            f"{path}: the training state can't be written, most likely because the disk is full: make room, then "
            f"continue from the last saved step with --resume (resume=True) ({str(error).partition(chr(10))[0]})"
        ) from error


def read_state(path: str | Path) -> dict[str, Any]:
    """Loads a state without executing anything (``weights_only=True``), on the CPU."""
    advice = "delete the file, or pass resume=False with another state_path, to start afresh"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ResumeError(
            f"{path} is not a readable training state ({str(error).partition(chr(10))[0] or 'empty'}); {advice}"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ResumeError(f"{path} is not a training state of this version; {advice}")
    return state


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two descriptions of a run, in words."""
    keys = sorted(set(saved) | set(now))
    return [f"{k}: was {saved.get(k)}, now {now.get(k)}" for k in keys if saved.get(k) != now.get(k)]


def shapes(model: nn.Module) -> str:
    """A short description of a model that changes with its structure."""
    text = ";".join(f"{name}{list(p.shape)}{p.dtype}" for name, p in model.named_parameters())
    return f"{type(model).__name__} {hashlib.sha256(text.encode()).hexdigest()[:12]}"
