"""How ``kdnative bench quality`` reads: lines while it runs, and its result as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdnative.bench.quality_cases import Case
from kdnative.bench.quality_figures import FIGURES
from kdnative.bench.quality_subjects import Subject

Row = Mapping[str, Any]


def title(subject: Subject, case: Case) -> str:
    """Above the rows of a case."""
    return f"\n{subject.name} {subject.task}, {case.name}, {len(subject.texts)} {subject.unit}"


def line(row: Row) -> str:
    """One row while the suite runs."""
    if "figures" not in row:
        return f"  {row['way']:28}not run: {row['reason']}"
    cells = [f"{FIGURES[name].name} {cell(row, name)}" for name in row["figures"]]
    return f"  {row['way']:28}{'; '.join(cells)}; {cost(row)}"


def cell(row: Row, name: str) -> str:
    """A figure with its interval, and what it is of the baseline's."""
    shown = number(name, row["figures"][name])
    if name not in row.get("to_baseline", {}):
        return shown
    return f"{shown}, {compared(name, row['to_baseline'][name])}"


def number(name: str, found: Sequence[float]) -> str:
    """``"0.0229 [0.0215, 0.0244]"`` of an error, ``"80.2 % [77.9, 82.4]"`` of a share."""
    value, low, high = found
    if FIGURES[name].error:
        return f"{value:.4g} [{low:.4g}, {high:.4g}]"
    return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def compared(name: str, found: Sequence[float]) -> str:
    """``"x 0.42 [0.40, 0.44]"`` of errors, ``"+9.9 [8.1, 11.6]"`` points of shares."""
    value, low, high = found
    if FIGURES[name].error:
        return f"x {value:.3f} [{low:.3f}, {high:.3f}]"
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def cost(row: Row) -> str:
    """Time, memory and the texts that calibrated."""
    memory = "" if row["peak"] is None else f", {row['peak'] / 1e6:.0f} MB"
    texts = f", {row['texts']} texts" if row["texts"] else ""
    return f"{row['seconds']:.1f} s{memory}{texts}"


def goal_text(found: Mapping[str, Any]) -> str:
    """A goal and the verdict, with whose it is."""
    met = "met" if found["met"] else "MISSED"
    memory = f", peak {found['peak'] / 1e6:.0f} MB" if found.get("peak") is not None else ""
    return f"{found['model']}, {found['case']}, {found['way']}: {found['goal']}: {found['value']:.4g}{memory}, {met}"


def goals_of(result: Mapping[str, Any], row: Row) -> str:
    """The goals of a row, for the last column of its table."""
    mine = [
        found for found in result.get("goals", ()) if all(found[key] == row[key] for key in ("model", "case", "way"))
    ]
    return "; ".join(f"{found['goal']}: {'met' if found['met'] else '**missed**'}" for found in mine)


def tables(
    result: Mapping[str, Any], rows_of: Callable[[Sequence[str], Sequence[Sequence[Any]]], list[str]]
) -> list[str]:
    """A Markdown table for each case.

    Args:
        rows_of: lays out a table, `kdnative.bench.table.rows_of`.
    """
    found: dict[tuple[str, str], list[Row]] = {}
    for row in result["rows"]:
        found.setdefault((row["model"], row["case"]), []).append(row)
    lines = []
    for (model, case), rows in found.items():
        about = result["models"][model]
        lines += [
            "",
            f"{model}, {case}, {about['texts']:,} texts{_float_figure(about)}:",
            "",
            *_table(result, rows, rows_of),
        ]
    return [*lines[1:], "", _LEGEND]


_LEGEND = (
    "In brackets 95 % bootstrap intervals over texts; behind a comma, of errors the ratio to the first row and of "
    "shares the difference to it in points, paired. Time and memory are those of choosing the weights, without packing."
)


def _float_figure(about: Mapping[str, Any]) -> str:
    if "accuracy" in about:
        return f", accuracy of fp32 {100 * about['accuracy']:.1f} %"
    return f", perplexity of fp32 {about['perplexity']:.4g}" if "perplexity" in about else ""


def _table(result: Mapping[str, Any], rows: Sequence[Row], rows_of: Callable[..., list[str]]) -> list[str]:
    shown = list(dict.fromkeys(name for row in rows for name in row.get("figures", ())))
    head = ["way", *(FIGURES[name].name for name in shown), "s", "MB", "texts", "goals"]
    table = []
    for row in rows:
        name = row["way"] + (f" ({row['note']})" if row["note"] else "")
        if "figures" not in row:
            table.append([name, f"not run: {row['reason']}", *[""] * (len(head) - 2)])
            continue
        memory = "-" if row["peak"] is None else f"{row['peak'] / 1e6:.0f}"
        cells = [cell(row, figure) for figure in shown]
        table.append([name, *cells, f"{row['seconds']:.1f}", memory, row["texts"] or "-", goals_of(result, row)])
    return rows_of(head, table)
