"""Figures of a run's stages, made up: what `build_summary` reads."""

from __future__ import annotations

from kdnative.pipeline.schema import Goals
from kdnative.pipeline.summary import build_summary
from kdnative.tasks import TASKS

TASK = TASKS["text-classification"]
GOALS = Goals(kept=0.97, size_ratio=6, speedup_teacher=10, speedup_bf16=4)
SECONDS = {
    "train_teacher": 60.0,
    "compress_teacher": 20.0,
    "distil": 40.0,
    "prune": 30.0,
    "recover": 30.0,
    "calibrate": 3.0,
    "convert": 1.0,
}


def estimate(value, half=0.02):
    return {"value": value, "low": value - half, "high": value + half}


def timing(milliseconds, wobble=0.01):
    """Samples of five rounds, in seconds, around a median."""
    samples = [milliseconds / 1e3 * (1 + wobble * k) for k in (-2, -1, 0, 1, 2)]
    return {"p20": milliseconds * 0.99, "p50": milliseconds, "p80": milliseconds * 1.01, "samples": samples}


def row(key, accuracy, size, parameters=15_000_000, kept=None):
    quality = {"accuracy": estimate(accuracy), "macro_f1": estimate(accuracy), "agreement": estimate(0.9), "ece": 0.05}
    paired = {"difference": estimate(accuracy - 0.8), "kept": kept or estimate(accuracy / 0.8, 0.0)}
    own = {"native": quality, "calibration": None, "parameters": parameters, "bytes": size}
    return {key: {"name": key, **quality, **paired, **own}}


def step(kind="distilled", stage="distil", value=0.02, half=0.01, bought=None, without=None):
    figures = {"difference": estimate(value, half), "n": 1000, "bought": bought}
    return {"kind": kind, "stage": stage, "against": "hard labels alone", "without": without or [stage], **figures}


def evaluated(*steps, kept=None, native=0.8, teacher=None):
    rows = row("teacher", 0.8, 90_900_000, 22_700_000) | row("distilled", 0.79, 45_450_000)
    rows |= row("native", native, 15_150_000, kept=kept)
    return {"rows": rows, "native_schemes": "w8a8", "steps": list(steps), "teacher_calibration": teacher}


def timed(native_ms=0.5, wobble=0.0):
    rows = {"teacher": (10.0, 6.0, 1.0), "distilled": (5.0, 3.0, 0.8), "native": (4.0, 2.0, native_ms)}
    models = {
        key: {way: timing(ms, wobble) for way, ms in zip(("fp32", "bf16", "native"), times, strict=True)}
        for key, times in rows.items()
    }
    return {"case": {"batch": 1, "tokens": 32, "threads": 2}, "models": models}


def summary(evaluation=None, times=None, goals=GOALS, history=(), seconds=SECONDS, baseline=True, trained=()):
    metrics = {"train_teacher": {"history": list(history), **dict(trained)}}
    metrics |= {"train_baseline": {}} if baseline else {}
    metrics |= {"evaluate": evaluation or evaluated(), "benchmark": times or timed()}
    sizes = {"labelled": 500, "unlabelled": 7509, "validation": 1000, "test": 1038}
    data = {"source": "x", "labels": ["a", "b"], "sizes": sizes, "counts": {}}
    return build_summary(TASK, goals, metrics=metrics, seconds=seconds, data=data, scheme="w4a8-g64")
