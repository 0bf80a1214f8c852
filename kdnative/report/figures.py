"""The report's charts: from a run's figures to SVG. A chart that the run has no figures for is None."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kdnative.report import words
from kdnative.report.charts import Axis, Bar, Point, Series, bar_chart, xy_chart
from kdnative.report.schema import LatencyRow, Measure, ModelRow, SensitivityRow, TrainingPoint

_MOST_BARS = 30
_LARGEST_BUBBLE = 26.0  # px


def _measure_axis(measure: Measure, split: str) -> Axis:
    title = f"{measure['name']} on the {split} split"
    return Axis(title, text=lambda v: f"{100 * v:.4g} %") if measure["percent"] else Axis(title)


def _milliseconds(value: float) -> str:
    return f"{value:g}"


def quality_latency(rows: Sequence[ModelRow], measure: Measure, case: dict[str, int] | None) -> str | None:
    """The deciding measure against latency along the pipeline, in torch fp32 and native."""
    key = measure["key"]
    # The last row's figure is that of its native form; in torch it was only timed.
    plain = _placed(rows[:-1], "fp32", measure, lambda row: row.get(key))
    # Before the last row the native figures are of that row's model, converted.
    native = _placed(rows, "native", measure, lambda row: row.get("native", row).get(key))
    found = [Series("torch fp32", plain, 1, joined=False), Series("native", native, 0, joined=False)]
    found = [s for s in found if s.points]
    if not found:
        return None
    return xy_chart(
        f"{_title(measure)} against latency",
        f"Test {measure['name']} with 95 % intervals against median latency in milliseconds{_at(case)}; one "
        "point per model and engine. Up and to the left is better.",
        found,
        Axis(f"latency, ms (log scale){_at(case)}", "log", _milliseconds),
        _measure_axis(measure, "test"),
        height=420,
    )


def size_bubbles(rows: Sequence[ModelRow], measure: Measure, case: dict[str, int] | None) -> str | None:
    """The deciding measure against latency, the area of a mark being the size of the model's file.

    Each model as it is saved: in torch fp32, the last one on native kernels.
    """
    drawn = [row for row in rows if row.get("bytes") and row.get(measure["key"])]
    if not drawn:
        return None
    largest = max(row["bytes"] or 0 for row in drawn)

    def points(some: Sequence[ModelRow], way: str) -> list[Point]:
        found = []
        for row in some:
            if latency := row.get("latency", {}).get(way):
                size = f"{words.megabytes(row['bytes'])} MB"
                place = f"{words.milliseconds(latency['p50'])} ms {way}, {size}"
                point = _point(row, latency["p50"], measure, row[measure["key"]], place)
                radius = _LARGEST_BUBBLE * (row["bytes"] / largest) ** 0.5
                found.append(replace(point, label=f"{row['name']}, {size}", radius=max(radius, 4.0)))
        return found

    last = rows[-1]
    series = [
        Series("torch fp32", points([row for row in drawn if row is not last], "fp32"), 1, joined=False),
        Series("native", points([row for row in drawn if row is last], "native"), 0, joined=False),
    ]
    series = [s for s in series if s.points]
    if not series:
        return None
    return xy_chart(
        f"{_title(measure)}, latency and size",
        f"Test {measure['name']} with 95 % intervals against median latency in milliseconds{_at(case)}; the area of a "
        "mark is the size of the model file. Small marks up and to the left are better.",
        series,
        Axis(f"latency, ms (log scale){_at(case)}; area: model file, MB", "log", _milliseconds, room=1.35),
        _measure_axis(measure, "test"),
        height=420,
    )


def reliability(rows: Sequence[ModelRow]) -> str:
    """Accuracy against confidence, in bins, for models that state both."""

    def share(value: float) -> str:
        return words.percent(value, 0)

    series = [Series("perfectly calibrated", [Point(0, 0), Point(1, 1)], 6, dashed=True, marks=False)]
    for index, row in enumerate(rows):
        bins, total = row["calibration"]["bins"], row["calibration"]["n"]
        points = [
            Point(
                b["confidence"],
                b["accuracy"],
                tip=f"{row['name']}: {words.percent(b['accuracy'])} correct at {words.percent(b['confidence'])} "
                f"confidence, {b['n']} examples",
                radius=max(3.0, 14 * (b["n"] / total) ** 0.5),
            )
            for b in bins
        ]
        series.append(Series(row["name"], points, 1 if row["key"] == "teacher" else 0, dashed=index % 2 == 1))
    return xy_chart(
        "Reliability diagram",
        "Accuracy against mean confidence in up to 15 bins of equal width, on the test split. The dashed "
        "diagonal is a perfectly calibrated model.",
        series,
        Axis("confidence, mean of the bin", text=share),
        Axis("accuracy in the bin", text=share),
        width=560,
        height=460,
    )


def latency_by_length(rows: Sequence[LatencyRow], unit: str = "tokens") -> list[tuple[int, str]]:
    """For each batch size its chart of latency against length, or the side of pictures in pixels."""
    charts = []
    models = list(dict.fromkeys(row["model"] for row in rows))
    for batch in sorted({row["batch"] for row in rows}):
        of_batch = [row for row in rows if row["batch"] == batch]
        series = [
            Series(name, [_latency_point(row) for row in of_batch if row["model"] == name], _colour(name, index))
            for index, name in enumerate(models)
        ]
        threads = words.counted(of_batch[0]["threads"], "thread")
        chart = xy_chart(
            f"Batch {batch}",
            f"Median latency in milliseconds against the number of {unit}, batch {batch}, {threads}; bars span "
            "the 20th to the 80th percentile. Lower is better.",
            [s for s in series if s.points],
            Axis("tokens per sequence" if unit == "tokens" else f"{unit} on a side", "marked"),
            Axis("latency, ms (log scale)", "log", _milliseconds),
            width=540,
            height=360,
        )
        charts.append((batch, chart))
    return charts


def training_curves(histories: dict[str, list[TrainingPoint]], measure: Measure) -> list[str]:
    """Loss and deciding measure of every training stage by epoch; what was not recorded is left out."""
    charts, validated = [], f"validation_{measure['key']}"
    for key, title, axis in (
        ("loss", "Training loss", Axis("mean loss of the epoch")),
        (validated, f"Validation {measure['name']}", _measure_axis(measure, "validation")),
    ):
        text = words.percent if key == validated and measure["percent"] else "{:.4f}".format
        series = []
        for index, (stage, history) in enumerate(histories.items()):
            points = [
                Point(epoch, p[key], tip=f"{stage}, epoch {epoch}, step {p['step']}: {text(p[key])}")
                for epoch, p in by_epoch(history)
                if p.get(key) is not None
            ]
            if points:
                series.append(Series(stage, points, index % 7))
        if series:
            description = f"{title} of each training stage by epoch."
            charts.append(xy_chart(title, description, series, Axis("epoch", "whole"), axis, width=540, height=340))
    return charts


def by_epoch(history: Sequence[TrainingPoint]) -> list[tuple[int, TrainingPoint]]:
    """The points of a curve with the number of their epoch, from 1."""
    return [(int(p.get("epoch", index)) + 1, p) for index, p in enumerate(history)]


def sensitivity_bars(rows: Sequence[SensitivityRow], measure: Measure) -> str | None:
    """What each layer alone loses, the worst first: divergence of the outputs, or quality where there is none."""
    key = "divergence" if any(row.get("divergence") is not None for row in rows) else "drop"
    found = sorted((row for row in rows if row.get(key) is not None), key=lambda row: -row[key])[:_MOST_BARS]
    if not found:
        return None
    title = "Divergence of the outputs" if key == "divergence" else f"{_title(measure)} lost"
    several = len({row.get("scheme") for row in found}) > 1
    bars = [_sensitivity_bar(row, key, measure, several) for row in found]
    return bar_chart(
        f"{title} when a single layer is compressed",
        f"{title}, layer by layer, the most sensitive first; at most {_MOST_BARS} layers. Shorter is better.",
        bars,
    )


def _sensitivity_bar(row: SensitivityRow, key: str, measure: Measure, with_scheme: bool) -> Bar:
    value = row[key]
    text = f"{value:.2e}" if key == "divergence" else words.measure(value, measure["percent"], 2)
    scheme = f" {row['scheme']}" if row.get("scheme") else ""
    name = row["layer"] + (scheme if with_scheme else "")
    return Bar(name, value, text, 0, tip=f"{row['layer']}{scheme}: {text}")


def _at(case: dict[str, int] | None) -> str:
    if not case:
        return ""
    return f", {words.case(case)}"


def _title(measure: Measure) -> str:
    return measure["name"][:1].upper() + measure["name"][1:]


def _placed(rows: Sequence[ModelRow], way: str, measure: Measure, quality: Any) -> list[Point]:
    points = []
    for row in rows:
        latency, estimate = row.get("latency", {}).get(way), quality(row)
        if latency and estimate:
            place = f"{words.milliseconds(latency['p50'])} ms {way}"
            points.append(_point(row, latency["p50"], measure, estimate, place))
    return points


def _point(row: ModelRow, x: float, measure: Measure, found: dict[str, float], place: str) -> Point:
    tip = f"{row['name']}: {words.estimate(found, measure['percent'])}, {place}"
    return Point(x, found["value"], found["low"], found["high"], row["name"], tip)


def _latency_point(row: LatencyRow) -> Point:
    tip = f"{row['model']}, batch {row['batch']} × {row['tokens']}: {words.milliseconds(row['p50'])} ms"
    return Point(row["tokens"], row["p50"], row["p20"], row["p80"], tip=tip)


def _colour(name: str, index: int) -> int:
    """Native results keep one colour throughout the report."""
    return 0 if "native" in name else 1 + index % 6
