"""What channel pruning did, as data and as a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

__all__ = ["ChannelReport", "ChannelRow"]


@dataclass(frozen=True)
class ChannelRow:
    """A group of channels that stay or go together.

    Args:
        name: of the first layer that gives them.
        given_by: names of all layers that give them.
        channels_before, channels_after: of that layer.
        macs_before, macs_after: multiplications for one image, of all layers that give or read them. (A layer between
            two groups counts in both.)
        ms_before, ms_after: milliseconds of the same layers as native kernels, one image; None: not measured.
        why: what keeps all of them in the model; empty if they may go.
    """

    name: str
    given_by: tuple[str, ...]
    channels_before: int
    channels_after: int
    macs_before: int
    macs_after: int
    ms_before: float | None = None
    ms_after: float | None = None
    why: str = ""


@dataclass
class ChannelReport:
    """Every group in the order of the layers. Iterating gives the rows.

    Args:
        rows: of the groups.
        macs_before, macs_after: multiplications of the whole network for one image of the example's size.
        parameters_before, parameters_after: of the whole model.
        ms_before, ms_after: milliseconds of all convolutions and linear layers as native int8 kernels, one image, each
            measured by itself; None: not measured.
    """

    rows: list[ChannelRow] = field(default_factory=list)
    macs_before: int = 0
    macs_after: int = 0
    parameters_before: int = 0
    parameters_after: int = 0
    ms_before: float | None = None
    ms_after: float | None = None

    def __iter__(self) -> Iterator[ChannelRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def to_dict(self) -> dict:
        """Rows and totals as JSON can hold them."""
        return {
            "rows": [asdict(row) | {"given_by": list(row.given_by)} for row in self.rows],
            **{key: value for key, value in vars(self).items() if key != "rows"},
        }

    def __str__(self) -> str:
        shown = [row for row in self.rows if row.channels_after < row.channels_before]
        width = max((len(row.name) for row in shown), default=0)
        lines = [
            f"{row.name:<{width}}  {row.channels_before:>5} -> {row.channels_after:<5}  "
            f"{row.macs_before / 1e6:9.2f} -> {row.macs_after / 1e6:9.2f} million MACs"
            f"{_ms(row.ms_before, row.ms_after)}"
            for row in shown
        ]
        stay = sum(row.channels_after == row.channels_before for row in self.rows)
        lines.append(
            f"{len(shown)} groups are smaller, {stay} are unchanged; {self.macs_before / 1e6:.2f} -> "
            f"{self.macs_after / 1e6:.2f} million MACs, {self.parameters_before:,} -> "
            f"{self.parameters_after:,} parameters{_ms(self.ms_before, self.ms_after)}"
        )
        return "\n".join(lines)


def _ms(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f", {before:.3f} -> {after:.3f} ms"
