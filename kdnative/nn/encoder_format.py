"""The encoder buffer of ``docs/packed_formats.md``, the same on every machine; see ``csrc/cpu/encoder_format.h``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdnative import ops
from kdnative.nn.encoder_parts import LINEARS, EncoderParts

__all__ = ["pack", "unpack"]

MAGIC = 0x4B444E45
VERSION = 1
_ALIGN = 64

_HEADER = np.dtype(
    [("magic", "<i4"), ("version", "<i4"), ("bytes", "<i8")]
    + [(name, "<i4") for name in ("layers", "hidden", "activation", "padding_id")]
    + [(name, "<i4") for name in ("vocabulary", "positions", "token_types")]
    + [("eps", "<f4")]
    + [(f"{table}{part}", "<i8") for table in ("word", "position", "token_type") for part in ("", "_scale")]
    + [(name, "<i8") for name in ("norm_weight", "norm_bias", "layer_table", "reserved")]
)
_LAYER = np.dtype(
    [(name, "<i4") for name in ("heads", "head_dim", "ffn")]
    + [("scaling", "<f4")]
    + [(f"{linear}{part}", "<i8") for linear in LINEARS for part in ("", "_bytes")]
    + [(f"{norm}_{part}", "<i8") for norm in ("attention_norm", "output_norm") for part in ("weight", "bias")]
    + [("reserved", "<i8", 2)]
)
assert _HEADER.itemsize == 128 and _LAYER.itemsize == 128


class _Writer:
    """Collects sections and gives each its offset."""

    def __init__(self) -> None:
        self.sections: list[tuple[int, Tensor]] = []
        self.bytes = 0

    def add(self, tensor: Tensor) -> int:
        offset = self.bytes
        raw = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        self.sections.append((offset, raw))
        self.bytes += -(-raw.numel() // _ALIGN) * _ALIGN
        return offset

    def add_record(self, record: np.ndarray) -> int:
        return self.add(_bytes_of(record))

    def buffer(self) -> Tensor:
        out = torch.zeros(self.bytes, dtype=torch.uint8)
        for offset, raw in self.sections:
            out[offset : offset + raw.numel()] = raw
        return out


def _bytes_of(record: np.ndarray) -> Tensor:
    return torch.from_numpy(np.frombuffer(record.tobytes(), dtype=np.uint8).copy())


def pack(parts: EncoderParts) -> Tensor:
    """All of ``parts`` as one uint8 ``[bytes]`` buffer."""
    config, writer = parts.config, _Writer()
    header, layers = np.zeros((), _HEADER), np.zeros(len(config["layers"]), _LAYER)
    writer.add_record(header)  # keeps the place; written again when the offsets are known
    header["layer_table"] = writer.add_record(layers) if len(layers) else _HEADER.itemsize
    header["magic"], header["version"] = MAGIC, VERSION
    header["layers"], header["hidden"] = len(layers), config["hidden_size"]
    header["activation"] = ops.activation_code(config["activation"])
    header["padding_id"] = -1 if config["padding_id"] is None else config["padding_id"]
    header["vocabulary"], header["positions"] = config["vocab_size"], config["max_positions"]
    header["token_types"], header["eps"] = config["token_types"], config["eps"]
    embeddings = parts.embeddings
    for name in ("word", "position", "token_type"):
        if hasattr(embeddings, name):
            table = getattr(embeddings, name)
            header[name], header[f"{name}_scale"] = writer.add(table.qweight), writer.add(table.scale)
    header["norm_weight"], header["norm_bias"] = _add_norm(writer, embeddings.norm)
    for record, layer, sizes in zip(layers, parts.layers, config["layers"], strict=True):
        for name in ("heads", "head_dim", "ffn", "scaling"):
            record[name] = sizes[name]
        for name in LINEARS:
            packed = getattr(layer, name).packed
            record[name], record[f"{name}_bytes"] = writer.add(packed), packed.numel()
        for name in ("attention_norm", "output_norm"):
            record[f"{name}_weight"], record[f"{name}_bias"] = _add_norm(writer, getattr(layer, name))
    header["bytes"] = writer.bytes
    out = writer.buffer()
    records = torch.cat([_bytes_of(header), _bytes_of(layers)])
    out[: records.numel()] = records
    return out


def _add_norm(writer: _Writer, norm: nn.LayerNorm) -> tuple[int, int]:
    return writer.add(norm.weight.float()), writer.add(norm.bias.float())


def unpack(packed: Tensor, config: dict[str, Any]) -> EncoderParts:
    """The inverse of :func:`pack`, with copies of every tensor.

    Raises:
        ValueError: the buffer is not an encoder of these sizes.
    """
    size = _HEADER.itemsize
    header = np.frombuffer(packed[:size].cpu().numpy().tobytes().ljust(size, b"\0"), _HEADER)[0]
    if header["magic"] != MAGIC or header["version"] != VERSION or header["bytes"] != packed.numel():
        raise ValueError("not a packed encoder, or a damaged one (magic number, version or length disagree)")
    if header["layers"] != len(config["layers"]) or header["hidden"] != config["hidden_size"]:
        raise ValueError("the packed encoder has other sizes than its config")
    start = int(header["layer_table"])
    table = packed[start : start + len(config["layers"]) * _LAYER.itemsize]
    layers = np.frombuffer(table.cpu().numpy().tobytes(), _LAYER)
    parts = EncoderParts(config)

    def read(offset: int, like: Tensor) -> Tensor:
        size = like.numel() * like.element_size()
        return packed[offset : offset + size].cpu().clone().view(like.dtype).view(like.shape)

    def read_norm(record: np.void, name: str, norm: nn.LayerNorm) -> None:
        for part in ("weight", "bias"):
            getattr(norm, part).data = read(int(record[f"{name}_{part}"]), getattr(norm, part))

    for name, embedding in parts.embeddings.named_children():
        if name == "norm":
            read_norm(header, "norm", embedding)
        else:
            embedding.qweight = read(int(header[name]), embedding.qweight)
            embedding.scale = read(int(header[f"{name}_scale"]), embedding.scale)
    for record, layer in zip(layers, parts.layers, strict=True):
        for name in LINEARS:
            linear = getattr(layer, name)
            linear.packed = read(int(record[name]), linear.packed)
        for name in ("attention_norm", "output_norm"):
            read_norm(record, name, getattr(layer, name))
    return parts
