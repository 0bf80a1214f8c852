"""Did it help? What each step of a run bought, by rule, and what a reader should act on.

A step is compared with the run as it would be without it, on the same test examples. Its verdict follows from the 95 %
interval of the paired difference alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdnative.evaluate import Interval, examples_needed
from kdnative.machine.speedup import Speedup, speedup
from kdnative.report.words import duration
from kdnative.tasks import Measure

__all__ = ["BAD_CALIBRATION", "HELPED", "COST", "OPEN", "findings", "steps"]

HELPED, COST, OPEN = "helped", "cost", "no difference"
BAD_CALIBRATION = 0.1  # ECE on the validation split; fine-tuned encoders are usually within 0.02 and 0.06
_LEAST_EFFECT = 0.005  # of the deciding measure: half a point; smaller effects are not worth asking about
_FIT_TEMPERATURE = " Or set train_teacher.fit_temperature: true to calibrate the confidence."
_WORTH = 0.01  # a gain that is certainly smaller than this is nothing
_LEAST_SAVING = 1.02  # a model file that is less than 2 % smaller counts as the same


def steps(measure: Measure, evaluated: Mapping, timed: Mapping, seconds: Mapping) -> list[dict[str, Any]]:
    """The steps of a run for summary.json, in their order.

    Args:
        measure: the deciding measure.
        evaluated: metrics of the evaluate stage. timed: metrics of the benchmark stage.
        seconds: of each stage.
    """
    return [_step(measure, step, evaluated["rows"], timed["models"], seconds) for step in evaluated["steps"]]


def _step(measure: Measure, step: Mapping, rows: Mapping, timed: Mapping, seconds: Mapping) -> dict[str, Any]:
    found = Interval(**step["difference"], n=step["n"])
    verdict, note = _verdict(measure, found)
    faster, smaller = _bought(step["bought"], rows, timed)
    return {
        "stage": step["stage"],
        "kind": step["kind"],
        "against": step["against"],
        "difference": step["difference"],
        "n": found.n,
        "verdict": verdict,
        "note": note,
        "seconds": seconds[step["stage"]],
        "faster": None if faster is None else {"value": faster.value, "low": faster.low, "high": faster.high},
        "smaller": smaller,
    }


def _verdict(measure: Measure, found: Interval) -> tuple[str, str]:
    """The verdict, and what the examples could show where they show no difference."""
    if found.low > 0 or found.high < 0:
        return (HELPED if found.low > 0 else COST), ""
    if found.low == found.high:
        return OPEN, "the same result on each"
    effect = max(abs(found.value), _LEAST_EFFECT)
    needed, size = examples_needed(found, effect), _effect(measure, effect)
    if needed <= found.n:
        return OPEN, f"these examples would show an effect of {size}"
    rounded = int(float(f"{needed:.2g}"))
    return OPEN, f"an effect of {size} would need about {rounded:,} of them"


def _effect(measure: Measure, effect: float) -> str:
    return f"{100 * effect:.1f} points" if measure.percent else f"{effect:.3f}"


def _bought(bought: Mapping | None, rows: Mapping, timed: Mapping) -> tuple[Speedup | None, float | None]:
    """How many times faster and smaller the model after a step is."""
    if bought is None:
        return None, None
    (slow, slow_way), (fast, fast_way) = bought["latency"]
    before, after = (rows[key]["bytes"] for key in bought["size"])
    faster = speedup(timed[slow][slow_way]["samples"], timed[fast][fast_way]["samples"])
    return faster, before / after if after else None


def findings(measure: Measure, made: Sequence[Mapping], metrics: Mapping, seconds: Mapping) -> list[str]:
    """What a reader should know and do, a sentence or two each.

    Args:
        measure: the deciding measure. made: what `steps` gave.
        metrics, seconds: of each stage.
    """
    judged = zip(made, metrics["evaluate"]["steps"], strict=True)
    found = [_bought_nothing(step, evaluated["without"], seconds) for step, evaluated in judged]
    if "train_baseline" not in metrics:
        found.insert(0, "The effect of distillation is unknown, because this recipe has no train_baseline.")
    found.append(_still_improving(measure, metrics["train_teacher"]))
    found.append(_badly_calibrated(metrics["evaluate"], "calibration" in metrics["train_teacher"]))
    return [text for text in found if text]


def _bought_nothing(step: Mapping, without: Sequence[str], seconds: Mapping) -> str:
    """For a step that was not worth it, as far as the test examples can tell; empty for any other.

    `without`: the stages that the run without this step does without.
    """
    stage, verdict, small = step["stage"], step["verdict"], step["difference"]["high"] < _WORTH
    if verdict == HELPED:
        return ""
    if step["kind"] == "distilled":
        spent = sum(seconds.get(name, 0.0) for name in without)
        labels = "the teacher, its soft labels" if "train_teacher" in without else "the teacher's soft labels"
        cost = f"{labels} and {stage} took {duration(spent)}"
        if verdict == COST:
            return f"Training on hard labels alone is better than distillation: {cost} and made the student worse."
        if small:
            return f"Distillation did not improve on hard labels alone: {cost}."
        return (
            f"The test split is too small to show whether distillation helped: {cost}. Add test examples to find out."
        )
    if step["kind"] == "calibrated":  # it costs seconds, and the deciding measure notices less than it buys
        cure = "raise calibrate.texts, or give another calibrate.method"
        return f"{stage} made the student worse: {cure}." if verdict == COST else ""
    if step["kind"] == "trained":
        schemes = "move its schemes to convert.schemes and, below 8 bits, add calibrate: {}"
        without = f"To convert without it, set {stage}: null, {schemes}."
        if verdict == COST:
            return f"{stage} made the student worse. {without}"
        return (
            f"{stage} did not improve the student. {without}"
            if small
            else f"The test split is too small to show whether {stage} helped. {without}"
        )
    faster = step["faster"]["low"]
    if (faster is None or faster <= 1.0) and (step["smaller"] or 0.0) < _LEAST_SAVING:
        return f"{stage} had no measurable effect: the model is no smaller, and no speed-up is shown."
    return ""


def _still_improving(measure: Measure, trained: Mapping) -> str:
    history = trained.get("history", [])
    if len(history) < 2:
        return ""
    key = f"validation_{measure.key}"
    for name, better, text in ((key, max, measure.text), ("validation_loss", min, "{:.3f}".format)):
        values = [entry[name] for entry in history if entry.get(name) is not None]
        if len(values) > 1 and values[-1] == better(values) and values[-1] != better(values[:-1]):
            what = f"validation {measure.name if name == key else 'loss'}"
            change = f"{text(values[-2])} to {text(values[-1])}"
            return (
                f"The teacher was still improving at the end of its {len(history)} epochs ({what}: {change} "
                "in the last one): raise train_teacher.epochs."
            )
    return ""


def _badly_calibrated(evaluated: Mapping, with_temperature: bool) -> str:
    """`with_temperature`: the teacher's logits were divided by one that was fitted on the validation split."""
    found = evaluated["teacher_calibration"]
    if found is None or found["ece"] <= max(BAD_CALIBRATION, found["chance"]):
        return ""
    doubts = sum(b["n"] * (b["accuracy"] - b["confidence"]) for b in found["bins"]) > 0
    cure = (
        "It is underconfident, which is usual after too few epochs: train it longer, without label smoothing."
        if doubts
        else "It is overconfident: train it with label smoothing."
    )
    return (
        "The teacher is badly calibrated: its confidence differs from its accuracy by "
        f"{100 * found['ece']:.0f} points on {found['n']:,} validation examples (expected calibration error; "
        f"the limit is {100 * BAD_CALIBRATION:.0f}). Students inherit this error. "
        f"{cure}{'' if with_temperature else _FIT_TEMPERATURE}"
    )
