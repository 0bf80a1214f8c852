"""norm_quantize in float64, and calls of it that are refused: the same for every backend."""

import torch

__all__ = ["BAD", "assert_codes_of", "exact"]


def exact(x, gamma, beta, eps, input_scale, rms):
    """What is quantized, float64 ``[..., K]``."""
    v = x.double() if rms else x.double() - x.double().mean(-1, keepdim=True)
    v = v / (v.square().mean(-1, keepdim=True) + eps).sqrt() * gamma + (0 if beta is None else beta)
    return v if input_scale is None else v * input_scale


def assert_codes_of(found, y):
    """Half a step, and a hundredth for a norm that is computed in float32."""
    codes, scale = found
    assert codes.dtype == torch.int8 and codes.shape == y.shape and codes.is_contiguous()
    assert scale.dtype == torch.float32 and scale.shape == y.shape[:-1]
    torch.testing.assert_close(scale.double(), y.abs().amax(-1) / 127, rtol=2**-19, atol=0)
    assert ((codes - y / scale[..., None].double()).abs() <= 0.51).all()


BAD = [
    ({"x": torch.zeros(2, 8).double()}, "float64"),
    ({"x": torch.tensor(1.0)}, "at least one dimension"),
    ({"x": torch.zeros(2, 0), "gamma": torch.ones(0)}, r"shape \[2, 0\]: there is nothing to normalize"),
    ({"gamma": torch.ones(7)}, r"shape \[2, 8\]: gamma must be .* of shape \[8\].* not .*float32 of shape \[7\]"),
    ({"gamma": torch.ones(8).half()}, r"gamma must be .* not .*float16 of shape \[8\]"),
    ({"beta": torch.ones(8, 1)}, r"beta must be .* of shape \[8, 1\]"),
    ({"input_scale": torch.tensor(1.0)}, r"input_scale must be .* of shape \[\]"),
    ({"eps": -1e-3}, "eps is -0.001.*; it must be 0 or more"),
    ({"eps": float("nan")}, "eps is nan"),
    ({"eps": float("inf")}, "eps is inf"),
]
"""What is changed of a call that is right, and what the error says."""
