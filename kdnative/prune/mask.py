"""Masks: zeros in weights whose shapes stay, kept at zero through training.

A mask is a bool buffer ``weight_mask`` beside the weight (so `state_dict` and `copy.deepcopy` carry it) and a forward
pre-hook that puts the zeros back after every optimizer step. Patterns: unstructured (Han et al. 2015), N:M (Mishra et
al. 2021), blocks (Gray et al. 2017; 4x1 as in Elsen et al. 2020).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.convert.refusals import owners_of, storage
from kdnative.patterns import Selection
from kdnative.prune.pattern import ALREADY_PRUNED, Pattern, keep_largest, keep_n_of_m
from kdnative.prune.report import PruneReport, PruneRow
from kdnative.prune.sparsegpt import second_moments, sparsify
from kdnative.quantize.inputs import InputBatches
from kdnative.quantize.progress import Progress, progress_of

__all__ = ["finalize_masks_", "mask_", "masked_modules", "sparsity_report"]

_BUFFER = "weight_mask"
_METHODS = ("magnitude", "sparsegpt")


def mask_(
    model: nn.Module,
    sparsity: float | None = None,
    pattern: str = "unstructured",
    *,
    scope: str = "layer",
    modules: str | Iterable[str] = "*",
    keep: str | Iterable[str] = (),
    method: str = "magnitude",
    calibration: Iterable[Any] | None = None,
    tokenizer: Any = None,
    max_length: int = 128,
    batch_size: int = 32,
    progress: bool | Callable[[str, int, int], None] = False,
) -> PruneReport:
    """Sets the least important weights of linear layers to zero and keeps them there, in place. Calling it again with
    a higher sparsity only adds zeros.

    Args:
        model: any module; its `nn.Linear` layers (and subclasses such as FakeQuantLinear) can be masked.
        sparsity: share of blocks to remove, 0 <= sparsity < 1. For N:M patterns it follows from the pattern: leave it
            out, or give 1 - N/M.
        pattern: "unstructured"; "N:M", such as "2:4": of M consecutive inputs, N stay (M divides in_features);
            "RxC", such as "4x1" and "16x16": blocks of R consecutive outputs and C consecutive inputs, ranked by their
            mean square. Blocks that stick out at the edge of a weight are smaller, and count as one block.
        scope: "layer" removes the same share from each layer, "global" ranks the blocks of all layers together.
        modules: patterns of the layers to mask, as in `convert_`.
        keep: patterns of layers to leave alone.
        method: "magnitude"; or "sparsegpt", which looks at the inputs of each layer, removes what the rest can make up
            for, and changes the rest so that it does (see `kdnative.prune.sparsify`). It can't make up in a weight
            that another module holds too, such as an output layer that is tied to the embedding: ``*`` leaves these
            alone.
        calibration: for "sparsegpt": batches of the model's inputs, or texts, as in `kdnative.quantize.calibrate_`.
        tokenizer, max_length, batch_size, progress: for "sparsegpt", as in `kdnative.quantize.calibrate_`.

    Returns:
        One row per masked layer, and one, "shared", for each that "sparsegpt" has left alone. Per layer ("layer") or in
        all ("global") exactly ``floor(sparsity * blocks + 0.5)`` blocks are removed, ties broken arbitrarily; fewer
        only where more had been removed before.

    Raises:
        ValueError: an impossible argument, no layer that matches, NaN weights, in_features that M does not divide, or a
            shared weight that a pattern other than ``*`` names for "sparsegpt". The model is then unchanged.
    """
    shape = Pattern.parse(pattern)
    sparsity = shape.checked_sparsity(sparsity)
    if scope not in ("layer", "global"):
        raise ValueError(f"scope={scope!r}; allowed are 'layer' and 'global'")
    if method not in _METHODS:
        raise ValueError(f"method={method!r}; allowed are {' and '.join(map(repr, _METHODS))}")
    layers, left_alone = _select(model, modules, keep, shared=method != "sparsegpt")
    if method == "sparsegpt":
        if scope != "layer":
            raise ValueError("method='sparsegpt' works layer by layer: give scope='layer'")
        if calibration is None:
            raise ValueError(
                "method='sparsegpt' needs calibration=: batches of the model's inputs, or texts and tokenizer="
            )
        batches = InputBatches(calibration, tokenizer, max_length, batch_size)
        batches.warn_if_few()
        masks = _reconstructed(model, layers, pattern, sparsity, batches, progress_of(progress))
    elif calibration is not None:
        raise ValueError("calibration= is for method='sparsegpt' only: leave it out")
    else:
        masks = _by_magnitude(layers, shape, sparsity, scope)
    for name, layer in layers.items():
        _attach(layer, masks[name])
    report = sparsity_report(model, [name for name in _linears(model) if name in layers or name in left_alone])
    report.rows = [dataclasses.replace(row, what="shared") if row.name in left_alone else row for row in report]
    return report


def _by_magnitude(layers: Mapping[str, nn.Linear], shape: Pattern, sparsity: float, scope: str) -> dict[str, Tensor]:
    scores = {name: _scores(name, layer, shape) for name, layer in layers.items()}
    if shape.n_of_m:
        kept = {name: keep_n_of_m(s, shape.n) for name, s in scores.items()}
    elif scope == "layer":
        kept = {name: _keep_share(s.flatten(), sparsity).view_as(s) for name, s in scores.items()}
    else:
        every = _keep_share(torch.cat([s.flatten().cpu() for s in scores.values()]), sparsity)
        parts = every.split([s.numel() for s in scores.values()])
        kept = {n: part.view_as(s).to(s.device) for (n, s), part in zip(scores.items(), parts, strict=True)}
    return {name: shape.expand(kept[name], layer.weight.shape) for name, layer in layers.items()}


def _keep_share(scores: Tensor, sparsity: float) -> Tensor:
    return keep_largest(scores, int(sparsity * scores.numel() + 0.5))


@torch.no_grad()
def _reconstructed(
    model: nn.Module,
    layers: Mapping[str, nn.Linear],
    pattern: str,
    sparsity: float,
    batches: InputBatches,
    progress: Progress,
) -> dict[str, Tensor]:
    """The masks of SparseGPT; the weights become those that make up for the zeros."""
    for name, layer in layers.items():
        _check_weight(name, layer, Pattern.parse(pattern))
    found: dict[str, tuple[Tensor, Tensor]] = {}
    with progress:
        for name, second_moment in second_moments(model, layers, batches, progress):
            layer = layers[name]
            try:
                found[name] = sparsify(layer.weight, second_moment, pattern, sparsity, mask=layer._buffers.get(_BUFFER))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            progress("removing weights", len(found), len(layers))
    for name, (weight, _) in found.items():  # only now that nothing can go wrong any more
        layers[name].weight.data.copy_(weight)
    return {name: mask for name, (_, mask) in found.items()}


def finalize_masks_(model: nn.Module) -> list[str]:
    """Makes the zeros permanent and removes masks and hooks, in place: what is left is an ordinary model.

    Returns:
        The names of the layers that had a mask.
    """
    found = masked_modules(model)
    for layer in found.values():
        _apply_mask(layer)
        for key, hook in list(layer._forward_pre_hooks.items()):
            if hook is _apply_mask:
                del layer._forward_pre_hooks[key]
        delattr(layer, _BUFFER)
    return list(found)


def masked_modules(model: nn.Module) -> dict[str, nn.Linear]:
    """The layers that have a mask now, by name."""
    return {name: module for name, module in model.named_modules() if _BUFFER in module._buffers}


def sparsity_report(model: nn.Module, names: Iterable[str] | None = None) -> PruneReport:
    """Zeros of linear layers as they are: one row per layer; all linear layers unless `names` says which."""
    layers = _linears(model)
    rows = []
    for name in layers if names is None else names:
        weight = layers[name].weight.detach()
        mask = layers[name]._buffers.get(_BUFFER)
        nonzero = int((weight if mask is None else weight * mask).count_nonzero())
        rows.append(PruneRow(name, "mask", list(weight.shape), list(weight.shape), weight.numel(), nonzero))
    return PruneReport(rows)


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def _select(
    model: nn.Module, modules: str | Iterable[str], keep: str | Iterable[str], shared: bool
) -> tuple[dict[str, nn.Linear], set[str]]:
    """The layers to mask by name; and those that are left alone, unless ``shared``, as others hold their weight too."""
    patterns = (modules,) if isinstance(modules, str) else tuple(modules)
    selection = Selection(dict.fromkeys(patterns, True), keep)
    layers = _linears(model)
    selection.check_used(list(layers))
    chosen = {name: layer for name, layer in layers.items() if selection.choose(name).value}
    chosen = {name: layer for name, layer in chosen.items() if layer.weight.numel()}
    left_alone = {} if shared else _shared(model, chosen)
    for name, other in left_alone.items():
        if selection.choose(name).explicit:
            raise ValueError(
                f"{name} shares its weight with {other}, so SparseGPT can't correct both layers: leave it "
                "out, or mask by magnitude"
            )
    if not chosen.keys() - left_alone:
        counts = f"the model has {len(layers)} linear layers, and all are empty, kept or share their weights"
        raise ValueError(f"no layer to mask: {counts}")
    return {name: layer for name, layer in chosen.items() if name not in left_alone}, set(left_alone)


def _shared(model: nn.Module, layers: Mapping[str, nn.Linear]) -> dict[str, str]:
    """The layers whose weight another module holds too, and that one's name."""
    owners = owners_of(dict(model.named_modules()))
    others = {name: [o for o in owners.get(storage(layer.weight), ()) if o != name] for name, layer in layers.items()}
    return {name: other[0] for name, other in others.items() if other}


def _scores(name: str, layer: nn.Linear, shape: Pattern) -> Tensor:
    """How much each block matters; for N:M the magnitude of every weight, [N, K / M, M]."""
    _check_weight(name, layer, shape)
    weight = layer.weight.detach().float()
    mask = layer._buffers.get(_BUFFER)
    alive = torch.ones_like(weight) if mask is None else mask.float()
    if shape.n_of_m:
        return torch.where(alive > 0, weight.abs(), ALREADY_PRUNED).unflatten(1, (-1, shape.columns))
    if shape.rows * shape.columns == 1:
        return torch.where(alive > 0, weight.abs(), ALREADY_PRUNED)
    size = shape.blocks(torch.ones_like(weight)).sum((1, 3))
    square = shape.blocks((weight * alive).double().square()).sum((1, 3))  # float64: fp32 weights can't overflow it
    dead = shape.blocks(alive).sum((1, 3)) == 0
    return torch.where(dead, ALREADY_PRUNED, (square / size).sqrt()).float()


def _check_weight(name: str, layer: nn.Linear, shape: Pattern) -> None:
    if not isinstance(layer.weight, nn.Parameter):
        raise ValueError(f"{name}.weight is computed by a parametrization: remove the parametrization first")
    if bool(layer.weight.isnan().any()):
        raise ValueError(f"{name}.weight holds NaN: it can't be ranked")
    if shape.n_of_m and layer.weight.shape[1] % shape.columns:
        raise ValueError(
            f"{name} has {layer.weight.shape[1]} input features, which pattern {shape.n}:{shape.columns} does not "
            "divide; leave it out with keep=, or take another pattern"
        )


def _attach(layer: nn.Linear, mask: Tensor) -> None:
    fresh = _BUFFER not in layer._buffers
    layer.register_buffer(_BUFFER, mask)
    if fresh:
        layer.register_forward_pre_hook(_apply_mask)
    _apply_mask(layer)


def _apply_mask(layer: nn.Linear, *_) -> None:
    # Through .data: autograd need not see it, because a weight that a backward pass still needs has its zeros already.
    layer.weight.data.mul_(layer.weight_mask)
