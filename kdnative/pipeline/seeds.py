"""One recipe with several seeds: a run for each, then the median and the range of every figure of the final table.

A difference between two single runs may be luck. How far the same recipe strays from seed to seed says how much.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnative.pipeline.folder import PipelineError, RunFolder, read_json, write_json
from kdnative.pipeline.recipe import load_recipe
from kdnative.pipeline.runner import run
from kdnative.tasks import Measure, task_named

if TYPE_CHECKING:
    from kdnative.pipeline.schema import Recipe

__all__ = ["format_seeds", "run_seeds", "seeds_path"]

_LARGEST_SEED = 2**32 - 1
_LONGEST_NAME = 100


def run_seeds(
    recipe: str | Path | Recipe,
    seeds: Sequence[int],
    *,
    runs: str | Path = "runs",
    resume: bool = False,
    overwrite: bool = False,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> Path:
    """Runs a recipe once for each seed, as NAME-seed0 and so on, and writes ``runs/NAME-seeds.json``.

    Args:
        recipe, runs, overrides: as for `kdnative.pipeline.run`.
        seeds: different seeds; each takes the place of the recipe's.
        resume: keep finished runs, go on with an interrupted one, begin those that are missing.
        overwrite: start every run afresh.
        say: is told which run begins, and how long the rest will take once one is finished.
        options: what else `kdnative.pipeline.run` takes.

    Returns:
        The path of the JSON file: ``name``, ``task``, ``seeds``, ``runs`` (names of the folders), ``rows``,
        ``steps`` and ``seconds``. A row or step has ``key`` (of a step its stage), ``name`` and ``figures`` (of a step
        the paired ``difference``); there and in ``seconds`` (by stage), every figure has its ``values``, one for each
        seed (null where a run has none), and their ``median``, ``low`` and ``high``.

    Raises:
        PipelineError: a seed that is not allowed, a run that is there already, or what `run` says.
    """
    if not hasattr(recipe, "model_dump"):
        recipe = load_recipe(recipe, overrides)
    recipes = [_with_seed(recipe, seed) for seed in _checked(seeds)]
    there = [r.name for r in recipes if RunFolder(Path(runs) / r.name).exists()]
    if there and not (resume or overwrite):
        raise PipelineError(
            f"{' and '.join(there)} in {runs} already hold runs: continue with --resume, replace them with "
            "--overwrite, or give another name (--set name=...)"
        )
    took: list[float] = []
    for number, seeded in enumerate(recipes, 1):
        say(f"{seeded.name}: run {number} of {len(recipes)}{_left(took, len(recipes) - number + 1)}")
        began, kept = time.monotonic(), resume and _is_finished(Path(runs) / seeded.name)
        run(seeded, runs=runs, resume=resume, overwrite=overwrite, **options)
        if not kept:
            took.append(time.monotonic() - began)
    path = seeds_path(runs, recipe.name)
    write_json(path, _collect(recipe, seeds, [Path(runs) / seeded.name for seeded in recipes]))
    return path


def seeds_path(runs: str | Path, name: str) -> Path:
    """Where the figures of several seeds are."""
    return Path(runs) / f"{name}-seeds.json"


def format_seeds(found: Mapping[str, Any]) -> str:
    """The content of the JSON file as a table: medians, and the ranges of what decides."""
    task = task_named(found["task"])
    deciding, *others = [measure for measure in task.measures if measure.short is not None]
    head = ["", f"{deciding.short} [range]", "kept", "native", *(measure.short for measure in others)]
    head += ["native ms", "x"]
    lines = [head, *(_cells(row["name"], row["figures"], deciding, others) for row in found["rows"])]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    table = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in [lines[0], ["-" * width for width in widths], *lines[1:]]
    ]
    seeds = ", ".join(map(str, found["seeds"]))
    name = deciding.name
    return "\n".join(
        [
            *table,
            "",
            f"medians of {len(found['seeds'])} runs (seeds {seeds}); range: smallest and largest value",
            f"kept: share of the teacher's {name}; native: {name} on native kernels; x: speed-up over the teacher",
        ]
    )


def _checked(seeds: Sequence[int]) -> Sequence[int]:
    if not seeds or len(set(seeds)) != len(seeds) or not all(0 <= seed <= _LARGEST_SEED for seed in seeds):
        given = ", ".join(map(str, seeds)) or "none"
        raise PipelineError(
            f"seeds must be different whole numbers from 0 to {_LARGEST_SEED:,}, such as 0,1,2; got {given}"
        )
    return seeds


def _with_seed(recipe: Recipe, seed: int) -> Recipe:
    name = f"{recipe.name}-seed{seed}"
    if len(name) > _LONGEST_NAME:
        raise PipelineError(
            f"the run of seed {seed} would be named {name}, which is too long: at most {_LONGEST_NAME} characters "
            "are allowed, so give a shorter name"
        )
    return recipe.model_copy(update={"name": name, "seed": seed})


def _is_finished(folder: Path) -> bool:
    return (folder / "summary.json").is_file()


def _left(took: Sequence[float], runs: int) -> str:
    return f", about {statistics.mean(took) * runs / 60:.0f} min left" if took else ""


def _collect(recipe: Recipe, seeds: Sequence[int], folders: Sequence[Path]) -> dict[str, Any]:
    summaries = [read_json(folder / "summary.json", {"rows": list, "steps": list}) for folder in folders]
    seconds = [
        {stage.name: RunFolder(folder).record(stage.name)["seconds"] for stage in recipe.active_stages()}
        for folder in folders
    ]
    return {
        "name": recipe.name,
        "task": recipe.task,
        "seeds": list(seeds),
        "runs": [folder.name for folder in folders],
        "rows": _over_seeds([summary["rows"] for summary in summaries]),
        "steps": _over_seeds([[_of_step(step) for step in summary["steps"]] for summary in summaries]),
        "seconds": _spread(seconds),
    }


def _over_seeds(runs: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of the first run, with the figures that the rows of the same key have in every run."""
    found = []
    for first in runs[0]:
        same = [next((row for row in rows if row["key"] == first["key"]), {}) for rows in runs]
        found.append({"key": first["key"], "name": first["name"], "figures": _spread([_figures(row) for row in same])})
    return found


def _of_step(step: Mapping[str, Any]) -> dict[str, Any]:
    name = f"{step['stage']}, against {step['against']}"
    return {"key": step["stage"], "name": name, "difference": step["difference"]}


def _figures(row: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a row by their dotted names; of an estimate its value, of percentiles the median."""
    found: dict[str, float] = {}
    for key, value in row.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            main = next((value[kind] for kind in ("value", "p50") if kind in value), None)
            found |= {name: main} if main is not None else _figures(value, f"{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = value
    return found


def _spread(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """{figure: its values, one for each run, and their median and range}."""
    spread = {}
    for name in dict.fromkeys(name for figures in runs for name in figures):
        values = [figures.get(name) for figures in runs]
        known = [value for value in values if value is not None]
        spread[name] = {"median": statistics.median(known), "low": min(known), "high": max(known), "values": values}
    return spread


def _cells(name: str, figures: Mapping[str, Any], deciding: Measure, others: Sequence[Measure]) -> list[str]:
    def text(key: str, show: Callable[[float], str], ends: bool = False) -> str:
        found = figures.get(key)
        if found is None:
            return "-"
        low, high = (show(found[end]).removesuffix(" %") for end in ("low", "high"))
        return show(found["median"]) + (f" [{low}, {high}]" if ends else "")

    return [
        name,
        text(deciding.key, deciding.text, ends=True),
        text("kept", lambda share: f"{100 * share:.1f} %"),
        text(f"native.{deciding.key}", deciding.text),
        *(text(measure.key, measure.text) for measure in others),
        text("latency.native", lambda ms: f"{ms:.2f}"),
        text("speedup", lambda times: f"{times:.1f}"),
    ]
