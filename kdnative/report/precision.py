"""The section about mixed precision: what each layer loses in which scheme, which one it got, and the tests of that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdnative.formats.scheme import Scheme
from kdnative.report import words
from kdnative.report.charts import Bar, bar_chart
from kdnative.report.read import Run
from kdnative.report.tables import Cell, caption, details, table

_MOST_BARS = 40


def precision(run: Run) -> str | None:
    """Of every stage that converted with a gate."""
    return "".join(_gate(found["gate"]) for found in run.metrics.values() if found.get("gate")) or None


def _gate(gate: Mapping[str, Any]) -> str:
    about = "" if gate.get("exact", True) else " (approximate, because the metric is a mean)"
    said = (
        f"Budget: {gate['words']} at most {gate['max_drop']:g} with {_confidence(gate)} confidence{about}. "
        f"Layers were ranked and schemes chosen on {words.counted(gate['chosen_on'], 'example')}; each "
        f"conversion was tested on {words.counted(gate['certified_on'], 'other example')}, in ascending order "
        "of expected loss, until one was not shown to be within the budget."
    )
    layers = gate["layers"]
    bars = _bars(layers)
    chart = f"<figure>{bars}</figure>" if bars else ""
    return caption(said) + _trials(gate) + chart + details("Layers as a table", _layers(layers)) + _parts(gate)


def _trials(gate: Mapping[str, Any]) -> str:
    lines = []
    for trial in gate["trials"]:
        shares = ", ".join(f"{words.percent(share, 0)} {name}" for name, share in trial["shares"].items())
        lines.append(
            [
                Cell(shares),
                Cell(words.megabytes(trial["bytes"]), trial["bytes"]),
                Cell(_loss(trial["drop"]), trial["drop"]),
                Cell(_loss(trial["bound"]), trial["bound"]),
                Cell("within budget" if trial["passed"] else "not shown"),
            ]
        )
    returned = [number for number, trial in enumerate(gate["trials"]) if trial["passed"]][-1:]
    columns = ["weights by scheme", "weights, MB", "measured drop", "drop is below", "verdict"]
    title = "Conversions in the order of their tests; the last one within the budget was chosen"
    return table(title, columns, lines, numeric=(1, 2, 3), sortable=False, emphasised=returned)


def _schemes(layers: list[dict[str, Any]]) -> list[str]:
    """All schemes, from the fewest bits up."""

    def bits(name: str) -> tuple[float, int, str]:
        scheme = Scheme.parse(name)
        return scheme.weight_bits, scheme.activation_bits, name

    return sorted({scheme for layer in layers for scheme in layer["losses"]}, key=bits)


def _bars(layers: list[dict[str, Any]]) -> str:
    """The loss of each layer in the scheme of fewest bits that it may get, coloured by the scheme that it got.

    Empty where none of them is finite.
    """
    schemes = _schemes(layers)
    colours = {scheme: number % 6 for number, scheme in enumerate([*schemes, "float"])}
    bars = []
    for layer in layers:
        coarsest = next(scheme for scheme in schemes if scheme in layer["losses"])
        loss = layer["losses"][coarsest]
        if loss is None:
            continue
        got = layer["scheme"]
        text = f"{loss:.2e}, got {got or words.DASH}"
        bars.append(Bar(layer["layer"], loss, text, colours.get(got, 6), f"{layer['layer']}: {loss:.2e} in {coarsest}"))
    if not bars:
        return ""
    bars.sort(key=lambda bar: -bar.value)
    return bar_chart(
        "Loss of each layer in the scheme with the fewest bits, and the chosen scheme",
        f"Loss at the model's output when a single group of layers is in {schemes[0]}, or in the allowed "
        f"scheme with the fewest bits. The most sensitive groups come first, at most {_MOST_BARS}. The colour "
        "shows the chosen scheme.",
        bars[:_MOST_BARS],
    )


def _layers(layers: list[dict[str, Any]]) -> str:
    schemes = _schemes(layers)
    lines = [
        [
            Cell(layer["layer"]),
            Cell(words.millions(layer["weights"]), layer["weights"]),
            *(Cell(_loss(layer["losses"].get(scheme)), layer["losses"].get(scheme)) for scheme in schemes),
            Cell(layer["scheme"] or words.DASH),
        ]
        for layer in layers
    ]
    columns = ["layer", "weights", *(f"loss in {scheme}" for scheme in schemes), "got"]
    return table("Loss of each layer alone", columns, lines, numeric=range(1, 2 + len(schemes)))


def _parts(gate: Mapping[str, Any]) -> str:
    """The drop of the returned model by class and slice."""
    found = {**gate.get("per_class", {}), **gate.get("per_slice", {})}
    if not found:
        return ""
    lines = [
        [
            Cell(name),
            Cell(_loss(part["value"]), part["value"]),
            Cell(f"{_loss(part['low'])} – {_loss(part['high'])}"),
            Cell(f"{part['n']:,}", part["n"]),
        ]
        for name, part in found.items()
    ]
    columns = ["part", "drop", f"{_confidence(gate)} interval", "examples"]
    return table("The drop in slices of the test examples", columns, lines, numeric=(1, 2, 3))


def _confidence(gate: Mapping[str, Any]) -> str:
    """With all its digits, as ``99.5 %``."""
    return f"{100 * gate['confidence']:.6g} %"


def _loss(value: float | None) -> str:
    return words.DASH if value is None else f"{value:.3g}"
