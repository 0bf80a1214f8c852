"""Where the encoders of Hugging Face transformers keep their parts: one reader for each family of classes.

Nothing here imports transformers: a family is recognised by the names of its classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from kdnative.models.layer_conversion import Layer, Named, Unsupported

__all__ = ["READERS", "Source", "bert_layer", "bert_parts", "distilbert_layer"]


@dataclass(frozen=True)
class Source:
    """The parts of a model. ``norm``: "post" or "pre"; ``padding_id``: None where a token's position is its column.

    ``relative`` is the table of biases by distance (buckets x heads) and ``relative_distance`` where it saturates.
    """

    word: nn.Embedding
    position: nn.Embedding | None
    token_type: nn.Embedding | None
    embedding_norm: nn.LayerNorm
    layers: list[Layer]
    max_positions: int
    output: str
    pooler: Named | None = None
    padding_id: int | None = None
    norm: str = "post"
    final_norm: nn.LayerNorm | None = None
    gated: bool = False
    relative: nn.Embedding | None = None
    relative_distance: int = 0

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every parameter that the native encoder is made of."""
        pooler = None if self.pooler is None else self.pooler[1]
        apart = (self.word, self.position, self.token_type, self.embedding_norm, self.final_norm, self.relative, pooler)
        for part in apart:
            yield from () if part is None else part.parameters()
        for layer in self.layers:
            yield from layer.parameters()


def _pooler(module: nn.Module) -> Named | None:
    pooler = getattr(module, "pooler", None)
    if pooler is None:
        return None
    activation = getattr(pooler, "activation", None)
    if type(activation) not in (nn.Tanh, type(None)):
        raise Unsupported(f"its pooler ends with {type(activation).__name__}; only nn.Tanh is supported there")
    return "pooler.dense", pooler.dense


def _post_norms(attention: nn.LayerNorm, output: nn.LayerNorm) -> dict[str, nn.LayerNorm]:
    return {"attention_norm": attention, "output_norm": output}


def bert_layer(layer: nn.Module, prefix: str) -> Layer:
    """A layer with the parts of BERT's under ``prefix``."""
    norms = _post_norms(layer.attention.output.LayerNorm, layer.output.LayerNorm)
    return bert_parts(layer, prefix, norms, layer.intermediate.intermediate_act_fn)


def bert_parts(layer: nn.Module, prefix: str, norms: dict[str, nn.LayerNorm], activation: object) -> Layer:
    """A layer with the linears of BERT's, and other norms or another activation."""
    own, attention = layer.attention.self, layer.attention
    return Layer(
        [(f"{prefix}attention.self.{name}", getattr(own, name)) for name in ("query", "key", "value")],
        (prefix + "attention.output.dense", attention.output.dense),
        [(prefix + "intermediate.dense", layer.intermediate.dense)],
        (prefix + "output.dense", layer.output.dense),
        norms,
        own.attention_head_size,
        getattr(own, "scaling", own.attention_head_size**-0.5),
        activation,
    )


def _bert(module: nn.Module, count_from_padding: bool = False, output: str | None = None) -> Source:
    settings, embeddings = module.config, module.embeddings
    if getattr(settings, "is_decoder", False) or getattr(settings, "add_cross_attention", False):
        raise Unsupported("it is a decoder, or has cross attention")
    if getattr(settings, "position_embedding_type", "absolute") not in ("absolute", None):
        raise Unsupported(f"it has {settings.position_embedding_type} positions; only absolute ones are supported")
    return Source(
        embeddings.word_embeddings,
        embeddings.position_embeddings,
        getattr(embeddings, "token_type_embeddings", None),
        embeddings.LayerNorm,
        [bert_layer(layer, f"encoder.layer.{i}.") for i, layer in enumerate(module.encoder.layer)],
        embeddings.position_embeddings.num_embeddings,
        output or "BaseModelOutputWithPoolingAndCrossAttentions",
        _pooler(module),
        embeddings.padding_idx if count_from_padding else None,
    )


def _roberta(module: nn.Module) -> Source:
    return _bert(module, count_from_padding=True)


def _electra(module: nn.Module) -> Source:
    if hasattr(module, "embeddings_project"):
        raise Unsupported("its embeddings have another width than its layers (embeddings_project)")
    return _bert(module, output="BaseModelOutputWithPastAndCrossAttentions")


def distilbert_layer(layer: nn.Module, prefix: str) -> Layer:
    """A layer with the parts of DistilBERT's under ``prefix``."""
    own = layer.attention
    head_dim = getattr(own, "attention_head_size", None) or own.dim // own.n_heads
    return Layer(
        [(f"{prefix}attention.{name}", getattr(own, name)) for name in ("q_lin", "k_lin", "v_lin")],
        (prefix + "attention.out_lin", own.out_lin),
        [(prefix + "ffn.lin1", layer.ffn.lin1)],
        (prefix + "ffn.lin2", layer.ffn.lin2),
        _post_norms(layer.sa_layer_norm, layer.output_layer_norm),
        head_dim,
        getattr(own, "scaling", head_dim**-0.5),
        layer.ffn.activation,
    )


def _distilbert(module: nn.Module) -> Source:
    embeddings = module.embeddings
    positions = embeddings.position_embeddings
    return Source(
        embeddings.word_embeddings,
        positions,
        None,
        embeddings.LayerNorm,
        [distilbert_layer(layer, f"transformer.layer.{i}.") for i, layer in enumerate(module.transformer.layer)],
        positions.num_embeddings,
        "BaseModelOutput",
    )


def _mpnet(module: nn.Module) -> Source:
    embeddings, layers = module.embeddings, []
    for i, layer in enumerate(module.encoder.layer):
        own, prefix = layer.attention.attn, f"encoder.layer.{i}."
        layers.append(
            Layer(
                [(f"{prefix}attention.attn.{name}", getattr(own, name)) for name in "qkv"],
                (prefix + "attention.attn.o", own.o),
                [(prefix + "intermediate.dense", layer.intermediate.dense)],
                (prefix + "output.dense", layer.output.dense),
                _post_norms(layer.attention.LayerNorm, layer.output.LayerNorm),
                own.attention_head_size,
                own.attention_head_size**-0.5,
                layer.intermediate.intermediate_act_fn,
            )
        )
    positions = embeddings.position_embeddings
    return Source(
        embeddings.word_embeddings,
        positions,
        None,
        embeddings.LayerNorm,
        layers,
        positions.num_embeddings,
        "BaseModelOutputWithPooling",
        _pooler(module),
        embeddings.padding_idx,
        relative=module.encoder.relative_attention_bias,
        relative_distance=128,  # fixed in MPNetEncoder.relative_position_bucket
    )


def _rope_theta(parameters: dict | None, fallback: float | None) -> float:
    """The base of rotary positions from a config's ``rope_parameters``; ``fallback`` is what older configs say."""
    parameters = parameters or {}
    kind = parameters.get("rope_type", "default")
    if kind != "default":
        raise Unsupported(f"its rotary positions are of type {kind!r}; only the default type is supported")
    theta = parameters.get("rope_theta", fallback)
    if theta is None:
        raise Unsupported("its config does not say the base of its rotary positions (rope_theta)")
    return float(theta)


def _modernbert(module: nn.Module) -> Source:
    settings, layers = module.config, []
    every = getattr(settings, "global_attn_every_n_layers", 3)
    kinds = getattr(settings, "layer_types", None) or [
        "sliding_attention" if i % every else "full_attention" for i in range(len(module.layers))
    ]
    older = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}
    for i, layer in enumerate(module.layers):
        own, prefix, kind = layer.attn, f"layers.{i}.", kinds[i]
        if kind not in older:
            raise Unsupported(f"{prefix}attn has attention of type {kind!r}; known are {', '.join(older)}")
        norms = {"attention_norm": layer.attn_norm, "ffn_norm": layer.mlp_norm}
        if isinstance(layer.attn_norm, nn.Identity):  # the first layer: the embeddings are normalised already
            norms.pop("attention_norm")
        theta = _rope_theta(
            (getattr(settings, "rope_parameters", None) or {}).get(kind), getattr(settings, older[kind], None)
        )
        layers.append(
            Layer(
                [(prefix + "attn.Wqkv", own.Wqkv)],
                (prefix + "attn.Wo", own.Wo),
                [(prefix + "mlp.Wi", layer.mlp.Wi)],
                (prefix + "mlp.Wo", layer.mlp.Wo),
                norms,
                own.head_dim,
                own.head_dim**-0.5,
                layer.mlp.act,
                settings.local_attention // 2 if kind == "sliding_attention" else None,
                theta,
            )
        )
    if not layers:
        raise Unsupported("it has no layers")
    return Source(
        module.embeddings.tok_embeddings,
        None,
        None,
        module.embeddings.norm,
        layers,
        settings.max_position_embeddings,
        "BaseModelOutput",
        norm="pre",
        final_norm=module.final_norm,
        gated=True,
    )


def _rotary_bert(module: nn.Module) -> Source:
    """NomicBERT, GTE and Jina v3: BERT with rotary positions, the first two with gated networks."""
    settings, embeddings, layers = module.config, module.embeddings, []
    theta = _rope_theta(getattr(settings, "rope_parameters", None), getattr(settings, "default_theta", None))
    gated = not module.layers or hasattr(module.layers[0].mlp, "gate_proj")
    *ffn_in, ffn_out, activation = (
        ("gate_proj", "up_proj", "down_proj", "act_fn") if gated else ("fc1", "fc2", "activation_fn")
    )
    for i, layer in enumerate(module.layers):
        own, mlp, prefix = layer.self_attn, layer.mlp, f"layers.{i}."
        layers.append(
            Layer(
                [(f"{prefix}self_attn.{name}", getattr(own, name)) for name in ("q_proj", "k_proj", "v_proj")],
                (prefix + "self_attn.o_proj", own.o_proj),
                [(f"{prefix}mlp.{name}", getattr(mlp, name)) for name in ffn_in],
                (f"{prefix}mlp.{ffn_out}", getattr(mlp, ffn_out)),
                _post_norms(layer.post_attention_layernorm, layer.post_mlp_layernorm),
                own.head_dim,
                own.scaling,
                getattr(mlp, activation),
                rope_theta=theta,
            )
        )
    return Source(
        embeddings.word_embeddings,
        None,
        embeddings.token_type_embeddings,
        embeddings.LayerNorm,
        layers,
        settings.max_position_embeddings,
        "BaseModelOutputWithPooling",
        _pooler(module),
        gated=gated,
    )


def _plain(module: nn.Module) -> Source:
    return _bert(module, output="BaseModelOutput")


def _tower(module: nn.Module) -> Source:
    return _bert(module, output="BaseModelOutputWithPooling")


def _roberta_tower(module: nn.Module) -> Source:
    return _bert(module, count_from_padding=True, output="BaseModelOutputWithPooling")


READERS: dict[str, Callable[[nn.Module], Source]] = {
    "BertModel": _bert,
    "RobertaModel": _roberta,
    "XLMRobertaModel": _roberta,
    "CamembertModel": _roberta,
    "ElectraModel": _electra,
    "DistilBertModel": _distilbert,
    "MPNetModel": _mpnet,
    "ModernBertModel": _modernbert,
    "NomicBertModel": _rotary_bert,
    "GteModel": _rotary_bert,
    "JinaEmbeddingsV3Model": _rotary_bert,
    "Data2VecTextModel": _roberta,
    "SplinterModel": _plain,
    "AlignTextModel": _tower,
    "ChineseCLIPTextModel": _tower,
    "ClapTextModel": _roberta_tower,
}
"""By the name of the class of the base model."""
