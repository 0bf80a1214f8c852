"""Sections about pictures: some with what the models say of them, and what worse pictures do to the models."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from kdnative.report import words
from kdnative.report.charts import Axis, Point, Series, xy_chart
from kdnative.report.read import Run
from kdnative.report.tables import Cell, caption, details, table

__all__ = ["corruptions", "samples", "thumbnail"]

_MODELS = {"teacher": "teacher", "student": "native student"}
_STYLES = {"teacher": 1, "student": 0}  # as in the other charts
_NAMES = {"noise": "Noise", "blur": "Blur", "jpeg": "JPEG"}
_URI = "data:image/jpeg;base64,"


def thumbnail(row: Mapping[str, Any]) -> str:
    """A picture of an example for a table; empty where it is a text. Nothing but data in the page is shown."""
    uri = row.get("image", "")
    return f'<img class="thumbnail" src="{escape(uri)}" alt=""><br>' if uri.startswith(_URI) else ""


def samples(run: Run) -> str | None:
    """Some pictures of the test split with the answers of both models."""
    found = run.summary.get("pictures", [])
    if not found:
        return None
    made = "".join(
        f'<li class="{"right" if row["student"].rpartition(" (")[0] == row["label"] else "wrong"}">{thumbnail(row)}'
        f"<b>{escape(row['label'])}</b><br>teacher: {escape(row['teacher'])}<br>student: {escape(row['student'])}</li>"
        for row in found
    )
    text = f"{words.counted(len(found), 'picture')} of the test split, chosen by a hash, with label and answers."
    return f'<ul class="pictures">{made}</ul>{caption(text)}'


def corruptions(run: Run) -> str | None:
    """The deciding measure against the strength of each corruption, and the figures as a table."""
    found, deciding = run.summary.get("corruptions", []), run.measures[0]
    if not found:
        return None
    clean = next(row for row in found if row["corruption"] == "none")
    charts = ""
    for kind, title in _NAMES.items():
        rows = [clean, *(row for row in found if row["corruption"] == kind)]
        series = [Series(name, [_point(row, k, name) for row in rows], _STYLES[k]) for k, name in _MODELS.items()]
        charts += (
            "<figure>"
            + xy_chart(
                title,
                f"{deciding['name']} of {words.counted(clean['n'], 'test picture')} against the strength of "
                f"{kind}; 0 is the original picture. Bars are 95 % intervals.",
                series,
                Axis("strength", "whole"),
                Axis(deciding["name"], "linear", lambda value: words.measure(value, deciding["percent"], 0)),
                width=400,
                height=300,
            )
            + "</figure>"
        )
    lines = [
        [
            Cell(row["corruption"]),
            Cell(str(row["strength"]), row["strength"]),
            *(Cell(words.estimate(row[key], deciding["percent"]), row[key]["value"]) for key in _MODELS),
        ]
        for row in found
    ]
    columns = ["corruption", "strength", *(f"{name}, {deciding['name']} [95 %]" for name in _MODELS.values())]
    as_table = table("Noise, blur and JPEG", columns, lines, numeric=(1, 2, 3))
    return f'<div class="pair">{charts}</div>{details("The figures as a table", as_table)}'


def _point(row: Mapping[str, Any], key: str, name: str) -> Point:
    found = row[key]
    tip = f"{name}, {row['corruption']} {row['strength']}: {100 * found['value']:.1f} %"
    return Point(row["strength"], found["value"], found["low"], found["high"], tip=tip)
