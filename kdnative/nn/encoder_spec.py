"""The spec of a native encoder: what it may say, and which plain tensors belong to it.

Everything here is arithmetic: a spec comes from a file, and nothing may be allocated because of what it says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from kdnative.formats.scheme import Scheme
from kdnative.nn.config_checks import (
    ACTIVATION,
    COUNT,
    FLAG,
    NOT_NEGATIVE,
    OPTIONAL_COUNT,
    POSITIVE,
    SCHEME,
    SIZE,
    Kind,
    check_config,
    one_of,
)
from kdnative.nn.linear import Linear

__all__ = ["KINDS", "LINEARS", "complete", "derived_bytes", "plain_shapes"]

LINEARS = ("qkv", "output", "ffn_in", "ffn_out")
"""The linears of a layer, in the order of execution. ``qkv``: queries, keys and values one after the other."""

_DEFAULTS = {
    "transformers": None,
    "embeddings": True,
    "position_table": True,
    "relative_buckets": 0,
    "relative_distance": 0,
    "norm": "post",
    "gated": False,
    "rotary_given": False,
}
_LAYERS_ALONE = {"vocab_size": 0, "max_positions": 0, "position_table": False, "token_types": 0, "padding_id": None}
"""What a spec without embeddings says of them. Nothing comes behind its layers either."""
_LAYER_DEFAULTS = {"attention_norm": True, "window": None, "rope_theta": None}

KINDS: dict[str, Kind] = {
    "hidden_size": SIZE,
    "activation": ACTIVATION,
    "eps": NOT_NEGATIVE,
    "layers": (lambda v: isinstance(v, list), "a list of layers"),
    "transformers": (lambda v: v is None or isinstance(v, dict), "null or a table"),
    "embeddings": FLAG,
    "vocab_size": COUNT,
    "max_positions": COUNT,
    "position_table": FLAG,
    "token_types": COUNT,
    "padding_id": OPTIONAL_COUNT,
    "relative_buckets": COUNT,
    "relative_distance": COUNT,
    "norm": one_of("post", "pre"),
    "gated": FLAG,
    "rotary_given": FLAG,
}
_LAYER_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("heads", "head_dim", "ffn"), SIZE),
    **dict.fromkeys(LINEARS, SCHEME),
    "scaling": POSITIVE,
    "attention_norm": FLAG,
    "window": OPTIONAL_COUNT,
    "rope_theta": (lambda v: v is None or POSITIVE[0](v), f"null or {POSITIVE[1]}"),
}


def complete(spec: dict[str, Any]) -> dict[str, Any]:
    """A copy of an encoder's spec with what it leaves out: BERT's way of doing it.

    Further entries, of the class that the spec is for, are left as they are.

    Raises:
        ValueError: an entry is missing or of another kind than it must be; or a setting does not go with another one.
    """
    if not isinstance(spec, dict) or not isinstance(spec.get("layers"), list):
        raise ValueError("encoder spec: layers is missing; it must be a list of layers")
    if not all(isinstance(layer, dict) for layer in spec["layers"]):
        raise ValueError("encoder spec: layers holds something that is not a table")
    spec = {**_DEFAULTS, **spec, "layers": [{**_LAYER_DEFAULTS, **layer} for layer in spec["layers"]]}
    if spec["embeddings"] is False:
        spec |= _LAYERS_ALONE
    check_config("encoder spec", {name: value for name, value in spec.items() if name in KINDS}, KINDS)
    for number, layer in enumerate(spec["layers"]):
        check_config(f"encoder spec, layer {number}", layer, _LAYER_KINDS)
        _check_layer(number, layer, spec)
    for name in ("vocab_size", "max_positions"):
        if spec[name] < 1 and spec["embeddings"]:
            raise ValueError(f"encoder spec: {name} must be at least 1, got {spec[name]}")
    if spec["norm"] == "pre" and not spec["layers"]:
        raise ValueError("encoder spec: norm 'pre' needs at least one layer")
    if spec["relative_buckets"] and not spec["layers"]:
        raise ValueError("encoder spec: relative_buckets needs at least one layer, whose heads have the biases")
    if spec["relative_buckets"] and not spec["max_positions"]:
        raise ValueError("encoder spec: relative_buckets needs max_positions, up to which distances go")
    buckets = spec["relative_buckets"]
    if buckets and (buckets < 4 or buckets % 4 or spec["relative_distance"] <= buckets // 4):
        raise ValueError(
            f"encoder spec: relative_buckets is {buckets} and relative_distance {spec['relative_distance']}; "
            "buckets must be a multiple of 4, and the distance more than a quarter of them"
        )
    rotary = {layer["head_dim"] for layer in spec["layers"] if layer["rope_theta"] is not None}
    if len(rotary) > 1 or any(width % 2 for width in rotary):
        raise ValueError(f"encoder spec: rotary positions need one even head_dim for all layers, got {sorted(rotary)}")
    return spec


def _check_layer(number: int, layer: dict[str, Any], spec: dict[str, Any]) -> None:
    for name, (_, inputs) in _linears(spec, layer).items():
        scheme = Scheme.parse(layer[name])
        if scheme.activation_bits != 8:
            raise ValueError(
                f"scheme {layer[name]} of {name} keeps float activations, but a fused encoder computes with int8 "
                "ones: use an a8 scheme, or convert_(model, ..., fuse=False)"
            )
        if scheme.sparsity is not None:
            raise ValueError(f"scheme {layer[name]} of {name} has no zeros, but a fused encoder takes {scheme.dense}")
        try:
            scheme.groups(inputs)
        except ValueError as error:
            raise ValueError(f"encoder spec, layer {number}: {name}: {error}") from error


def _linears(spec: dict[str, Any], layer: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of each linear of a layer."""
    hidden, width, ffn = spec["hidden_size"], layer["heads"] * layer["head_dim"], layer["ffn"]
    sizes = (3 * width, hidden), (hidden, width), (2 * ffn if spec["gated"] else ffn, hidden), (hidden, ffn)
    return dict(zip(LINEARS, sizes, strict=True))


Shapes = Iterator[tuple[str, tuple[int, ...], torch.dtype | None]]


def plain_shapes(spec: dict[str, Any]) -> Shapes:
    """Name, shape and dtype (None: any float) of the plain tensors of a complete spec.

    They are those of :class:`kdnative.nn.encoder_parts.EncoderParts`.
    """
    hidden = spec["hidden_size"]
    if spec["embeddings"]:
        tables = {"word": spec["vocab_size"]}
        tables |= {"position": spec["max_positions"]} if spec["position_table"] else {}
        tables |= {"token_type": spec["token_types"]} if spec["token_types"] else {}
        for name, rows in tables.items():
            yield f"embeddings.{name}.qweight", (rows, hidden), torch.int8
            yield f"embeddings.{name}.scale", (rows,), torch.float32
        yield from _norm("embeddings.norm", hidden)
    if spec["relative_buckets"]:
        yield "relative_bias.weight", (spec["relative_buckets"], spec["layers"][0]["heads"]), None
    for number, layer in enumerate(spec["layers"]):
        for name, (outputs, inputs) in _linears(spec, layer).items():
            for key, shape, dtype in Linear.plain_shapes(_linear(inputs, outputs, layer[name])):
                yield f"layers.{number}.{name}.{key}", shape, dtype
        if layer["attention_norm"]:
            yield from _norm(f"layers.{number}.attention_norm", hidden)
        yield from _norm(f"layers.{number}.{'output_norm' if spec['norm'] == 'post' else 'ffn_norm'}", hidden)
    if spec["norm"] == "pre" and spec["embeddings"]:
        yield from _norm("final_norm", hidden)


def _linear(inputs: int, outputs: int, scheme: str) -> dict[str, Any]:
    return {"in_features": inputs, "out_features": outputs, "scheme": scheme, "bias": True, "activation": "none"}


def _norm(name: str, hidden: int) -> Shapes:
    for part in ("weight", "bias"):
        yield f"{name}.{part}", (hidden,), None


def derived_bytes(spec: dict[str, Any]) -> int:
    """Bytes of the packed tables that no tensor holds: biases by distance and rotary angles, by the spec alone."""
    thetas = {layer["rope_theta"] for layer in spec["layers"]} - {None}
    rotary = max((layer["head_dim"] for layer in spec["layers"] if layer["rope_theta"] is not None), default=0)
    biases = spec["layers"][0]["heads"] * 2 if spec["relative_buckets"] else 0
    return 4 * spec["max_positions"] * (len(thetas) * rotary + biases)
