"""What `convert_` did with every module, as data and as a table."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field

from torch import nn

__all__ = ["ConversionReport", "ConversionRow"]


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
    """

    name: str
    kind: str
    action: str
    scheme: str | None
    reason: str
    shape: list[int] | None
    bytes_before: int
    bytes_after: int


@dataclass
class ConversionReport:
    """Every module with parameters, in the order of the model.

    ``model`` is the converted model, the object given to `convert_`.
    """

    model: nn.Module
    rows: list[ConversionRow] = field(default_factory=list)

    @property
    def totals(self) -> dict[str, int]:
        """Number of modules per action, and bytes of all tensors in memory before and after."""
        actions = Counter(row.action for row in self.rows)
        return {
            **{action: actions[action] for action in ("converted", "fused", "kept")},
            "bytes_before": sum(row.bytes_before for row in self.rows),
            "bytes_after": sum(row.bytes_after for row in self.rows),
        }

    def to_dict(self) -> dict:
        """Rows and totals as JSON can hold them (without the model)."""
        return {"rows": [asdict(row) for row in self.rows], "totals": self.totals}

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
