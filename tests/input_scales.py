"""Random input scales, and weights of models that have them."""

import torch
from torch import nn

from kdnative.convert.refusals import too_small
from kdnative.quantize import quantize_weight


def random_scales(k):
    """Factors between 1/2 and 2."""
    return torch.exp2(torch.rand(k) * 2 - 1)


def scaled(weight, scheme, factors):
    """The codes of ``weight / factors``, and the factors."""
    return quantize_weight(weight.detach() / factors, scheme).changed(input_scale=factors)


def scaled_weights(model, scheme="w8a8"):
    """A weight with input scales for every linear that becomes native, by name.

    Linears side by side, which may read the same, share their scales.
    """
    shared, weights = {}, {}
    for name, linear in model.named_modules():
        if isinstance(linear, nn.Linear) and not too_small(*linear.weight.shape):
            place = name.rpartition(".")[0], linear.in_features
            if place not in shared:
                shared[place] = random_scales(linear.in_features)
            weights[name] = scaled(linear.weight, scheme, shared[place])
    return weights
