"""Plain integer weights <-> the packed buffer that kernels read (layout: ``csrc/cpu/packed.h``).

The layout is the same on every machine, so a packed module can be copied and pickled; checkpoints still store the
plain tensors.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import torch
from torch import Tensor

from kdnative.formats import large_pages
from kdnative.formats.scheme import WeightFormat
from kdnative.formats.weight import QuantizedWeight

MAGIC = 0x4B444E31
VERSIONS = {1: "without", 2: "with"}
"""Two, so that kernels which know no input scales refuse weights with them rather than compute without."""
TILE_N = 32
TILE_K = 64
GROUPS = (32, 64, 128)

_HEADER = np.dtype(
    [(name, "<i4") for name in ("magic", "version", "bits", "n", "k", "n_pad", "k_pad", "group")]
    + [(name, "<i8") for name in ("data", "scale", "column_sum", "zero", "bias", "bytes")]
    + [("symmetric", "<i4"), ("unused", "<i4"), ("group_scale", "<i8"), ("input_scale", "<i8")]
    + [("reserved", "<i4", 6)]
)
assert _HEADER.itemsize == 128


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple that is not below ``value``."""
    return -(-value // multiple) * multiple


def pad(t: Tensor, n_pad: int, k_pad: int | None = None) -> Tensor:
    """Zero-pad the rows (and columns) of ``t``, on its device."""
    shape = (n_pad, *t.shape[1:]) if k_pad is None else (n_pad, k_pad)
    out = torch.zeros(shape, dtype=t.dtype, device=t.device)
    out[tuple(slice(0, s) for s in t.shape)] = t
    return out


def row_sums(q: Tensor) -> Tensor:
    """int32 ``[N]`` of int8 ``[N, K]``, a few rows at a time: torch makes an int32 copy of what it sums."""
    return torch.cat([rows.sum(dim=1, dtype=torch.int32) for rows in q.split(max(1, 2**18 // q.shape[1]))])


def check_group(group: int | None, k: int) -> None:
    """ValueError unless the kernels have groups of this size and they divide K."""
    if group not in GROUPS or k % group != 0:
        raise ValueError(
            f"group size {group} cannot be packed for K = {k}: the kernels take {', '.join(map(str, GROUPS))}, "
            "and the group must divide K"
        )


def check(weight: QuantizedWeight) -> None:
    """ValueError unless the weight is one that this layout holds."""
    if weight.qweight.dim() != 2:
        raise ValueError(f"only matrices are packed; the weight has shape {list(weight.qweight.shape)}")
    n, k = weight.qweight.shape
    if n == 0 or k == 0:
        raise ValueError(f"cannot pack an empty weight of shape [{n}, {k}]")
    if weight.codebook is not None:
        raise ValueError("weights with a code book can't be packed: no kernel reads one")


def pack(weight: QuantizedWeight, bias: Tensor | None = None) -> Tensor:
    """Pack integer weights for the kernels.

    Args:
        weight: ``qweight`` int8 ``[N, K]``, ``scale`` float32 ``[N]`` (8 bits) or ``[N, G]`` (4 and 2 bits), ``zero``
            int8 ``[N, G]`` or None; with ``group_scale`` uint8 ``[N, G]`` the scale is float32 ``[N]``. ``input_scale``
            float32 ``[K]`` or None.
        bias: float ``[N]`` or None.

    Returns:
        uint8 ``[bytes]``, on the device of the weight.

    Raises:
        ValueError: for a group size that the kernels do not have, or one that does not divide K; 8 bits with groups or
            zero points; more than two dimensions, or a code book.
    """
    check(weight)
    n, k = weight.qweight.shape
    bits = weight.bits
    n_pad, k_pad = round_up(n, TILE_N), round_up(k, TILE_K)
    group = 0 if bits == 8 else weight.group_size or 0
    if bits == 8 and weight.group_size is not None:
        raise ValueError(f"8-bit weights have one scale per output channel (got group size {weight.group_size})")
    if bits == 8 and weight.zero is not None:
        raise ValueError("8-bit weights are packed without zero points")
    if bits != 8:
        check_group(weight.group_size, k)
    q = pad(weight.qweight.detach(), n_pad, k_pad)
    sections: dict[str, Tensor] = {}
    if bits == 8:
        sections["data"] = vnni(q, 16)
        sections["scale"] = pad(weight.scale.detach().float(), n_pad)
        sections["column_sum"] = row_sums(q)
        symmetric = True
    else:
        groups = -(-k_pad // group)
        symmetric = weight.zero is None or not bool(weight.zero.any())
        zero = weight.zero
        zero = torch.zeros(n, k // group, dtype=torch.int8, device=q.device) if zero is None else zero.detach()
        middle = 1 << (bits - 1)
        sections["data"] = _pack_codes((q + middle).to(torch.uint8), bits)
        if weight.group_scale is None:
            sections["scale"] = pad(weight.scale.detach().float(), n_pad, groups).t().contiguous()
        else:
            symmetric = False
            sections["scale"] = pad(weight.scale.detach().float(), n_pad)
            sections["group_scale"] = pad(weight.group_scale.detach(), n_pad, groups).t().contiguous()
        sections["zero"] = (pad(zero, n_pad, groups) + middle).to(torch.uint8).t().contiguous()
    if bias is not None:
        sections["bias"] = pad(bias.detach().to(q.device).float(), n_pad)
    if weight.input_scale is not None:
        sections["input_scale"] = pad(weight.input_scale.detach(), k_pad)

    header = np.zeros((), dtype=_HEADER)
    header["magic"], header["version"] = MAGIC, 1 if weight.input_scale is None else 2
    header["bits"], header["group"] = bits, group
    header["n"], header["k"], header["n_pad"], header["k_pad"] = n, k, n_pad, k_pad
    header["symmetric"] = symmetric
    return assemble(header, sections)


def packed_size(n: int, k: int, weight: WeightFormat, bias: bool, input_scales: bool = False) -> int:
    """Bytes of what :func:`pack` returns for a weight ``[n, k]``, by arithmetic alone."""
    n_pad, k_pad = round_up(n, TILE_N), round_up(k, TILE_K)
    sections = [n_pad * k_pad * weight.bits // 8]
    if weight.bits == 8:
        sections += [4 * n_pad, 4 * n_pad]  # scale, column_sum
    else:
        scales = -(-k_pad // (weight.group_size or k)) * n_pad
        sections += [4 * n_pad, scales] if weight.integer_scales else [4 * scales]  # scale, group_scale
        sections += [scales]  # zero
    sections += [4 * n_pad] * bias + [4 * k_pad] * input_scales
    return 128 + sum(round_up(size, 64) for size in sections)


def unpack(packed: Tensor) -> tuple[QuantizedWeight, Tensor | None]:
    """The inverse of :func:`pack`: exact plain tensors and the bias (float32, or None).

    Sizes and places are checked. Values are not: they were when they were packed.
    """
    header = read_header(packed)
    bits, n, k, n_pad, k_pad, group = (int(header[f]) for f in ("bits", "n", "k", "n_pad", "k_pad", "group"))

    def read(name: str, dtype: torch.dtype, *shape: int) -> Tensor:
        return section(packed, int(header[name]), dtype, int(np.prod(shape))).view(shape)

    bias = bias_of(packed, header)
    inputs = read("input_scale", torch.float32, k_pad)[:k].clone() if header["input_scale"] else None
    if bits == 8:
        q = unvnni(read("data", torch.int8, n_pad * k_pad), n_pad, k_pad, 16)
        scale = read("scale", torch.float32, n_pad)[:n].clone()
        return QuantizedWeight.unchecked(q[:n, :k].contiguous(), scale, None, 8, None, input_scale=inputs), bias
    middle = 1 << (bits - 1)
    u = _unpack_codes(read("data", torch.uint8, n_pad * k_pad * bits // 8), bits, n_pad, k_pad)
    q = u.to(torch.int8) - middle
    groups = -(-k_pad // group)
    zero = group_scale = None
    if header["group_scale"]:
        scale = read("scale", torch.float32, n_pad)[:n].clone()
        group_scale = read("group_scale", torch.uint8, groups, n_pad).t()[:n, : k // group].contiguous()
    else:
        scale = read("scale", torch.float32, groups, n_pad).t()[:n, : k // group].contiguous()
    if group_scale is not None or not header["symmetric"]:
        stored = read("zero", torch.uint8, groups, n_pad).t()[:n, : k // group]
        zero = (stored.to(torch.int8) - middle).contiguous()
    codes = q[:n, :k].contiguous()
    return QuantizedWeight.unchecked(codes, scale, zero, bits, group, group_scale, input_scale=inputs), bias


def bias_of(packed: Tensor, header: np.void) -> Tensor | None:
    """The bias of a packed linear, sparse or not, float32 ``[N]``, or None."""
    if not header["bias"]:
        return None
    return section(packed, int(header["bias"]), torch.float32, int(header["n"]))


def assemble(header: np.ndarray, sections: dict[str, Tensor]) -> Tensor:
    """The buffer of a header of 128 bytes, whose offsets and size are filled in, and its sections."""
    offset = 128
    for name, part in sections.items():
        header[name] = offset
        offset += round_up(part.numel() * part.element_size(), 64)
    header["bytes"] = offset
    device = next(iter(sections.values())).device
    with torch.device(device):  # whatever the default device is
        out = large_pages.zeros(offset) if device.type == "cpu" else torch.zeros(offset, dtype=torch.uint8)
    out[:128] = torch.from_numpy(np.frombuffer(header.tobytes(), dtype=np.uint8).copy())
    for name, part in sections.items():
        raw = part.contiguous().view(torch.uint8).flatten()
        out[int(header[name]) : int(header[name]) + raw.numel()] = raw
    return out


def section(packed: Tensor, start: int, dtype: torch.dtype, count: int) -> Tensor:
    """A copy of ``count`` elements from byte ``start`` on; ValueError where the buffer does not hold them."""
    size = count * dtype.itemsize
    if count < 0 or start < 128 or start + size > packed.numel():
        raise ValueError("a damaged packed weight: it does not hold what its header says")
    return packed[start : start + size].clone().view(dtype)


def read_header(packed: Tensor) -> np.void:
    """The header of a packed buffer as a NumPy record; ValueError when it is not one."""
    header = parse_header(packed, _HEADER, MAGIC, VERSIONS)
    bits, group = int(header["bits"]), int(header["group"])
    if group != 0 if bits == 8 else group not in GROUPS or int(header["k"]) % group != 0:
        raise ValueError(f"a damaged packed weight: {bits} bits and {header['k']} inputs in groups of {group}")
    if header["group_scale"] and bits != 4:
        raise ValueError(f"a damaged packed weight: {bits} bits have no integer group scales")
    if (header["version"] == 2) != bool(header["input_scale"]):
        kind = VERSIONS[int(header["version"])]
        raise ValueError(f"a damaged packed weight: version {header['version']} is {kind} input scales")
    return header


def parse_header(packed: Tensor, layout: np.dtype, magic: int, versions: Container[int]) -> np.void:
    """The first 128 bytes in a layout that has ``magic``, ``version``, ``bytes``, ``bits`` and sizes.

    Raises:
        ValueError: they disagree, or there are no such sizes.
    """
    if packed.dtype != torch.uint8 or packed.dim() != 1 or packed.numel() < 128:
        raise ValueError(f"not a packed weight: {packed.dtype} tensor of shape {list(packed.shape)}")
    header: np.void = np.frombuffer(packed[:128].cpu().numpy().tobytes(), dtype=layout)[0]
    if header["magic"] != magic or header["version"] not in versions or header["bytes"] != packed.numel():
        raise ValueError("not a packed weight, or a damaged one (magic number, version or length disagree)")
    bits, n, k, n_pad, k_pad = (int(header[name]) for name in ("bits", "n", "k", "n_pad", "k_pad"))
    padded = n_pad == round_up(n, TILE_N) and k_pad == round_up(k, TILE_K)
    if bits not in (2, 4, 8) or n < 1 or k < 1 or not padded:
        raise ValueError(
            f"a damaged packed weight: {bits} bits, [{n}, {k}] padded to [{n_pad}, {k_pad}], which there is not"
        )
    return header


def _pack_codes(u: Tensor, bits: int) -> Tensor:
    """Codes uint8 ``[N, K]`` below 2^bits -> bytes: of each quad of k, columns 0 to 15 of a tile, then 16 to 31."""
    n_pad, k_pad = u.shape
    quads = 4 // bits  # in 64 bytes
    halves = u.view(n_pad // TILE_N, 2, 16, k_pad)
    out = torch.zeros(n_pad * k_pad * bits // 8 // 64, 64, dtype=torch.uint8, device=u.device)
    for j in range(2):
        codes = vnni(halves[:, j].reshape(-1, k_pad), 16).view(-1, quads, 64)
        for t in range(quads):
            out |= codes[:, t] << (bits * (2 * t + j))
    return out.view(-1)


def _unpack_codes(data: Tensor, bits: int, n_pad: int, k_pad: int) -> Tensor:
    """The inverse of :func:`_pack_codes`, uint8 ``[N, K]``."""
    quads, mask = 4 // bits, (1 << bits) - 1
    halves = []
    for j in range(2):
        codes = [(data.view(-1, 64) >> (bits * (2 * t + j))) & mask for t in range(quads)]
        flat = torch.stack(codes, dim=1).view(-1)
        halves.append(unvnni(flat, n_pad // 2, k_pad, 16).view(n_pad // TILE_N, 1, 16, k_pad))
    return torch.cat(halves, dim=1).view(n_pad, k_pad)


def vnni(t: Tensor, block: int) -> Tensor:
    """``[N, K]`` -> flat ``[N/block][K/4][block][4]``."""
    n, k = t.shape
    return t.view(n // block, block, k // 4, 4).permute(0, 2, 1, 3).reshape(-1)


def unvnni(flat: Tensor, n: int, k: int, block: int) -> Tensor:
    return flat.view(n // block, k // 4, block, 4).permute(0, 2, 1, 3).reshape(n, k)
