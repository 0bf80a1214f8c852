"""How many units of each group stay, so that a network costs no more than a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kdnative.prune.channels.groups import Group
from kdnative.prune.channels.layers import Layer, Layers

__all__ = ["Choice", "Cost", "choose_all_alike", "choose_shares", "choose_worst_first"]

Cost = Callable[[Layer, int, int], float]
"""What a layer costs with so many channels of inputs and outputs."""

_LEAST = 0.125
"""The share of a group that stays in any case: a layer without channels can't be trained back."""

_CROWDING = 2
"""Scores say what a channel is worth among all others. The fewer are left, the more each of them has to do, so scores
grow with this power of (all / left). Without it (0) the layers that save most are drained first, and more is lost."""


@dataclass
class Choice:
    """How many units of each group stay, and what the network costs then.

    Args:
        groups: those that may lose units.
        cost: of a layer.
        round_to: widths are multiples of it; None: of 16, or of 8 for a group of up to 32 channels.
        kept: units of each group.
    """

    layers: Layers
    groups: Sequence[Group]
    cost: Cost
    round_to: int | None
    kept: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.kept = [len(group.units) for group in self.groups]
        count = len(self.layers.layers)
        self._inputs = [len(layer.inputs) for layer in self.layers.layers]
        self._outputs = [len(layer.outputs) for layer in self.layers.layers]
        self._costs = [self._cost(number, 0, 0) for number in range(count)]

    @property
    def total(self) -> float:
        """Cost of the network."""
        return sum(self._costs)

    def set(self, group: int, units: int) -> None:
        """Keep so many units of a group."""
        gone = self.kept[group] - units
        for number, (inputs, outputs) in self._widths(group).items():
            self._inputs[number] -= gone * inputs
            self._outputs[number] -= gone * outputs
            self._costs[number] = self._cost(number, 0, 0)
        self.kept[group] = units

    def saved(self, group: int, units: int) -> float:
        """How much less the network costs with fewer units of a group."""
        gone = self.kept[group] - units
        return sum(
            self._costs[number] - self._cost(number, gone * inputs, gone * outputs)
            for number, (inputs, outputs) in self._widths(group).items()
        )

    def step(self, group: int) -> int:
        """Units that fill whole tiles."""
        width, channels = self.groups[group].width, self.groups[group].channels
        tile = (8 if channels <= 32 else 16) if self.round_to is None else self.round_to
        return tile // math.gcd(tile, width)

    def least(self, group: int) -> int:
        """Units that stay in any case."""
        units, step = len(self.groups[group].units), self.step(group)
        return min(max(math.ceil(units * _LEAST / step), 1) * step, units)

    def below(self, group: int, units: float) -> int:
        """The largest number of units up to ``units`` that fills whole tiles, or the least that may stay."""
        step = self.step(group)
        return max(math.floor(units / step) * step, self.least(group))

    def _widths(self, group: int) -> dict[int, tuple[int, int]]:
        """Channels of inputs and outputs that a unit has in each layer."""
        found = self.groups[group]
        return {number: (found.reads.get(number, 0), found.gives.get(number, 0)) for number in found.layers}

    def _cost(self, number: int, fewer_inputs: int, fewer_outputs: int) -> float:
        layer = self.layers.layers[number]
        return self.cost(layer, self._inputs[number] - fewer_inputs, self._outputs[number] - fewer_outputs)


def ascending(groups: Sequence[Group], scores: Tensor) -> list[Tensor]:
    """For each group its scores from the smallest up, float64."""
    return [scores[torch.tensor(group.units)].sort().values for group in groups]


def choose_worst_first(choice: Choice, scores: Tensor, budget: float, per_cost: bool) -> bool:
    """Takes units away wherever they matter least, until the budget is met; whether it could be.

    Args:
        per_cost: scores are comparable between groups, and what counts is the score for the cost that is saved. Else
            they are relative to the mean of their group, and what counts is the mean score of what goes.
    """
    sums = []
    for values in ascending(choice.groups, scores):
        mean = values.mean()
        relative = values if per_cost or mean == 0 else values / mean
        sums.append([0.0, *relative.cumsum(0).tolist()])
    touching: dict[int, list[int]] = {}
    for index, group in enumerate(choice.groups):
        for number in group.layers:
            touching.setdefault(number, []).append(index)
    candidates = {index: _next(choice, index, sums[index], per_cost) for index in range(len(choice.groups))}
    while choice.total > budget:
        possible = [(found[0], index, found[1]) for index, found in candidates.items() if found is not None]
        if not possible:
            return False
        _, index, units = min(possible)
        choice.set(index, units)
        for number in choice.groups[index].layers:
            for other in touching[number]:
                candidates[other] = _next(choice, other, sums[other], per_cost)
    return True


def _next(choice: Choice, group: int, sums: list[float], per_cost: bool) -> tuple[float, int] | None:
    """What to take next from a group: how much it matters, and how many units are left then."""
    kept, whole = choice.kept[group], len(choice.groups[group].units)
    best: tuple[float, int] | None = None
    units = kept
    for _ in range(2):  # one tile may save nothing that two do
        if units <= choice.least(group):
            break
        units = choice.below(group, units - 1)
        saved = choice.saved(group, units)
        if saved > 0:
            lost = (sums[whole - units] - sums[whole - kept]) * (whole / kept) ** _CROWDING
            worth = lost / saved if per_cost else lost / (kept - units)
            best = min(best or (worth, units), (worth, units))
    return best


def choose_all_alike(choice: Choice, budget: float) -> bool:
    """Takes about the same share of every group, as small a one as meets the budget; whether one does."""
    for share in range(1, 101):
        # From the last layers on: the first ones have the fewest channels to spare.
        for index in reversed(range(len(choice.groups))):
            units = choice.below(index, len(choice.groups[index].units) * (1 - share / 100))
            if units < choice.kept[index] and choice.saved(index, units) > 0:
                choice.set(index, units)
                if choice.total <= budget:
                    return True
    return False


def choose_shares(choice: Choice, shares: Mapping[int, float]) -> None:
    """Takes a share of each of some groups, rounded to the nearest width."""
    for index, share in shares.items():
        units, step = len(choice.groups[index].units), choice.step(index)
        rounded = math.floor(units * (1 - share) / step + 0.5) * step
        choice.set(index, min(max(rounded, choice.least(index)), units))
