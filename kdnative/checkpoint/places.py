"""Whether a model may be given the one native module that a checkpoint holds."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kdnative.checkpoint.structure import ROOTS
from kdnative.models import hf, known_layers, torch_encoder
from kdnative.nn import ConvNet

__all__ = ["takes_place_of"]

_FLOAT_FORMS = {
    "kdnative.nn.Linear": (("in_features", "out_features"), nn.Linear),
    "kdnative.nn.Embedding": (("num_embeddings", "embedding_dim"), nn.Embedding),
    "kdnative.nn.MultiheadAttention": (("embed_dim", "num_heads", "batch_first"), nn.MultiheadAttention),
}


def takes_place_of(entry: dict[str, Any], module: nn.Module) -> bool:
    """Whether a module is like the native one of a table entry, or a float one that is converted into such."""
    spec = entry["config"]
    if type(module) is ROOTS[entry["class"]]:
        own = module.spec
        return all(own[key] == spec.get(key) for key in own if key not in ("dtype", "transformers"))
    if entry["class"] == "kdnative.nn.ConvNet":
        shapes = [(n, s) for n, s, _ in ConvNet.plain_shapes(spec) if n.endswith(".qweight")]
        return bool(shapes) and all(_is_convolution(module, name.removesuffix(".qweight"), s) for name, s in shapes)
    if entry["class"] == "kdnative.nn.Encoder":
        # The plain configuration has a family's own names for sizes, such as `dim`; its class knows the common ones.
        wanted = {"model_type": (spec["transformers"] or {}).get("model_type")}
        wanted |= {name: spec[name] for name in ("hidden_size", "vocab_size")}
        return hf.is_encoder(module) and all(getattr(module.config, k, None) == v for k, v in wanted.items())
    if entry["class"] == "kdnative.nn.EncoderLayer":
        norm = next((m for m in module.modules() if isinstance(m, nn.LayerNorm)), None)
        return known_layers.is_layer(module) and norm is not None and norm.normalized_shape == (spec["hidden_size"],)
    if entry["class"] == "kdnative.nn.TransformerEncoder":
        layers = getattr(module, "layers", [module])
        known = torch_encoder.is_encoder(module) and len(layers) == len(spec["layers"])
        return known and layers[0].linear1.in_features == spec["hidden_size"]
    sizes, cls = _FLOAT_FORMS[entry["class"]]
    module = hf.linear_of_conv1d(module) if hf.is_conv1d(module) else module
    return type(module) is cls and all(getattr(module, name) == spec[name] for name in sizes)


def _is_convolution(model: nn.Module, name: str, shape: tuple[int, ...]) -> bool:
    """Whether a module of a float model may be what a convolution of the shape ``[O, I / groups, kh, kw]`` was."""
    try:
        module = model.get_submodule(name)
    except AttributeError:
        return False
    weight = getattr(module, "weight", None)
    if weight is None:  # of a norm without one, which is a depthwise convolution
        weight = getattr(module, "running_var", None)
    return isinstance(weight, Tensor) and weight.shape[:1] == shape[:1]
