"""When leaving zeros out pays: the share of zeros from which a sparse layer is faster than the dense one.

Measured by ``kdnative bench sparse`` (`docs/sparse.md` has the table and the machine). `kdnative.convert_` asks here,
and keeps a layer dense below the crossover: the result is the same, bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdnative import ops
from kdnative.formats.scheme import Scheme
from kdnative.formats.sparse import require_two_of_four
from kdnative.ops.backends import Backend, backend_for

__all__ = ["ROWS", "SIZES", "crossover", "dense_or_sparse", "measured_isa", "zeros_left_out"]

ROWS = (1, 4, 32, 128)
"""Rows of activations that were measured; with a number between two of these both must be faster."""

SIZES = {"small": 384 * 384, "medium": 768 * 768, "large": 3072 * 768, "huge": 4096 * 4096}
"""Shape classes by the number of weights that was measured. A layer belongs to the nearest one, on a log scale."""

_NEVER = dict.fromkeys(SIZES, (1.01,) * len(ROWS))

# By instruction set and packed form, for each size one share for each of ROWS; 1.01: never. The least share that was
# measured is 0.5, so that it can be lower in truth where 0.5 stands.
_SHARES: dict[tuple[str, str], dict[str, tuple[float, ...]]] = {
    ("avx512vnni", "4x1"): {
        "small": (1.01, 1.01, 0.5, 0.5),
        "medium": (0.946, 0.904, 0.5, 0.5),
        "large": (0.903, 0.871, 0.5, 0.5),
        "huge": (0.859, 0.833, 0.558, 0.5),
    },
    ("avx512vnni", "mask"): {
        "small": (1.01, 1.01, 1.01, 1.01),
        "medium": (1.01, 1.01, 1.01, 1.01),
        "large": (0.584, 1.01, 1.01, 1.01),
        "huge": (0.5, 0.5, 1.01, 1.01),
    },
    ("avx512vnni in halves", "mask"): {
        "small": (1.01, 1.01, 1.01, 1.01),
        "medium": (1.01, 1.01, 1.01, 1.01),
        "large": (1.01, 1.01, 1.01, 1.01),
        "huge": (0.5, 1.01, 1.01, 1.01),
    },
    ("avxvnni", "4x1"): {
        "small": (1.01, 0.84, 0.5, 0.5),
        "medium": (1.01, 0.82, 0.5, 0.5),
        "large": (0.914, 0.811, 0.5, 0.5),
        "huge": (0.876, 0.813, 0.54, 0.536),
    },
    ("avx2", "4x1"): {
        "small": (1.01, 0.843, 0.509, 0.5),
        "medium": (0.949, 0.85, 0.5, 0.5),
        "large": (0.928, 0.827, 0.5, 0.5),
        "huge": (0.92, 0.794, 0.5, 0.501),
    },
    **{(isa, "mask"): _NEVER for isa in ("avx2", "avxvnni")},
}


def crossover(isa: str, sparsity: str, n: int, k: int, rows: int) -> float | None:
    """The share of zeros that are left out from which the sparse kernel is the faster one.

    Args:
        isa: an instruction set, as `kdnative.ops.isa` names it.
        sparsity: "4x1", "2:4" or "mask".
        n, k: outputs and inputs of the layer.
        rows: rows of activations in a call.

    Returns:
        A share above 0; more than 1 where it never is. None where that was not measured.
    """
    form = "mask" if sparsity == "2:4" else sparsity
    shares = [_share(isa, form, n * k, row) for row in _neighbours(max(rows, 1))]
    found = [share for share in shares if share is not None]
    return max(found) if len(found) == len(shares) else None


def _neighbours(rows: int) -> set[int]:
    """Places in ROWS of the number itself, or of the next ones on both sides."""
    below = sum(limit <= rows for limit in ROWS) - 1
    return {below, below if rows == ROWS[below] else min(below + 1, len(ROWS) - 1)}


def _share(isa: str, form: str, weights: int, row: int) -> float | None:
    kernels = measured_isa(isa, ROWS[row])
    halved = (f"{kernels} in halves", form)
    table = _SHARES.get(halved if halved in _SHARES and ops.avx512_in_halves() else (kernels, form))
    return None if table is None else table[_size_class(weights)][row]


def dense_or_sparse(name: str, qweight: Tensor, scheme: Scheme, rows: int, explicit: bool) -> tuple[Scheme, str]:
    """What a scheme comes to for the weights of one layer where they are, and why, in words.

    Args:
        name: of the layer, for errors.
        qweight: int8 [N, K], 0 where the weight is.
        scheme: sparse or not.
        rows: rows of activations in a typical call.
        explicit: the user named this layer: a sparse scheme is then taken whether it pays or not.

    Raises:
        ValueError: weights that "2:4" cannot hold in a layer that the user named.
    """
    backend = backend_for(qweight.device)
    found, reason = _dense_or_sparse(name, qweight, scheme, rows, explicit, backend)
    return found, reason + backend.remark(found)


def _dense_or_sparse(
    name: str, qweight: Tensor, scheme: Scheme, rows: int, explicit: bool, backend: Backend
) -> tuple[Scheme, str]:
    if scheme.sparsity is None:
        return scheme, "native linear"
    try:
        zeros = zeros_left_out(qweight, scheme.sparsity)
    except ValueError as error:
        if explicit:
            raise ValueError(f"nothing was converted: {name or '(model)'}: {error}") from None
        return scheme.dense, f"native linear, dense: {error}"
    found = backend.pays(qweight, scheme)
    has = f"{100 * zeros:.0f} % of its {'4x1 blocks' if scheme.sparsity == '4x1' else 'weights'} are zero"
    if found is not None:
        sparse, why = found
        if sparse:
            return scheme, f"native sparse linear: {has}"
        kept = f"native linear, in the dense form on {backend.name}: {has}, and {why}"
        return (scheme, kept) if explicit else (scheme.dense, f"native linear, dense: {has}, and {why}")
    isa = ops.isa()
    share = crossover(isa, scheme.sparsity, qweight.shape[0], qweight.shape[1], rows)
    if explicit or (share is not None and zeros >= share):
        return scheme, f"native sparse linear: {has}"
    if share is None:
        wins = f"and {scheme.sparsity} was not measured on {isa}"
    elif share > 1:
        wins = f"and {scheme.sparsity} is not faster on {isa} for its shape and {rows} rows"
    else:
        wins = f"and {scheme.sparsity} is faster from {100 * share:.0f} % on ({isa}, {rows} rows)"
    return scheme.dense, f"native linear, dense: {has}, {wins}"


def measured_isa(isa: str, rows: int) -> str:
    """The instruction set whose kernels run: some share them with another one."""
    same = isa == "avx512bf16" or (isa == "amx" and rows <= 4)  # for few rows the tiles are not used
    return "avx512vnni" if same else isa


def zeros_left_out(qweight: Tensor, sparsity: str) -> float:
    """The share of an integer weight [N, K] that the sparse form leaves out, 0 to 1.

    Raises:
        ValueError: "2:4", and more than two of four consecutive inputs have weights other than zero.
    """
    if sparsity == "2:4":
        require_two_of_four(qweight)
    if sparsity == "4x1":
        padded = torch.nn.functional.pad(qweight, (0, 0, 0, -qweight.shape[0] % 4))
        qweight = (padded != 0).view(-1, 4, qweight.shape[1]).any(1)
    return 1 - int(qweight.count_nonzero()) / max(qweight.numel(), 1)


def _size_class(weights: int) -> str:
    return min(SIZES, key=lambda name: max(SIZES[name] / weights, weights / SIZES[name]))
