"""What a run folder holds, read once, and compared with a recipe."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from kdnative.pipeline.folder import RunFolder
from kdnative.pipeline.schema import Recipe
from kdnative.pipeline.stages import ABSENT, Shared, Stage

__all__ = ["RunState"]


class RunState:
    """The records and origins of a recipe's stages, kept up to date while stages are made and discarded.

    Attributes:
        records: what each finished stage wrote about itself; None of one that is not finished.
        before: what each finished or half-finished output was made from, or None.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder, shared: Shared) -> None:
        self.recipe, self.folder, self.shared = recipe, folder, shared
        self.stages = recipe.active_stages()
        self.records = {stage.name: folder.record(stage.name) for stage in self.stages}
        self.before = {stage.name: folder.origin(stage.name) for stage in self.stages}

    def is_finished(self, stage: Stage) -> bool:
        """Whether the stage's output and the files it writes beside the stages are all there."""
        results = stage.results(self.recipe)
        return self.records[stage.name] is not None and all((self.folder.path / name).is_file() for name in results)

    def origin(self, stage: Stage) -> dict:
        """Everything that decides the stage's result, but for device and threads: a run may move to another machine."""
        include: dict[str, Any] = dict.fromkeys(("seed", "task", stage.name, *stage.uses), True)
        if stage.times(self.recipe):
            include["benchmark"] = {"batch", "tokens"}
        sections = self.recipe.model_dump(mode="json", include=include)
        records = {name: self.records[name] for name in stage.needs(self.recipe)}
        origin: dict[str, Any] = {
            "settings": sections,
            "inputs": {name: record["digest"] for name, record in records.items() if record is not None},
        }
        if stage.uses_data:
            origin["data"] = self.shared.data.fingerprint
        digests = {source: self.shared.model_digest(source) for source in stage.sources(self.recipe)}
        if local := {source: digest for source, digest in digests.items() if digest is not None}:
            origin["models"] = local
        return origin

    @cached_property
    def stale(self) -> dict[str, str]:
        """The outputs that the folder had and that no longer match the recipe or what they were made from, and why."""
        stale: dict[str, str] = {}
        for stage in self.stages:
            before = self.before[stage.name]
            if before is None:
                continue
            again = [name for name in stage.needs(self.recipe) if name in stale]
            if again:
                stale[stage.name] = f"was made from {' and '.join(again)}"
            elif difference := _difference(before, self.origin(stage)):
                stale[stage.name] = difference
        return stale

    def discard(self, name: str) -> None:
        self.folder.discard(name)
        self.records[name] = self.before[name] = None

    def clear(self) -> None:
        """Removes all of an earlier run."""
        self.folder.clear()
        self.folder.stages.mkdir(exist_ok=True)
        self.records = dict.fromkeys(self.records)
        self.before = dict.fromkeys(self.before)
        self.stale = {}


def _difference(before: dict, now: dict) -> str:
    """What changed between two origins, in words; empty when nothing did."""
    old, new = _flat(before), _flat(now)
    changes = []
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            if key.startswith("inputs."):
                changes.append(f"the output of {key.removeprefix('inputs.')} has changed")
            elif key == "data":
                changes.append("the data changed")
            elif key.startswith("models."):
                if key in old and key in new:  # else the recipe names another model, which its settings say
                    changes.append(f"the model in {key.removeprefix('models.')} {_what_became(new[key])}")
            else:
                name = key.removeprefix("settings.")
                changes.append(f"{name} was {old.get(key, 'not set')!r}, now {new.get(key, 'not set')!r}")
    return "; ".join(changes)


def _what_became(digest: str) -> str:
    return "is missing" if digest == ABSENT else "has changed"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat = {}
    for key, inner in value.items():
        flat.update(_flat(inner, f"{prefix}.{key}" if prefix else str(key)))
    return flat
