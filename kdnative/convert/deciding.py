"""What would become of a model: nothing is built or quantized, and the model stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from torch import nn

from kdnative.convert.fuse import refusal
from kdnative.convert.last_parameter import linears_to_keep
from kdnative.convert.layers import LinearConverter, needs_ranges
from kdnative.convert.plan import Decision, Networks, Plan, Region
from kdnative.convert.refusals import Refusal, check_parameters, native_already, native_in_another_scheme
from kdnative.convert.registry import (
    RegionConverter,
    answer,
    converter_of,
    region_converter_named,
    region_converter_of,
)
from kdnative.convert.sizes import own_tensors
from kdnative.convert.surroundings import Site, Surroundings
from kdnative.formats.fitting import mismatch
from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight
from kdnative.models.layer import Unsupported
from kdnative.nn.tree import NATIVE
from kdnative.ops.backends import backend_for
from kdnative.patterns import Selection, within

__all__ = ["decide"]

_NATIVE = tuple(NATIVE.values())


def decide(
    model: nn.Module,
    selection: Selection[Scheme],
    *,
    embeddings: int | None = 8,
    fuse: bool = True,
    values: bool = False,
    weights: Mapping[str, QuantizedWeight] | None = None,
    networks: Networks | None = None,
) -> Plan:
    """What :func:`kdnative.convert_` would do with a model, as data.

    It looks at types, shapes and names only: a model on the meta device gets the plan that it gets with values.

    Args:
        model: not changed.
        selection: ``Selection(schemes, keep, Scheme.parse)``, see :func:`kdnative.convert_`.
        embeddings, fuse: as there.
        values: refuse layers on the meta device, as what has no values can't be built.
        weights: integer weights that are there already; their names, shapes and schemes are checked.
        networks: what calibration made of convolutions; None: nothing, and they need ranges.

    Returns:
        The plan. What was asked for by name and can't be done is in :meth:`Plan.impossible`.

    Raises:
        ValueError: a pattern matches nothing; no kernel knows a scheme; a parameter has no shape yet, or is on a device
            that has no kernels and is not meta; ``weights`` do not fit.
    """
    check_parameters(model)
    around = Surroundings.of(model, selection, embeddings, values, weights, networks)
    selection.check_used(
        [n for n, m in around.modules.items() if converter_of(m) is not None or isinstance(m, _NATIVE)]
    )
    plan = _Planner(around, fuse).plan()
    _check_schemes(selection, plan, next((p.device.type for p in model.parameters()), "cpu"))
    _check_given(weights or {}, plan, around)
    return plan


class _Planner:
    """Goes through a model: layers by themselves, regions, and what stays for the sake of others."""

    def __init__(self, around: Surroundings, fuse: bool) -> None:
        found = {n: c for n, m in around.modules.items() if fuse and (c := region_converter_of(m)) is not None}
        candidates = {name: converter for name, converter in found.items() if converter.considers(around.site(name))}
        self.candidates: dict[str, RegionConverter] = candidates
        whole = frozenset(name for name, converter in candidates.items() if not converter.opened_by_fuse)
        self.around = replace(around, whole=whole)
        self.answers = self._answers(around.modules)
        self.regions: list[Region] = []
        self.covering: dict[str, Region] = {}
        self.unfused: dict[str, Refusal] = {}

    def plan(self) -> Plan:
        self._fuse()
        decisions = {name: decision for name in self.around.modules if (decision := self._decision(name)) is not None}
        self._keep_parameters(decisions)
        return Plan(tuple(decisions.values()), tuple(self.regions))

    def _answers(self, names: Iterable[str]) -> dict[str, Scheme | Refusal]:
        """What each layer could be by itself."""
        found = {}
        for name in names:
            module = self.around.modules[name]
            if not isinstance(module, _NATIVE) and (converter := converter_of(module)) is not None:
                found[name] = answer(converter, self.around.site(name))
        return found

    # -- regions -------------------------------------------------------------------------------------------------------

    def _fuse(self) -> None:
        """Finds what becomes one operator, outermost first."""
        done: list[str] = []
        for name, converter in self.candidates.items():
            if any(within(name, outer) for outer in done) or name in self.covering:
                continue
            found = self._region(self.around.site(name), converter)
            if found is None:
                continue
            if isinstance(found, Region):
                self.regions.append(found)
                self.covering |= dict.fromkeys(found.modules, found)
                done.append(name)
                continue
            words = f"not fused: {found.reason}; converted layer by layer instead"
            self.unfused[name] = Refusal(words, found.needs)
            self._take_apart(name)
            if not self._opens(name):
                done.append(name)

    def _region(self, site: Site, converter: RegionConverter) -> Region | Refusal | None:
        inside = [name for name in self.around.modules if within(name, site.name)]
        any_class = converter.follows_calls
        found = refusal(site, inside, self.answers, any_class) or converter.decide(site, self._schemes_in(site.name))
        if not isinstance(found, Region):
            return found
        if taken := [name for name in found.modules if name in self.covering]:
            return Refusal(f"{taken[0]} is already part of another operator")
        beside = [name for name in found.modules if name not in inside]
        return refusal(site, beside, self.answers, any_class) or found

    def _opens(self, name: str) -> bool:
        """Whether parts of what could not be fused may do better on their own."""
        inside = (c for inner, c in self.candidates.items() if inner != name and within(inner, name))
        return any(converter.tried_inside for converter in inside)

    def _schemes_in(self, root: str) -> Callable[[str, nn.Linear], Scheme]:
        def scheme_of(inner: str, linear: nn.Linear) -> Scheme:
            full = full_name(self.around.names, root, inner, linear)
            if not isinstance(linear, nn.Linear):
                raise Unsupported(f"{full} is a {type(linear).__name__}, not a plain nn.Linear")
            found = self.answers.get(full)
            if found is None:
                raise Unsupported(f"{full} is a module that the model also has under another name")
            if isinstance(found, Refusal):
                raise Unsupported(f"{full} stays in float ({found})")
            return found

        return scheme_of

    def _take_apart(self, name: str) -> None:
        """The layers of what could not be fused will be on their own."""
        inside = {inner for inner in self.around.modules if within(inner, name)}
        if self.around.whole & inside:
            self.around = replace(self.around, whole=self.around.whole - inside)
            self.answers |= self._answers(sorted(inside))

    # -- decisions -----------------------------------------------------------------------------------------------------

    def _decision(self, name: str) -> Decision | None:
        """Of a module that the report has a row for; None for others."""
        site = self.around.site(name)
        module, kind = site.module, type(site.module).__name__
        if (region := self.covering.get(name)) is not None:
            return self._fused(site, kind, region)
        if name in self.unfused and name not in self.answers:
            return Decision(name, kind, "kept", refusal=self.unfused[name])
        explicit = site.choice.explicit and site.choice.value is not None
        if isinstance(module, _NATIVE):
            asked = site.choice.value if explicit else None
            other = None if asked is None else native_in_another_scheme(module, asked)
            return Decision(name, kind, "kept", refusal=other or native_already(module), explicit=other is not None)
        if (converter := converter_of(module)) is None:
            why = Refusal(f"there is no native {kind}, so it runs in torch")
            return Decision(name, kind, "kept", refusal=why) if own_tensors(module, buffers=False) else None
        explicit = explicit and converter.asked(site).explicit
        found = self.answers[name]
        if isinstance(found, Refusal):
            return Decision(name, kind, "kept", refusal=found, explicit=explicit)
        if (slower := converter.apart(site)) is not None:
            return Decision(name, kind, "kept", found, slower)
        return Decision(name, kind, "converted", found, explicit=explicit, note=converter.note(site))

    def _fused(self, site: Site, kind: str, region: Region) -> Decision | None:
        converter, operator = converter_of(site.module), region_converter_named(region.converter)
        found = self.answers.get(site.name)
        scheme = found if isinstance(found, Scheme) and not operator.in_float(site.name, site.module) else None
        if site.name == region.root:
            note = f"the whole {operator.noun} is one native operator"
            return Decision(site.name, kind, "fused", scheme and scheme.dense, note=note)
        if not own_tensors(site.module, buffers=False):
            return None
        note = f"runs inside the fused {operator.noun} {region.root or '(model)'}"
        if scheme is not None and scheme != scheme.dense:
            apart = ": fuse=False converts layer by layer" if operator.opened_by_fuse else ""
            note += f", where weights are dense{apart}"
        if converter is not None:
            note += converter.note(site)
        return Decision(site.name, kind, "fused", scheme and scheme.dense, note=note)

    def _keep_parameters(self, decisions: dict[str, Decision]) -> None:
        """Leaves a linear in float where a model of transformers would have no parameter, and no device and dtype."""
        converted = {name for name, decision in decisions.items() if decision.action == "converted"}
        modules = self.around.modules
        free = {
            name
            for name in converted
            if isinstance(converter_of(modules[name]), LinearConverter) and not decisions[name].explicit
        }
        free = {name for name in free if not isinstance(modules[name], nn.MultiheadAttention)}
        regions = {region.root: region.keeps_parameters for region in self.regions}
        for name in linears_to_keep(modules, regions, converted, free):
            why = Refusal("transformers reads the model's device and dtype from a parameter, and this is the last one")
            decisions[name] = replace(decisions[name], action="kept", refusal=why, note="")


def full_name(names: Mapping[int, str], root: str, inner: str, linear: nn.Module) -> str:
    """The name in the model of a linear that is ``inner`` in the module ``root``, or stands for what is."""
    return names.get(id(linear), f"{root}.{inner}".strip("."))


def _check_schemes(selection: Selection[Scheme], plan: Plan, device: str) -> None:
    """ValueError for a scheme that nothing gets because there are no kernels for it at all, or no input scales."""
    used = {decision.scheme for decision in plan.decisions if decision.action != "kept"}
    for pattern, scheme in selection.values.items():
        if scheme is None or scheme in used:
            continue
        if why := backend_for(device).refusal(scheme):
            raise ValueError(why)
        if scheme.input_scales and pattern == "*":  # a pattern for some names is in Plan.impossible()
            raise ValueError(str(needs_ranges(scheme)))


def _check_given(weights: Mapping[str, QuantizedWeight], plan: Plan, around: Surroundings) -> None:
    """ValueError for integer weights that no layer of the plan takes."""
    decisions, wrong = {decision.name: decision for decision in plan.decisions}, []
    for name, weight in weights.items():
        decision = decisions.get(name)
        converter = None if decision is None else converter_of(around.modules[name])
        if decision is None or not isinstance(converter, LinearConverter):
            wrong.append(f"  {name}: there is no linear layer with this name")
        elif decision.action == "kept":
            wrong.append(f"  {name}: it stays in float ({decision.refusal})")
        elif why := mismatch(weight, converter.layer(around.modules[name]).weight.shape, decision.planned):
            wrong.append(f"  {name}: {why}")
    if wrong:
        raise ValueError("nothing was converted, because these weights don't fit:\n" + "\n".join(wrong))
