"""The native modules of a plan: weights are quantized and packed here, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import nn

from kdnative.convert.deciding import full_name
from kdnative.convert.plan import Decision, Plan, Region, nothing_converted
from kdnative.convert.refusals import Refusal, held_elsewhere, not_finite
from kdnative.convert.registry import Native, converter_of, region_converter_named
from kdnative.convert.weights import Weights
from kdnative.formats.weight import QuantizedWeight
from kdnative.nn.tree import walk
from kdnative.patterns import within

__all__ = ["Built", "build"]


@dataclass
class Built:
    """Native modules, and what a report needs to know of them.

    Args:
        replacements: what takes the place of a module, by its name.
        natives: of the modules that became native by themselves.
        part_bytes: of the parts of regions, their share in the operator's bytes.
    """

    replacements: dict[str, nn.Module] = field(default_factory=dict)
    natives: dict[str, Native] = field(default_factory=dict)
    part_bytes: dict[str, int] = field(default_factory=dict)


def build(
    plan: Plan,
    model: nn.Module,
    *,
    weights: Mapping[str, QuantizedWeight] | None = None,
    clip_search: bool = False,
    rows: int = 32,
) -> Built:
    """Quantize and pack what a plan says.

    Args:
        plan: from :func:`kdnative.convert.decide`, for this model or one of the same structure.
        model: with values; not changed.
        weights, clip_search, rows: as for :func:`kdnative.convert_`.

    Raises:
        ValueError: a weight is NaN or infinite (the text lists all); a sparse scheme was asked for by name and the
            weight's zeros do not fit it; the plan is of another model.
    """
    modules = dict(walk(model))
    for decision in plan.decisions:
        if decision.name not in modules or type(modules[decision.name]).__name__ != decision.kind:
            raise ValueError(
                f"the plan was made for another model, which has a {decision.kind} named {decision.name!r}"
            )
    builder = _Builder(plan, modules, Weights(weights or {}, clip_search, rows))
    try:
        return builder.build()
    except ValueError:
        # Weights are looked at once, while they are quantized; what is wrong with all of them is found out only now.
        if refused := dict(builder.not_finite()):
            raise ValueError(nothing_converted(refused)) from None
        raise


class _Builder:
    def __init__(self, plan: Plan, modules: Mapping[str, nn.Module], weights: Weights) -> None:
        self.plan, self.modules, self.weights, self.built = plan, modules, weights, Built()
        self.names = {id(module): name for name, module in modules.items()}
        self.held = held_elsewhere(modules)
        self.decisions = {decision.name: decision for decision in plan.decisions}

    def build(self) -> Built:
        for region in self.plan.regions:
            self._region(region)
        for decision in self.plan.decisions:
            if decision.action == "converted":
                self._layer(decision)
            elif decision.action == "kept":
                self._kept(decision)
        return self.built

    def not_finite(self) -> Iterator[tuple[str, Refusal]]:
        """Layers that were to be packed, and have values that no scheme can hold."""
        for name, decision in self.decisions.items():
            converter = converter_of(self.modules[name])
            if converter is not None and (decision.scheme is not None or decision.action == "fused"):
                if why := not_finite(converter.layer(self.modules[name])):
                    yield name, why

    def _layer(self, decision: Decision) -> None:
        module = self.modules[decision.name]
        converter = converter_of(module)
        if converter is None:
            raise ValueError(f"the converter for {decision.name!r} is no longer registered")
        native = converter.build(module, decision, self.weights)
        self.built.natives[decision.name] = native
        self.built.replacements[decision.name] = native.module

    def _kept(self, decision: Decision) -> None:
        module = self.modules[decision.name]
        converter = converter_of(module)
        if converter is None:
            return
        if decision.scheme is not None and not_finite(converter.layer(module)):
            raise ValueError(f"{decision.name} holds NaN or infinite values")
        if id(module) not in self.held and (plain := converter.in_float(module)) is not None:
            self.built.replacements[decision.name] = plain

    def _region(self, region: Region) -> None:
        converter, used = region_converter_named(region.converter), {}
        own = {name: self.modules[name] for name in region.modules}

        def weight_of(inner: str, linear: nn.Linear) -> QuantizedWeight:
            name = full_name(self.names, region.root, inner, linear)
            used[name] = self.weights.of(name, linear, self.decisions[name].planned)
            return used[name]

        self.built.replacements[region.root] = converter.build(region, own, weight_of)
        for name in region.modules:
            if name != region.root and name in self.decisions:
                alone = converter_of(own[name])
                part = own[name] if alone is None else alone.layer(own[name])
                self.built.part_bytes[name] = converter.bytes_of(name, part, used.get(name))
            if not within(name, region.root):
                self.built.replacements[name] = nn.Identity()
