"""What accesses cost beside the least they could: bank cycles of shared memory, 32-byte sectors of global memory."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np

SECTOR = 32
_BANKS = 32


@dataclass
class Cost:
    """Of one kind of access: requests of warps, what they cost (bank cycles, or sectors), and the least possible."""

    requests: int = 0
    cost: int = 0
    ideal: int = 0

    @property
    def ratio(self) -> float:
        """Cost to ideal: 1 is the best; also where there was nothing."""
        return self.cost / self.ideal if self.ideal else 1.0


@dataclass
class Costs:
    """Instructions executed (once for each warp that has a lane in them) and costs by kind of access."""

    instructions: Counter[str] = field(default_factory=Counter)
    shared: defaultdict[str, Cost] = field(default_factory=lambda: defaultdict(Cost))
    loads: defaultdict[str, Cost] = field(default_factory=lambda: defaultdict(Cost))
    stores: defaultdict[str, Cost] = field(default_factory=lambda: defaultdict(Cost))

    def note_shared(self, what: str, at: np.ndarray, lanes: np.ndarray, size: int) -> None:
        """One instruction's accesses of shared memory: those of 16 bytes go in four parts, those of 8 in two."""
        lanes_together = {16: 8, 8: 16}.get(size, 32)
        part = lanes // lanes_together
        words = at[:, None] // 4 + np.arange(max(size // 4, 1))
        distinct = np.unique(part[:, None].astype(np.int64) << 32 | words)
        parts, place = np.unique(distinct >> 32, return_inverse=True)
        load = np.bincount(place * _BANKS + distinct % _BANKS, minlength=len(parts) * _BANKS).reshape(-1, _BANKS)
        entry = self.shared[what]
        entry.requests += len(np.unique(lanes // 32))
        entry.cost += int(load.max(1).sum())
        # No order of its lanes can do better than all its words spread over all banks.
        entry.ideal += int((-(-load.sum(1) // _BANKS)).sum())

    def note_global(self, what: str, at: np.ndarray, lanes: np.ndarray, size: int, store: bool) -> None:
        """One instruction's accesses of global memory, whose addresses are multiples of ``size``."""
        warps = (lanes // 32).astype(np.int64) << 48
        addresses = at.astype(np.int64)
        entry = (self.stores if store else self.loads)[what]
        entry.requests += len(np.unique(warps))
        entry.cost += len(np.unique(warps | addresses // SECTOR))
        distinct = np.unique(warps | addresses) >> 48
        entry.ideal += int((-(-np.bincount(distinct) * size // SECTOR)).sum())

    @property
    def bank_ratio(self) -> float:
        """Bank cycles of all accesses of shared memory, to the least possible."""
        return total(self.shared.values()).ratio

    @property
    def sector_ratio(self) -> float:
        """Sectors of all accesses of global memory, to the least possible."""
        return total([*self.loads.values(), *self.stores.values()]).ratio

    @property
    def bytes_loaded(self) -> int:
        """Bytes of the sectors read from global memory, as if there were no cache."""
        return SECTOR * total(self.loads.values()).cost

    @property
    def bytes_stored(self) -> int:
        """Bytes of the sectors written to global memory."""
        return SECTOR * total(self.stores.values()).cost


def total(costs) -> Cost:
    """The sum of several costs."""
    costs = list(costs)
    return Cost(sum(c.requests for c in costs), sum(c.cost for c in costs), sum(c.ideal for c in costs))
