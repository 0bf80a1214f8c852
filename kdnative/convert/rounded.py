"""Linears whose weights a conversion would round to the nearest: fine at 8 bits, a loss at 4, ruin at 2."""

from __future__ import annotations

import warnings
from collections.abc import Collection

from torch import nn

from kdnative.convert.plan import Plan
from kdnative.convert.registry import region_converter_named
from kdnative.formats.scheme import Scheme
from kdnative.quantize.linears import LinearSite, linears_of
from kdnative.shown import listed

__all__ = ["check_rounded", "quantized_linears"]


def quantized_linears(plan: Plan, sites: Collection[str]) -> dict[str, Scheme]:
    """The scheme of every linear whose float weight a plan quantizes.

    Args:
        sites: names of the linears with float weights, see `linears_of`.
    """
    brought = {
        name
        for region in plan.regions
        if region_converter_named(region.converter).brings_weights
        for name in region.modules
    }
    return {
        decision.name: decision.planned.dense if decision.action == "fused" else decision.planned
        for decision in plan.decisions
        if decision.action != "kept"
        and decision.scheme is not None
        and decision.name in sites
        and decision.name not in brought
    }


def check_rounded(plan: Plan, model: nn.Module, given: Collection[str]) -> None:
    """Refuses 2 bits and warns of 4 where nobody said how to round them.

    Args:
        given: layers whose integer weights are there already.

    Raises:
        ValueError: a layer of 2 bits.
    """
    sites: dict[str, LinearSite] = linears_of(model)
    schemes = {name: scheme for name, scheme in quantized_linears(plan, sites).items() if name not in given}
    if two := [name for name, scheme in schemes.items() if scheme.weight_bits == 2]:
        raise ValueError(
            f"{listed([name or 'the model' for name in two])}: {schemes[two[0]]} would be rounded to nearest, "
            "which destroys most of a model's accuracy at 2 bits: give calibration=[batch, ...] or texts "
            "(GPTQ), or train the layers (kdnative.quantize.prepare_qat_). To round to nearest anyway, give "
            "method='rtn'"
        )
    if four := [scheme for scheme in schemes.values() if scheme.weight_bits == 4]:
        warnings.warn(
            f"{len(four)} layers in {four[0]} are rounded to nearest, which loses accuracy (MiniLM's "
            "embeddings: 25 % of the nearest neighbours change). To calibrate them, give calibration=[batch, "
            "...] or texts. To round without this warning, give method='rtn'",
            stacklevel=3,
        )
