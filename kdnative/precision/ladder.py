"""Which schemes each layer may get, from the fewest bits up, and what `convert_` is told of a choice among them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from kdnative.convert import decide
from kdnative.convert.networks import refuse_networks
from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight
from kdnative.patterns import Selection
from kdnative.precision.assigning import FLOAT
from kdnative.quantize.linears import linears_of

__all__ = ["Ladder", "Schemes"]

Schemes = Any
"""A scheme, several from the fewest bits up, or ``{pattern: a scheme, several or None}``."""


@dataclass(frozen=True)
class Ladder:
    """The schemes that linears may get.

    Attributes:
        base: what `convert_` is told of everything else: each pattern's most exact scheme.
        options: names of schemes for each linear, from the fewest bits up.
    """

    base: Mapping[str, Scheme | None]
    options: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        schemes: Schemes,
        *,
        keep: Iterable[str] = (),
        embeddings: int | None = 8,
        fuse: bool = True,
        weights: Mapping[str, QuantizedWeight] | None = None,
    ) -> Ladder:
        """Asks `decide` what every linear can be.

        Args:
            model, keep, embeddings, fuse, weights: as for :func:`kdnative.convert_`. Layers whose integer weights are
                given are no part of the choice, and neither are layers trained for a scheme.
            schemes: see `Schemes`. One scheme alone of fewer than 8 bits means that one and 8 bits.

        Raises:
            ValueError: what `convert_` refuses; nothing to choose from.
        """
        rungs = {p: _rungs(s) for p, s in schemes.items()} if isinstance(schemes, Mapping) else {"*": _rungs(schemes)}
        most = max((len(found) for found in rungs.values()), default=0)
        options: dict[str, dict[str, None]] = {}
        sites = linears_of(model)  # those trained for a scheme are none
        for level in range(most):
            asked = {p: s[min(level, len(s) - 1)] if s else None for p, s in rungs.items()}
            selection = Selection(asked, keep, Scheme.parse)
            last = level == most - 1  # what is most exact must be possible; layers may lack schemes of fewer bits
            given = weights if last else None
            plan = decide(model, selection, embeddings=embeddings, fuse=fuse, values=True, weights=given)
            if last:
                words = "a gate works for linear layers only: convert without gate=, and compare the answers"
                refuse_networks(plan, model, words)
                plan.check()
            for decision in plan.decisions:
                name, wanted = decision.name, selection.choose(decision.name).value
                if decision.action == "kept" or decision.scheme is None or wanted is None or name in (weights or {}):
                    continue
                if name in sites and decision.scheme.plain == wanted.plain:
                    options.setdefault(name, {})[str(wanted)] = None
        if not options:
            raise ValueError("the gate has nothing to choose, because no linear layer of this model would be converted")
        return cls(
            {p: s[-1] if s else None for p, s in rungs.items()}, {n: tuple(found) for n, found in options.items()}
        )

    def schemes(self) -> list[str]:
        """Every scheme that a layer may get, from the fewest bits up."""
        found = {scheme for options in self.options.values() for scheme in options}
        return sorted(found, key=lambda s: (Scheme.parse(s).weight_bits, Scheme.parse(s).activation_bits, s))

    def allows(self, names: Iterable[str], scheme: str) -> bool:
        """Whether all of these linears may get a scheme."""
        return all(scheme in self.options.get(name, ()) for name in names)

    def told(self, assignment: Mapping[str, str]) -> dict[str, Scheme | None]:
        """What `convert_` is told: a pattern for each layer whose scheme differs, and `base` for the rest."""
        default = Selection(dict(self.base), (), Scheme.parse)
        told: dict[str, Scheme | None] = {}
        for name, change in assignment.items():
            scheme = None if change == FLOAT else Scheme.parse(change)
            if default.choose(name).value != scheme:
                told["re:" + re.escape(name)] = scheme
        return {**told, **self.base}


def _rungs(given: Any) -> tuple[Scheme, ...]:
    """The schemes of a pattern, from the fewest bits up."""
    if given is None:
        return ()
    if isinstance(given, str | Scheme):
        scheme = Scheme.parse(given)
        eight = Scheme.parse(f"w8a{scheme.activation.code}")
        return (scheme,) if scheme.weight_bits == 8 else (scheme, eight)
    if not isinstance(given, Iterable):
        raise TypeError(f"schemes are texts such as 'w8a8' or a sequence of them, not {type(given).__name__}")
    found = tuple(map(Scheme.parse, given))
    if not found or len(set(found)) < len(found):
        raise ValueError("schemes of a gate: give at least one, each once, in ascending order of bits")
    bits = [scheme.weight_bits for scheme in found]
    if bits != sorted(bits):
        raise ValueError(f"schemes of a gate must be in ascending order of bits, got {', '.join(map(str, found))}")
    return found
