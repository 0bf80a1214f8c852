"""Networks of convolutions in a model: which parts of it are some, and what calibration makes of these."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.cnn import FloatGraph, Regions, regions, run
from kdnative.cnn.calibrating import NetworkCalibration
from kdnative.cnn.recording import ModuleCall
from kdnative.cnn.spans import USUAL
from kdnative.convert.convolutions import SCHEME, has_convolutions
from kdnative.convert.fuse import refusal
from kdnative.convert.plan import Decision, Network, Networks, Plan, nothing_converted
from kdnative.convert.refusals import Refusal, not_finite
from kdnative.convert.surroundings import Surroundings
from kdnative.formats.convnet.graph import Graph
from kdnative.patterns import within
from kdnative.quantize.inputs import InputBatches
from kdnative.quantize.linears import LinearSite
from kdnative.quantize.watching import Enough, forward, watched

__all__ = ["calibrated_networks", "wanting_ranges"]

_LEAST = 2
"""Convolutions of a part. A single one gets its input as codes and gives its result as real numbers, which costs about
as much as it saves; a pattern that names it makes one all the same."""

_CHECKED_ON = 2  # images


def wanting_ranges(plan: Plan, model: nn.Module) -> list[Decision]:
    """The convolutions that would be native if calibration found the ranges of their maps."""
    modules = dict(model.named_modules())
    return [each for each in plan.needing("ranges") if isinstance(modules[each.name], nn.Conv2d)]


def calibrated_networks(plan: Plan, around: Surroundings, batches: InputBatches, method: str = USUAL) -> Networks:
    """What becomes of a model's convolutions.

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
    calls, samples = _called(model, batches)
    refuse = _Refusing(plan, around)
    least = 1 if any(decision.explicit for decision in wanted) else _LEAST
    found = regions(model, calls=calls, refuse=refuse, least=least)
    _check_traces(found, samples)
    _check_values(found, around)
    made = _calibrated(model, found.graphs, batches, method)
    parts = {
        root: Network(root, tuple(name for name in around.modules if within(name, root)), graph)
        for root, graph in made.items()
    }
    covered = {name for part in parts.values() for name in part.modules}
    outside = [decision.name for decision in wanted if decision.name not in covered]
    return Networks(parts, {name: _why(name, found) for name in outside})


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
            return "has its integer weight already"
        if decision.scheme is None:
            return f"stays in float ({decision.refusal})"
        return None if decision.scheme.plain == SCHEME else f"is to be {decision.scheme}, and networks are {SCHEME}"


def _wants(decision: Decision) -> bool:
    return decision.refusal is not None and decision.refusal.needs == "ranges"


def _why(name: str, found: Regions) -> str:
    """Why a convolution is in no network: what the smallest module around it said."""
    around = max((left for left in found.left if left != name and within(name, left)), key=len, default=name)
    return f"{around or 'the model'} is no network of convolutions: {found.left[around]}"


# -- the model at work -------------------------------------------------------------------------------------------------


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    with watched(model, {}, lambda name, x, _: None):
        yield


def _called(
    model: nn.Module, batches: InputBatches
) -> tuple[dict[str, ModuleCall], dict[str, tuple[Tensor, list[Tensor]]]]:
    """How the modules with convolutions are called on the first batch, and examples of what they take and give."""
    calls: dict[str, ModuleCall] = {}
    samples: dict[str, tuple[Tensor, list[Tensor]]] = {}

    def behind(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
            times = calls[name].times + 1 if name in calls else 1
            x = args[0] if len(args) == 1 and not kwargs and isinstance(args[0], Tensor) else None
            kind = "Tensor" if isinstance(result, Tensor) else type(result).__name__
            calls[name] = ModuleCall(times, None if x is None else tuple(x.shape), kind)
            if x is not None:
                samples[name] = x[:_CHECKED_ON].clone(), _first(result)

        return hook

    with ExitStack() as stack, _evaluating(model):
        for name, module in model.named_modules():
            if has_convolutions(module):
                hook = module.register_forward_hook(behind(name), with_kwargs=True)
                stack.callback(hook.remove)
        forward(model, batches.all[0])
    return calls, samples


def _first(result: Any) -> list[Tensor]:
    """What a module gave for the first images."""
    each = list(result) if isinstance(result, tuple | list) else [result]
    return [x[:_CHECKED_ON].to(torch.float32) for x in each if isinstance(x, Tensor)]


def _check_traces(found: Regions, samples: Mapping[str, tuple[Tensor, list[Tensor]]]) -> None:
    """Leaves out what was not read right: a model whose Python code looks at values computes something else."""
    for root, graph in list(found.graphs.items()):
        images, result = samples[root]
        with torch.no_grad():
            traced = run(graph, images.to(torch.float32))
        for ours, theirs in zip(traced, result, strict=True):
            tolerance = 0.02 if images.dtype != torch.float32 else 1e-3
            if ours.shape != theirs.shape or float((ours - theirs).norm()) > tolerance * float(theirs.norm()) + 1e-6:
                del found.graphs[root]
                found.left[root] = "what it computes depends on values, so it can't be followed with shapes alone"
                break


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
) -> dict[str, Graph]:
    """The integer networks of some parts."""
    modules = dict(model.named_modules())
    parts = {root: NetworkCalibration(graph, method) for root, graph in graphs.items()}
    for done in range(max((part.passes for part in parts.values()), default=0)):
        waiting = {root: part for root, part in parts.items() if done < part.passes}
        _show(model, {root: LinearSite(root, modules[root]) for root in waiting}, batches, waiting)
        for part in waiting.values():
            part.end_pass()
    with torch.no_grad():
        return {root: part.result() for root, part in parts.items()}


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
