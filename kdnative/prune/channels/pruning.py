"""Channel pruning: convolutions with fewer channels, and everything that depends on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.cnn import FloatGraph, regions
from kdnative.cnn.recording import ModuleCall, record
from kdnative.cnn.tracing import graph_of, image_size
from kdnative.models.layer import Unsupported
from kdnative.patterns import Selection, matches
from kdnative.prune.channels.checking import try_out
from kdnative.prune.channels.choosing import Choice, Cost, choose_all_alike, choose_shares, choose_worst_first
from kdnative.prune.channels.cutting import cut, expected_nodes
from kdnative.prune.channels.groups import Group, find_groups
from kdnative.prune.channels.importance import IMPORTANCE, Loss, scores_of
from kdnative.prune.channels.latency import LatencyTable
from kdnative.prune.channels.layers import Layer, Layers, read_layers
from kdnative.prune.channels.report import ChannelReport, ChannelRow
from kdnative.prune.edits import Edits
from kdnative.prune.mask import masked_modules

__all__ = ["prune_channels_"]


def prune_channels_(
    model: nn.Module,
    example: Tensor,
    *,
    macs: float | None = None,
    latency: float | None = None,
    shares: Mapping[str, float] | None = None,
    importance: str | None = None,
    batches: Iterable[Any] | None = None,
    loss: Loss | None = None,
    ranking: str | None = None,
    round_to: int | None = None,
    keep: Iterable[str] = (),
    measure: bool = False,
    seed: int = 0,
) -> ChannelReport:
    """Removes channels of convolutions in place, and checks that the model still runs, forward and backward.

    The model is traced (:func:`kdnative.cnn.regions`), which says what depends on each channel: batch normalization,
    depthwise convolutions, partners in sums, gates, places in concatenations, columns of linear layers. All of it goes
    together. A convolution with groups loses whole groups. Exactly one of `macs`, `latency` and `shares` says how much.
    Parameters that shrink become new objects: make the optimizer afterwards, and train the model again.

    Args:
        model: takes one tensor [N, C, H, W]. Its inputs and outputs keep their sizes.
        example: images; costs are those of one image of this size.
        macs: the share of multiplications that may stay, 0 < macs < 1.
        latency: the share of the milliseconds of its layers that may stay, 0 < latency < 1: of native int8 kernels on
            this machine with torch's threads, measured for each shape (`LatencyTable`).
        shares: the share of channels to remove, 0 <= share < 1, by patterns of the modules that give them.
        importance: what decides which channels go: "taylor", "l2", "bn" or "random" (see
            :func:`kdnative.prune.channels.importance.scores_of`). None: "taylor" with batches, else "l2".
        batches: for "taylor", pairs (images, labels), or whatever `loss` takes. Many small ones serve best.
        loss: ``loss(model, batch)`` -> scalar. None: cross entropy.
        ranking: "global": channels go wherever they matter least, for "taylor" by loss for the cost that is saved.
            "layer": every group loses the same share. None: "global" for "taylor", which alone can be compared between
            layers, else "layer".
        round_to: widths are multiples of it. None: what kernels compute together, 16, or 8 for up to 32 channels. An
            eighth of each group stays in any case.
        keep: patterns of modules that keep all the channels that they give.
        measure: whether the report has milliseconds of native kernels, too. With `latency` it always does.
        seed: of "random".

    Returns:
        A row for every group of channels, with those that have to stay and why.

    Raises:
        ValueError: an argument out of range, a model that isn't traceable or has masks, a budget that can't be met, or
            a model that does something else with fewer channels. Whatever goes wrong, the model is as it was before.
    """
    method, ranking = _check(model, example, macs, latency, shares, importance, batches, ranking, round_to)
    ran = try_out(model, example)
    graphs = _graphs(model, example)
    kept = _kept(model, keep)
    layers = read_layers(model, graphs, kept)
    groups = find_groups(layers)
    scores = scores_of(model, layers, method, batches, loss, seed)
    if method == "bn":
        groups = [_if_known(group, scores) for group in groups]
    free = [group for group in groups if not group.why]
    table = LatencyTable() if measure or latency is not None else None
    cost: Cost = table if latency is not None and table is not None else Layer.macs
    choice = Choice(layers, free, cost, round_to)
    if shares is not None:
        choose_shares(choice, _shares_of(shares, free, groups))
    else:
        budget, name = (macs, "macs") if macs is not None else (latency, "latency")
        assert budget is not None
        whole = choice.total
        if ranking == "global":
            met = choose_worst_first(choice, scores, budget * whole, per_cost=method == "taylor")
        else:
            met = choose_all_alike(choice, budget * whole)
        if not met:
            raise ValueError(
                f"{name}={budget:g}: {choice.total / whole:.2f} is the smallest share that this model can "
                f"reach{_obstacles(groups)}. Give a larger budget, another ranking, a smaller round_to, or "
                "fewer patterns in keep"
            )
    gone = _gone(choice, scores)
    before = sum(parameter.numel() for parameter in model.parameters())
    with Edits() as edits:
        cut(edits, model, layers, gone)
        try_out(model, example, ran)
        _check_trace(model, example, graphs, layers, gone)
    report = _report(layers, groups, gone, table)
    report.parameters_before, report.parameters_after = before, sum(p.numel() for p in model.parameters())
    return report


def _check(
    model: nn.Module,
    example: Any,
    macs: float | None,
    latency: float | None,
    shares: Mapping[str, float] | None,
    importance: str | None,
    batches: Iterable[Any] | None,
    ranking: str | None,
    round_to: int | None,
) -> tuple[str, str]:
    """The methods of ranking that arguments mean; ValueError where they mean nothing."""
    if not isinstance(example, Tensor) or example.dim() != 4 or not example.numel():
        what = list(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise ValueError(f"example must be at least one image [N, C, H, W], got {what}")
    given = {"macs": macs, "latency": latency, "shares": shares}
    if sum(value is not None for value in given.values()) != 1:
        names = [name for name, value in given.items() if value is not None]
        raise ValueError(f"give exactly one of macs, latency and shares, got {', '.join(names) or 'none'}")
    for name, budget in (("macs", macs), ("latency", latency)):
        if budget is not None and not 0 < budget < 1:
            raise ValueError(f"{name}={budget}; the share that may stay, 0 < {name} < 1, is needed")
    for pattern, share in (shares or {}).items():
        if not 0 <= share < 1:
            raise ValueError(f"shares[{pattern!r}]={share}; the share to remove, 0 <= share < 1, is needed")
    if importance is not None and importance not in IMPORTANCE:
        raise ValueError(f"importance={importance!r}; allowed are {', '.join(map(repr, IMPORTANCE))} and None")
    if importance == "taylor" and batches is None:
        raise ValueError("importance='taylor' needs batches=, pairs (images, labels)")
    if ranking not in (None, "global", "layer"):
        raise ValueError(f"ranking={ranking!r}; allowed are 'global', 'layer' and None")
    if round_to is not None and (not isinstance(round_to, int) or round_to < 1):
        raise ValueError(f"round_to={round_to}; a whole number, 1 or more, is needed")
    if any(getattr(vars(module).get("forward"), "trains_network", False) for module in model.modules()):
        raise ValueError("parts of the model are prepared as native networks: call finish_networks_ first")
    if masked := masked_modules(model):
        raise ValueError(
            f"{next(iter(masked))} has a mask, which would no longer fit: prune channels first and mask "
            "afterwards, or call finalize_masks_ before pruning"
        )
    method = importance or ("l2" if batches is None else "taylor")
    return method, ranking or ("global" if method == "taylor" else "layer")


def _graphs(model: nn.Module, example: Tensor) -> dict[str, FloatGraph]:
    """The whole model as a graph, or the largest parts of it that are graphs, by their names."""
    size = image_size(example)
    recording = record(model, size)
    try:
        return {"": graph_of(recording)}
    except Unsupported as error:
        found = regions(model, calls={**recording.calls, "": ModuleCall(1, size, "Tensor")})
        if not found.graphs:
            raise ValueError(f"{type(model).__name__} has no part whose channels can be followed: {error}") from error
        return found.graphs


def _kept(model: nn.Module, keep: Iterable[str]):
    """Why a module keeps its channels."""
    selection: Selection[bool] = Selection({"*": True}, keep)
    selection.check_used([name for name, _ in model.named_modules() if name])
    return lambda name: None if selection.choose(name).value else selection.choose(name).reason


def _if_known(group: Group, scores: Tensor) -> Group:
    """The group, which stays if normalizations tell none of its channels from nothing."""
    known = bool(group.why) or bool((scores[torch.tensor(group.units)] > 0).any())
    return group if known else replace(group, why="batch normalization gives no ranking of its channels")


def _shares_of(shares: Mapping[str, float], free: list[Group], groups: list[Group]) -> dict[int, float]:
    """The share of each group that may lose channels; the first pattern that matches one of its layers."""
    found: dict[int, float] = {}
    for pattern, share in shares.items():
        matching = [g for g in groups if any(matches(pattern, name) for name in (g.name, *g.given_by))]
        if not matching:
            names = ", ".join(name for group in free for name in group.given_by)
            raise ValueError(f"shares: {pattern!r} matches no layer that gives channels; these are {names or 'none'}")
        if not any(group in free for group in matching):
            raise ValueError(f"shares: the channels of {matching[0].name} must stay: {matching[0].why}")
        for index, group in enumerate(free):
            if group in matching:
                found.setdefault(index, share)
    return found


def _obstacles(groups: list[Group]) -> str:
    staying = [group for group in groups if group.why]
    if not staying:
        return ""
    shown = "; ".join(f"{group.name}: {group.why}" for group in staying[:3])
    more = f"; and {len(staying) - 3} more" if len(staying) > 3 else ""
    return f" (channels that must stay: {shown}{more})"


def _gone(choice: Choice, scores: Tensor) -> set[int]:
    """The units with the smallest scores of each group; of equal ones the last."""
    gone: set[int] = set()
    for group, kept in zip(choice.groups, choice.kept, strict=True):
        order = scores[torch.tensor(group.units)].sort(descending=True, stable=True).indices
        gone.update(group.units[i] for i in order[kept:].tolist())
    return gone


def _check_trace(
    model: nn.Module, example: Tensor, graphs: dict[str, FloatGraph], layers: Layers, gone: set[int]
) -> None:
    """The model's code has to do with fewer channels what it did with all of them."""
    after = _graphs(model, example)
    for part, graph in graphs.items():
        nodes = after[part].nodes if part in after else ()
        expected = expected_nodes(graph, layers.maps[part], layers, gone)
        if nodes != expected:
            different = next((a.name for a, b in zip(expected, nodes, strict=False) if a != b), expected[0].name)
            raise ValueError(
                f"{type(model).__name__} computes something else with fewer channels, at {different}, because "
                "its code relies on channel counts. The model has been restored. Name these modules in keep="
            )


def _report(layers: Layers, groups: list[Group], gone: set[int], table: LatencyTable | None) -> ChannelReport:
    before = [(len(layer.inputs), len(layer.outputs)) for layer in layers.layers]
    after = [
        tuple(sum(layers.find(number) not in gone for number in side) for side in (layer.inputs, layer.outputs))
        for layer in layers.layers
    ]

    def total(cost: Cost, widths: Sequence[Sequence[int]], numbers: Iterable[int]) -> float:
        return sum(cost(layers.layers[number], *widths[number]) for number in numbers)

    rows = []
    for group in groups:
        left = sum(unit not in gone for unit in group.units) * group.width
        rows.append(
            ChannelRow(
                group.name,
                group.given_by,
                group.channels,
                left,
                int(total(Layer.macs, before, group.layers)),
                int(total(Layer.macs, after, group.layers)),
                None if table is None else total(table, before, group.layers),
                None if table is None else total(table, after, group.layers),
                group.why,
            )
        )
    every = range(len(layers.layers))
    return ChannelReport(
        rows,
        macs_before=int(total(Layer.macs, before, every)),
        macs_after=int(total(Layer.macs, after, every)),
        ms_before=None if table is None else total(table, before, every),
        ms_after=None if table is None else total(table, after, every),
    )
