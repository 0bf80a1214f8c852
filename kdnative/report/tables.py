"""HTML tables: text and figures with their sort keys, escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: shown.
        value: sorted by instead of the text; numbers sort as numbers.
        html: shown instead of the text, already escaped.
    """

    text: str
    value: Any = None
    html: str = ""


def table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell | str]],
    *,
    numeric: Sequence[int] = (),
    sortable: bool = True,
    emphasised: Sequence[int] = (),
    wrap: Sequence[int] = (),
) -> str:
    """A table whose first column names the row.

    Args:
        caption: what the table shows, for every reader.
        columns: headings.
        rows: as many cells each as there are columns.
        numeric: columns that align to the right.
        sortable: headings become buttons (the page's script does the sorting).
        emphasised: rows that stand out.
        wrap: columns of text that may take several lines.
    """
    head = "".join(_heading(name, index in numeric, sortable) for index, name in enumerate(columns))
    body = []
    for number, row in enumerate(rows):
        if len(row) != len(columns):
            raise ValueError(f"the table {caption!r} has {len(columns)} columns, row {number} has {len(row)} cells")
        cells = "".join(
            _cell(cell, index, "number" if index in numeric else "text" if index in wrap else "")
            for index, cell in enumerate(row)
        )
        strong = ' class="strong"' if number in emphasised else ""
        body.append(f"<tr{strong}>{cells}</tr>")
    name = " sortable" if sortable else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table class="data{name}">'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def details(title: str, content: str, open_: bool = False) -> str:
    """Content that a click unfolds."""
    return f"<details{' open' if open_ else ''}><summary>{escape(title)}</summary>{content}</details>"


def caption(text: str) -> str:
    """A line of explanation."""
    return f'<p class="caption">{escape(text)}</p>'


def facts(values: dict[str, Any]) -> str:
    """Nested texts and numbers as a list of terms; empty values are left out."""
    items = []
    for key, value in values.items():
        shown = _fact(value)
        if shown:
            items.append(f"<div><dt>{escape(_spaced(key))}</dt><dd>{shown}</dd></div>")
    return f"<dl>{''.join(items)}</dl>" if items else ""


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return facts(value)
    if isinstance(value, list | tuple):
        return escape(", ".join(str(v) for v in value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None or value == "" else escape(str(value))


def _spaced(key: Any) -> str:
    return str(key).replace("_", " ")


def _heading(name: str, numeric: bool, sortable: bool) -> str:
    side = ' class="number"' if numeric else ""
    text = f'<button type="button">{escape(name)}</button>' if sortable else escape(name)
    return f'<th scope="col"{side}>{text}</th>'


def _cell(cell: Cell | str, index: int, kind: str) -> str:
    cell = Cell(cell) if isinstance(cell, str) else cell
    side = f' class="{kind}"' if kind else ""
    key = "" if cell.value is None else f' data-value="{escape(str(cell.value))}"'
    tag, scope = ("th", ' scope="row"') if index == 0 else ("td", "")
    return f"<{tag}{scope}{side}{key}>{cell.html or escape(cell.text)}</{tag}>"
