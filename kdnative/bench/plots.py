"""The suites' results as one SVG file each, in the style of the report."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from kdnative.bench.results import Row, faster, gops, machine_line, median, quantiles
from kdnative.files import replace_text
from kdnative.report.charts import Axis, Bar, Point, Series, bar_chart, xy_chart
from kdnative.report.schema import LatencyRow

_WIDTH, _GAP = 720, 28
_PEERS_SHOWN = 3  # the fastest of a case; the JSON has all
# Colour of the best peer of each kind; ours count on from 3, w8a8 is 0.
_KINDS = {"int8": 1, "int4": 2, "w8a16": 5, "w4a16": 4, "float": 6}


def gemm_plot(result: dict[str, Any], path: str | Path) -> None:
    """For each shape the rate over the rows of x: ours, the best peer of each kind, and the ceiling.

    Args:
        result: of :func:`kdnative.bench.gemm.run`.
        path: an .svg file, replaced in one step.
    """
    charts = []
    peak = result["ceilings"]["int8_ops"]
    for n, k in dict.fromkeys((case["n"], case["k"]) for case in result["cases"]):
        cases = [case for case in result["cases"] if (case["n"], case["k"]) == (n, k)]
        series = _gemm_series(cases)
        if peak:
            ends = [min(case["m"] for case in cases), max(case["m"] for case in cases)]
            series.append(Series("ceiling", [Point(m, peak / 1e9) for m in ends], 6, dashed=True, marks=False))
        charts.append(
            xy_chart(
                f"{n} outputs × {k} inputs",
                f"Rate of a linear layer with {n} outputs and {k} inputs against the rows of activations, in billions "
                "of operations per second; higher is better.",
                series,
                Axis("rows of activations", "marked"),
                Axis("GOPS (log scale)", "log"),
            )
        )
    _write(charts, result["environment"], path)


def encoder_plot(result: dict[str, Any], path: str | Path) -> None:
    """For each model and number of threads: the speed of ours and the fastest peers, case by case.

    Args:
        result: of :func:`kdnative.bench.encoder.run`, with at least one case that has rows.
        path: an .svg file, replaced in one step.
    """
    panels: dict[tuple[str, int], list[Bar]] = {}
    for case in result["cases"]:
        panels.setdefault((case["model"], case["threads"]), []).extend(_encoder_bars(case))
    charts = []
    for (model, threads), bars in panels.items():
        title = f"{model}, {threads} thread{'s' if threads > 1 else ''}: speed, the fastest peer is 1"
        text = f"Speed of {model} with {threads} threads relative to the fastest peer of each case; longer is better."
        if bars:
            charts.append(bar_chart(title, text, bars))
    _write(charts, result["environment"], path)


def _encoder_bars(case: dict[str, Any]) -> list[Bar]:
    """Ours and the fastest peers; a peer's fastest way with a ragged batch stands for it."""
    ours = [row for row in case["rows"] if row["ours"]]
    peers: dict[str, Row] = {}
    for row in sorted((row for row in case["rows"] if not row["ours"]), key=median):
        peers.setdefault(row["name"].partition(",")[0], row)
    if not case["rows"]:
        return []
    fastest = min([*peers.values()] or ours, key=median)
    rows = [(row, 0 if row in ours else 6) for row in [*ours, *list(peers.values())[:_PEERS_SHOWN]]]
    bars = []
    for row, colour in rows:
        speed = faster(fastest, row).value
        text = f"{speed:.2f} ({1e3 * median(row):.3g} ms)"
        bars.append(Bar(f"{case['case']} {row['name']}", speed, text, colour))
    return bars


def curves_plot(result: dict[str, Any], path: str | Path) -> None:
    """Loss, and quality on the validation split, epoch by epoch, of every training of a run.

    Args:
        result: of :func:`kdnative.bench.run_figures.run_figures`.
        path: an .svg file, replaced in one step.
    """
    from kdnative.report.figures import training_curves

    _write(training_curves(result["curves"], result["measure"]), result["environment"], path)


def latency_plot(rows: Sequence[dict[str, Any]], environment: dict[str, Any], path: str | Path) -> None:
    """For each batch size the latency over the length.

    Args:
        rows: of ``kdnative bench model``.
        environment: of :func:`kdnative.machine.environment.environment`.
        path: an .svg file, replaced in one step.
    """
    from kdnative.report.figures import latency_by_length

    shown = [
        {"model": row["name"], **{key: row[key] for key in ("batch", "tokens", "threads")}}
        | {key: 1e3 * seconds for key, seconds in zip(("p20", "p50", "p80"), quantiles(row), strict=True)}
        for row in rows
    ]
    _write([chart for _, chart in latency_by_length(cast("Sequence[LatencyRow]", shown))], environment, path)


def _gemm_series(cases: Sequence[dict[str, Any]]) -> list[Series]:
    rates: dict[tuple[str, int], list[Point]] = {}
    for case in cases:
        others = 3
        for row in case["rows"]:
            if row["ours"]:
                w8a8 = row["kind"] == "int8"
                key = (row["name"], 0 if w8a8 else others)
                others += 0 if w8a8 else 1
                rates.setdefault(key, []).append(_rate(case, row))
        for kind, colour in _KINDS.items():
            peers = [row for row in case["rows"] if row["kind"] == kind and not row["ours"]]
            if peers:
                best = min(peers, key=median)
                rates.setdefault((f"best {kind} peer", colour), []).append(_rate(case, best))
    return [
        Series(name, points, colour % 7, dashed=name.startswith("best")) for (name, colour), points in rates.items()
    ]


def _rate(case: dict[str, Any], row: Row) -> Point:
    rate = gops(case, row)
    tip = f"{row['name']}, {case['m']} rows: {rate:.4g} GOPS, {1e6 * median(row):.4g} µs"
    return Point(case["m"], float(f"{rate:.4g}"), tip=tip)


def _write(charts: Sequence[str], environment: dict[str, Any], path: str | Path) -> None:
    """Stacks charts in one file with their style and a line that says where they were measured."""
    path = Path(path)
    if path.suffix != ".svg":
        raise ValueError(f"plots are written as .svg, got {path.name}")
    style = (files("kdnative.report") / "assets" / "chart.css").read_text(encoding="utf-8")
    y, parts = _GAP, []
    for chart in charts:
        width, height = map(int, chart.split('viewBox="0 0 ', 1)[1].split('"', 1)[0].split())
        parts.append(chart.replace("<svg ", f'<svg x="{_GAP}" y="{y}" width="{width}" height="{height}" ', 1))
        y += height + _GAP
    where = machine_line(environment)
    width, height = _WIDTH + 2 * _GAP, y + _GAP
    replace_text(
        path,
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}">\n<style>\n{style}.page {{ fill: var(--page); }}\n</style>\n'
        f'<rect class="page" width="{width}" height="{height}"/>\n'
        + "\n".join(parts)
        + f'\n<text class="tick" x="{_GAP}" y="{height - _GAP}">{escape(where)}</text>\n</svg>\n',
    )
