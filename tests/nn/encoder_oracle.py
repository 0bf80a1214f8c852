"""A BERT-like encoder in float64 NumPy, from the plain tensors of an Encoder's state dict.

Activations are quantized per token as the kernels do; everything else is exact, and written without torch's modules.
"""

from __future__ import annotations

import math

import numpy as np
import torch

_ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(torch.from_numpy(x / math.sqrt(2))).numpy()),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def encode(config, state, input_ids, mask=None, token_type_ids=None, position_ids=None):
    """float64 ``[B, T, H]``; rows of padding are 0."""
    state = {name: tensor.numpy() for name, tensor in state.items()}
    input_ids = input_ids.numpy()
    batch, length = input_ids.shape
    out = np.zeros((batch, length, config["hidden_size"]))
    for b in range(batch):
        kept = np.arange(length) if mask is None else np.flatnonzero(mask[b].numpy())
        if len(kept) == 0:
            continue
        if position_ids is not None:
            positions = np.broadcast_to(position_ids.numpy(), input_ids.shape)[b]
        elif config["padding_id"] is None:
            positions = np.arange(length)
        else:
            real = input_ids[b] != config["padding_id"]
            positions = np.where(real, np.cumsum(real) + config["padding_id"], config["padding_id"])
        x = _rows(state, "word", input_ids[b][kept]) + _rows(state, "position", positions[kept])
        if config["token_types"]:
            types = np.zeros(length, dtype=int) if token_type_ids is None else token_type_ids[b].numpy()
            x = x + _rows(state, "token_type", types[kept])
        x = _norm(state, "embeddings.norm", x, config["eps"])
        for i, layer in enumerate(config["layers"]):
            x = _layer(config, layer, state, f"layers.{i}.", x)
        out[b, kept] = x
    return out


def _layer(config, layer, state, prefix, x):
    heads, head_dim = layer["heads"], layer["head_dim"]
    qkv = _linear(state, prefix + "qkv", layer["qkv"], x).reshape(len(x), 3, heads, head_dim)
    scores = np.einsum("qhd,khd->hqk", qkv[:, 0], qkv[:, 1]) * layer["scaling"]
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    context = np.einsum("hqk,khd->qhd", p, qkv[:, 2]).reshape(len(x), heads * head_dim)
    x = _norm(
        state, prefix + "attention_norm", x + _linear(state, prefix + "output", layer["output"], context), config["eps"]
    )
    inner = _ACTIVATIONS[config["activation"]](_linear(state, prefix + "ffn_in", layer["ffn_in"], x))
    return _norm(
        state, prefix + "output_norm", x + _linear(state, prefix + "ffn_out", layer["ffn_out"], inner), config["eps"]
    )


def _rows(state, table, ids):
    codes, scale = state[f"embeddings.{table}.qweight"], state[f"embeddings.{table}.scale"]
    return codes[ids].astype(np.float64) * scale[ids, None]


def _norm(state, name, x, eps):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + eps) * state[name + ".weight"] + state[name + ".bias"]


def _linear(state, name, scheme, x):
    amax = np.abs(x).max(-1, keepdims=True)
    a = np.rint(x * np.divide(127, amax, out=np.zeros_like(amax), where=amax > 0)) * (amax / 127)
    codes, scale, zero = state[name + ".qweight"], state[name + ".scale"], state.get(name + ".zero")
    if scheme != "w8a8":  # 4 or 2 bits: 8 / bits codes a byte, from the low bits up, each + 2^(bits - 1)
        bits = int(scheme[1])
        lanes = [codes >> shift & (1 << bits) - 1 for shift in range(0, 8, bits)]
        codes = np.stack(lanes, axis=-1).reshape(len(codes), -1).astype(np.int64) - (1 << bits - 1)
        size = codes.shape[1] // scale.shape[1]
        scale = np.repeat(scale, size, axis=1)
        zero = None if zero is None else np.repeat(zero, size, axis=1)
    else:
        scale = scale[:, None]
    weight = (codes.astype(np.float64) - (0 if zero is None else zero)) * scale
    return a @ weight.T + state[name + ".bias"]
