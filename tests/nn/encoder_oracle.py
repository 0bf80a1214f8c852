"""A transformer encoder in float64 NumPy, from the plain tensors of an Encoder's state dict.

Activations are quantized per token as the kernels do, and attention rounds its factors to bf16 where the kernels of the
instruction set in use do; everything else is exact, and written without torch's modules.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from kdnative import ops

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
        x = _rows(state, "word", input_ids[b][kept])
        if config["position_table"]:
            x = x + _rows(state, "position", positions[kept])
        if config["token_types"]:
            types = np.zeros(length, dtype=int) if token_type_ids is None else token_type_ids[b].numpy()
            x = x + _rows(state, "token_type", types[kept])
        x = _norm(state, "embeddings.norm", x, config["eps"])
        for i, layer in enumerate(config["layers"]):
            x = _layer(config, layer, state, f"layers.{i}.", x, positions[kept], kept)
        out[b, kept] = x if config["norm"] == "post" else _norm(state, "final_norm", x, config["eps"])
    return out


def encode_states(config, state, hidden_states, mask=None, causal=False, angles=None):
    """The layers alone: float64 ``[B, T, H]`` from hidden states of that shape; rows of padding are 0.

    ``angles``: of rotary positions that the caller gives, ``[B, T, D / 2]``.
    """
    state = {name: tensor.numpy() for name, tensor in state.items()}
    out = np.zeros(hidden_states.shape)
    for b, rows in enumerate(hidden_states.double().numpy()):
        kept = np.arange(len(rows)) if mask is None else np.flatnonzero(mask[b].numpy())
        x = rows[kept]
        for i, layer in enumerate(config["layers"] if len(kept) else ()):
            own = None if angles is None else angles[b][kept]
            x = _layer(config, layer, state, f"layers.{i}.", x, None, kept, causal, own)
        out[b, kept] = x
    return out


def _layer(config, layer, state, prefix, x, positions, columns, causal=False, angles=None):
    heads, head_dim, post = layer["heads"], layer["head_dim"], config["norm"] == "post"

    def norm(name, rows):
        return _norm(state, prefix + name, rows, config["eps"])

    read = norm("attention_norm", x) if not post and layer["attention_norm"] else x
    qkv = _linear(state, prefix + "qkv", layer["qkv"], read).reshape(len(x), 3, heads, head_dim)
    q, k, v = qkv[:, 0], qkv[:, 1], qkv[:, 2]
    if layer["rope_theta"] is not None:
        angles = positions[:, None] * layer["rope_theta"] ** (-np.arange(head_dim // 2) / (head_dim // 2))
    if angles is not None:
        q, k = _turn(q, angles), _turn(k, angles)
    factor = _bf16 if ops.isa() in ("avx512bf16", "amx") else lambda x: x
    scores = np.einsum("qhd,khd->hqk", factor(q * layer["scaling"]), factor(k))
    apart = columns[None, :] - columns[:, None]
    if config["relative_buckets"]:
        bucket = np.vectorize(lambda d: _bucket(d, config["relative_buckets"], config["relative_distance"]))(apart)
        scores = scores + state["relative_bias.weight"].astype(np.float64)[bucket].transpose(2, 0, 1)
    if layer["window"] is not None:
        scores = np.where(np.abs(apart) <= layer["window"], scores, -np.inf)
    if causal:
        scores = np.where(apart <= 0, scores, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    context = np.einsum("hqk,khd->qhd", factor(p), factor(v)) / p.sum(-1).T[:, :, None]
    context = context.reshape(len(x), heads * head_dim)
    x = x + _linear(state, prefix + "output", layer["output"], context)
    x = norm("attention_norm", x) if post else x
    inner = _linear(state, prefix + "ffn_in", layer["ffn_in"], x if post else norm("ffn_norm", x))
    activation = _ACTIVATIONS[config["activation"]]
    if config["gated"]:
        inner = activation(inner[:, : layer["ffn"]]) * inner[:, layer["ffn"] :]
    else:
        inner = activation(inner)
    x = x + _linear(state, prefix + "ffn_out", layer["ffn_out"], inner)
    return norm("output_norm", x) if post else x


def _bf16(x):
    return torch.from_numpy(x).float().bfloat16().double().numpy()


def _turn(x, angles):
    """Rotary positions as a product of complex numbers: pair i of a head is x[i] + 1j * x[half + i]."""
    half = x.shape[-1] // 2
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles[:, None])
    return np.concatenate([turned.real, turned.imag], axis=-1)


def _bucket(distance, buckets, max_distance):
    """The bucket of a key that many columns after the query, by the ends of the buckets (Raffel et al. 2020)."""
    half = buckets // 2
    exact = half // 2
    # Bucket exact + i starts where log(d / exact) / log(max_distance / exact) * (half - exact) reaches i.
    starts = [exact * (max_distance / exact) ** (i / (half - exact)) for i in range(1, half - exact)]
    far = abs(distance)
    within = far if far < exact else exact + sum(far >= start - 1e-9 for start in starts)
    return within + (half if distance > 0 else 0)


def _rows(state, table, ids):
    codes, scale = state[f"embeddings.{table}.qweight"], state[f"embeddings.{table}.scale"]
    return codes[ids].astype(np.float64) * scale[ids, None]


def _norm(state, name, x, eps):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + eps) * state[name + ".weight"] + state[name + ".bias"]


def _linear(state, name, scheme, x):
    x = x * state.get(name + ".input_scale", 1.0)
    scheme = scheme.removesuffix("-is")
    amax = np.abs(x).max(-1, keepdims=True)
    a = np.rint(x * np.divide(127, amax, out=np.zeros_like(amax), where=amax > 0)) * (amax / 127)
    codes, scale, zero = state[name + ".qweight"], state[name + ".scale"], state.get(name + ".zero")
    if scheme != "w8a8":  # 4 or 2 bits: 8 / bits codes a byte, from the low bits up, each + 2^(bits - 1)
        bits = int(scheme[1])
        lanes = [codes >> shift & (1 << bits) - 1 for shift in range(0, 8, bits)]
        codes = np.stack(lanes, axis=-1).reshape(len(codes), -1).astype(np.int64) - (1 << bits - 1)
        if scheme.endswith("-int"):
            scale = scale[:, None] * state[name + ".group_scale"].astype(np.float64)
        size = codes.shape[1] // scale.shape[1]
        scale = np.repeat(scale, size, axis=1)
        zero = None if zero is None else np.repeat(zero, size, axis=1)
    else:
        scale = scale[:, None]
    weight = (codes.astype(np.float64) - (0 if zero is None else zero)) * scale
    return a @ weight.T + state[name + ".bias"]
