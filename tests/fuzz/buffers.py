"""Packed buffers of every format, and hostile ones made of them."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

import kdnative
from kdnative.formats import dense, sparse
from kdnative.formats.convnet import layout as convnet_layout
from kdnative.formats.convnet import pack as convnet_pack
from kdnative.formats.convnet.graph import Channels, Concat, Graph, Resize
from kdnative.formats.convnet.sizes import sizes
from kdnative.formats.scheme import Scheme
from kdnative.nn import encoder_format
from kdnative.quantize import quantize_weight
from tests import convnets
from tests.fuzz.words import NUMBERS
from tests.input_scales import random_scales, scaled_weights
from tests.nn import encoder_models

__all__ = ["Buffer", "hostile", "make_buffers"]

_DENSE = ("w8a8", "w4a8-g32", "w4a8-g64-asym", "w4a8-g32-int", "w2a8-g32", "w2a8-g64-asym", "w8a8-is", "w4a8-g32-is")
_SPARSE = ("w8a8+4x1", "w8a8+2:4", "w8a8+mask")
_SHAPES = ((1, 64), (31, 128), (40, 192), (130, 64))
_FIELDS = {  # names, offsets and widths of the numbers in the headers that buffers begin with
    kind: [(field, offset, dtype.itemsize) for field, (dtype, offset) in layout.fields.items() if dtype.itemsize <= 8]
    for kind, layout in (
        ("dense", dense._HEADER), ("sparse", sparse._HEADER), ("encoder", encoder_format._HEADER),
        ("layer", encoder_format._LAYER), ("convnet", convnet_layout.HEADER), ("node", convnet_layout.RECORD),
        ("tile", convnet_layout.TILE),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Buffer:
    """A packed buffer that is right.

    Attributes:
        kind: "dense", "sparse", "encoder" or "convnet".
        bits: of the weights; 0 for encoders.
        n, k: what a linear gives and takes; of an encoder its width, twice; of a network of convolutions the values of
            an image of 12 x 9 pixels, and its channels.
        layers: of an encoder.
        embeddings: whether an encoder takes ids.
        heads: starts of buffers inside this one, and their kinds.
    """

    name: str
    kind: str
    data: bytes
    bits: int
    n: int
    k: int
    layers: int = 0
    embeddings: bool = False
    heads: tuple[tuple[int, str], ...] = ()


def make_buffers() -> list[Buffer]:
    torch.manual_seed(0)
    buffers = []
    for name in (*_DENSE, *_SPARSE):
        for n, k in _SHAPES:
            scheme, weight = Scheme.parse(name), torch.randn(n, k)
            bias = torch.randn(n) if n % 2 else None
            if scheme.sparsity is None:
                plain = quantize_weight(weight, scheme)
                packed = dense.pack(plain.changed(input_scale=random_scales(k) if scheme.input_scales else None), bias)
            else:
                weight *= (torch.arange(k) % 4 < 2) * (torch.rand(-(-n // 4), k) < 0.6).repeat_interleave(4, 0)[:n]
                packed = sparse.pack(quantize_weight(weight, scheme.dense), bias, scheme.sparsity)
            kind = "dense" if scheme.sparsity is None else "sparse"
            data = bytes(packed.numpy())
            buffers.append(Buffer(f"{name} {n}x{k}", kind, data, scheme.weight_bits, n, k, heads=((0, kind),)))
    buffers += [_of_encoder(name, module) for name, module in _encoders().items()]
    return buffers + [_of_network(name, graph) for name, graph in _networks().items()]


def _encoders() -> dict[str, nn.Module]:
    sizes = {"hidden": 32, "heads": 2, "ffn": 64}
    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True, norm_first=True)
    models = encoder_models
    return {
        "bert": models.native(models.bert(**sizes)),
        "bert w4": models.native(models.bert(**sizes, layers=1), "w4a8-g32"),
        "bert w4-int": models.native(models.bert(**sizes, layers=1), "w4a8-g32-int"),
        "roberta": models.native(models.roberta(**small)),
        "mpnet": models.native(models.mpnet(**small)),
        "modernbert": models.native(models.modernbert(**small)),
        "nomic": models.native(models.nomic(**small)),
        "bert-is": _scaled(models.bert(**sizes, layers=1)),
        "layers": kdnative.convert_(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()).model,
    }


def _scaled(model: nn.Module) -> nn.Module:
    return kdnative.convert_(model, weights=scaled_weights(model)).model


def _of_encoder(name: str, module: nn.Module) -> Buffer:
    packed, spec = module.packed, module.spec
    header = np.frombuffer(packed.numpy(), encoder_format._HEADER, 1)[0]
    layers = np.frombuffer(packed.numpy(), encoder_format._LAYER, len(spec["layers"]), int(header["layer_table"]))
    heads = [(0, "encoder")]
    for number, layer in enumerate(layers):
        heads.append((int(header["layer_table"]) + number * layers.itemsize, "layer"))
        heads += [(int(layer[linear]), "dense") for linear in encoder_format.LINEARS]
    width = spec["hidden_size"]
    embeddings = bool(header["vocabulary"])
    return Buffer(name, "encoder", bytes(packed.numpy()), 0, width, width, len(layers), embeddings, tuple(heads))


def _networks() -> dict[str, Graph]:
    joined = convnets.Builder(5)
    parts = [joined.conv(0, 6), joined.conv(0, 7, kernel=(3, 3), padding=(1, 1, 1, 1), groups=1)]
    whole = joined.other(Concat, parts, 13)
    part = joined.other(Channels, [whole], 6, order=tuple(range(3, 9)))
    resized = joined.other(Resize, [part], size=(5, 6), mode="bilinear")
    return {
        "every kind": convnets.every_kind(),
        "one channel": convnets.every_kind(1, 4, 3),
        "joined": joined.graph(resized, joined.conv(whole, 3, out=None)),
    }


def _of_network(name: str, graph: Graph) -> Buffer:
    packed = convnet_pack.pack(graph)
    header = np.frombuffer(packed.numpy(), convnet_layout.HEADER, 1)[0]
    table = int(header["node_table"])
    records = np.frombuffer(packed.numpy(), convnet_layout.RECORD, int(header["nodes"]), table)
    heads = [(0, "convnet")] + [(table + number * records.itemsize, "node") for number in range(len(records))] * 3
    heads += [(int(record["tile_table"]), "tile") for record in records if record["tiles"]]
    found = sizes(graph, 12, 9)
    values = sum(found[i][0] * found[i][1] * graph.nodes[i].channels for i in graph.outputs)
    return Buffer(name, "convnet", bytes(packed.numpy()), 0, values, graph.nodes[0].channels, heads=tuple(heads))


def hostile(rng: random.Random, buffer: Buffer, others: list[Buffer]) -> bytearray:
    """A buffer of which some things are changed; it mostly states its true size, so that readers go on."""
    data = bytearray(buffer.data)
    for _ in range(rng.choices((0, 1, 2, 4, 12), (4, 50, 25, 15, 6))[0]):
        what = rng.choices(("field", "bytes", "size", "section", "splice", "empty"), (60, 12, 8, 12, 7, 1))[0]
        if what == "field":
            _change_field(rng, buffer, data)
        elif what == "bytes" and data:
            for _ in range(rng.choice((1, 4, 64))):
                data[rng.randrange(len(data))] = rng.randrange(256)
        elif what == "size":
            cut = rng.choice((1, 4, 64, 128, rng.randrange(len(data) + 1)))
            data = data[:-cut] if rng.random() < 0.5 else data + bytes(cut % 4096)
        elif what == "section" and data:
            at = rng.randrange(len(data)) & ~63
            end = min(len(data), at + rng.choice((8, 64, 512)))
            data[at:end] = rng.choice((bytes(end - at), b"\xff" * (end - at), rng.randbytes(end - at)))
        elif what == "splice":
            other = rng.choice(others).data
            at, size = rng.randrange(len(data) + 1) & ~63, rng.choice((64, 128, 192, 4096))
            data[at : at + size] = other[at : at + size]
        elif what == "empty":
            data = bytearray(rng.choice((0, 1, 127, 128, 191, 192, 256)))
        if rng.random() < 0.9:
            _state_size(buffer.kind, data)
    return data


def _state_size(kind: str, data: bytearray) -> None:
    for field, offset, width in _FIELDS[kind]:
        if field == "bytes" and len(data) >= offset + width:
            data[offset : offset + width] = len(data).to_bytes(width, "little")


def _change_field(rng: random.Random, buffer: Buffer, data: bytearray) -> None:
    start, kind = rng.choice(buffer.heads)
    _, offset, width = rng.choice(_FIELDS[kind])
    at = start + offset
    if at + width > len(data):
        return
    old = int.from_bytes(data[at : at + width], "little", signed=True)
    numbers = [number for number in NUMBERS if type(number) is int]
    flipped = old ^ 1 << rng.randrange(8 * width)
    near = (old + 1, old - 1, old * 2, old // 2, -old, old + 32, old + 64, old - 64, flipped)
    inside = rng.randrange(len(data) + 1)
    places = (len(data), len(data) & ~63, len(data) - 64, inside, inside & ~63)
    new = rng.choice((rng.choice(numbers), rng.choice(near), rng.choice(places)))
    data[at : at + width] = (new % (1 << 8 * width)).to_bytes(width, "little")


def tensor_of(data: bytes | bytearray) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).clone() if data else torch.empty(0, dtype=torch.uint8)
