"""Runs the stages of a recipe in order, each at most once, and says in words why one has to run again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kdnative.extras import require
from kdnative.files import replace_text
from kdnative.pipeline.folder import PipelineError, RunFolder, write_json
from kdnative.pipeline.recipe import dump_recipe, load_recipe
from kdnative.pipeline.runlog import run_log
from kdnative.pipeline.stages import ABSENT, Context, Shared, Stage
from kdnative.pipeline.stopping import stopping

if TYPE_CHECKING:
    from kdnative.pipeline.schema import Recipe


@stopping()
def run(
    recipe: str | Path | Recipe,
    *,
    runs: str | Path = "runs",
    resume: bool = False,
    overwrite: bool = False,
    restart_changed: bool = False,
    only: str | None = None,
    until: str | None = None,
    overrides: Sequence[str] = (),
    progress: bool = True,
) -> Path:
    """Runs a recipe: distil -> prune -> quantize -> convert -> measure, as docs/recipes.md describes.

    Args:
        recipe: path of a YAML file, or a Recipe.
        runs: the run's folder is ``runs/NAME`` with the recipe's name.
        resume: continue an earlier run: finished stages are reused, an interrupted one goes on where it was.
        overwrite: start afresh; with ``only``, run that stage again.
        restart_changed: with ``resume``, run stages again whose settings or data differ from those they were made with.
        only: run this one stage, on the outputs of the earlier ones.
        until: stop after this stage.
        overrides: ``"section.key=value"`` texts on top of the recipe file.
        progress: show progress bars.

    Returns:
        The run's folder.

    Raises:
        RecipeError: the recipe is not valid. PipelineError: a stage can't run; the text says what to do.
        Stopped: SIGTERM or SIGHUP ended the run, which can be resumed; a SystemExit with 128 + the signal's number.
    """
    if not hasattr(recipe, "model_dump"):
        recipe = load_recipe(recipe, overrides)
    chosen = _chosen(recipe, only, until)
    folder = RunFolder(Path(runs) / recipe.name)
    if folder.exists() and not (resume or overwrite or only):
        raise PipelineError(
            f"{folder.path} already holds a run: continue it with --resume, start afresh with --overwrite, "
            f"or give it another name (--set name=...)"
        )
    require("transformers")
    if progress:
        require("tqdm")
    shared = Shared(recipe)
    # What can be known to fail is refused here: it must neither leave a folder behind nor come after hours of training.
    device = _device(recipe.device)
    _check_native()
    _check_inputs(recipe, chosen, folder)
    if any(stage.uses_data for stage in chosen):
        shared.data.fingerprint  # noqa: B018  missing or damaged data
    _check_sources(recipe, chosen, folder, shared)
    from kdnative.pipeline.rehearsal import rehearse  # it needs the native library, which `kdnative doctor` does not

    again = _stale(recipe, folder, shared) if restart_changed else {}
    to_run = [s for s in chosen if overwrite or s.name in again or folder.record(s.name) is None]
    afresh = overwrite and not only
    later = [s for s in recipe.active_stages() if s not in chosen]
    later = [s for s in later if afresh or s.name in again or folder.record(s.name) is None]
    notes = rehearse(recipe, to_run, folder, shared, later) if to_run else []
    folder.open()
    threads = torch.get_num_threads()
    try:
        if afresh and (folder.path / "recipe.yaml").exists():
            folder.clear()
            folder.stages.mkdir(exist_ok=True)
        behind = _check_unchanged(recipe, chosen, folder, shared, restart_changed or bool(overwrite and only))
        if overwrite and only:
            folder.discard(only)
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        if not behind:
            replace_text(folder.path / "recipe.yaml", dump_recipe(recipe))
        with run_log(folder.path / "log.txt", progress) as log:
            for note in notes:
                log.warning(note)
            if behind:
                log.info("recipe.yaml stays as it was: another recipe made %s", " and ".join(behind))
            if not all(_finished(stage, recipe, folder) for stage in chosen):
                _record_machine(recipe, folder)
            for stage in chosen:
                _run_stage(stage, recipe, folder, shared, device, log, progress)
    finally:
        torch.set_num_threads(threads)
        folder.close()
    return folder.path


def _chosen(recipe: Recipe, only: str | None, until: str | None) -> list[Stage]:
    if only and until:
        raise PipelineError("give --only or --until, not both")
    stages = recipe.active_stages()
    names = [stage.name for stage in stages]
    wanted = only or until
    if wanted is None:
        return stages
    if wanted not in names:
        left_out = wanted in [stage.name for stage in recipe.stages]
        why = "is left out by this recipe (null)" if left_out else "is no stage"
        raise PipelineError(f"{wanted!r} {why}; stages of this recipe: {', '.join(names)}")
    position = names.index(wanted)
    return stages[position : position + 1] if only else stages[: position + 1]


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise PipelineError("device is 'cuda', but torch finds no CUDA device here; use 'auto' or 'cpu'")
    return name


def _check_native() -> None:
    try:
        from kdnative import ops  # noqa: F401  loads the library
    except (ImportError, ValueError, RuntimeError) as error:  # not built, or a forced name this machine can't run
        raise PipelineError(f"a run needs the native library, which can't be used here: {error}") from error


def _origin(stage: Stage, recipe: Recipe, folder: RunFolder, shared: Shared) -> dict:
    """Everything that decides the stage's result, but for device and threads: a run may move to another machine."""
    sections = recipe.model_dump(mode="json", include={"seed", "task", stage.name, *stage.uses})
    records = {name: folder.record(name) for name in stage.needs(recipe)}
    origin: dict[str, Any] = {
        "settings": sections,
        "inputs": {name: record["digest"] for name, record in records.items() if record is not None},
    }
    if stage.uses_data:
        origin["data"] = shared.data.fingerprint
    digests = {source: shared.model_digest(source) for source in stage.sources(recipe)}
    if local := {source: digest for source, digest in digests.items() if digest is not None}:
        origin["models"] = local
    return origin


def _check_inputs(recipe: Recipe, chosen: list[Stage], folder: RunFolder) -> None:
    """Every stage must find what it needs: made in this call or finished earlier."""
    names = {stage.name for stage in chosen}
    for stage in chosen:
        missing = [n for n in stage.needs(recipe) if n not in names and folder.record(n) is None]
        if missing:
            raise PipelineError(
                f"{stage.name} needs the output of {' and '.join(missing)}, not finished in {folder.path}: "
                f"run that first (--only {missing[0]}), or the whole recipe with --resume"
            )


def _check_sources(recipe: Recipe, chosen: list[Stage], folder: RunFolder, shared: Shared) -> None:
    """A model from outside of the run must be there where a stage is still to start from it."""
    for stage in chosen:
        for source in stage.sources(recipe):
            if shared.model_digest(source) == ABSENT and folder.record(stage.name) is None:
                raise PipelineError(
                    f"{stage.name} starts from {source!r}, and there is no such folder: give the folder of a model in "
                    "Hugging Face layout, package:NAME or hub:NAME"
                )


def _check_unchanged(
    recipe: Recipe, chosen: list[Stage], folder: RunFolder, shared: Shared, restart_changed: bool
) -> list[str]:
    """Refuses (or discards) what was made with other settings, together with all that was made from it.

    Returns:
        The finished stages that no longer match the recipe and that this call leaves as they are.
    """
    stale = _stale(recipe, folder, shared)
    names = {stage.name for stage in chosen}
    for stage in chosen:
        for need in stage.needs(recipe):
            if need in stale and need not in names:
                raise PipelineError(
                    f"{stage.name} reads {need}, which no longer matches the recipe ({stale[need]}): "
                    f"run {need} first, or undo the change"
                )
    concerned = {name: why for name, why in stale.items() if name in names}
    if concerned and not restart_changed:
        reasons = "\n".join(f"  {name}: {why}" for name, why in concerned.items())
        raise PipelineError(
            f"stages in {folder.path} no longer match the recipe:\n{reasons}\n"
            "run them again with --resume --restart-changed, or undo the change, or start another run (--set name=...)"
        )
    for name in concerned:
        folder.discard(name)
    return [name for name in stale if name not in names and folder.record(name) is not None]


def _stale(recipe: Recipe, folder: RunFolder, shared: Shared) -> dict[str, str]:
    """The finished or half-finished stages that no longer match the recipe or what they were made from, and why."""
    stale: dict[str, str] = {}
    for stage in recipe.active_stages():
        before = folder.origin(stage.name)
        if before is None:
            continue
        again = [name for name in stage.needs(recipe) if name in stale]
        if again:
            stale[stage.name] = f"was made from {' and '.join(again)}"
        elif difference := _difference(before, _origin(stage, recipe, folder, shared)):
            stale[stage.name] = difference
    return stale


def _difference(before: dict, now: dict) -> str:
    """What changed between two origins, in words; empty when nothing did."""
    old, new = _flat(before), _flat(now)
    changes = []
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            if key.startswith("inputs."):
                changes.append(f"the output of {key.removeprefix('inputs.')} is another one")
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
    return "is not there any more" if digest == ABSENT else "is another one"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat = {}
    for key, inner in value.items():
        flat.update(_flat(inner, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _finished(stage: Stage, recipe: Recipe, folder: RunFolder) -> bool:
    """Whether the stage's output and the files it writes beside the stages are all there."""
    return folder.record(stage.name) is not None and all(
        (folder.path / name).is_file() for name in stage.results(recipe)
    )


def _run_stage(
    stage: Stage, recipe: Recipe, folder: RunFolder, shared: Shared, device: str, log: logging.Logger, progress: bool
) -> None:
    record = folder.record(stage.name)
    if _finished(stage, recipe, folder):
        log.info("%s: finished earlier (%.1f s), kept", stage.name, record["seconds"])
        return
    if record is not None:  # its results went with a stage that they showed
        folder.discard(stage.name)
    for name in stage.needs(recipe):
        folder.verify(name)
    origin = _origin(stage, recipe, folder, shared)
    going_on = folder.origin(stage.name) == origin
    log.info("%s: %s", stage.name, "goes on" if going_on else "starts")
    place = folder.begin(stage.name, origin)
    torch.manual_seed(recipe.seed)
    context = Context(recipe, folder, stage.name, place, device, log, progress, shared)
    metrics = stage.run(context)
    seconds = context.seconds()
    folder.finish(stage.name, metrics, seconds)
    log.info("%s: finished in %.1f s", stage.name, seconds)


def _record_machine(recipe: Recipe, folder: RunFolder) -> None:
    from kdnative import doctor

    stages = [stage.name for stage in recipe.active_stages()]
    write_json(folder.path / "run.json", {"name": recipe.name, "stages": stages, "machine": doctor.collect()})
