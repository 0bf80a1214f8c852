"""Random input scales, and weights of models that have them."""

import torch
from torch import nn

from kdnative.quantize import quantize_weight

_TOGETHER = ("query", "key", "value", "q_proj", "k_proj", "v_proj", "q", "k", "v")


def random_scales(k):
    """Factors between 1 / e^2 and e^2."""
    return (torch.rand(k) * 4 - 2).exp()


def scaled(weight, scheme, factors):
    """The codes of ``weight / factors``, and the factors."""
    return quantize_weight(weight.detach() / factors, scheme).changed(input_scale=factors)


def scaled_weights(model, scheme="w8a8"):
    """A weight with input scales for every linear, by name: one vector for queries, keys and values."""
    shared, weights = {}, {}
    for name, linear in model.named_modules():
        if not isinstance(linear, nn.Linear):
            continue
        parent, _, own = name.rpartition(".")
        key = parent if own in _TOGETHER else name
        if key not in shared:
            shared[key] = random_scales(linear.in_features)
        weights[name] = scaled(linear.weight, scheme, shared[key])
    return weights
