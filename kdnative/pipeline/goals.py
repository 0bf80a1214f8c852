"""The goals of a recipe, judged by 95 % intervals, and where a run's speed comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdnative.machine.speedup import Speedup, factors, speedup
from kdnative.tasks import Task

if TYPE_CHECKING:
    from kdnative.pipeline.schema import Goals

__all__ = ["gain", "judged"]


def gain(timed: Mapping) -> dict[str, Any]:
    """How many times faster the native student is than the teacher in torch fp32, as a product of two factors.

    ``total = smaller_model * native_kernels``: the teacher over the student, both in torch fp32, and the student in
    torch fp32 over the native one. See `kdnative.machine.speedup.factors`.

    Args:
        timed: samples by row and way of running ("models" of the benchmark stage).
    """
    ways = (timed["teacher"]["fp32"], timed["native"]["fp32"], timed["native"]["native"])
    found = factors(*(way["samples"] for way in ways))
    return dict(zip(("total", "smaller_model", "native_kernels"), map(_estimate, found), strict=True))


def judged(task: Task, goals: Goals, rows: Mapping[str, Mapping], timed: Mapping, examples: int) -> list[dict]:
    """The goals for summary.json, those that the recipe sets.

    A goal is met when the whole interval of its figure is, missed when none of it is, and open in between or without
    an interval ("met" is None then, as it is for a figure that could not be measured). The size of a file is exact.

    Args:
        rows: of the final table, by key. timed: as for `gain`. examples: in the test split.
    """
    teacher, native, deciding = rows["teacher"], rows["native"], task.deciding
    ours = timed["native"]["native"]
    found: list[dict] = []

    def add(key: str, name: str, unit: str, figure: Mapping | None, of: str, detail: str) -> None:
        target = getattr(goals, key)
        if target is not None:
            row = {"name": name, "target": target, "unit": unit, "of": of, "detail": detail}
            found.append({**row, **_against(figure, target)})

    quality = " of ".join(deciding.text(row[deciding.key]["value"]) for row in (native, teacher))
    name = f"native student keeps this share of the teacher's {deciding.name}"
    add("kept", name, "%", native["kept"], f"{examples:,} examples", quality)
    before, after = teacher["bytes"], native["bytes"]
    ratio = before / after if after else None
    exact = None if ratio is None else {"value": ratio, "low": ratio, "high": ratio}
    sizes = f"{before / 1e6:.1f} MB to {after / 1e6:.1f} MB"
    add("size_ratio", "model file smaller than the teacher's", "x", exact, "", sizes)
    for key, whose, slow in (
        ("speedup_teacher", "the teacher's in torch fp32", timed["teacher"]["fp32"]),
        ("speedup_bf16", "the same student's in torch bf16", timed["native"]["bf16"]),
    ):
        figure = _estimate(speedup(slow["samples"], ours["samples"]))
        times = f"{slow['p50']:.3g} ms to {ours['p50']:.3g} ms"
        add(key, f"latency lower than {whose}", "x", figure, f"{len(ours['samples'])} rounds", times)
    return found


def _against(figure: Mapping[str, float | None] | None, target: float) -> dict[str, Any]:
    if figure is None:
        return {"value": None, "low": None, "high": None, "met": None}
    low, high = figure["low"], figure["high"]
    met = None if low is None or high is None else True if low >= target else False if high < target else None
    return {"value": figure["value"], "low": low, "high": high, "met": met}


def _estimate(found: Speedup) -> dict[str, float | None]:
    return {"value": found.value, "low": found.low, "high": found.high}
