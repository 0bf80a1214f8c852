"""Every way of running one linear layer on an NVIDIA GPU: ours, cuBLAS, torch, torchao, gemlite and cuSPARSELt.

Each gets the same weight and float16 activations. A layer is made several times, so that its copies together are
larger than the L2 cache: a call runs all copies one after the other, and every one reads its weight from memory, as in
a model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.bench.gemm_candidates import GemmCase
from kdnative.bench.peers import Candidate, Prepared, Unsuited, kind_of

HALF = torch.float16
SPARSE = "+2:4"
"""How schemes end whose candidates get a weight with 2:4 zeros, `GpuCase.pruned`."""
_LEAST_COPIES, _MOST_COPIES = 2, 24
_INT_MM_ROWS = 17  # fewer are not taken by torch._int_mm on CUDA
_TINYGEMM_ROWS = 256  # above, one call takes a millisecond and more


@dataclass
class GpuCase(GemmCase):
    """A `GemmCase` whose operands are on a device.

    Args:
        device: where the layer runs.
        cache: bytes that the copies of a layer exceed together: those of the L2 cache, or more.
    """

    device: str = "cuda"
    cache: int = 250_000_000

    def __post_init__(self) -> None:
        # The values are those of the CPU's generator, so that every device gets the same layer.
        self.x, self.weight, self.bias = (t.to(self.device) for t in (super().x, super().weight, super().bias))
        self.linear = super().linear.to(self.device)
        self.input = self.x.to(HALF)

    def pruned(self) -> GpuCase:
        """The same with 2:4 zeros in its weight: of four consecutive inputs the two of largest magnitude stay.

        K has to be a multiple of 4.
        """
        case = replace(self)
        fours = self.weight.reshape(-1, 4)
        kept = torch.zeros_like(fours).scatter_(1, fours.abs().topk(2).indices, 1.0)
        case.weight = (fours * kept).reshape(self.weight.shape)
        case.linear.weight.data.copy_(case.weight)
        return case

    def copies(self, size: float) -> int:
        """How many copies of a weight of ``size`` bytes are run one after the other."""
        return max(_LEAST_COPIES, min(_MOST_COPIES, int(self.cache // max(size, 1)) + 1))

    def half(self) -> nn.Linear:
        return copy.deepcopy(self.linear).to(HALF)


Layer = Callable[[Tensor], Tensor]


def candidates(schemes: Sequence[str], peers: bool = True, compiled: bool = False) -> list[Candidate[GpuCase]]:
    """Candidates of one run.

    Args:
        schemes: ours, such as ``w8a8`` and ``w4a16-g128``.
        peers: include the other engines.
        compiled: include ``torch.compile``, which takes minutes.
    """
    kinds = {name: kind_of(name) for name in schemes}
    found = [Candidate(f"kdnative {name}", kind, _ours(name), ours=True, scheme=name) for name, kind in kinds.items()]
    return found + (PEERS if peers else []) + (COMPILED if peers and compiled else [])


def copies_of(candidate: Candidate[GpuCase], case: GpuCase) -> int:
    """How many layers one call of a candidate runs."""
    return case.copies(WEIGHT_BYTES.get(candidate.kind, 1.0) * case.n * case.k)


WEIGHT_BYTES = {"float": 2.0, "int8": 1.0, "w8a16": 1.0, "int4": 0.5, "w4a16": 0.5, "int2": 0.25, "w2a16": 0.25}
"""Bytes of a weight by the kind of a candidate."""


def _rotating(kind: str, case: GpuCase, make: Callable[[], Layer], x: Tensor, **options: Any) -> Prepared:
    """A call that runs copies of a layer and returns the result of the first."""
    layers = [make() for _ in range(case.copies(WEIGHT_BYTES[kind] * case.n * case.k))]

    def call() -> Tensor:
        results = [layer(x) for layer in layers]
        return results[0]

    return Prepared(call, **options)


def _ours(scheme: str) -> Callable[[GpuCase], Prepared]:
    def prepare(case: GpuCase) -> Prepared:
        from kdnative.nn import Linear

        layer = Linear.from_float(case.linear, scheme)
        return _rotating(kind_of(scheme), case, lambda: copy.deepcopy(layer), case.input)

    return prepare


def _half(case: GpuCase) -> Prepared:
    return _rotating("float", case, case.half, case.input)


def _compiled(case: GpuCase) -> Prepared:
    return _rotating("float", case, lambda: torch.compile(case.half(), dynamic=False), case.input)


def _int8_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    scale = values.abs().amax(1).clamp_min(1e-9) / 127
    return torch.round(values / scale[:, None]).to(torch.int8), scale


def _int_mm(case: GpuCase) -> Prepared:
    if case.m < _INT_MM_ROWS:
        raise Unsuited(f"torch._int_mm takes more than {_INT_MM_ROWS - 1} rows, the case has {case.m}")
    (x, scale_x), (weight, scale_w) = _int8_rows(case.x), _int8_rows(case.weight)

    def make() -> Layer:
        own = weight.clone().t()
        return lambda x: torch._int_mm(x, own)

    return _rotating("int8", case, make, x, decode=lambda y: y * scale_x[:, None] * scale_w + case.bias)


def _tinygemm(case: GpuCase) -> Prepared:
    if case.m > _TINYGEMM_ROWS:
        raise Unsuited(f"left out above {_TINYGEMM_ROWS} rows, where it takes milliseconds")
    block = case.block
    groups = case.weight.reshape(case.n, -1, block)
    low, high = groups.amin(-1), groups.amax(-1)
    scale = (high - low).clamp_min(1e-9) / 15
    codes = torch.clamp(torch.round((groups - low[..., None]) / scale[..., None]), 0, 15).to(torch.uint8)
    codes = codes.reshape(case.n, case.k)
    packed = torch.ops.aten._convert_weight_to_int4pack((codes[:, ::2] << 4 | codes[:, 1::2]).contiguous(), 8)
    # The kernel computes (code - 8) * scale + zero.
    params = torch.stack([scale, low + 8 * scale], -1).transpose(0, 1).contiguous().bfloat16()
    bias = case.bias.bfloat16()

    def make() -> Layer:
        own = packed.clone()
        return lambda x: torch.ops.aten._weight_int4pack_mm(x, own, block, params) + bias

    return _rotating("w4a16", case, make, case.x.bfloat16())


def _torchao(config: str, kind: str) -> Callable[[GpuCase], Prepared]:
    def prepare(case: GpuCase) -> Prepared:
        import torchao.quantization as ao

        def make() -> Layer:
            model = nn.Sequential(copy.deepcopy(case.linear).bfloat16())
            ao.quantize_(model, getattr(ao, config)())
            return torch.compile(model, dynamic=False)

        return _rotating(kind, case, make, case.x.bfloat16())

    return prepare


def _gemlite(kind: str) -> Callable[[GpuCase], Prepared]:
    def prepare(case: GpuCase) -> Prepared:
        from gemlite import helper

        def make() -> Layer:
            if kind == "int8":
                return helper.A8W8_int8_dynamic(device=case.device, dtype=HALF).from_linear(case.half())
            block = case.block
            groups = case.weight.reshape(-1, block)
            low = groups.amin(1, keepdim=True)
            scale = (groups.amax(1, keepdim=True) - low).clamp_min(1e-9) / 15
            zero = -low / scale
            codes = torch.clamp(torch.round(groups / scale + zero), 0, 15).to(torch.uint8).reshape(case.n, case.k)
            processor = helper.A16W4_HQQ_INT(device=case.device, dtype=HALF)
            return processor.from_weights(codes, scale.to(HALF), zero.to(HALF), bias=case.bias.to(HALF))

        return _rotating(kind, case, make, case.input)

    return prepare


def _cusparselt(case: GpuCase) -> Prepared:
    (x, scale_x), (weight, scale_w) = _int8_rows(case.x), _int8_rows(case.weight)
    rows = max(case.m, 32)
    x = torch.cat([x, x.new_zeros(rows - case.m, case.k)])

    def make() -> Layer:
        own = torch._cslt_compress(weight.clone())
        return lambda x: torch._cslt_sparse_mm(own, x.t(), out_dtype=torch.int32)

    def decode(y: Tensor) -> Tensor:
        return y.t()[: case.m] * scale_x[: case.m, None] * scale_w + case.bias

    return _rotating("int8", case, make, x, decode=decode)


PEERS: list[Candidate[GpuCase]] = [
    Candidate("cuBLAS fp16", "float", _half, also=("int8", "int4", "w4a16", "w8a16")),
    Candidate("torch._int_mm", "int8", _int_mm, note="the integer product alone", partial=True),
    Candidate("tinygemm w4", "w4a16", _tinygemm),
    Candidate("gemlite w4a16", "w4a16", _gemlite("w4a16"), packages=("gemlite",)),
    Candidate("gemlite w8a8", "int8", _gemlite("int8"), packages=("gemlite",)),
    Candidate(
        "cuSPARSELt 2:4", "int8", _cusparselt, note="the integer product alone", partial=True, scheme=f"w8a8{SPARSE}"
    ),
]

COMPILED: list[Candidate[GpuCase]] = [
    Candidate("compile fp16", "float", _compiled, also=("int8", "w4a16", "w8a16")),
    Candidate(
        "compile torchao int8", "int8", _torchao("Int8DynamicActivationInt8WeightConfig", "int8"), packages=("torchao",)
    ),
    Candidate("compile torchao int4", "w4a16", _torchao("Int4WeightOnlyConfig", "w4a16"), packages=("torchao",)),
]
