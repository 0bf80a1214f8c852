"""Groups of channels that the same layers give and read: they differ in nothing but their weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from kdnative.prune.channels.layers import Layers

__all__ = ["Group", "find_groups"]


@dataclass(frozen=True, eq=False)
class Group:
    """Units that can go one by one, each with all that depends on it.

    Mostly a unit is one channel of each layer. Where a convolution has groups, it is a whole group.

    Args:
        name: of the first layer that gives its channels.
        given_by: names of all layers that give them.
        units: the number that stands for each unit, ascending.
        width: channels of a unit in the layer of `name`.
        gives, reads: channels that each unit has among the results and the inputs of layers, by the layer's number.
        why: what keeps its units in the model; empty if they may go.
    """

    name: str
    given_by: tuple[str, ...]
    units: tuple[int, ...]
    width: int
    gives: dict[int, int]
    reads: dict[int, int]
    why: str

    @property
    def channels(self) -> int:
        """Of the layer of `name`."""
        return len(self.units) * self.width

    @property
    def layers(self) -> tuple[int, ...]:
        """Numbers of the layers whose cost depends on it."""
        return tuple(sorted({*self.gives, *self.reads}))


def find_groups(layers: Layers) -> list[Group]:
    """Every group, those that have to stay among them, in the order of the layers."""
    why: dict[int, str] = {}
    for number, reason in layers.why.items():
        why.setdefault(layers.find(number), reason)
    uses: dict[int, list[tuple[int, bool, int]]] = {}
    for number, layer in enumerate(layers.layers):
        for gives, channels in ((True, layer.outputs), (False, layer.inputs)):
            for unit, count in Counter(map(layers.find, channels)).items():
                uses.setdefault(unit, []).append((number, gives, count))
    alike: dict[tuple, list[int]] = {}
    for unit in sorted(uses):
        alike.setdefault((*uses[unit], why.get(unit, "")), []).append(unit)
    groups = []
    for (*used, reason), units in alike.items():
        gives = {number: count for number, is_given, count in used if is_given}
        reads = {number: count for number, is_given, count in used if not is_given}
        if not gives:  # the images
            continue
        first = min(gives)
        given_by = tuple(layers.layers[number].name for number in gives if not _passes(layers, number))
        name = given_by[0] if given_by else layers.layers[first].name
        groups.append(Group(name, given_by, tuple(units), gives[first], gives, reads, reason))
    return sorted(groups, key=lambda group: (min(group.gives), group.units))


def _passes(layers: Layers, number: int) -> bool:
    """Whether a layer gives the channels that it reads: depthwise, or a normalization."""
    layer = layers.layers[number]
    return layer.outputs == layer.inputs
