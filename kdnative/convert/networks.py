"""Networks of convolutions in a model: which parts of it are some, and what calibration makes of these."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdnative.cnn import FloatGraph, Regions, regions
from kdnative.cnn.calibrating import NetworkCalibration
from kdnative.cnn.regions import convolutions
from kdnative.cnn.spans import USUAL
from kdnative.convert.convolutions import SCHEME
from kdnative.convert.fuse import refusal
from kdnative.convert.network_calls import Seen
from kdnative.convert.plan import Decision, Network, Networks, Plan, nothing_converted
from kdnative.convert.refusals import Refusal, not_finite
from kdnative.convert.surroundings import Surroundings
from kdnative.patterns import within
from kdnative.quantize.inputs import InputBatches
from kdnative.quantize.linears import LinearSite
from kdnative.quantize.watching import Enough, forward, watched
from kdnative.shown import listed

__all__ = ["CalibratedParts", "calibrated_networks", "calibrated_parts", "inside", "refuse_networks", "wanting_ranges"]

_LEAST = 2
"""Convolutions of a part. A single one gets its input as codes and gives its result as real numbers, which costs about
as much as it saves; a pattern that names it makes one all the same."""

_ALONE = "a single convolution gains less than the quantization of its input and output costs"


def wanting_ranges(plan: Plan, model: nn.Module) -> list[Decision]:
    """The convolutions that would be native if calibration found the ranges of their maps."""
    modules = dict(model.named_modules())
    return [each for each in plan.needing("ranges") if isinstance(modules[each.name], nn.Conv2d)]


def refuse_networks(plan: Plan, model: nn.Module, why: str) -> None:
    """ValueError where convolutions that could be native would stay in float unasked.

    Args:
        plan: of the model without ranges.
        why: they can't be native, as a part of a sentence, and what to do instead.
    """
    wanted = [decision.name for decision in wanting_ranges(plan, model)]
    if len(wanted) >= _LEAST:
        raise ValueError(
            f"{listed(wanted)} are convolutions, and {why}. keep=[...] with their names, or those of modules around "
            "them, leaves them in float"
        )


@dataclass(frozen=True)
class CalibratedParts:
    """What calibration knows of the parts of a model.

    Args:
        found: the parts.
        calibrations: of each, after its last pass, by its root.
        refusals: why other convolutions are in none, by their names.
    """

    found: Regions
    calibrations: Mapping[str, NetworkCalibration]
    refusals: Mapping[str, str]


def calibrated_parts(plan: Plan, around: Surroundings, batches: InputBatches, method: str = USUAL) -> CalibratedParts:
    """Finds the parts of a model that can be networks, and the ranges of their maps.

    Args:
        plan: of the model without ranges.
        around: the model, and what is wanted of it.
        batches: what the model is run on.
        method: how ranges are found, of `kdnative.cnn.spans.METHODS`.

    Raises:
        ValueError: weights, images or what the model makes of them are NaN or infinite; images of sizes that the model
            doesn't take.
    """
    model = around.modules[""]
    wanted = wanting_ranges(plan, model)
    seen = Seen(model, batches.all[0])
    judge = _Judging(seen, 1 if any(decision.explicit for decision in wanted) else _LEAST)
    refuse = _Refusing(plan, around)
    found = regions(model, calls=seen.calls, follows=seen.follows, refuse=refuse, judge=judge)
    _check_values(found, around)
    covered = {name for chain in found.chains.values() for name in inside(chain, around.modules)}
    outside = [decision.name for decision in wanted if decision.name not in covered]
    shares = seen.shares()
    words = {name: f"{_why(name, found)} ({shares.get(name, 0):.1%} of the model's products)" for name in outside}
    return CalibratedParts(found, _calibrated(model, found.graphs, batches, method), words)


def calibrated_networks(plan: Plan, around: Surroundings, batches: InputBatches, method: str = USUAL) -> Networks:
    """What becomes of a model's convolutions (arguments and errors as of `calibrated_parts`)."""
    made = calibrated_parts(plan, around, batches, method)
    with torch.no_grad():
        graphs = {root: calibration.result() for root, calibration in made.calibrations.items()}
    parts = {r: Network(r, inside(made.found.chains[r], around.modules), graph) for r, graph in graphs.items()}
    return Networks(parts, made.refusals)


def inside(chain: tuple[str, ...], modules: Collection[str]) -> tuple[str, ...]:
    """Names of all modules of a part, its root first."""
    return tuple(name for part in chain for name in modules if within(name, part))


class _Refusing:
    """Says which modules may not be in a network, whatever they compute."""

    def __init__(self, plan: Plan, around: Surroundings) -> None:
        self.around = around
        self.stays = {decision.name: why for decision in plan.decisions if (why := self._stays(decision)) is not None}

    def __call__(self, name: str, module: nn.Module) -> str | None:
        inside = [inner for inner in self.around.modules if within(inner, name)]
        for inner in inside:
            if inner in self.stays:
                return f"{inner} {self.stays[inner]}"
        why = refusal(self.around.site(name), inside, {}, any_class=True)
        return None if why is None else str(why)

    def _stays(self, decision: Decision) -> str | None:
        module = self.around.modules[decision.name]
        if isinstance(module, nn.Conv2d):
            return None if _wants(decision) else f"stays in float ({decision.refusal})"
        if not isinstance(module, nn.Linear):
            return None
        if decision.name in self.around.given:
            return "already has its integer weight"
        if decision.scheme is None:
            return f"stays in float ({decision.refusal})"
        return (
            None if decision.scheme.plain == SCHEME else f"has the scheme {decision.scheme}, but networks are {SCHEME}"
        )


@dataclass(frozen=True)
class _Judging:
    """Says which graphs are not worth it, or are not what their modules compute.

    Args:
        seen: the model at work.
        least: convolutions of a part.
    """

    seen: Seen
    least: int

    def __call__(self, names: tuple[str, ...], graph: FloatGraph) -> str | None:
        if len(convolutions(graph)) < self.least:
            return _ALONE
        return None if self.seen.agrees(names, graph) else "its computation depends on more than the shape of its input"


def _wants(decision: Decision) -> bool:
    return decision.refusal is not None and decision.refusal.needs == "ranges"


def _why(name: str, found: Regions) -> str:
    """Why a convolution is in no network: what the smallest module around it said, if it said more than `_ALONE`."""
    around = sorted((left for left in found.left if within(name, left)), key=len, reverse=True)
    telling = next((left for left in around if found.left[left] != _ALONE), around[0])
    words = f"{telling or 'the model'} is not a convolutional network: {found.left[telling]}"
    return words if found.left[around[0]] != _ALONE or telling == around[0] else f"{words}; of the rest, {_ALONE}"


def _check_values(found: Regions, around: Surroundings) -> None:
    refused: dict[str, Refusal] = {}
    for root in found.graphs:
        for name, module in around.modules.items():
            if within(name, root) and (why := not_finite(module)) is not None:
                refused[name] = why
    if refused:
        raise ValueError(nothing_converted(refused))


def _calibrated(
    model: nn.Module, graphs: Mapping[str, FloatGraph], batches: InputBatches, method: str
) -> dict[str, NetworkCalibration]:
    """What all passes over the batches say of some parts."""
    modules = dict(model.named_modules())
    parts = {root: NetworkCalibration(graph, method) for root, graph in graphs.items()}
    for done in range(max((part.passes for part in parts.values()), default=0)):
        waiting = {root: part for root, part in parts.items() if done < part.passes}
        _show(model, {root: LinearSite(root, modules[root]) for root in waiting}, batches, waiting)
        for part in waiting.values():
            part.end_pass()
    return parts


def _show(
    model: nn.Module, sites: Mapping[str, LinearSite], batches: InputBatches, parts: Mapping[str, NetworkCalibration]
) -> None:
    """Runs the model on all batches, and adds to each part what it is given there."""
    number, left = 0, set(parts)

    def on_input(root: str, _: Tensor, x: Tensor) -> None:
        try:
            parts[root].add(x)
        except ValueError as error:
            raise ValueError(f"batch {number} of calibration: {error}") from error
        left.discard(root)
        if not left:
            raise Enough  # what follows is of no interest

    with watched(model, sites, on_input):
        for number, batch in enumerate(batches.all):  # noqa: B007  (read in on_input)
            left = set(parts)
            forward(model, batch)
