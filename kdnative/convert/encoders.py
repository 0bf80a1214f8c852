"""How encoders and layers of transformers, timm, torchvision, OpenCLIP and torch become one native operator each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from kdnative.convert.plan import Region
from kdnative.convert.refusals import Refusal
from kdnative.convert.registry import RegionConverter, converts
from kdnative.convert.sizes import fused_bytes
from kdnative.convert.surroundings import Site
from kdnative.convert.transformer_layers import (
    QUICK_GELU,
    SchemeOf,
    WeightOf,
    check_norm,
    checked_spec,
    copy_norm,
    fill_layer,
    fill_linear,
    is_quick_gelu,
    joint_scheme,
    layer_spec,
    layers_alone,
    parts_alone,
)
from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight
from kdnative.models import hf, known_layers, torch_encoder
from kdnative.models.layer import Layer, Named, Unsupported, activation_name, one_of
from kdnative.models.reading import EncoderSource, LayerSource
from kdnative.nn import Embedding, Encoder, EncoderLayer, Linear, PackedEncoder, TransformerEncoder
from kdnative.nn.encoder_parts import EncoderParts
from kdnative.ops.backends import backend_for
from kdnative.patterns import within

__all__ = ["HfEncoderConverter", "KnownLayerConverter", "TorchEncoderConverter"]


class _PackedConverter(RegionConverter):
    """What has one packed buffer: everything inside the module goes into it."""

    noun = "encoder"

    def decide(self, site: Site, scheme_of: SchemeOf) -> Region | Refusal:
        backend = backend_for(next((p.device for p in site.module.parameters()), "cpu"))
        if not backend.fused:
            return Refusal(f"the backend {backend.name!r} has no fused operators")
        try:
            spec = self.describe(site.module, scheme_of)
        except Unsupported as no:
            return Refusal(str(no))
        except AttributeError as error:  # a reader looked for a part that is not there
            return Refusal(f"its structure differs from that of the supported {type(site.module).__name__}: {error}")
        inside = (name for name in site.around.modules if name != site.name and within(name, site.name))
        keeps = bool(spec.get("final_norm"))
        return Region(site.name, (site.name, *inside), type(self).__name__, spec, keeps)

    @abstractmethod
    def describe(self, module: nn.Module, scheme_of: SchemeOf) -> dict[str, Any]:
        """The spec of the native encoder; Unsupported where there can be none."""

    def in_float(self, name: str, part: nn.Module) -> bool:
        return isinstance(part, nn.Embedding) and hf.stays_in_float(name)

    def bytes_of(self, name: str, part: nn.Module, weight: QuantizedWeight | None) -> int:
        return fused_bytes(name, part, weight)


# -- encoders of transformers ------------------------------------------------------------------------------------------


@converts(when=hf.is_encoder)
class HfEncoderConverter(_PackedConverter):
    """Base models of transformers: one :class:`kdnative.nn.Encoder`, with int8 tables."""

    tried_inside = False

    def describe(self, module: nn.Module, scheme_of: SchemeOf) -> dict[str, Any]:
        source = hf.read(module)
        hidden = source.word.embedding_dim
        layers = [layer_spec(layer, hidden, source.gated, scheme_of) for layer in source.layers]
        pooler = None if source.pooler is None else str(joint_scheme([source.pooler], scheme_of))
        norms = [source.embedding_norm, source.final_norm, *(n for each in source.layers for n in each.norms.values())]
        spec = {
            "hidden_size": hidden,
            "vocab_size": source.word.num_embeddings,
            "max_positions": source.max_positions,
            "position_table": source.position is not None,
            "token_types": 0 if source.token_type is None else source.token_type.num_embeddings,
            "relative_buckets": 0 if source.relative is None else source.relative.num_embeddings,
            "relative_distance": source.relative_distance,
            "norm": source.norm,
            "gated": source.gated,
            "activation": one_of([activation_name(each.activation) for each in source.layers], "activation") or "gelu",
            "eps": one_of([norm.eps for norm in norms if norm is not None], "LayerNorm eps"),
            "padding_id": source.padding_id,
            "pooler": pooler,
            "output": source.output,
            "dtype": str(source.word.weight.dtype).removeprefix("torch."),
            "layers": layers,
        }
        for norm in norms:
            if norm is not None:
                check_norm(norm)
        _check_relative(source, layers)
        return checked_spec(spec)

    def build(self, region: Region, modules: Mapping[str, nn.Module], weight_of: WeightOf) -> PackedEncoder:
        module, spec = modules[region.root], dict(region.spec)
        source = hf.read(module)
        parts = EncoderParts(spec)
        embeddings = parts.embeddings
        embeddings.word = Embedding.from_float(source.word)
        if source.position is not None:
            embeddings.position = Embedding.from_float(source.position)
        if source.token_type is not None:
            embeddings.token_type = Embedding.from_float(source.token_type)
        copy_norm(embeddings.norm, source.embedding_norm)
        if source.relative is not None:
            _copy_relative(parts.relative_bias, source.relative)
        for part, layer in zip(parts.layers, source.layers, strict=True):
            fill_layer(part, layer, weight_of)
        if source.final_norm is not None:
            copy_norm(parts.final_norm, source.final_norm)
        encoder = Encoder.from_parts(parts, pooler=_pooler(source, spec, weight_of))
        encoder.config = module.config
        return encoder


def _check_relative(source: EncoderSource, layers: list[dict[str, Any]]) -> None:
    heads = {layer["heads"] for layer in layers}
    if source.relative is not None and heads - {source.relative.embedding_dim}:
        raise Unsupported(
            f"its relative positions are for {source.relative.embedding_dim} heads, but its layers have "
            f"{', '.join(map(str, sorted(heads)))}"
        )


@torch.no_grad()
def _copy_relative(to: nn.Embedding, source: nn.Embedding) -> None:
    if not bool(torch.isfinite(source.weight).all()):
        raise ValueError("the relative position biases hold NaN or infinite values")
    to.weight.copy_(source.weight)


def _pooler(source: EncoderSource, spec: dict[str, Any], weight_of: WeightOf) -> Linear | None:
    if source.pooler is None:
        return None
    width = spec["hidden_size"]
    native = Linear(width, width, spec["pooler"], activation="tanh").eval()
    fill_linear(native, [source.pooler], weight_of)
    return native


# -- encoders of torch -------------------------------------------------------------------------------------------------


@converts(nn.TransformerEncoder, nn.TransformerEncoderLayer, when=torch_encoder.is_encoder)
class TorchEncoderConverter(_PackedConverter):
    """``nn.TransformerEncoder`` or one of its layers: one :class:`kdnative.nn.TransformerEncoder`."""

    opened_by_fuse = False  # torch reads the weights of its layers itself
    tried_inside = False

    def describe(self, module: nn.Module, scheme_of: SchemeOf) -> dict[str, Any]:
        source = torch_encoder.read(module)
        final = source.final_norm
        return layers_alone(
            source.layers,
            scheme_of,
            norm=source.norm,
            batch_first=source.batch_first,
            final_norm=None if final is None else {"eps": final.eps, "bias": final.bias is not None},
            single=isinstance(module, nn.TransformerEncoderLayer),
        )

    def build(self, region: Region, modules: Mapping[str, nn.Module], weight_of: WeightOf) -> PackedEncoder:
        source = torch_encoder.read(modules[region.root])
        parts = parts_alone(dict(region.spec), source.layers, weight_of)
        return TransformerEncoder.from_parts(parts, norm=source.final_norm)


# -- layers of all libraries -------------------------------------------------------------------------------------------


@converts(when=known_layers.is_layer)
class KnownLayerConverter(_PackedConverter):
    """Layers whose model stays what it is: one :class:`kdnative.nn.EncoderLayer` each."""

    def decide(self, site: Site, scheme_of: SchemeOf) -> Region | Refusal:
        if why := _wants_attentions(site):
            return why
        plain = {id(parameter) for parameter in site.module.parameters()}

        def of(name: str, linear: nn.Linear) -> Scheme:
            taken_in = id(linear.weight) in plain or getattr(linear, "constant", None) is not None
            if f"{site.name}.{name}".strip(".") in site.around.given and not taken_in:
                raise Unsupported(f"{name} is followed by a factor, which can't be merged into the given weights")
            return scheme_of(name, linear)

        return super().decide(site, of)

    def describe(self, module: nn.Module, scheme_of: SchemeOf) -> dict[str, Any]:
        source = known_layers.read(module)
        layer = _without_factors(source, values=False)
        if source.rotary and layer.head_dim % 2:
            raise Unsupported(f"rotary positions need heads of an even width, but these are {layer.head_dim} wide")
        return layers_alone([layer], scheme_of, norm=source.norm, gated=source.gated, rotary_given=source.rotary)

    def build(self, region: Region, modules: Mapping[str, nn.Module], weight_of: WeightOf) -> EncoderLayer:
        layer = _without_factors(known_layers.read(modules[region.root]), values=True)
        native = cast(EncoderLayer, EncoderLayer.from_parts(parts_alone(dict(region.spec), [layer], weight_of)))
        return native.remember(modules[region.root])


def _wants_attentions(site: Site) -> Refusal | None:
    """Which model around a layer is configured to return attention weights with every call."""
    path = site.name.split(".") if site.name else []
    for depth in range(len(path)):
        parent = site.around.modules[".".join(path[:depth])]
        if getattr(getattr(parent, "config", None), "output_attentions", False):
            return Refusal(f"the config of {type(parent).__name__} sets output_attentions=True")
    return None


def _without_factors(source: LayerSource, values: bool) -> Layer:
    """The layer with its factors in the linears before them; ``values`` False gives their shapes alone."""
    layer = source.layer
    if source.attention_scale is not None:
        layer = replace(layer, output=_scaled(layer.output, source.attention_scale, values))
    if source.ffn_scale is not None:
        layer = replace(layer, ffn_out=_scaled(layer.ffn_out, source.ffn_scale, values))
    if not is_quick_gelu(layer.activation):
        return layer
    # x sigmoid(1.702 x), the "quick GELU" of CLIP, is silu(1.702 x) / 1.702: the factors go into the linears.
    factor = torch.tensor(QUICK_GELU, dtype=torch.float64)
    name, linear = _scaled(layer.ffn_out, 1 / factor, values, constant=source.ffn_scale is None)
    linear.bias = layer.ffn_out[1].bias
    ffn_in = [_scaled(named, factor, values, constant=True) for named in layer.ffn_in]
    return replace(layer, ffn_in=ffn_in, ffn_out=(name, linear), activation=nn.SiLU())


class _Scaled(nn.Linear):
    """A linear with a factor in its outputs; ``constant`` is that factor where weights of the original can take it."""

    constant: float | None = None


@torch.no_grad()
def _scaled(named: Named, factor: Tensor, values: bool, constant: bool = False) -> Named:
    """A linear whose outputs are ``factor`` (of all, or ``[N]``) times those of the given one, in float32.

    With ``constant``, ``factor`` is a positive number that follows from the class of the model: weights that were given
    for the original linear, without it, are multiplied by it.
    """
    name, linear = named
    if type(linear) not in (nn.Linear, NonDynamicallyQuantizableLinear, _Scaled):
        raise Unsupported(f"{name} is followed by a factor, which can't be merged into a {type(linear).__name__}")
    bias = linear.bias is not None
    scaled = _Scaled(linear.in_features, linear.out_features, bias, device="meta", dtype=torch.float32)
    scaled.constant = float(factor) if constant else None
    if not values:
        return name, scaled
    factor = factor.double()
    scaled.weight = nn.Parameter((linear.weight.double() * factor.view(-1, 1)).float())
    if bias:
        scaled.bias = nn.Parameter((linear.bias.double() * factor).float())
    return name, scaled
