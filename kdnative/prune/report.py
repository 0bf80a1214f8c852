"""What pruning did to every layer, as data and as a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

__all__ = ["PruneReport", "PruneRow"]


@dataclass(frozen=True)
class PruneRow:
    """One layer.

    Args:
        name: its path in the model before pruning.
        what: "mask" (zeros in place), "heads", "ffn" or "layer" (really smaller); "shared" (left alone, since another
            module holds the weight too).
        shape_before, shape_after: of the weight [out, in]; None for a whole layer, and after its removal.
        parameters_before, parameters_after: for masks of the weight alone, counting after only those that are kept.
    """

    name: str
    what: str
    shape_before: list[int] | None
    shape_after: list[int] | None
    parameters_before: int
    parameters_after: int

    @property
    def sparsity(self) -> float:
        """The share of parameters that is gone, 0 to 1; 0 for a layer without parameters."""
        return 1.0 - self.parameters_after / self.parameters_before if self.parameters_before else 0.0


@dataclass
class PruneReport:
    """Every pruned layer in the order of the model. Iterating gives the rows."""

    rows: list[PruneRow] = field(default_factory=list)

    def __iter__(self) -> Iterator[PruneRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def parameters_before(self) -> int:
        return sum(row.parameters_before for row in self.rows)

    @property
    def parameters_after(self) -> int:
        return sum(row.parameters_after for row in self.rows)

    @property
    def sparsity(self) -> float:
        """The share of the listed layers' parameters that is gone, 0 to 1."""
        return 1.0 - self.parameters_after / self.parameters_before if self.parameters_before else 0.0

    def to_dict(self) -> dict:
        """Rows and totals as JSON can hold them."""
        return {
            "rows": [{**asdict(row), "sparsity": row.sparsity} for row in self.rows],
            "parameters_before": self.parameters_before,
            "parameters_after": self.parameters_after,
            "sparsity": self.sparsity,
        }

    def __str__(self) -> str:
        if not self.rows:
            return "nothing was pruned"
        width = max(len(row.name) for row in self.rows)
        lines = [
            f"{row.name:<{width}}  {row.what:<6}  {_shape(row.shape_before):>11} -> {_shape(row.shape_after):<11}"
            f"{row.parameters_before:>12,} -> {row.parameters_after:>11,}  {row.sparsity:6.1%}"
            for row in self.rows
        ]
        total = f"{self.parameters_before:,} -> {self.parameters_after:,} parameters ({self.sparsity:.1%} removed)"
        return "\n".join([*lines, total])


def _shape(shape: list[int] | None) -> str:
    return "-" if shape is None else "x".join(map(str, shape))
