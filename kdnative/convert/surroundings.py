"""What is around a module: everything that a decision may look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from kdnative.convert.plan import Networks
from kdnative.convert.refusals import Refusal, bypassed, held_elsewhere, owners_of, storage
from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight
from kdnative.nn.tree import walk
from kdnative.patterns import Choice, Selection, within

__all__ = ["Site", "Surroundings"]


@dataclass(frozen=True)
class Surroundings:
    """A model and what is wanted of it.

    Args:
        modules: every module by its name, outermost first, without the inside of native ones.
        selection: the schemes that were asked for.
        embeddings: 8, or None where tables stay in float.
        values: whether every weight must have values.
        given: integer weights that are there already, by the names of their layers.
        held: who holds a module besides its parent, by the module's id.
        owners: the modules that hold a parameter, by its storage.
        names: of modules, by their ids.
        networks: what calibration made of convolutions; None before it.
        whole: names of encoders of torch that are to become one operator: what they read without calling it may too.
    """

    modules: Mapping[str, nn.Module]
    selection: Selection[Scheme]
    embeddings: int | None
    values: bool
    given: Mapping[str, QuantizedWeight]
    held: Mapping[int, list[str]]
    owners: Mapping[tuple[str, int], list[str]]
    names: Mapping[int, str]
    networks: Networks | None = None
    whole: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        model: nn.Module,
        selection: Selection[Scheme],
        embeddings: int | None = 8,
        values: bool = False,
        given: Mapping[str, QuantizedWeight] | None = None,
        networks: Networks | None = None,
    ) -> Surroundings:
        modules = dict(walk(model))
        names = {id(module): name for name, module in modules.items()}
        held, owners = held_elsewhere(modules), owners_of(modules)
        return cls(modules, selection, embeddings, values, given or {}, held, owners, names, networks)

    def site(self, name: str) -> Site:
        return Site(name, self.modules[name], self.selection.choose(name), self)


@dataclass(frozen=True)
class Site:
    """A module in its model.

    Args:
        name: its path; "" is the model itself.
        module: itself, which nobody may change.
        choice: the scheme that was asked for.
        around: the model.
    """

    name: str
    module: nn.Module
    choice: Choice[Scheme]
    around: Surroundings

    @property
    def parent(self) -> nn.Module | None:
        """The module that contains it; None for the model itself."""
        return self.around.modules[self.name.rpartition(".")[0]] if self.name else None

    def bypassed(self) -> Refusal | None:
        """Why a native module in this place might not be called, or its weight be read instead."""
        own, parent = self.name.rpartition(".")[2], self.parent
        if why := bypassed(own, self.module, parent, self.around.held):
            return why
        if isinstance(parent, nn.TransformerEncoderLayer) and not self.in_whole_encoder():
            if parent.activation_relu_or_gelu or isinstance(self.module, nn.MultiheadAttention):
                return Refusal("nn.TransformerEncoderLayer reads this weight directly in its fast path")
        return None

    def in_whole_encoder(self) -> bool:
        """Whether it is in an encoder of torch that is to become one operator."""
        return any(within(self.name, encoder) for encoder in self.around.whole)

    def with_given(self, scheme: Scheme) -> Scheme:
        """What a scheme becomes by the weight that the layer is given: one with input scales, where it brings these."""
        weight = self.around.given.get(self.name)
        brings = getattr(weight, "input_scale", None) is not None  # whether it is a weight at all is checked later
        return scheme.with_input_scales() if brings else scheme

    def others_with(self, layer: nn.Module) -> list[str]:
        """The other modules that hold the weight of ``layer``, which is this module or stands for it."""
        return [other for other in self.around.owners.get(storage(layer.weight), ()) if other != self.name]
