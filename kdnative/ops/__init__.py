"""Operators: ``torch.ops.kdnative.*``, their shapes for tracing, and thin callables.

Importing this package loads the native library, which registers the operators with torch. ``KDNATIVE_ISA`` forces one
instruction set (``reference``, ``avx2`` and so on, see :func:`available_isas`); one that cannot run is an error.
``KDNATIVE_BACKEND=reference`` computes linears in plain torch (:mod:`kdnative.ops.reference`).
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

try:
    from kdnative import _C as _C  # the benchmarks ask it for the ceilings of the machine
except ImportError as error:  # the message of the loader alone does not say what to do
    raise ImportError(
        f"kdnative's native library could not be loaded ({error}). It needs torch >= 2.10 (found {torch.__version__}); "
        "from a source tree run `make build`, otherwise install the wheel file again: "
        "`pip install --force-reinstall FILE`."
    ) from error

_C.select_isa(os.environ.get("KDNATIVE_ISA", ""))

from kdnative.ops import backends as _backends  # noqa: E402, F401  (registers implementations)
from kdnative.ops import forks as _forks  # noqa: E402, F401  (what children of this process need)
from kdnative.ops.schemas import LINEARS as _LINEARS  # noqa: E402  (registers shapes; needs the native operators)
from kdnative.ops.schemas import OPERATORS  # noqa: E402

__all__ = [
    "ACTIVATIONS",
    "LINEAR",
    "OPERATORS",
    "activation_code",
    "available_isas",
    "avx512_in_halves",
    "built_isas",
    "convnet",
    "emulates_amx",
    "encoder",
    "encoder_hidden_states",
    "encoder_layers",
    "isa",
    "kernel_table",
    "linear",
    "linear_sparse",
    "linear_w2a16",
    "linear_w2a8",
    "linear_w4a16",
    "linear_w4a8",
    "linear_w8a16",
    "linear_w8a8",
    "norm_quantize",
    "quantize_per_token",
    "select_isa",
]

ACTIVATIONS = {"none": 0, "relu": 1, "gelu": 2, "gelu_tanh": 3, "silu": 4, "tanh": 5}
"""Activations that a linear layer can fuse, and their codes. ``gelu`` is the exact, erf-based one."""

LINEAR: dict[tuple[int, int], Callable[..., torch.Tensor]] = {
    widths: getattr(torch.ops.kdnative, name).default for name, widths in _LINEARS.items()
}
"""The operator for each width of the weights and of the activations; 16 stands for any float."""
linear_w8a8, linear_w4a8, linear_w2a8 = (LINEAR[bits, 8] for bits in (8, 4, 2))
linear_w8a16, linear_w4a16, linear_w2a16 = (LINEAR[bits, 16] for bits in (8, 4, 2))
linear_sparse = torch.ops.kdnative.linear_sparse.default
"""``(x, packed, out_features, activation code)`` for weights from :func:`kdnative.formats.sparse.pack`; the output
is that of ``linear_w8a8`` for the same weights, bit for bit."""
encoder = torch.ops.kdnative.encoder.default
encoder_hidden_states = torch.ops.kdnative.encoder_hidden_states.default
"""``encoder`` with ``layers`` at the end: ``[layers + 1, B, T, H]``, what the first layer gets, and what each gives."""
encoder_layers = torch.ops.kdnative.encoder_layers.default
"""``(packed, hidden states [B, T, H], attention mask [B, T] or None, causal 0 or 1, rotary=None, padding_mask=None)``:
layers without embeddings. In an attention mask 0 is padding, in a padding mask [B, T] what is not 0."""

convnet = torch.ops.kdnative.convnet.default
"""``(packed, images [N, C, H, W] of any float and strides, values an image) -> float32 [N, values]``: a network from
:func:`kdnative.formats.convnet.pack.pack`; of each of its outputs in order the values pixel by pixel, channels last. An
image that holds NaN gives NaN."""


def isa() -> str:
    """The instruction set in use."""
    return _C.isa()


def built_isas() -> list[str]:
    """Instruction sets that this build has, slowest first. ``KDNATIVE_ISAS`` of the build leaves some out."""
    return _C.built_isas()


def available_isas() -> list[str]:
    """Those of :func:`built_isas` that this processor can run, slowest first."""
    return _C.available_isas()


def select_isa(name: str) -> None:
    """Force an instruction set by name for the whole process; ``""`` selects the best. ValueError if impossible."""
    _C.select_isa(name)


def avx512_in_halves() -> bool:
    """Whether this processor runs 512-bit instructions in two halves, as AMD Zen 4 does."""
    return _C.avx512_in_halves()


def emulates_amx() -> bool:
    """Whether this build computes AMX tiles in software: slow, for the tests of machines without AMX."""
    return _C.emulates_amx


def kernel_table() -> dict[str, str]:
    """For every operator the instruction sets whose kernels a call would run now.

    One name where all kernels are of that set. Otherwise the sets from the one in use down: each with what it runs, the
    last one with the rest, as in ``amx (gemm_w8a8 above 4 rows), avx512vnni``. Under ``KDNATIVE_BACKEND=reference``
    linears are "plain torch".
    """
    table = dict(_C.kernel_table())
    if _backends.backend_for("cpu").is_fallback:
        table |= dict.fromkeys(_backends.reference.IMPLEMENTATIONS, "plain torch")
    return {operator: table[operator] for operator in OPERATORS}


def activation_code(name: str) -> int:
    """The code of an activation name; ValueError lists the allowed names."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r} cannot be fused; allowed: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def quantize_per_token(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Dynamic symmetric int8 quantization of each row.

    Args:
        x: float32, bfloat16 or float16 ``[..., K]`` on the CPU, any strides.

    Returns:
        ``q`` int8 ``[..., K]`` in [-127, 127] and ``scale`` float32 ``[...]`` with ``x ~ q * scale``;
        ``scale = max|x| / 127``, ``q = round_half_even(x * (127 / max|x|))``. A row with NaN or infinity gives
        ``q = 0`` and ``scale = NaN``.
    """
    codes, scale = torch.ops.kdnative.quantize_per_token.default(x)
    return codes, scale


def norm_quantize(
    x: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor | None = None,
    eps: float = 1e-5,
    input_scale: torch.Tensor | None = None,
    rms: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """LayerNorm (Ba et al. 2016) of each row, quantized to int8: the normalized row is never written.

    Args:
        x: float32, bfloat16 or float16 ``[..., K]``, any strides.
        gamma: float32 ``[K]``, what the normalized row is multiplied by.
        beta: float32 ``[K]``, added after that, or None.
        eps: added to the variance; 0 or more.
        input_scale: float32 ``[K]``, what the result is multiplied by before it is quantized, or None.
        rms: no mean is subtracted (RMSNorm, Zhang and Sennrich 2019).

    Returns:
        Codes and scales as :func:`quantize_per_token` gives them. Norms add in the order of their device and
        instruction set, so a code may differ by one step between two of them.

    Raises:
        RuntimeError: a dtype, shape or device is none of these, there are no columns, or eps is negative.
    """
    codes, scale = torch.ops.kdnative.norm_quantize.default(x, gamma, beta, eps, input_scale, int(rms))
    return codes, scale


def linear(
    x: torch.Tensor,
    packed: torch.Tensor,
    bits: int,
    out_features: int,
    activation: str = "none",
    activation_bits: int = 8,
) -> torch.Tensor:
    """``activation(x @ W.T + bias)`` with packed 8-, 4- or 2-bit weights.

    Args:
        x: float32, bfloat16 or float16 ``[..., K]`` on the CPU, any strides.
        packed: uint8 buffer from :func:`kdnative.formats.dense.pack`; it carries the bias.
        bits: 8, 4 or 2.
        out_features: N.
        activation: one of :data:`ACTIVATIONS`.
        activation_bits: 8 quantizes ``x`` per token to int8; 16 leaves it in floating point and sums in float32.

    Returns:
        ``[..., N]`` in the dtype of ``x``. Not differentiable.
    """
    if (bits, activation_bits) not in LINEAR:
        raise ValueError(f"bits must be 8, 4 or 2 and activation_bits 8 or 16 (got {bits} and {activation_bits})")
    return LINEAR[bits, activation_bits](x, packed, out_features, activation_code(activation))
