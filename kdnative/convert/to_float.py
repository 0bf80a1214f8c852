"""From packed back to plain: :func:`to_float_` undoes a conversion, with the values of the integer weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnative.convert.transformer_layers import QUICK_GELU, is_quick_gelu
from kdnative.extras import require
from kdnative.models import hf, known_layers, torch_encoder
from kdnative.models.layer import Layer, Named, Unsupported
from kdnative.nn import Embedding, Encoder, EncoderLayer, Linear, MultiheadAttention, TransformerEncoder
from kdnative.nn.encoder_parts import EncoderParts, LayerParts
from kdnative.nn.saving import restore_save_pretrained
from kdnative.nn.tree import NATIVE, become, walk

__all__ = ["to_float_"]

_KINDS = (*NATIVE.values(), MultiheadAttention)


def to_float_(model: nn.Module) -> list[str]:
    """Replace native modules by the float ones that they stand for, in place: undo :func:`kdnative.convert_`.

    Every weight is ``QuantizedWeight.dequantize()`` of the native one, bit for bit, in the dtype that the native module
    gives it in (:attr:`kdnative.nn.Linear.dtype`). So the model computes what the native one does but for the rounding
    of activations, and can be trained or exported. It does not get back what rounding the weights has lost.

    :class:`kdnative.nn.Linear`, ``Embedding`` and ``MultiheadAttention`` become those of torch,
    :class:`kdnative.nn.TransformerEncoder` the ``nn.TransformerEncoder`` or ``nn.TransformerEncoderLayer`` that it was,
    :class:`kdnative.nn.Encoder` the base model of transformers that its configuration describes, and
    :class:`kdnative.nn.EncoderLayer` a layer of the class that it was, whose layer scales are 1 as the weights have
    them in them (that of a quick GELU, 1.702, is divided out, which rounds once more). Embeddings that
    share an int8 table share a float one; linears that shared a weight with others have their own. Biases that a layer
    of torch left out are zeros, and its dropout is 0; without a last norm that says otherwise it is in float32.

    Converting again with the same scheme gives the same integers for symmetric schemes without ``clip_search``: the
    largest weight of a channel or group has the largest code. With zero points, integer scales or a searched range the
    second rounding may choose another range.

    Args:
        model: any model, on the CPU; what is not native stays as it is.

    Returns:
        The names of the modules that were replaced, in the order of ``named_modules()``. A ``model`` that is native
        itself has the name ``""``; it stays the same object and changes its class.

    Raises:
        ValueError: native modules whose original can't be known, all with their names and reasons; or they are empty.
            The model is unchanged then. ImportError: transformers is needed and not installed.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"to_float_ takes a torch.nn.Module, not {type(model).__name__}")
    modules = dict(_natives(model))
    floats: dict[int, nn.Module] = {}
    refused: list[str] = []
    for name, module in modules.items():
        try:
            floats[id(module)] = _float_of(module).train(module.training)
        except (AttributeError, RuntimeError, ValueError, Unsupported) as reason:  # the first: a part is not there
            refused.append(f"{name or type(module).__name__}: {reason}")
    if refused:
        raise ValueError("these modules can't be converted to float, so the model is unchanged: " + "; ".join(refused))
    _share_tables(modules.values(), floats)
    for parent in list(model.modules()):
        for attribute, child in list(parent._modules.items()):
            if id(child) in floats:
                setattr(parent, attribute, floats[id(child)])
    if id(model) in floats:
        become(model, floats[id(model)])
    restore_save_pretrained(model)
    return list(modules)


def _natives(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The outermost native modules, each once."""
    inside: set[int] = set()
    for name, module in walk(model):
        if isinstance(module, _KINDS) and id(module) not in inside:
            inside.update(id(part) for part in module.modules())
            yield name, module


def _share_tables(natives: Iterable[nn.Module], floats: dict[int, nn.Module]) -> None:
    """Embeddings of one int8 table get one float table."""
    tables: dict[tuple[int, torch.Size, torch.dtype], nn.Module] = {}
    for module in natives:
        if isinstance(module, Embedding):
            key = module.qweight.data_ptr(), module.qweight.shape, module.dtype
            floats[id(module)].weight = tables.setdefault(key, floats[id(module)]).weight


def _float_of(module: nn.Module) -> nn.Module:
    """The float module that a native one stands for; ValueError or Unsupported, in words, where none is known."""
    if isinstance(module, Linear):
        return _linear(module)
    if isinstance(module, Embedding):
        return _embedding(module)
    if isinstance(module, MultiheadAttention):
        return _attention(module)
    if isinstance(module, TransformerEncoder):
        return _torch_encoder(module)
    if isinstance(module, Encoder):
        return _base_model(module)
    if isinstance(module, EncoderLayer):
        return _known_layer(module)
    raise ValueError(f"{type(module).__name__} has no float form")


# -- modules of torch --------------------------------------------------------------------------------------------------


def _linear(module: Linear) -> nn.Linear:
    if module.activation != "none":
        raise ValueError(f"it includes the activation {module.activation}, which nn.Linear does not have")
    linear = nn.Linear(module.in_features, module.out_features, module.has_bias, device="meta", dtype=module.dtype)
    linear.weight = nn.Parameter(module.quantized().dequantize().to(module.dtype))
    if (bias := module.bias) is not None:
        linear.bias = nn.Parameter(bias.clone())
    return linear


def _embedding(module: Embedding) -> nn.Embedding:
    shape = module.num_embeddings, module.embedding_dim
    table = nn.Embedding(*shape, padding_idx=module.padding_idx, device="meta", dtype=module.dtype)
    table.weight = nn.Parameter(module.quantized().dequantize().to(module.dtype))
    return table


def _attention(module: MultiheadAttention) -> nn.MultiheadAttention:
    projections = [getattr(module, f"{name}_proj") for name in ("q", "k", "v", "out")]
    linears = [_linear(each) if isinstance(each, Linear) else each for each in projections]
    if odd := [type(each).__name__ for each in linears if not isinstance(each, nn.Linear)]:
        raise ValueError(f"one of its linears is a {odd[0]}, which nn.MultiheadAttention does not support")
    inputs, output = linears[:3], linears[3]
    if len({each.bias is None for each in linears}) > 1:
        raise ValueError(
            "some of its linears have a bias and some have none, which nn.MultiheadAttention does not support"
        )
    dtype, bias = inputs[0].weight.dtype, output.bias is not None
    attention = nn.MultiheadAttention(
        module.embed_dim, module.num_heads, bias=bias, batch_first=module.batch_first, device="cpu", dtype=dtype
    )
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([each.weight for each in inputs]))
        attention.out_proj.weight.copy_(output.weight)
        if bias:
            attention.in_proj_bias.copy_(torch.cat([each.bias for each in inputs]))
            attention.out_proj.bias.copy_(output.bias)
    return attention


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "silu": F.silu,
    "tanh": torch.tanh,
}


def _torch_encoder(module: TransformerEncoder) -> nn.Module:
    spec, parts = module.spec, module.parts()
    hidden = spec["hidden_size"]
    encoder: nn.Module
    if spec["activation"] not in _ACTIVATIONS:
        raise ValueError(f"its activation is {spec['activation']}, which torch's layer does not support")
    for number, layer in enumerate(spec["layers"]):
        heads, width = layer["heads"], layer["head_dim"]
        if heads * width != hidden or layer["scaling"] != width**-0.5:
            raise ValueError(f"its layer {number} has {heads} heads of {width} for {hidden}, which torch's has not")
    layers = [_torch_layer(spec, layer) for layer in spec["layers"]]
    if spec["single"]:
        encoder = layers[0]
    else:
        encoder = nn.TransformerEncoder(layers[0], len(layers), norm=module.norm, enable_nested_tensor=False)
        encoder.layers = nn.ModuleList(layers)
    _fill_layers(encoder, torch_encoder.read(encoder).layers, parts)
    norm = getattr(encoder, "norm", None)  # a module of the caller's, which says in what the model computes
    dtype = next((parameter.dtype for parameter in norm.parameters()), None) if norm is not None else None
    return encoder if dtype is None else encoder.to(dtype)


def _torch_layer(spec: dict[str, Any], layer: dict[str, Any]) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(
        spec["hidden_size"],
        layer["heads"],
        layer["ffn"],
        dropout=0.0,
        activation=_ACTIVATIONS[spec["activation"]],
        layer_norm_eps=spec["eps"],
        batch_first=spec["batch_first"],
        norm_first=spec["norm"] == "pre",
        device="cpu",
        dtype=torch.float32,
    )


# -- base models of transformers ---------------------------------------------------------------------------------------


@torch.no_grad()
def _base_model(module: Encoder) -> nn.Module:
    """The model of transformers that an encoder took the place of, by its configuration."""
    try:
        config = module.config
    except AttributeError:
        raise ValueError("the configuration of the original model is unknown") from None
    model, parts = _skeleton(config, module.pooler is not None).float(), module.parts()
    source = hf.read(model)
    if len(source.layers) != len(parts.layers):
        raise ValueError(f"its configuration says {len(source.layers)} layers, but it has {len(parts.layers)}")
    if (source.pooler is None) != (module.pooler is None):
        raise ValueError("its configuration does not say whether it has a pooler")
    tables = {"word": source.word, "position": source.position, "token_type": source.token_type}
    for name, table in tables.items():
        own = getattr(parts.embeddings, name, None)
        if (own is None) != (table is None):
            raise ValueError(f"its configuration does not say whether it has a table {name}")
        if table is not None and own is not None:
            _copy(f"the table {name}", table.weight, own.quantized().dequantize())
    _copy_norm("the LayerNorm of its embeddings", source.embedding_norm, parts.embeddings.norm)
    if source.relative is not None:
        _copy("its relative position biases", source.relative.weight, parts.relative_bias.weight)
    if source.final_norm is not None:
        _copy_norm("its last LayerNorm", source.final_norm, parts.final_norm)
    if source.pooler is not None:
        _copy_linears([source.pooler], module.pooler)
    _fill_layers(model, source.layers, parts)
    return model.to(module.dtype)


def _skeleton(config: Any, pooler: bool) -> nn.Module:
    transformers = require("transformers", "an encoder that becomes a model of transformers again")
    build: Callable[..., nn.Module] = transformers.AutoModel.from_config
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):  # its random weights are nobody's business
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            if pooler:
                return build(config)
            try:
                return build(config, add_pooling_layer=False)
            except TypeError:  # a family that has none
                return build(config)
        finally:
            torch.set_default_dtype(before)


# -- layers of other models --------------------------------------------------------------------------------------------


@torch.no_grad()
def _known_layer(module: EncoderLayer) -> nn.Module:
    """The layer whose place a native one took: factors that went into its linears stay there, and become 1."""
    if module.original is None:
        raise ValueError("the original layer is unknown, because it was not made by a conversion")
    layer = copy.deepcopy(module.original)
    for part in layer.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                values = torch.empty_like(parameter, device="cpu")
                part._parameters[name] = nn.Parameter(values, requires_grad=parameter.requires_grad)
    source = known_layers.read(layer)
    for scale in (source.attention_scale, source.ffn_scale):
        if scale is not None:
            scale.fill_(1.0)
    parts = module.parts()
    _fill_layers(layer, [source.layer], parts)
    if is_quick_gelu(source.layer.activation):
        _take_out(QUICK_GELU, source.layer)
    return layer


def _take_out(factor: float, layer: Layer) -> None:
    """Of a quick GELU's factor, which is in the linears around it: the one step that rounds weights again."""
    for _, linear in layer.ffn_in:
        for parameter in filter(lambda each: each is not None, (linear.weight, linear.bias)):
            parameter.copy_(parameter.double() / factor)
    layer.ffn_out[1].weight.copy_(layer.ffn_out[1].weight.double() * factor)


# -- parts -------------------------------------------------------------------------------------------------------------


def _fill_layers(model: nn.Module, layers: list[Layer], parts: EncoderParts) -> None:
    """Give the linears and LayerNorms of float layers, which ``model`` holds, the values of their native form."""
    own = {id(parameter) for parameter in model.parameters()}
    for layer, part in zip(layers, parts.layers, strict=True):
        for name, linear in (*layer.qkv, layer.output, *layer.ffn_in, layer.ffn_out):
            if any(id(parameter) not in own for parameter in linear.parameters()):
                raise ValueError(f"{name} is computed from other tensors of {type(model).__name__}")
        _fill_layer(layer, cast(LayerParts, part))


@torch.no_grad()
def _fill_layer(layer: Layer, part: LayerParts) -> None:
    _copy_linears(layer.qkv, part.qkv)
    _copy_linears([layer.output], part.output)
    _copy_linears(layer.ffn_in, part.ffn_in)
    _copy_linears([layer.ffn_out], part.ffn_out)
    for name, norm in layer.norms.items():
        _copy_norm(name, norm, getattr(part, name))


def _copy_linears(named: list[Named], native: Linear) -> None:
    """The rows of a native linear go to the float ones that it was made of, in their order."""
    weight, bias, start = native.quantized().dequantize(), native.bias, 0
    if sum(linear.out_features for _, linear in named) != native.out_features:
        names = ", ".join(name for name, _ in named)
        raise ValueError(f"{names} would have different sizes from the native model, whose layers may be pruned")
    for name, linear in named:
        rows = slice(start, start + linear.out_features)
        _copy(name, linear.weight, weight[rows])
        _copy_bias(name, linear.bias, None if bias is None else bias[rows])
        start = rows.stop


def _copy_norm(name: str, to: nn.LayerNorm, source: nn.LayerNorm) -> None:
    _copy(name, to.weight, source.weight)
    _copy_bias(name, to.bias, source.bias)


def _copy_bias(name: str, to: Tensor | None, values: Tensor | None) -> None:
    if to is not None:
        _copy(name, to, torch.zeros_like(to) if values is None else values)
    elif values is not None and bool(values.any()):
        raise ValueError(f"{name} has no bias in the float model, and one in the native model")


@torch.no_grad()
def _copy(name: str, to: Tensor, values: Tensor) -> None:
    if to.shape != values.shape:
        raise ValueError(
            f"{name} would have shape {list(to.shape)}, and has {list(values.shape)} here: its configuration does not "
            "describe it, as after pruning"
        )
    to.copy_(values)
