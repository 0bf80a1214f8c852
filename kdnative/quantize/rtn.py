"""Round-to-nearest weight quantization, with an optional search for the clipping range.

The grid search over shrink factors is the usual remedy for outliers at 4 and 2 bits (see OmniQuant, Shao et al. 2024,
and AWQ, Lin et al. 2024, section 5): a smaller range costs the few largest weights and makes every other step finer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight, code_range, groups_of
from kdnative.quantize.two_level import quantize_two_level

__all__ = ["DEFAULT_GRID", "quantize_weight", "search_clip"]

DEFAULT_GRID = tuple(1.0 - 0.025 * i for i in range(25))  # 1.0 down to 0.4

# Groups whose step would be smaller are stored as zeros with scale 1: far below any weight that matters and far above
# where the product of two fp32 scales would lose bits.
TINY = 1e-32


class Range(NamedTuple):
    """Scale and zero point of every group; both [N, G] (G = 1 per channel), `zero` an integer-valued fp32 or None."""

    scale: torch.Tensor
    zero: torch.Tensor | None


def grouped(weight: torch.Tensor, group_size: int | None) -> torch.Tensor:
    """[N, K] seen as [N, G, K / G]; one group per row when `group_size` is None."""
    n, k = weight.shape
    groups = 1 if group_size is None else groups_of(k, group_size)
    return weight.reshape(n, groups, k // groups if groups else group_size)


def base_range(groups: torch.Tensor, bits: int, symmetric: bool) -> Range:
    """The range that covers every weight: [N, G, g] fp32 -> scale (may be 0, see `apply_clip`) and zero, [N, G].

    Symmetric: ``scale = max|w| / high``. Asymmetric: the range is widened to hold 0, ``scale = (max - min) / steps``
    and ``zero = round(low - min / scale)``, so that 0.0 stays exact. `high`, `low`: see `code_range`.
    """
    low, high = code_range(bits)
    if groups.shape[-1] == 0:
        zeros = groups.new_zeros(groups.shape[:2])
        return Range(zeros, None if symmetric else zeros)
    if symmetric:
        return Range(_divide(groups.abs().amax(-1), high), None)
    smallest, largest = (v.clamp(max=0) if i == 0 else v.clamp(min=0) for i, v in enumerate(groups.aminmax(dim=-1)))
    scale = _divide(largest, high - low) - _divide(smallest, high - low)  # a difference taken first could overflow
    safe = torch.where(scale < TINY, 1.0, scale)
    return Range(scale, (low - smallest / safe).round().clamp(low, high))


def apply_clip(full: Range, bits: int, clip: torch.Tensor | float | None = None) -> Range:
    """Shrinks a range by `clip` (a factor, or [N, G] factors). Never returns a scale that is 0 or that overflows."""
    scale = full.scale if clip is None else full.scale * clip
    return Range(torch.where(scale < TINY, 1.0, scale.clamp(max=largest_scale(bits, full.zero is None))), full.zero)


def largest_scale(bits: int, symmetric: bool) -> float:
    """The largest code times the scale must stay finite, even where rounding made the scale a hair too large."""
    low, high = code_range(bits)
    return torch.finfo(torch.float32).max / (high if symmetric else high - low) * (1 - 2**-20)


def round_codes(groups: torch.Tensor, r: Range, bits: int) -> torch.Tensor:
    """Codes as integer-valued fp32 [N, G, g]: ``clamp(round(w / scale) + zero)``, halves to even."""
    low, high = code_range(bits)
    codes = (groups / r.scale[..., None]).round_()
    if r.zero is not None:
        codes += r.zero[..., None]
    return codes.clamp_(low, high)


def search_clip(
    weight: torch.Tensor,
    scheme: Scheme | str,
    *,
    importance: torch.Tensor | None = None,
    grid: Sequence[float] = DEFAULT_GRID,
) -> torch.Tensor:
    """The shrink factor of every channel or group that minimises the squared error of the weights.

    Args:
        weight: [N, K], floating point, finite.
        scheme: a `Scheme`; all but its activation_bits is used.
        importance: [K], mean square of each input; the error of a column counts that much, which makes the search
            minimise the error of the layer's output under independent inputs. None: all columns count the same.
        grid: factors to try, in (0, 1]. Ties keep the earlier one.

    Returns:
        fp32 [N, G] (G = 1 without groups), entries of `grid`.
    """
    scheme = Scheme.parse(scheme)
    w = checked_matrix(weight, "weight")
    if not grid or not all(0 < factor <= 1 for factor in grid):
        raise ValueError(f"grid={list(grid)!r}: give at least one factor, each within (0, 1]")
    groups = grouped(w, scheme.group_size)
    if importance is not None:
        importance = _checked_importance(importance, w.shape[1], w.device).view(groups.shape[1:])
    full = base_range(groups, scheme.weight_bits, scheme.symmetric)
    unit = apply_clip(full, scheme.weight_bits).scale[..., None]  # errors in steps cannot overflow

    def error_of(factor: float) -> torch.Tensor:
        if scheme.integer_scales:
            return quantize_two_level(groups, factor, importance).error
        r = apply_clip(full, scheme.weight_bits, factor)
        codes = round_codes(groups, r, scheme.weight_bits)
        if r.zero is not None:
            codes -= r.zero[..., None]
        error = (codes * (r.scale[..., None] / unit) - groups / unit).square_()
        return (error if importance is None else error * importance).sum(-1)

    best_error = torch.full(groups.shape[:2], torch.inf, dtype=torch.float32, device=w.device)
    best = torch.full_like(best_error, grid[0])
    for factor in grid:
        error = error_of(factor)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best = torch.where(better, factor, best)
    return best


def quantize_weight(
    weight: torch.Tensor,
    scheme: Scheme | str,
    clip_search: bool = False,
    *,
    clip: torch.Tensor | None = None,
    importance: torch.Tensor | None = None,
    grid: Sequence[float] = DEFAULT_GRID,
) -> QuantizedWeight:
    """Rounds a weight matrix to the nearest codes of a scheme.

    Args:
        weight: [N, K], fp32, bf16, fp16 or fp64 (computed in fp32); finite. N or K may be 0.
        scheme: a `Scheme` (or its text, such as "w4a8-g64"); all but its activation_bits is used.
        clip_search: choose the range of every channel or group with `search_clip`.
        clip: fp32 [N, G] shrink factors within (0, 1] to use instead of searching (G = 1 without groups).
        importance, grid: passed to `search_clip`; they need clip_search=True.

    Returns:
        A `QuantizedWeight` on the weight's device. Groups whose scale would be below 1e-32 become exact zeros.

    Raises:
        ValueError: NaN or infinite weights, a group size that does not divide K, or contradictory arguments.
    """
    scheme = Scheme.parse(scheme)
    w = _matrix(weight, "weight")
    if clip_search and clip is not None:
        raise ValueError("clip and clip_search=True exclude each other: give factors, or have them searched")
    if importance is not None and not clip_search:
        raise ValueError("importance is used by the clip search only: give clip_search=True as well")
    groups = grouped(w, scheme.group_size)
    if clip_search:
        clip = search_clip(w, scheme, importance=importance, grid=grid)
    elif clip is not None:
        if clip.shape != groups.shape[:2] or not bool(((clip > 0) & (clip <= 1)).all()):
            raise ValueError(f"clip must have shape {list(groups.shape[:2])} and values within (0, 1]")
        clip = clip.to(w)
    if scheme.integer_scales:
        two = quantize_two_level(groups, clip)
        _require_finite(w, "weight", two.scale)
        return two.weight(scheme.group_size)
    bits = scheme.weight_bits
    full = base_range(groups, bits, scheme.symmetric)
    _require_finite(w, "weight", full.scale)
    r = apply_clip(full, bits, clip)
    codes = round_codes(groups, r, bits).to(torch.int8).reshape(w.shape)
    zero = None if r.zero is None else r.zero.to(torch.int8)
    if scheme.group_size is None:
        return QuantizedWeight.unchecked(codes, r.scale[:, 0], None if zero is None else zero[:, 0], bits, None)
    return QuantizedWeight.unchecked(codes, r.scale, zero, bits, scheme.group_size)


def _divide(values: torch.Tensor, divisor: int) -> torch.Tensor:
    """True division. On a GPU, tensor / number multiplies by a rounded reciprocal: scales would differ by device."""
    return values / torch.full_like(values, divisor)


def checked_matrix(weight: torch.Tensor, name: str) -> torch.Tensor:
    w = _matrix(weight, name)
    _require_finite(w, name, w)
    return w


def _matrix(weight: torch.Tensor, name: str) -> torch.Tensor:
    """The weight in fp32, its values not looked at."""
    if not weight.is_floating_point():
        raise ValueError(f"{name} has dtype {weight.dtype}; only floating point weights can be quantized")
    if weight.dim() != 2:
        raise ValueError(f"{name} has shape {list(weight.shape)}; a matrix [out_features, in_features] is needed")
    return weight.detach().float()


def _require_finite(w: torch.Tensor, name: str, witness: torch.Tensor) -> None:
    """ValueError where ``w`` holds NaN or infinity; then ``witness`` does, such as the scales of its ranges."""
    if bool(torch.isfinite(witness).all()):
        return
    bad = ~torch.isfinite(w)
    row, column = (int(i) for i in bad.nonzero()[0])
    raise ValueError(
        f"{name}[{row}, {column}] is {float(w[row, column])} ({int(bad.sum())} values of {w.numel()} are NaN or "
        "infinite in fp32): repair the checkpoint or lower the learning rate that produced it"
    )


def _checked_importance(importance: torch.Tensor, k: int, device: torch.device) -> torch.Tensor:
    if list(importance.shape) != [k]:
        raise ValueError(
            f"importance has shape {list(importance.shape)}; one value per input feature, [{k}], is needed"
        )
    values = importance.detach().to(device=device, dtype=torch.float32)
    if not bool((torch.isfinite(values) & (values >= 0)).all()):
        raise ValueError("importance holds negative, NaN or infinite values; it must be a mean square per input")
    return values
