"""Runs the stages of a recipe in order, each at most once, and says in words why one has to run again."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kdnative.extras import require
from kdnative.files import replace_text
from kdnative.pipeline.folder import PipelineError, RunFolder, write_json
from kdnative.pipeline.recipe import dump_recipe, load_recipe
from kdnative.pipeline.runlog import run_log
from kdnative.pipeline.stages import ABSENT, Context, Shared, Stage
from kdnative.pipeline.state import RunState
from kdnative.pipeline.stopping import stopping
from kdnative.pipeline.store import Store, store_path
from kdnative.report.words import duration
from kdnative.shown import shown

if TYPE_CHECKING:
    from kdnative.pipeline.schema import Recipe

_MOST_CLASSES = 20  # that the log counts the examples of


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
    quiet: bool = False,
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
        quiet: print warnings only, and no progress bars; the run's log.txt has everything.

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
            f"{folder.path} already holds a run: continue it with --resume, replace it with --overwrite, "
            f"or give it another name (--set name=...)"
        )
    require("transformers")
    progress = progress and not quiet
    if progress:
        require("tqdm")
    shared = Shared(recipe)
    # What can be known to fail is refused here: it must neither leave a folder behind nor come after hours of training.
    device = device_of(recipe.device)
    check_native()
    threads = torch.get_num_threads()
    try:
        if folder.exists():  # what is read from here on stays as it is
            folder.open()
        state = RunState(recipe, folder, shared)
        _check_inputs(state, chosen)
        if any(stage.uses_data for stage in chosen):
            shared.data.fingerprint  # noqa: B018  missing or damaged data
        check_sources(state, chosen)
        notes = _rehearse(state, chosen, overwrite, only, restart_changed)
        folder.open()
        if overwrite and not only and (folder.path / "recipe.yaml").exists():
            state.clear()
        behind = _check_unchanged(state, chosen, restart_changed or bool(overwrite and only))
        if overwrite and only:
            state.discard(only)
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        if not behind:
            replace_text(folder.path / "recipe.yaml", dump_recipe(recipe))
        began = time.monotonic()
        with run_log(folder.path / "log.txt", progress, quiet) as log:
            if any(stage.uses_data for stage in chosen):
                _log_data(log, shared)
            for note in notes:
                log.warning(note)
            if behind:
                log.info("recipe.yaml stays as it was: another recipe made %s", " and ".join(behind))
            if not all(state.is_finished(stage) for stage in chosen):
                _record_machine(recipe, folder)
            work = _Work(state, Store(store_path(recipe.store)), device, log, progress, afresh=overwrite)
            work.start()
            for stage in chosen:
                work.run(stage)
            log.info("the run took %s", duration(time.monotonic() - began))
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


def device_of(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise PipelineError("device is 'cuda', but torch finds no CUDA device here; use 'auto' or 'cpu'")
    return name


def check_native() -> None:
    try:
        from kdnative import ops  # noqa: F401  loads the library
    except (ImportError, ValueError, RuntimeError) as error:  # not built, or a forced name this machine can't run
        raise PipelineError(f"a run needs the native library, which can't be used here: {error}") from error


def _check_inputs(state: RunState, chosen: list[Stage]) -> None:
    """Every stage must find what it needs: made in this call or finished earlier."""
    names = {stage.name for stage in chosen}
    for stage in chosen:
        missing = [n for n in stage.needs(state.recipe) if n not in names and state.records[n] is None]
        if missing:
            raise PipelineError(
                f"{stage.name} needs the output of {' and '.join(missing)}, not finished in {state.folder.path}: "
                f"run that first (--only {missing[0]}), or the whole recipe with --resume"
            )


def check_sources(state: RunState, chosen: list[Stage]) -> None:
    """A model from outside of the run must be there where a stage is still to start from it."""
    for stage in chosen:
        for source in stage.sources(state.recipe):
            if state.shared.model_digest(source) == ABSENT and state.records[stage.name] is None:
                raise PipelineError(
                    f"{stage.name} starts from {source!r}, and there is no such {state.shared.kind.models}"
                )


def _rehearse(
    state: RunState, chosen: list[Stage], overwrite: bool, only: str | None, restart_changed: bool
) -> list[str]:
    from kdnative.pipeline.rehearsal import rehearse  # it needs the native library, which `kdnative doctor` does not

    again = state.stale if restart_changed else {}
    to_run = [s for s in chosen if overwrite or s.name in again or state.records[s.name] is None]
    afresh = overwrite and not only
    later = [s for s in state.stages if s not in chosen]
    later = [s for s in later if afresh or s.name in again or state.records[s.name] is None]
    return rehearse(state.recipe, to_run, state.folder, state.shared, later) if to_run else []


def _check_unchanged(state: RunState, chosen: list[Stage], restart_changed: bool) -> list[str]:
    """Refuses (or discards) what was made with other settings, together with all that was made from it.

    Returns:
        The finished stages that no longer match the recipe and that this call leaves as they are.
    """
    stale, path = state.stale, state.folder.path
    names = {stage.name for stage in chosen}
    for stage in chosen:
        for need in stage.needs(state.recipe):
            if need in stale and need not in names:
                raise PipelineError(
                    f"{stage.name} reads {need}, which no longer matches the recipe ({stale[need]}): "
                    f"run {need} first, or undo the change"
                )
    concerned = {name: why for name, why in stale.items() if name in names}
    if concerned and not restart_changed:
        reasons = "\n".join(f"  {name}: {why}" for name, why in concerned.items())
        raise PipelineError(
            f"stages in {path} no longer match the recipe:\n{reasons}\n"
            "run them again with --resume --restart-changed, or undo the change, or start another run (--set name=...)"
        )
    for name in concerned:
        state.discard(name)
    return [name for name in stale if name not in names and state.records[name] is not None]


def _log_data(log: logging.Logger, shared: Shared) -> None:
    """How many texts there are to learn from and to measure on."""
    for note in shared.data.notes:
        log.info("data: %s", note)
    sizes = [shared.data.sizes[name] for name in ("labelled", "unlabelled", "validation", "test")]
    log.info(
        "data: %s training %s with a label and %s without, %s for validation, %s for the test",
        f"{sizes[0]:,}",
        shared.kind.things,
        *map("{:,}".format, sizes[1:]),
    )
    if counts := shared.data.train.counts:
        named = [f"{shown(name)} {count:,}" for name, count in list(counts.items())[:_MOST_CLASSES]]
        more = ["..."] if len(counts) > _MOST_CLASSES else []
        log.info("data: %d classes, with these training examples: %s", len(counts), ", ".join([*named, *more]))


@dataclass
class _Work:
    """Makes stages, or takes what they would make from the store.

    Attributes:
        afresh: make everything, whatever the store has.
    """

    state: RunState
    store: Store | None
    device: str
    log: logging.Logger
    progress: bool
    afresh: bool

    def start(self) -> None:
        try:
            self.store.path.mkdir(parents=True, exist_ok=True)
            self.log.info("store: %s", self.store.path)
        except OSError as error:
            self.log.warning("no store can be made, so this run shares no outputs with other runs: %s", error)
            self.store = None

    def run(self, stage: Stage) -> None:
        state, folder, name = self.state, self.state.folder, stage.name
        record = state.records[name]
        if state.is_finished(stage):
            self.log.info("%s: finished earlier (%.1f s), reused", name, record["seconds"])
            return
        if record is not None:  # its results went with a stage that they showed
            state.discard(name)
        for need in stage.needs(state.recipe):
            folder.verify(need)
        origin = state.origin(stage)
        with ExitStack() as held:
            key, record = self._look_up(stage, origin, held)
            if record is None:
                record = self._make(stage, origin, key)
        state.records[name], state.before[name] = record, origin

    def _key(self, stage: Stage, origin: dict) -> str | None:
        if self.store is None or stage.version is None:
            return None
        return Store.key(stage.name, stage.version, origin, _made_with(stage, self.state.recipe, self.device))

    def _look_up(self, stage: Stage, origin: dict, held: ExitStack) -> tuple[str | None, dict | None]:
        """The stage's key in the store (None: not shared), `held`; and its record, where the store had the output."""
        store, name, key = self.store, stage.name, self._key(stage, origin)
        if store is None or key is None:
            return None, None
        waits = "%s: another run is making the same output; waiting for it"
        try:
            held.enter_context(store.held(name, key, lambda: self.log.info(waits, name)))
            if self.afresh or not store.has(name, key):
                return key, None
            record = self.state.folder.adopt(name, lambda place: store.take(name, key, place))
        except OSError as error:
            self.log.warning("the store can't be used, so this run no longer shares outputs with other runs: %s", error)
            self.store = None
            return None, None
        self.log.info("%s: taken from the store (made in %.1f s)", name, record["seconds"])
        return key, record

    def _make(self, stage: Stage, origin: dict, key: str | None) -> dict:
        state, folder, name = self.state, self.state.folder, stage.name
        names = [other.name for other in state.stages]
        self.log.info(
            "%s: %s (stage %d of %d)",
            name,
            "continues" if folder.origin(name) == origin else "starts",
            names.index(name) + 1,
            len(names),
        )
        place = folder.begin(name, origin, key)
        torch.manual_seed(state.recipe.seed)
        context = Context(state.recipe, folder, name, place, self.device, self.log, self.progress, state.shared)
        metrics = stage.run(context)
        seconds = context.seconds()
        record = folder.finish(name, metrics, seconds, lambda: self._keep(stage, origin, place))
        self.log.info("%s: finished in %s", name, duration(seconds))
        return record

    def _keep(self, stage: Stage, origin: dict, place: Path) -> None:
        name, key = stage.name, self._key(stage, origin)  # a model of the hub may have come meanwhile
        began = self.state.folder.began_as(name)
        if self.store is None or key is None:
            return
        if began != key:
            self.log.info("%s: not kept in the store, because it was begun with another device or other versions", name)
            return
        try:
            self.store.put(name, key, origin, place)
        except OSError as error:
            self.log.warning("%s: not kept in the store: %s", name, error)


def _made_with(stage: Stage, recipe: Recipe, device: str) -> dict[str, object]:
    """What changes the bits of an output and is no reason to make a run's own output again."""
    from importlib.metadata import version

    from kdnative.data.hub import hub_commit
    from kdnative.evaluate.predict import fast_bf16

    found = {"device": device, "bf16": fast_bf16(torch.device(device))}  # what `amp: auto` stands for
    found |= {"torch": torch.__version__, "transformers": version("transformers")}
    return found | {name: hub_commit(name[4:]) for name in stage.sources(recipe) if name.startswith("hub:")}


def _record_machine(recipe: Recipe, folder: RunFolder) -> None:
    from kdnative import doctor

    stages = [stage.name for stage in recipe.active_stages()]
    write_json(folder.path / "run.json", {"name": recipe.name, "stages": stages, "machine": doctor.collect()})
