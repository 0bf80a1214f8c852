"""Magnitude masks: zeros in weights whose shapes stay, kept at zero through training.

A mask is a bool buffer ``weight_mask`` beside the weight (so `state_dict` and `copy.deepcopy` carry it) and a forward
pre-hook that puts the zeros back after every optimizer step. Patterns: unstructured (Han et al. 2015), N:M (Mishra et
al. 2021), blocks (Gray et al. 2017; 4x1 as in Elsen et al. 2020).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdnative.patterns import Selection
from kdnative.prune.report import PruneReport, PruneRow

__all__ = ["finalize_masks_", "mask_", "masked_modules", "sparsity_report"]

_BUFFER = "weight_mask"
_ALREADY_PRUNED = -1.0  # below every magnitude: what a mask has removed stays removed


def mask_(
    model: nn.Module,
    sparsity: float | None = None,
    pattern: str = "unstructured",
    *,
    scope: str = "layer",
    modules: str | Iterable[str] = "*",
    keep: str | Iterable[str] = (),
) -> PruneReport:
    """Sets the smallest weights of linear layers to zero and keeps them there, in place. Calling it again with a higher
    sparsity only adds zeros.

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

    Returns:
        One row per masked layer. Per layer ("layer") or in all ("global") exactly ``floor(sparsity * blocks + 0.5)``
        blocks are removed, ties broken arbitrarily; fewer only where more had been removed before.

    Raises:
        ValueError: an impossible argument, no layer that matches, NaN weights, or in_features that M does not divide.
            The model is then unchanged.
    """
    shape = _Pattern.parse(pattern)
    sparsity = shape.checked_sparsity(sparsity)
    if scope not in ("layer", "global"):
        raise ValueError(f"scope={scope!r}; allowed are 'layer' and 'global'")
    layers = _select(model, modules, keep)
    scores = {name: _scores(name, layer, shape) for name, layer in layers.items()}
    if shape.n_of_m:
        kept = {name: _keep_n_of_m(s, shape.n) for name, s in scores.items()}
    elif scope == "layer":
        kept = {name: _keep_largest(s.flatten(), sparsity).view_as(s) for name, s in scores.items()}
    else:
        every = _keep_largest(torch.cat([s.flatten().cpu() for s in scores.values()]), sparsity)
        parts = every.split([s.numel() for s in scores.values()])
        kept = {n: part.view_as(s).to(s.device) for (n, s), part in zip(scores.items(), parts, strict=True)}
    for name, layer in layers.items():
        _attach(layer, shape.expand(kept[name], layer.weight.shape))
    return sparsity_report(model, layers)


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


@dataclass(frozen=True)
class _Pattern:
    """Blocks of `rows` outputs x `columns` inputs; with `n_of_m`, `n` of `columns` inputs stay (and rows is 1)."""

    rows: int = 1
    columns: int = 1
    n: int = 0
    n_of_m: bool = False

    @staticmethod
    def parse(text: str) -> _Pattern:
        if text == "unstructured":
            return _Pattern()
        if (match := re.fullmatch(r"(\d+):(\d+)", text)) and 0 < int(match[1]) < int(match[2]):
            return _Pattern(1, int(match[2]), int(match[1]), True)
        if (match := re.fullmatch(r"(\d+)x(\d+)", text)) and int(match[1]) and int(match[2]):
            return _Pattern(int(match[1]), int(match[2]))
        raise ValueError(
            f"pattern={text!r}; allowed are 'unstructured', N:M with 0 < N < M such as '2:4', and RxC such as '4x1'"
        )

    def checked_sparsity(self, sparsity: float | None) -> float:
        if self.n_of_m:
            fixed = 1 - self.n / self.columns
            if sparsity is not None and abs(sparsity - fixed) > 1e-9:
                raise ValueError(
                    f"sparsity={sparsity}, but pattern {self.n}:{self.columns} always removes {fixed:.4g}: leave it out"
                )
            return fixed
        if sparsity is None or not 0 <= sparsity < 1:
            raise ValueError(f"sparsity={sparsity}; a share of the weights, 0 <= sparsity < 1, is needed")
        return float(sparsity)

    def blocks(self, values: Tensor) -> Tensor:
        """[N, K] -> [N / rows, rows, K / columns, columns], padded with zeros at the edges."""
        n, k = values.shape
        padded = nn.functional.pad(values, (0, -k % self.columns, 0, -n % self.rows))
        return padded.unflatten(1, (-1, self.columns)).unflatten(0, (-1, self.rows))

    def expand(self, kept: Tensor, shape: torch.Size) -> Tensor:
        """The mask [N, K] from what is kept: blocks [N / rows, K / columns], or for N:M [N, K / M, M]."""
        if self.n_of_m:
            return kept.reshape(shape)
        mask = kept.repeat_interleave(self.rows, 0).repeat_interleave(self.columns, 1)
        return mask[: shape[0], : shape[1]].contiguous()


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def _select(model: nn.Module, modules: str | Iterable[str], keep: str | Iterable[str]) -> dict[str, nn.Linear]:
    patterns = (modules,) if isinstance(modules, str) else tuple(modules)
    selection = Selection(dict.fromkeys(patterns, True), keep)
    layers = _linears(model)
    selection.check_used(list(layers))
    chosen = {name: layer for name, layer in layers.items() if selection.choose(name).value}
    chosen = {name: layer for name, layer in chosen.items() if layer.weight.numel()}
    if not chosen:
        raise ValueError(f"no layer to mask: the model has {len(layers)} linear layers, and all are empty or kept")
    return chosen


def _scores(name: str, layer: nn.Linear, shape: _Pattern) -> Tensor:
    """How much each block matters; for N:M the magnitude of every weight, [N, K / M, M]."""
    if not isinstance(layer.weight, nn.Parameter):
        raise ValueError(f"{name}.weight is computed from other tensors (a parametrization): make that permanent first")
    weight = layer.weight.detach().float()
    if bool(weight.isnan().any()):
        raise ValueError(f"{name}.weight holds NaN: it can't be ranked")
    if shape.n_of_m and weight.shape[1] % shape.columns:
        raise ValueError(
            f"{name} has {weight.shape[1]} input features, which pattern {shape.n}:{shape.columns} does not divide; "
            "leave it out with keep=, or take another pattern"
        )
    mask = layer._buffers.get(_BUFFER)
    alive = torch.ones_like(weight) if mask is None else mask.float()
    if shape.n_of_m:
        return torch.where(alive > 0, weight.abs(), _ALREADY_PRUNED).unflatten(1, (-1, shape.columns))
    if shape.rows * shape.columns == 1:
        return torch.where(alive > 0, weight.abs(), _ALREADY_PRUNED)
    size = shape.blocks(torch.ones_like(weight)).sum((1, 3))
    square = shape.blocks((weight * alive).double().square()).sum((1, 3))  # float64: fp32 weights can't overflow it
    dead = shape.blocks(alive).sum((1, 3)) == 0
    return torch.where(dead, _ALREADY_PRUNED, (square / size).sqrt()).float()


def _keep_largest(scores: Tensor, sparsity: float) -> Tensor:
    """Which to keep, bool; removes exactly floor(sparsity * count + 0.5), or more where more was pruned before."""
    kept = scores != _ALREADY_PRUNED
    count = int(sparsity * scores.numel() + 0.5)
    kept[scores.topk(count, largest=False, sorted=False).indices] = False
    return kept


def _keep_n_of_m(scores: Tensor, n: int) -> Tensor:
    kept = torch.zeros_like(scores, dtype=torch.bool)
    kept.scatter_(-1, scores.topk(n, dim=-1).indices, True)
    return kept & (scores != _ALREADY_PRUNED)


def _attach(layer: nn.Linear, mask: Tensor) -> None:
    fresh = _BUFFER not in layer._buffers
    layer.register_buffer(_BUFFER, mask)
    if fresh:
        layer.register_forward_pre_hook(_apply_mask)
    _apply_mask(layer)


def _apply_mask(layer: nn.Linear, *_) -> None:
    # Through .data: autograd need not see it, because a weight that a backward pass still needs has its zeros already.
    layer.weight.data.mul_(layer.weight_mask)
