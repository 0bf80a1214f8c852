"""The encoder buffer of ``docs/packed_formats.md``, the same everywhere; read by ``csrc/cpu/transformer_format.h``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdnative import ops
from kdnative.nn.encoder_parts import EncoderParts
from kdnative.nn.encoder_spec import LINEARS

__all__ = ["pack", "unpack"]

MAGIC = 0x4B444E45
VERSION = 2
_ALIGN = 64

Filler = Callable[[nn.Module, Mapping[str, Tensor]], None]

_HEADER = np.dtype(
    [("magic", "<i4"), ("version", "<i4"), ("bytes", "<i8")]
    + [(name, "<i4") for name in ("layers", "hidden", "activation", "padding_id")]
    + [(name, "<i4") for name in ("vocabulary", "positions", "token_types")]
    + [("eps", "<f4")]
    + [(f"{table}{part}", "<i8") for table in ("word", "position", "token_type") for part in ("", "_scale")]
    + [(name, "<i8") for name in ("norm_weight", "norm_bias", "layer_table")]
    + [("bias_heads", "<i4"), ("bias_span", "<i4"), ("relative_bias", "<i8")]
    + [(name, "<i4") for name in ("rotary_tables", "rotary_positions", "rotary_half", "unused")]
    + [("rotary", "<i8"), ("bias_buckets", "<i8"), ("reserved", "<i8", 3)]
)
_NORMS = ("attention_before", "attention_after", "ffn_before", "ffn_after")
_LAYER = np.dtype(
    [(name, "<i4") for name in ("heads", "head_dim", "ffn")]
    + [("scaling", "<f4")]
    + [(name, "<i4") for name in ("gated", "window", "rotary", "unused")]
    + [(f"{linear}{part}", "<i8") for linear in LINEARS for part in ("", "_bytes")]
    + [(f"{norm}_{part}", "<i8") for norm in _NORMS for part in ("weight", "bias")]
    + [("reserved", "<i8", 4)]
)
assert _HEADER.itemsize == 192 and _LAYER.itemsize == 192


class _Writer:
    """Collects sections and gives each its offset; large ones are taken from their module when they are written."""

    def __init__(self, fill: Filler | None) -> None:
        self.fill = fill
        self.sections: list[tuple[int, Tensor]] = []
        self.later: list[tuple[nn.Module, dict[str, int]]] = []
        self.bytes = 0

    def add(self, tensor: Tensor) -> int:
        self.sections.append((self.bytes, tensor))
        return self._place(tensor)

    def add_later(self, module: nn.Module, *names: str) -> list[int]:
        offsets = {name: self._place(getattr(module, name)) for name in names}
        self.later.append((module, offsets))
        return list(offsets.values())

    def _place(self, tensor: Tensor) -> int:
        offset = self.bytes
        self.bytes += -(-tensor.numel() * tensor.element_size() // _ALIGN) * _ALIGN
        return offset

    def add_record(self, record: np.ndarray) -> int:
        return self.add(_bytes_of(record))

    def buffer(self) -> Tensor:
        # Takes memory as it is written, section by section.
        out = torch.empty(self.bytes, dtype=torch.uint8, device="cpu")
        for offset, tensor in self.sections:
            _write(out, offset, tensor)
        for module, offsets in self.later:
            if self.fill is None and module.is_empty:
                raise ValueError(f"an encoder can't be packed, as it has an empty part: {module}")
            if self.fill is not None:
                places = {name: _section(out, offset, getattr(module, name)) for name, offset in offsets.items()}
                self.fill(module, places)
            for name, offset in offsets.items():
                _write(out, offset, getattr(module, name))
            if self.fill is not None:
                module.to("meta")
        return out


def _section(out: Tensor, offset: int, like: Tensor) -> Tensor:
    """Where a section of the shape and dtype of ``like`` goes."""
    return out[offset : offset + like.numel() * like.element_size()].view(like.dtype).view(like.shape)


def _write(out: Tensor, offset: int, tensor: Tensor) -> None:
    """The bytes of a section, and zeros up to the next one."""
    if not tensor.is_meta:  # a module that could not be filled, which its filler reports
        raw = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        end = offset + raw.numel()
        if raw.data_ptr() != out.data_ptr() + offset:  # not put there by the filler
            out[offset:end] = raw
        out[end : -(-end // _ALIGN) * _ALIGN] = 0


def _bytes_of(record: np.ndarray) -> Tensor:
    return torch.from_numpy(np.frombuffer(record.tobytes(), dtype=np.uint8).copy())


def pack(parts: EncoderParts, fill: Filler | None = None) -> Tensor:
    """All of ``parts`` as one uint8 ``[bytes]`` buffer.

    Args:
        parts: on the CPU, or with ``fill`` on the meta device.
        fill: gives one module of ``parts`` its values; those of a linear or a table are dropped once they are packed.
            So the buffer and one module are in memory, and not the parts beside it. It is also given, by the names of
            the module's buffers, where in the packed buffer they go, and may make these places the module's buffers.
    """
    spec, writer = parts.spec, _Writer(fill)
    if fill is not None:
        for module in parts.modules():  # small ones
            if isinstance(module, (nn.LayerNorm, nn.Embedding)):
                fill(module, {})
    header, layers = np.zeros((), _HEADER), np.zeros(len(spec["layers"]), _LAYER)
    writer.add_record(header)  # keeps the place; written again when the offsets are known
    header["layer_table"] = writer.add_record(layers) if len(layers) else _HEADER.itemsize
    header["magic"], header["version"] = MAGIC, VERSION
    header["layers"], header["hidden"] = len(layers), spec["hidden_size"]
    header["activation"] = ops.activation_code(spec["activation"])
    header["padding_id"] = -1 if spec["padding_id"] is None else spec["padding_id"]
    header["vocabulary"], header["token_types"] = spec["vocab_size"], spec["token_types"]
    header["positions"] = spec["max_positions"] if spec["position_table"] else 0
    header["eps"] = spec["eps"]
    for name, part in _embeddings(parts):
        if name == "norm":
            header["norm_weight"], header["norm_bias"] = _add_norm(writer, part)
        else:
            header[name], header[f"{name}_scale"] = writer.add_later(part, "qweight", "scale")
    if spec["relative_buckets"]:
        weight = parts.relative_bias.weight.detach().float()
        header["bias_heads"], header["bias_span"] = weight.shape[1], spec["max_positions"] - 1
        header["bias_buckets"] = writer.add(weight)
        header["relative_bias"] = writer.add(relative_bias(weight, spec["relative_distance"], spec["max_positions"]))
    thetas = sorted({layer["rope_theta"] for layer in spec["layers"]} - {None})
    if thetas:
        half = next(layer["head_dim"] for layer in spec["layers"] if layer["rope_theta"] is not None) // 2
        header["rotary_tables"], header["rotary_half"] = len(thetas), half
        header["rotary_positions"] = spec["max_positions"]
        header["rotary"] = writer.add(torch.stack([rotary(t, spec["max_positions"], half) for t in thetas]))
    for record, layer, settings in zip(layers, parts.layers, spec["layers"], strict=True):
        for name in ("heads", "head_dim", "ffn", "scaling"):
            record[name] = settings[name]
        record["gated"] = spec["gated"]
        record["window"] = -1 if settings["window"] is None else settings["window"]
        record["rotary"] = -1 if settings["rope_theta"] is None else thetas.index(settings["rope_theta"])
        for name in LINEARS:
            linear = getattr(layer, name)
            (record[name],), record[f"{name}_bytes"] = writer.add_later(linear, "packed"), linear.packed.numel()
    for record, place, norm in _layer_norms(parts, layers):
        record[f"{place}_weight"], record[f"{place}_bias"] = _add_norm(writer, norm)
    header["bytes"] = writer.bytes
    out = writer.buffer()
    records = torch.cat([_bytes_of(header), _bytes_of(layers)])
    out[: records.numel()] = records
    return out


def relative_bias(weight: Tensor, max_distance: int, positions: int) -> Tensor:
    """Biases by distance, float32 ``[heads, 2 * positions - 1]``: entry d + positions - 1 is for a key d columns on.

    Buckets as in Raffel et al. 2020, both directions: half of them for keys after the query, in each half one a
    distance up to a quarter of all, then logarithmically wider ones up to ``max_distance``, and the last for the rest.

    Args:
        weight: ``[buckets, heads]``.
    """
    half = weight.shape[0] // 2
    exact = half // 2
    distance = torch.arange(-(positions - 1), positions, device=weight.device)
    far = distance.abs()
    # In float32, as the models compute it: a distance on the edge of a bucket must fall on the same side.
    wide = torch.log(far.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (half - exact)
    bucket = torch.where(far < exact, far, (exact + wide.long()).clamp(max=half - 1))
    return weight[bucket + half * (distance > 0)].t().contiguous()


def rotary(theta: float, positions: int, half: int) -> Tensor:
    """Cosines and sines of rotary positions (Su et al. 2021), float32 ``[positions, 2, half]``.

    The angle of pair i at position p is ``p * theta^(-i / half)``.
    """
    rates = theta ** (-torch.arange(half, dtype=torch.float64, device="cpu") / half)
    angles = torch.arange(positions, dtype=torch.float64, device="cpu")[:, None] * rates
    return torch.stack([angles.cos(), angles.sin()], dim=1).float()


def _embeddings(parts: EncoderParts) -> list[tuple[str, nn.Module]]:
    """The tables and their LayerNorm; nothing where the layers stand alone."""
    return list(parts.embeddings.named_children()) if parts.spec["embeddings"] else []


def _layer_norms(parts: EncoderParts, records: np.ndarray) -> Iterator[tuple[np.void, str, nn.LayerNorm]]:
    """Every LayerNorm after the embeddings, with its record and its place there."""
    for record, layer in zip(records, parts.layers, strict=True):
        if parts.spec["norm"] == "post":
            yield record, "attention_after", layer.attention_norm
            yield record, "ffn_after", layer.output_norm
        else:
            if hasattr(layer, "attention_norm"):
                yield record, "attention_before", layer.attention_norm
            yield record, "ffn_before", layer.ffn_norm
    if hasattr(parts, "final_norm"):
        yield records[-1], "ffn_after", parts.final_norm


def _add_norm(writer: _Writer, norm: nn.LayerNorm) -> tuple[int, int]:
    return writer.add(norm.weight.float()), writer.add(norm.bias.float())


def unpack(packed: Tensor, spec: dict[str, Any]) -> EncoderParts:
    """The inverse of :func:`pack`, with copies of every tensor.

    Raises:
        ValueError: the buffer is not an encoder of these sizes.
    """
    size = _HEADER.itemsize
    header = np.frombuffer(packed[:size].cpu().numpy().tobytes().ljust(size, b"\0"), _HEADER)[0]
    if header["magic"] != MAGIC or header["version"] != VERSION or header["bytes"] != packed.numel():
        raise ValueError("not a packed encoder, or a damaged one (magic number, version or length disagree)")
    if header["layers"] != len(spec["layers"]) or header["hidden"] != spec["hidden_size"]:
        raise ValueError("the packed encoder has other sizes than its spec")
    start = int(header["layer_table"])
    table = packed[start : start + len(spec["layers"]) * _LAYER.itemsize]
    layers = np.frombuffer(table.cpu().numpy().tobytes(), _LAYER)
    parts = EncoderParts(spec)
    spec = parts.spec

    def read(offset: int, like: Tensor) -> Tensor:
        size = like.numel() * like.element_size()
        return packed[offset : offset + size].cpu().clone().view(like.dtype).view(like.shape)

    def read_norm(record: np.void, name: str, norm: nn.LayerNorm) -> None:
        for part in ("weight", "bias"):
            getattr(norm, part).data = read(int(record[f"{name}_{part}"]), getattr(norm, part))

    for name, embedding in _embeddings(parts):
        if name == "norm":
            read_norm(header, "norm", embedding)
        else:
            embedding.qweight = read(int(header[name]), embedding.qweight)
            embedding.scale = read(int(header[f"{name}_scale"]), embedding.scale)
    if spec["relative_buckets"]:
        parts.relative_bias.weight.data = read(int(header["bias_buckets"]), parts.relative_bias.weight)
    for record, layer in zip(layers, parts.layers, strict=True):
        for name in LINEARS:
            linear = getattr(layer, name)
            linear.packed = read(int(record[name]), linear.packed)
    for record, place, norm in _layer_norms(parts, layers):
        read_norm(record, place, norm)
    return parts
