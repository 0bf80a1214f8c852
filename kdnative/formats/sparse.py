"""Plain integer weights with many zeros <-> the packed buffer of the sparse kernels (layout: ``csrc/cpu/sparse.h``)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kdnative.formats import dense
from kdnative.formats.dense import TILE_K, TILE_N
from kdnative.formats.weight import QuantizedWeight

MAGIC = 0x4B444E53
VERSIONS = (1,)
FORMATS = {"4x1": 1, "mask": 2, "2:4": 2}
"""The format of each sparsity. 2:4 has the masked form: with two of four bytes kept, a mask of four bits is as short as
two indices of two bits."""

MASK_SPARE = 2048  # bytes after the values of a mask
MAX_IN_FEATURES = {"4x1": 1 << 16}  # inputs are numbered in 16 bits

_HEADER = np.dtype(
    [(name, "<i4") for name in ("magic", "version", "bits", "format", "n", "k", "n_pad", "k_pad")]
    + [(name, "<i8") for name in ("count", "values", "index", "start", "scale", "column_sum", "bias", "bytes")]
    + [("reserved", "<i4", 8)]
)
assert _HEADER.itemsize == 128


def pack(weight: QuantizedWeight, bias: Tensor | None = None, sparsity: str = "mask") -> Tensor:
    """Pack integer weights for the sparse kernels, without their zeros.

    Args:
        weight: 8 bits: ``qweight`` int8 ``[N, K]``, ``scale`` float32 ``[N]``.
        bias: float ``[N]`` or None.
        sparsity: "4x1" leaves out blocks of four consecutive outputs and one input that are all zero; "mask" and "2:4"
            leave out single zeros.

    Returns:
        uint8 ``[bytes]``.

    Raises:
        ValueError: an unknown sparsity, weights of another kind, an empty weight, more than two weights of four for
            "2:4", or more than 65536 inputs for "4x1".
    """
    if sparsity not in FORMATS:
        raise ValueError(f"sparsity {sparsity!r} has no packed form; allowed: {', '.join(FORMATS)}")
    dense.check(weight)
    if weight.input_scale is not None:
        raise ValueError("weights with input scales can't be packed without their zeros")
    n, k = weight.qweight.shape
    if weight.bits != 8 or weight.group_size is not None:
        raise ValueError(
            f"sparse weights have 8 bits and one scale per output (got {weight.bits} bits"
            f"{'' if weight.group_size is None else f' and groups of {weight.group_size}'}); pack these dense"
        )
    if k > MAX_IN_FEATURES.get(sparsity, k):
        raise ValueError(f"4x1 blocks number at most {MAX_IN_FEATURES['4x1']} inputs, the weight has {k}: use +mask")
    if sparsity == "2:4":
        require_two_of_four(weight.qweight)
    n_pad, k_pad = dense.round_up(n, TILE_N), dense.round_up(k, TILE_K)
    q = dense.pad(weight.qweight.detach(), n_pad, k_pad)
    header = np.zeros((), dtype=_HEADER)
    if FORMATS[sparsity] == FORMATS["4x1"]:
        sections = _pack_blocks(q)
    else:
        sections = _pack_mask(q)
        sections["values"] = torch.cat([sections["values"], sections["values"].new_zeros(MASK_SPARE)])
    sections["scale"] = dense.pad(weight.scale.detach().float(), n_pad)
    sections["column_sum"] = dense.row_sums(q)
    if bias is not None:
        sections["bias"] = dense.pad(bias.detach().to(q.device).float(), n_pad)
    header["magic"], header["version"] = MAGIC, VERSIONS[0]
    header["bits"], header["format"] = 8, FORMATS[sparsity]
    header["n"], header["k"], header["n_pad"], header["k_pad"] = n, k, n_pad, k_pad
    header["count"] = int(sections["start"][-1])
    return dense.assemble(header, sections)


def unpack(packed: Tensor) -> tuple[QuantizedWeight, Tensor | None]:
    """The inverse of :func:`pack`, checked as that of dense weights: exact plain tensors, and the bias or None."""
    header = read_header(packed)
    n, k, n_pad, k_pad, count = (int(header[f]) for f in ("n", "k", "n_pad", "k_pad", "count"))

    def section(name: str, dtype: torch.dtype, size: int) -> Tensor:
        return dense.section(packed, int(header[name]), dtype, size)

    if int(header["format"]) == FORMATS["4x1"]:
        values, index = section("values", torch.int8, 16 * count), section("index", torch.int16, 4 * count)
        start = section("start", torch.int64, n_pad // 4 + 1)
        first, last, shortest = int(start[0]), int(start[-1]), int(start.diff().min())
        largest = int((index.long() & 0xFFFF).max()) if count else 0
        if first != 0 or last != count or shortest < 0 or largest >= k_pad:
            raise ValueError("a damaged packed weight: its blocks are not those of its rows and inputs")
        q = _unpack_blocks(values, index, start, k_pad)
    else:
        values, mask = section("values", torch.uint8, count), section("index", torch.int64, n_pad * k_pad // 64)
        if int(_mask_bits(mask).sum()) != count:
            raise ValueError(f"a damaged packed weight: its mask has not the {count} weights that it says")
        q = _unpack_mask(values, mask, n_pad, k_pad)
    bias = dense.bias_of(packed, header)
    scale = section("scale", torch.float32, n_pad)[:n].clone()
    return QuantizedWeight.unchecked(q[:n, :k].contiguous(), scale, None, 8, None), bias


def read_header(packed: Tensor) -> np.void:
    """The header of a packed sparse buffer as a NumPy record; ValueError when it is not one."""
    header = dense.parse_header(packed, _HEADER, MAGIC, VERSIONS)
    bits, form, k = (int(header[name]) for name in ("bits", "format", "k"))
    if bits != 8 or form not in FORMATS.values():
        raise ValueError(f"a damaged packed weight: {bits} bits in sparse format {form}, which there is not")
    if form == FORMATS["4x1"] and k > MAX_IN_FEATURES["4x1"]:
        raise ValueError(f"a damaged packed weight: 4x1 blocks of {k} inputs")
    return header


def is_two_of_four(qweight: Tensor) -> bool:
    """Whether at most two of four consecutive inputs of a weight ``[N, K]`` are other than zero."""
    return not bool(_crowded(qweight).any())


def _crowded(qweight: Tensor) -> Tensor:
    """bool ``[N, ceil(K / 4)]``: which four inputs have more than two weights other than zero."""
    padded = torch.nn.functional.pad(qweight, (0, -qweight.shape[1] % 4))
    return padded.view(len(qweight), -1, 4).count_nonzero(-1) > 2


def require_two_of_four(qweight: Tensor) -> None:
    """ValueError when more than two of four consecutive inputs have weights other than zero."""
    crowded = _crowded(qweight)
    if bool(crowded.any()):
        row, group = (int(i) for i in crowded.nonzero()[0])
        raise ValueError(
            f"2:4 keeps two of four consecutive inputs, but {int(crowded.sum())} groups of this weight have more "
            f"(the first one: output {row}, inputs {4 * group} to {4 * group + 3}); prune it first with "
            'kdnative.prune.mask_(model, pattern="2:4"), or use +mask'
        )


def _pack_blocks(q: Tensor) -> dict[str, Tensor]:
    """Values int8 ``[16 * quads]``, inputs int16 ``[4 * quads]`` (unsigned bits), starts int64 ``[n_pad / 4 + 1]``."""
    rows = q.view(q.shape[0] // 4, 4, q.shape[1])
    kept = (rows != 0).any(1)
    counts = kept.sum(1)
    start = _starts((counts + 3) // 4)
    row, column = kept.nonzero(as_tuple=True)
    first = (counts.cumsum(0) - counts)[row]  # the number of blocks before this row
    slot = 4 * start[row] + torch.arange(row.numel(), device=q.device) - first
    values = torch.zeros(int(start[-1]), 4, 4, dtype=torch.int8, device=q.device)
    values[slot // 4, :, slot % 4] = rows[row, :, column]
    index = torch.zeros(4 * int(start[-1]), dtype=torch.int32, device=q.device)
    index[slot] = column.int()
    for back in (1, 2, 3):  # a row's last quad repeats its last input
        more = counts % 4 != 0
        at = 4 * start[1:][more] - back
        last = 4 * start[:-1][more] + counts[more] - 1
        index[at] = torch.where(at > last, index[last], index[at])
    return {"values": values.flatten(), "index": index.to(torch.int16), "start": start}


def _unpack_blocks(values: Tensor, index: Tensor, start: Tensor, k_pad: int) -> Tensor:
    rows = torch.zeros(start.numel() - 1, 4, k_pad, dtype=torch.int8, device=values.device)
    row = torch.repeat_interleave(torch.arange(start.numel() - 1, device=start.device), 4 * start.diff())
    column = index.long() & 0xFFFF
    weights = values.view(-1, 4, 4).transpose(1, 2).reshape(-1, 4)
    used = (weights != 0).any(1)  # the inputs that fill up a quad would overwrite their weights by zeros
    rows[row[used], :, column[used]] = weights[used]
    return rows.view(-1, k_pad)


def _pack_mask(q: Tensor) -> dict[str, Tensor]:
    """Weights + 128 uint8 ``[count]``, masks int64 ``[n_pad * k_pad / 64]``, starts int64 ``[n_pad / 16 + 1]``."""
    full = dense.vnni(q, 16)
    kept = full != 0
    start = _starts(kept.view(q.shape[0] // 16, -1).sum(1))
    return {"values": full[kept].view(torch.uint8) ^ 0x80, "index": _mask_words(kept), "start": start}


def _unpack_mask(values: Tensor, mask: Tensor, n_pad: int, k_pad: int) -> Tensor:
    full = torch.zeros(n_pad * k_pad, dtype=torch.int8, device=values.device)
    full[_mask_bits(mask)] = (values ^ 0x80).view(torch.int8)
    return dense.unvnni(full, n_pad, k_pad, 16)


def _mask_words(kept: Tensor) -> Tensor:
    """bool ``[64 * words]`` -> int64 ``[words]``, the first of 64 in the lowest bit."""
    bits = kept.view(-1, 8).to(torch.uint8) << torch.arange(8, dtype=torch.uint8, device=kept.device)
    return bits.sum(1, dtype=torch.uint8).view(torch.int64)


def _mask_bits(words: Tensor) -> Tensor:
    """The inverse of :func:`_mask_words`."""
    bits = words.view(torch.uint8)[:, None] >> torch.arange(8, dtype=torch.uint8, device=words.device)
    return (bits & 1).flatten().bool()


def _starts(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]).long()
