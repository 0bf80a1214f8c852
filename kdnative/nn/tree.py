"""Native modules in the tree of a model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from kdnative.nn.convnet import ConvNet
from kdnative.nn.embedding import Embedding
from kdnative.nn.encoder import Encoder
from kdnative.nn.encoder_layer import EncoderLayer
from kdnative.nn.image_input import ImageInput
from kdnative.nn.linear import Linear
from kdnative.nn.packed_encoder import PackedEncoder
from kdnative.nn.transformer import TransformerEncoder

__all__ = ["NATIVE", "become", "hooks_of", "walk"]

NATIVE: dict[str, type[Linear] | type[Embedding] | type[PackedEncoder] | type[ConvNet]] = {
    f"kdnative.nn.{cls.__name__}": cls
    for cls in (Linear, Embedding, Encoder, EncoderLayer, TransformerEncoder, ConvNet)
}
"""The modules that hold packed weights, by the names that checkpoints have for them."""


def walk(module: nn.Module, name: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, nn.Module]]:
    """Every module once, outermost first, without the inside of native ones."""
    seen = set() if seen is None else seen
    if id(module) in seen:
        return
    seen.add(id(module))
    yield name, module
    if not isinstance(module, tuple(NATIVE.values())):
        for attribute, child in module.named_children():
            yield from walk(child, f"{name}.{attribute}" if name else attribute, seen)


def hooks_of(module: nn.Module) -> list[Callable[..., Any]]:
    """What runs around a module's forward and backward because somebody registered it there."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [hook for kind in kinds for hook in getattr(module, kind).values()]


def become(module: nn.Module, native: nn.Module) -> None:
    """Turn a module that may have no parent into the native one: it stays the same object and changes its class.

    Of its own attributes it keeps what users say of pictures: ``preprocess`` and ``classes``; of a timm model what its
    configuration says of them.
    """
    kept = {name: vars(module)[name] for name in ("preprocess", "classes") if name in vars(module)}
    if "preprocess" not in kept and isinstance(config := getattr(module, "pretrained_cfg", None), dict):
        with contextlib.suppress(KeyError, ValueError):  # not of pictures as Pillow has them
            kept["preprocess"] = ImageInput.from_timm(config)
            kept.setdefault("classes", kept["preprocess"].classes)
    module.__class__ = type(native)
    module.__dict__ = native.__dict__
    module.__dict__.update(kept)
