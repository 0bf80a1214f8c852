"""Small random transformers models, their native encoders, inputs, and the comparison with the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdnative.convert import Refusal
from kdnative.convert.encoders import HfEncoderConverter, KnownLayerConverter, TorchEncoderConverter
from kdnative.convert.surroundings import Surroundings
from kdnative.formats.scheme import Scheme
from kdnative.models.layer import Unsupported
from kdnative.nn import Encoder
from kdnative.patterns import Selection
from kdnative.quantize import quantize_weight

transformers = pytest.importorskip("transformers")


def rebuilt(converter, module, scheme):
    """The native form of an encoder or a layer by itself, or in words why there is none.

    ``scheme``: one for all linears, or a function of a linear's name, of which None keeps the linear in float.
    """

    def scheme_of(name, linear):
        chosen = scheme(name) if callable(scheme) else scheme
        if chosen is None:
            raise Unsupported(f"{name} stays in float")
        return Scheme.parse(chosen)

    region = converter.decide(Surroundings.of(module, Selection("w8a8")).site(""), scheme_of)
    if isinstance(region, Refusal):
        return str(region)
    modules = {name: module.get_submodule(name) for name in region.modules}
    return converter.build(region, modules, lambda name, x: quantize_weight(x.weight.detach(), scheme_of(name, x)))


def encoder_from_hf(module, scheme):
    """See `rebuilt`."""
    return rebuilt(HfEncoderConverter(), module, scheme)


def encoder_from_torch(module, scheme):
    """See `rebuilt`."""
    return rebuilt(TorchEncoderConverter(), module, scheme)


def layer_from(module, scheme):
    """See `rebuilt`."""
    return rebuilt(KnownLayerConverter(), module, scheme)


def randomized(module):
    """Attention and feed-forward parts that matter as much as the residual."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
        return jitter(module).eval()


def bert(hidden=48, heads=3, ffn=100, layers=2, vocab=101, **options):
    """A random BertModel whose attention and feed-forward parts matter as much as the residual."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        vocab_size=vocab,
        max_position_embeddings=160,
        initializer_range=hidden**-0.5,
        **options,
    )
    return jitter(transformers.BertModel(config).eval())


def roberta(**options):
    return small("Roberta", max_position_embeddings=60, type_vocab_size=1, pad_token_id=1, **options)


def electra(**options):
    return small("Electra", **{"embedding_size": 48, "max_position_embeddings": 40, **options})


def mpnet(tokens=40, **options):
    model = small("MPNet", max_position_embeddings=tokens + 2, **options)
    torch.nn.init.normal_(model.encoder.relative_attention_bias.weight)  # as much as the scores themselves
    return model


def modernbert(**options):
    """Global, local, local, global ... attention; the window is 3 columns to either side."""
    settings = {"num_hidden_layers": 4, "intermediate_size": 70, "local_attention": 6, "max_position_embeddings": 160}
    model = small("ModernBert", **{**settings, **options}, pad_token_id=0, initializer_cutoff_factor=3.0)
    return model


def nomic(**options):
    return small("NomicBert", max_position_embeddings=160, **options)


def gte(**options):
    return small("Gte", **{"max_position_embeddings": 160, "type_vocab_size": 0, **options})


def jina(**options):
    return small("JinaEmbeddingsV3", max_position_embeddings=160, **options)


def small(kind, **options):
    """A random model of transformers, of which attention and feed-forward parts matter as much as the residual."""
    torch.manual_seed(0)
    settings = {
        "hidden_size": 48,
        "num_attention_heads": 3,
        "intermediate_size": 100,
        "num_hidden_layers": 2,
        "vocab_size": 101,
        "initializer_range": 0.15,
    }
    config = getattr(transformers, f"{kind}Config")(**{**settings, **options})
    return jitter(getattr(transformers, f"{kind}Model")(config).eval())


@torch.no_grad()
def jitter(model):
    """Random biases and LayerNorms, which initialisation leaves at 0 and 1."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def native(model, scheme="w8a8"):
    encoder = encoder_from_hf(model, scheme)
    assert isinstance(encoder, Encoder), encoder
    return encoder


def batch(model, size, length, seed=1):
    """Ids, a mask with holes and one sequence without any token, token types."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, model.config.vocab_size, (size, length), generator=g)
    mask = (torch.rand(size, length, generator=g) < 0.8).long()
    mask[0] = 1
    if size > 2:
        mask[1] = 0
    kinds = max(1, getattr(model.config, "type_vocab_size", 1))
    types = torch.randint(0, kinds, (size, length), generator=g)
    return ids, mask, types


def check_close(actual, expected, kept):
    """An activation that rounds the other way moves all that follows a little; a wrong formula moves it more."""
    error = np.abs(actual.double().numpy() - expected)[kept.bool().numpy()]
    assert error.max(initial=0) < 0.08
    assert error.size == 0 or error.mean() < 8e-3
    assert not actual[~kept.bool()].any()
