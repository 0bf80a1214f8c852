"""Target: a checkpoint that is damaged, or that somebody else has written, in ``inspect``, ``load`` and a forward."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import kdnative
from kdnative import CheckpointError
from tests.fuzz.checkpoint_files import MANIFEST, Checkpoint
from tests.fuzz.mutate import change_bytes, change_tree, few, values_by_key
from tests.fuzz.mutate_weights import change_size, change_weights
from tests.fuzz.seeds import Seed, make_seeds
from tests.fuzz.target import Finding
from tests.fuzz.words import CANARY, OUTSIDE

__all__ = ["Attempt", "Checkpoints"]

_SHARES = {
    "modules": 40,
    "transformers": 20,
    "weights": 20,
    "attributes": 4,
    "generation": 6,
    "frozen": 4,
    "image_input": 4,
}
"""Of the parts of a manifest that are changed: the rest is checked by its type alone."""


@dataclass
class Attempt:
    """A checkpoint to be loaded.

    Attributes:
        kind: the seed that it was made from.
        into: the kind of the model to load it into; None rebuilds one.
        prepare: changes the folder once it is written.
    """

    kind: str
    checkpoint: Checkpoint
    into: str | None = None
    prepare: Callable[[Path], None] | None = None


class Checkpoints:
    """See :class:`tests.fuzz.target.Target`.

    Args:
        folder: for the seeds, made here.
    """

    inputs = None

    def __init__(self, folder: Path) -> None:
        self.seeds = make_seeds(folder)
        self._names = list(self.seeds)
        self._pool = values_by_key(seed.checkpoint.manifest for seed in self.seeds.values())

    def make(self, number: int, rng: random.Random) -> Attempt:
        kind = rng.choice(self._names)
        checkpoint = self.seeds[kind].checkpoint.copy()
        attempt = Attempt(kind, checkpoint)
        for _ in range(few(rng)):
            self._change(rng, attempt)
        if attempt.prepare is None and checkpoint.content() == self.seeds[kind].checkpoint.content():
            self._change(rng, attempt)  # what was changed was the same before
        if rng.random() < 0.8:  # whoever writes a file can give it its sum, and another name
            checkpoint.vouch_for_weights(name=rng.random() < 0.9)
        if rng.random() < 0.85:
            checkpoint.vouch()
        if rng.random() < 0.25:
            attempt.into = kind if rng.random() < 0.8 else rng.choice(self._names)
        return attempt

    def _change(self, rng: random.Random, attempt: Attempt) -> None:
        checkpoint, other = attempt.checkpoint, self.seeds[rng.choice(self._names)].checkpoint
        kinds = {"manifest": 50, "weights": 20, "size": 8, "bytes": 8, "other's": 13, "folder": attempt.prepare is None}
        (what,) = rng.choices(list(kinds), list(kinds.values()))
        if what == "manifest" and checkpoint.manifest:
            change_tree(rng, checkpoint.manifest, self._pool, _SHARES)
        elif what == "weights":
            change_weights(rng, checkpoint, other)
        elif what == "size":
            change_size(rng, checkpoint)
        elif what == "bytes" and rng.random() < 0.5:
            checkpoint.text = change_bytes(rng, checkpoint.description(), [other.description()])
        elif what == "bytes":
            checkpoint.weights = change_bytes(rng, checkpoint.weights, [other.weights])
        elif what == "other's":
            self._take(rng, checkpoint, other.copy())
        elif what == "folder":
            attempt.prepare = _folder_change(rng)

    def _take(self, rng: random.Random, checkpoint: Checkpoint, other: Checkpoint) -> None:
        what = rng.random()
        if what < 0.2:
            checkpoint.weights = other.weights
        elif what < 0.3:
            checkpoint.manifest = other.manifest
        elif what < 0.5:
            checkpoint.weights = other.weights
            checkpoint.manifest["weights"] = other.manifest["weights"]
        else:
            part = rng.choice((*_SHARES, *other.manifest))
            checkpoint.manifest[part] = other.manifest.get(part)

    def run(self, made: Attempt, folder: Path) -> bool:
        place = folder / "checkpoint"
        made.checkpoint.write(place)
        (folder / OUTSIDE).write_bytes(made.checkpoint.weights)
        if made.prepare is not None:
            made.prepare(place)
        try:
            kdnative.inspect(place)
        except CheckpointError:
            pass
        target = None if made.into is None else self.seeds[made.into].fresh()
        try:
            with _unchanged(target):
                model = kdnative.load(place, into=target)
        except CheckpointError:
            return False
        if made.prepare is None and not made.checkpoint.is_vouched_for():
            if made.checkpoint.content() != self.seeds[made.kind].checkpoint.content():
                raise Finding("a checkpoint that has changed since it was saved was loaded without a word")
        _call(self.seeds[made.into or made.kind], model)
        return True

    def describe(self, made: Attempt) -> str:
        lines = [f"kind {made.kind}, {'' if made.checkpoint.is_vouched_for() else 'not '}vouched for, into {made.into}"]
        if made.checkpoint.text is not None:
            lines.append("the manifest is not JSON any more")
        lines += _differences(self.seeds[made.kind].checkpoint.manifest, made.checkpoint.manifest, "manifest")
        if made.checkpoint.weights != self.seeds[made.kind].checkpoint.weights:
            lines.append("the weights' file is another")
        if made.prepare is not None:
            lines.append(f"folder: {made.prepare.__name__}")
        return "\n".join(lines)

    def save(self, made: Attempt, folder: Path) -> None:
        made.checkpoint.write(folder)
        if made.prepare is not None:
            made.prepare(folder)


@contextmanager
def _unchanged(model: nn.Module | None) -> Iterator[None]:
    """A model that could not be loaded into has its old modules and types."""
    before = None if model is None else _structure(model)
    try:
        yield
    except CheckpointError:
        if model is not None and _structure(model) != before:
            raise Finding("load(into=) failed and left other modules or types in the model") from None
        raise


def _structure(model: nn.Module) -> tuple[list, list]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [(n, type(m)) for n, m in model.named_modules()], [(n, t.dtype, t.shape) for n, t in tensors]


@torch.no_grad()
def _call(seed: Seed, model: nn.Module) -> None:
    """A forward; whoever writes a checkpoint may describe a model that its own inputs do not fit."""
    try:
        seed.kind.call(model)
    except Exception:
        pass


def _folder_change(rng: random.Random) -> Callable[[Path], None]:
    """What else a folder may hold where a file is expected."""
    manifest = rng.random() < 0.5
    what = rng.choice((_missing, _folder, _pipe, _endless, _outside, _dangling, _companions))

    def prepare(folder: Path) -> None:
        weights = [entry for entry in folder.iterdir() if entry.suffix == ".safetensors"]
        what(folder / MANIFEST if manifest or not weights else weights[0])

    prepare.__name__ = f"{what.__name__.strip('_')} {'manifest' if manifest else 'weights'}"
    return prepare


def _missing(file: Path) -> None:
    file.unlink()


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _endless(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def _outside(file: Path) -> None:
    file.rename(file.parent.parent / "moved")
    file.symlink_to("../moved")


def _dangling(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def _companions(file: Path) -> None:
    """Code and pickles, as in folders of the hub."""
    for name in ("evil.py", "modeling_evil.py", "configuration_evil.py", "__init__.py"):
        (file.parent / name).write_text(f"import {CANARY}\n")
    (file.parent / "config.json").write_text('{"model_type": "evil", "auto_map": {"AutoModel": "evil.EvilModel"}}')
    (file.parent / "pytorch_model.bin").write_bytes(f"c{CANARY}\nx\n.".encode())


def _differences(old: Any, new: Any, where: str) -> list[str]:
    """What has changed in a tree, a line each."""
    if type(old) is type(new) is dict:
        lines = [f"{where}.{key} is gone" for key in old.keys() - new.keys()]
        lines += [f"{where}.{key} is new: {new[key]!r:.200}" for key in new.keys() - old.keys()]
        for key in old.keys() & new.keys():
            lines += _differences(old[key], new[key], f"{where}.{key}")
        return lines
    if type(old) is type(new) is list and len(old) == len(new):
        return [
            line for i, pair in enumerate(zip(old, new, strict=True)) for line in _differences(*pair, f"{where}[{i}]")
        ]
    return [] if repr(old) == repr(new) else [f"{where}: {old!r:.100} is now {new!r:.200}"]
