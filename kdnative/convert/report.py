"""What `convert_` did with every module, as data and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn

from kdnative.convert.building import Built
from kdnative.convert.plan import Decision, Plan
from kdnative.convert.registry import converter_of
from kdnative.convert.sizes import bytes_of, native_shape, own_tensors

__all__ = ["ConversionReport", "ConversionRow", "report_rows"]


@dataclass(frozen=True)
class ConversionRow:
    """One module.

    Args:
        name: its path in the model; "" is the model itself.
        kind: class of the original module.
        action: "converted" (it has a native module now), "fused" (part of a fused encoder, or that encoder) or "kept".
        scheme: of the native weights, "int8" for embedding tables, None where nothing was quantized.
        reason: why, in words.
        shape: of the weight, None where there is no single one.
        bytes_before: of the module's own tensors, in memory. A tensor that two modules share counts once.
        bytes_after: the same, now. For a fused encoder's parts their share of its buffer, and for the encoder itself
            what remains, so that sums over the rows are right.
        method: that chose the weight, where calibration or ``method=`` did.
    """

    name: str
    kind: str
    action: str
    scheme: str | None
    reason: str
    shape: list[int] | None
    bytes_before: int
    bytes_after: int
    method: str | None = None


@dataclass
class ConversionReport:
    """Every module with parameters, in the order of the model.

    ``model`` is the converted model, the object given to `convert_`; ``gate`` what a gate found, if there was one
    (:class:`kdnative.precision.GateReport`).
    """

    model: nn.Module
    rows: list[ConversionRow] = field(default_factory=list)
    gate: Any = None

    @property
    def totals(self) -> dict[str, int]:
        """Number of modules per action, and bytes of all tensors in memory before and after."""
        actions = Counter(row.action for row in self.rows)
        return {
            **{action: actions[action] for action in ("converted", "fused", "kept")},
            "bytes_before": sum(row.bytes_before for row in self.rows),
            "bytes_after": sum(row.bytes_after for row in self.rows),
        }

    def to_dict(self) -> dict[str, Any]:
        """Rows and totals as JSON can hold them (without the model)."""
        found = {"rows": [asdict(row) for row in self.rows], "totals": self.totals}
        return found if self.gate is None else {**found, "gate": self.gate.to_dict()}

    def __str__(self) -> str:
        header = ("module", "kind", "shape", "action", "scheme", "kB before", "kB after", "reason")
        lines = [header]
        for row in self.rows:
            shape = "" if row.shape is None else "x".join(map(str, row.shape))
            sizes = (f"{row.bytes_before / 1e3:.1f}", f"{row.bytes_after / 1e3:.1f}")
            lines.append((row.name or "(model)", row.kind, shape, row.action, row.scheme or "-", *sizes, row.reason))
        widths = [max(len(line[i]) for line in lines) for i in range(len(header) - 1)]
        table = "\n".join(_aligned(line, widths) for line in lines)
        t = self.totals
        ratio = f" ({t['bytes_before'] / t['bytes_after']:.1f}x smaller)" if t["bytes_after"] else ""
        return (
            f"{table}\n{t['converted']} converted, {t['fused']} fused, {t['kept']} kept; "
            f"{t['bytes_before'] / 1e6:.2f} MB before, {t['bytes_after'] / 1e6:.2f} MB after{ratio}"
        )


def _aligned(line: tuple[str, ...], widths: list[int]) -> str:
    cells = [cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=True)]
    cells[5:7] = [cell.strip().rjust(width) for cell, width in zip(cells[5:7], widths[5:7], strict=True)]  # sizes
    return "  ".join([*cells, line[-1]]).rstrip()


def report_rows(
    plan: Plan, built: Built, modules: Mapping[str, nn.Module], methods: Mapping[str, str]
) -> list[ConversionRow]:
    """One row for each decision, in the order of the plan.

    Args:
        plan, built: of the conversion.
        modules: those before the conversion.
        methods: of the layers that were calibrated.
    """
    counted: set[int] = set()  # tensors whose bytes are in a row already: those of fused encoders go first
    rows: dict[str, ConversionRow] = {}
    for first in (True, False):
        for decision in plan.decisions:
            if (decision.action == "fused") == first:
                row = _row(decision, plan, built, modules, counted)
                if (method := methods.get(decision.name)) is not None:
                    row = replace(row, method=method, reason=f"{row.reason}; weights by {method}")
                rows[decision.name] = row
    return [rows[decision.name] for decision in plan.decisions]


def _row(
    decision: Decision, plan: Plan, built: Built, modules: Mapping[str, nn.Module], counted: set[int]
) -> ConversionRow:
    name, module = decision.name, modules[decision.name]
    converter, native = converter_of(module), built.natives.get(name)
    own = [t for t in own_tensors(module) if id(t) not in counted]
    before = after = bytes_of(own)
    scheme, reason = None, decision.note
    if native is not None:
        new = own_tensors(native.module) if native.tensors is None else native.tensors
        new = [t for t in new if id(t) not in counted]
        counted.update(map(id, new))
        scheme, reason, after = native.scheme, native.reason + decision.note, bytes_of(new)
    elif decision.action == "kept":
        reason = str(decision.refusal)
    else:
        if decision.scheme is not None and converter is not None:
            scheme = converter.label(decision.scheme)
        after = _fused_bytes(name, plan, built)
    counted.update(map(id, own))
    layer = module if converter is None else converter.layer(module)
    weight = layer._parameters.get("weight")  # of a native module `weight` is lazy
    shape = native_shape(module) if weight is None else list(weight.shape)
    return ConversionRow(name, decision.kind, decision.action, scheme, reason, shape, before, after)


def _fused_bytes(name: str, plan: Plan, built: Built) -> int:
    """Of a part its share in the operator; of the module that the operator replaces, what remains of it."""
    region = next((region for region in plan.regions if region.root == name), None)
    if region is None:
        return built.part_bytes[name]
    operator = built.replacements[name]
    whole = bytes_of((*operator.parameters(), *operator.buffers()))
    return max(whole - sum(built.part_bytes.get(part, 0) for part in region.modules), 0)
