"""What the studies of quality found, as short Markdown tables: for guides, and for results that have no other table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdnative.bench.gate import summary
from kdnative.bench.quality_figures import FIGURES
from kdnative.bench.quality_lines import number

Result = Mapping[str, Any]
RowsOf = Callable[[Sequence[str], Sequence[Sequence[Any]]], list[str]]

COUNTED = "gptq"  # the way of the quality suite that is measured with several numbers of texts


def quality(result: Result, rows_of: RowsOf, task: str, cases: Sequence[str]) -> list[str]:
    """Our ways in some cases of a task's first model, a line each, without intervals.

    Args:
        result: of ``kdnative bench quality``.
        rows_of: lays out a table, `kdnative.bench.table.rows_of`.
        task: "embedder", "classifier" or "decoder".
        cases: names of cases, in their order.

    Raises:
        ValueError: the result has no model of this task, or not all of the cases.
    """
    model = _model(result, task)
    found = [row for case in cases for row in _rows(result, model, case) if not _counted(row)]
    figures = list(dict.fromkeys(name for row in found for name in row["figures"]))
    head = ["scheme", "method", *(FIGURES[name].name for name in figures)]
    table = [[f"`{row['case']}`", row["way"], *(_value(row, name) for name in figures)] for row in found]
    about = result["models"][model]
    below = f"{model}, {about['texts']:,} texts."
    if "accuracy" in about:
        below += f" In float32 it has an accuracy of {100 * about['accuracy']:.1f} %."
    return [*rows_of(head, table), "", below]


def counts(result: Result, rows_of: RowsOf, task: str, case: str) -> list[str]:
    """GPTQ with several numbers of texts, beside rounding to the nearest; arguments and errors as for `quality`."""
    model = _model(result, task)
    rows = [row for row in _rows(result, model, case) if row["way"] in ("rtn", COUNTED) or _counted(row)]
    rows.sort(key=lambda row: row["texts"])
    name = next(iter(rows[0]["figures"]))
    head = ["texts", *(str(row["texts"] or "none") for row in rows)]
    return rows_of(head, [[FIGURES[name].name, *(_value(row, name) for row in rows)]])


def qat(result: Result, rows_of: RowsOf) -> list[str]:
    """The rows of ``kdnative bench qat``."""
    head = ["student", "scheme", "KL", "agreement", "accuracy", "KL over fp32 trained as long", "s"]
    table = []
    for row in result["rows"]:
        cells = [number(name, row["figures"][name]) for name in ("kl", "agreement", "accuracy")]
        against = "-" if row["against"] is None or row["scheme"] is None else _difference(row["against"]["kl"])
        table.append([row["name"], row["scheme"] or "-", *cells, against, f"{row['seconds']:.0f}"])
    same = result["same_bits"]
    words = (
        f"{result['texts']:,} texts; in brackets 95 % bootstrap intervals, paired where two models are compared. A "
        f"training forward on native outputs gave the converted model's logits on {same['equal']:,} of "
        f"{same['texts']:,} texts, bit for bit."
    )
    return [*rows_of(head, table), "", words]


def gate(result: Result, rows_of: RowsOf) -> list[str]:
    """What ``kdnative bench gate`` found for each budget: one line, and one row for each trial with a model."""
    head = ["budget", "seed", "shown below", "changed on held-out texts", "weights"]
    table = []
    for trial in result["trials"]:
        if trial["refused"] is None:
            shares = ", ".join(f"{share:.0%} {scheme}" for scheme, share in trial["shares"].items())
            cells = [f"{100 * trial[name]:.2f} %" for name in ("bound", "held_out")]
            table.append([f"{100 * trial['budget']:g} %", trial["seed"], *cells, shares])
    return [*(f"- {line}" for line in summary(result)), "", *rows_of(head, table)]


def _model(result: Result, task: str) -> str:
    found = [name for name, about in result["models"].items() if about["task"] == task]
    if not found:
        tasks = ", ".join(sorted({about["task"] for about in result["models"].values()}))
        raise ValueError(f"the result has no {task}; it has {tasks}")
    return found[0]


def _rows(result: Result, model: str, case: str) -> list[Mapping[str, Any]]:
    """Our ways that ran."""
    rows = [row for row in result["rows"] if (row["model"], row["case"]) == (model, case)]
    if not rows:
        names = dict.fromkeys(row["case"] for row in result["rows"] if row["model"] == model)
        raise ValueError(f"{model} has no case {case!r}; it has {', '.join(names)}")
    return [row for row in rows if row["ours"] and "figures" in row]


def _counted(row: Mapping[str, Any]) -> bool:
    return row["way"] == f"{COUNTED} {row['texts']} texts"


def _value(row: Mapping[str, Any], name: str) -> str:
    return number(name, row["figures"][name]).partition(" [")[0]


def _difference(found: Sequence[float]) -> str:
    value, low, high = found
    return f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"
