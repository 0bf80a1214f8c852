"""Which class knows how modules of a kind become native: an addition is a class with ``@converts(...)`` before it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from kdnative.convert.plan import Decision, Region
from kdnative.convert.refusals import Refusal
from kdnative.convert.surroundings import Site
from kdnative.convert.weights import Weights
from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight
from kdnative.patterns import Choice

__all__ = [
    "Converter",
    "Native",
    "RegionConverter",
    "answer",
    "converter_of",
    "converts",
    "region_converter_named",
    "region_converter_of",
]


@dataclass(frozen=True)
class Native:
    """What a converter has built.

    Args:
        module: the native module.
        scheme: of its weights, as the report says it; None where they have none of their own.
        reason: what the report says of it.
        tensors: those whose bytes the report counts for the module; None: all of ``module``.
    """

    module: nn.Module
    scheme: str | None
    reason: str
    tensors: tuple[Tensor, ...] | None = None


class Converter(ABC):
    """How a module of some kind becomes native by itself.

    One object serves every module: it holds no state. ``decide`` looks at shapes, types and surroundings only, never at
    values, so that it gives the same answer on the meta device.
    """

    def asked(self, site: Site) -> Choice[Scheme]:
        """What the user asked for; schemes are for whatever multiplies by a weight."""
        return site.choice

    @abstractmethod
    def decide(self, site: Site, scheme: Scheme) -> Scheme | Refusal:
        """The scheme that the weight gets where ``scheme`` is asked for, or why the module stays in float."""

    def apart(self, site: Site) -> Refusal | None:
        """Why a module that could be native stays in float unless a region takes it in: it is faster so."""
        return None

    @abstractmethod
    def build(self, module: nn.Module, decision: Decision, weights: Weights) -> Native:
        """The native form, for a decision to convert; ``module`` is not changed.

        Raises:
            ValueError: its values do not allow it.
        """

    def in_float(self, module: nn.Module) -> nn.Module | None:
        """What takes the place of a module that stays in float; None: nothing, it is plain."""
        return None

    def layer(self, module: nn.Module) -> nn.Module:
        """The module whose ``weight`` and ``bias`` are meant, on the parameters of ``module``."""
        return module

    def note(self, site: Site) -> str:
        """What the report says besides of a module that becomes native, on its own or in a region."""
        return ""

    def label(self, scheme: Scheme) -> str:
        """The scheme as the report says it."""
        return str(scheme)


class RegionConverter(ABC):
    """How a module becomes one native operator together with what is inside it, or beside it."""

    noun: str = "region"
    """What the report calls it."""

    opened_by_fuse: bool = True
    """Whether ``convert_(..., fuse=False)`` converts its parts one by one."""

    tried_inside: bool = True
    """Whether it is tried inside of a module that could have been one operator, and for some reason can't be."""

    follows_calls: bool = False
    """Whether it follows what a module calls, so that classes of parts say nothing."""

    brings_weights: bool = False
    """Whether the integer weights of its parts are there already when the region is decided."""

    def considers(self, site: Site) -> bool:
        """Whether it has anything to say of the module; asked before all else."""
        return True

    @abstractmethod
    def decide(self, site: Site, scheme_of: Callable[[str, nn.Linear], Scheme]) -> Region | Refusal | None:
        """What is to be built, or why it can't be; None where there is nothing to say of the module.

        Args:
            site: where the module is.
            scheme_of: the scheme of a part by its name inside the module; raises
                :class:`kdnative.models.layer.Unsupported` where it has none.
        """

    @abstractmethod
    def build(
        self,
        region: Region,
        modules: Mapping[str, nn.Module],
        weight_of: Callable[[str, nn.Linear], QuantizedWeight],
    ) -> nn.Module:
        """The native operator.

        Args:
            region: from :meth:`decide`.
            modules: those of the region by their names in the model, not to be changed.
            weight_of: the integer weight of a part by its name inside the root.
        """

    def in_float(self, name: str, part: nn.Module) -> bool:
        """Whether the operator keeps the values of a part that could be native by itself."""
        return False

    def bytes_of(self, name: str, part: nn.Module, weight: QuantizedWeight | None) -> int:
        """The share of a part in the bytes of the operator."""
        return 0


C = TypeVar("C", bound=type)
Test = Callable[[nn.Module], bool]


@dataclass(frozen=True)
class _Entry:
    converter: Converter | RegionConverter
    when: Test | None


_BY_TYPE: dict[type, list[_Entry]] = {}
_BY_TEST: list[_Entry] = []


def converts(*kinds: type, when: Test | None = None) -> Callable[[C], C]:
    """Registers a :class:`Converter` or :class:`RegionConverter`.

    Args:
        kinds: classes of modules. Of several that a module is an instance of, the most derived one counts; of several
            converters for one class, the one that was registered last.
        when: what a module must fulfil besides; alone (for families of classes that can't be imported here), all.

    A subclass may compute something else than its base: a converter says so in ``decide``, or takes exact types with
    ``when``.
    """
    if not kinds and when is None:
        raise TypeError("converts() needs classes of modules, or a test: @converts(nn.Linear), @converts(when=...)")

    def register(cls: C) -> C:
        entry = _Entry(cls(), when)
        for kind in kinds:
            _BY_TYPE.setdefault(kind, []).insert(0, entry)
        if not kinds:
            _BY_TEST.insert(0, entry)
        return cls

    return register


def converter_of(module: nn.Module) -> Converter | None:
    """What makes a native module of ``module`` by itself."""
    found: Converter | None = _find(module, Converter)
    return found


def region_converter_of(module: nn.Module) -> RegionConverter | None:
    """What makes one native operator of ``module`` and its parts."""
    found: RegionConverter | None = _find(module, RegionConverter)
    return found


def region_converter_named(name: str) -> RegionConverter:
    """The region converter of that class name, as :class:`kdnative.convert.plan.Region` has it."""
    entries = [*_BY_TEST, *(entry for found in _BY_TYPE.values() for entry in found)]
    converters = (entry.converter for entry in entries if isinstance(entry.converter, RegionConverter))
    return next(converter for converter in converters if type(converter).__name__ == name)


def _find(module: nn.Module, what: type) -> Any:
    for kind in type(module).__mro__:
        for entry in (*_BY_TYPE.get(kind, ()), *(_BY_TEST if kind is object else ())):
            if isinstance(entry.converter, what) and (entry.when is None or entry.when(module)):
                return entry.converter
    return None


def answer(converter: Converter, site: Site) -> Scheme | Refusal:
    """The scheme of a module that can be native and is asked to be; or why it stays in float."""
    asked = converter.asked(site)
    return Refusal(asked.reason) if asked.value is None else converter.decide(site, asked.value)
