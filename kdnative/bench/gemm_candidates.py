"""Every way of running one linear layer on the CPU: ours, torch, torchao, ONNX Runtime and OpenVINO.

Each one gets the same fp32 weight and quantizes it in its own format beforehand; activations go in as fp32 (bf16 where
the engine computes in bf16) and their quantization is part of the timed call unless the note says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.bench.peers import Candidate, Prepared, Unsuited, kind_of

BLOCKS = (128, 64, 32)  # group sizes of 4-bit peers, their fastest first


@dataclass
class GemmCase:
    """``y = x @ weight.T + bias``: x ``[m, k]``, weight ``[n, k]``, bias ``[n]``, y ``[m, n]``, all fp32."""

    n: int
    k: int
    m: int
    threads: int
    borrowed: Any = None  # memory that an engine reads without owning it: it must live as long as the case

    @cached_property
    def x(self) -> Tensor:
        return torch.randn(self.m, self.k, generator=torch.Generator().manual_seed(1))

    @cached_property
    def weight(self) -> Tensor:
        return torch.randn(self.n, self.k, generator=torch.Generator().manual_seed(0)) / self.k**0.5

    @cached_property
    def bias(self) -> Tensor:
        return torch.randn(self.n, generator=torch.Generator().manual_seed(2))

    @cached_property
    def linear(self) -> nn.Linear:
        layer = nn.Linear(self.k, self.n)
        with torch.no_grad():
            layer.weight.copy_(self.weight)
            layer.bias.copy_(self.bias)
        return layer.eval()

    @cached_property
    def reference(self) -> Tensor:
        return self.product(self.x, self.weight)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer's result for other operands, computed in float64."""
        return x.double() @ weight.double().T + self.bias.double()

    @property
    def block(self) -> int:
        """Group size for a 4-bit peer."""
        for size in BLOCKS:
            if self.k % size == 0:
                return size
        raise Unsuited(f"needs K divisible by one of {', '.join(map(str, BLOCKS))}, K is {self.k}")


def candidates(schemes: Sequence[str], peers: bool = True, compiled: bool = False) -> list[Candidate[GemmCase]]:
    """Candidates of one run.

    Args:
        schemes: our schemes, such as ``w8a8`` and ``w4a8-g64``.
        peers: include the other engines.
        compiled: include ``torch.compile``, which takes minutes.
    """
    kinds = {name: kind_of(name) for name in schemes}
    found = [Candidate(f"kdnative {name}", kind, ours(name), ours=True, scheme=name) for name, kind in kinds.items()]
    if peers:
        found += PEERS
    if peers and any(kind.endswith("a16") for kind in kinds.values()):
        found += WEIGHT_ONLY
    if peers and compiled:
        found += COMPILED
    return found


def ours(scheme: str):
    """Prepares our layer of that scheme."""

    def prepare(case: GemmCase) -> Prepared:
        from kdnative.nn import Linear

        layer = Linear.from_float(case.linear, scheme)
        return Prepared(lambda: layer(case.x))

    return prepare


def torch_fp32(case: GemmCase) -> Prepared:
    """The float layer itself."""
    return Prepared(lambda: case.linear(case.x))


def _torch_bf16(case: GemmCase) -> Prepared:
    layer, x = _layer(case, torch.bfloat16), case.x.bfloat16()
    return Prepared(lambda: layer(x))


def _torch_dynamic_int8(case: GemmCase) -> Prepared:
    layer = torch.ao.quantization.quantize_dynamic(nn.Sequential(_layer(case)), {nn.Linear}, dtype=torch.qint8)
    return Prepared(lambda: layer(case.x))


def _torch_int_mm(case: GemmCase) -> Prepared:
    a, scale_a = _int8_rows(case.x)
    w, scale_w = _int8_rows(case.weight)
    return Prepared(lambda: torch._int_mm(a, w.t()), lambda y: y * scale_a[:, None] * scale_w + case.bias)


def _torch_int4(case: GemmCase) -> Prepared:
    block = case.block
    groups = case.weight.reshape(case.n, -1, block)
    low, high = groups.amin(-1), groups.amax(-1)
    scale = (high - low).clamp_min(1e-9) / 15
    codes = torch.clamp(torch.round((groups - low[..., None]) / scale[..., None]), 0, 15).int().reshape(case.n, case.k)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    # The kernel computes (code - 8) * scale + zero.
    params = torch.stack([scale, low + 8 * scale], -1).transpose(0, 1).contiguous().bfloat16()
    x, bias = case.x.bfloat16(), case.bias.bfloat16()
    return Prepared(lambda: torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, block, params).add_(bias))


def _torch_int8_weights(case: GemmCase) -> Prepared:
    codes, scale = _int8_rows(case.weight)
    x, scale, bias = case.x.bfloat16(), scale.bfloat16(), case.bias.bfloat16()
    return Prepared(lambda: torch.ops.aten._weight_int8pack_mm(x, codes, scale).add_(bias))


def _torch_compile(dtype: torch.dtype):
    def prepare(case: GemmCase) -> Prepared:
        call, x = torch.compile(_layer(case, dtype), dynamic=False), case.x.to(dtype)
        return Prepared(lambda: call(x))

    return prepare


def _torchao_int8(case: GemmCase, compiled: bool = False) -> Prepared:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model, x = nn.Sequential(_layer(case, torch.bfloat16)), case.x.bfloat16()
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    call = torch.compile(model, dynamic=False) if compiled else model
    return Prepared(lambda: call(x))


def _openvino(case: GemmCase, build, precision: str, group: int = 0) -> Prepared:
    import numpy as np
    import openvino as ov
    from openvino import opset15 as ops

    x = case.x.numpy()
    parameter = ops.parameter([case.m, case.k], np.float32)
    left, weight = build(ops, parameter, case)
    product = ops.matmul(left, weight, False, True)
    model = ov.Model([ops.add(product, ops.constant(case.bias.numpy()))], [parameter])
    config = {
        "INFERENCE_NUM_THREADS": case.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(group),
    }
    request = ov.Core().compile_model(model, "CPU", config).create_infer_request()
    request.set_input_tensor(ov.Tensor(x))
    return Prepared(request.infer, lambda _: torch.from_numpy(request.get_output_tensor().data.copy()))


def _openvino_bf16(case: GemmCase) -> Prepared:
    return _openvino(case, lambda ops, x, c: (x, ops.constant(c.weight.numpy())), "bf16")


def _openvino_int8(case: GemmCase) -> Prepared:
    def build(ops: Any, x: Any, c: GemmCase):
        import numpy as np

        limit = float(c.x.abs().max())  # a static range, as OpenVINO's own quantizer finds it by calibration
        low, high = ops.constant(np.float32(-limit)), ops.constant(np.float32(limit))
        codes, scale = _int8_rows(c.weight)
        weight = ops.multiply(ops.convert(ops.constant(codes.numpy()), "f32"), ops.constant(scale[:, None].numpy()))
        return ops.fake_quantize(x, low, high, low, high, 255), weight

    return _openvino(case, build, "f32")


def _openvino_int8_weights(case: GemmCase, precision: str) -> Prepared:
    def build(ops: Any, x: Any, c: GemmCase):
        codes, scale = _int8_rows(c.weight)
        weight = ops.multiply(ops.convert(ops.constant(codes.numpy()), "f32"), ops.constant(scale[:, None].numpy()))
        return x, weight

    return _openvino(case, build, precision)


def _openvino_int4(case: GemmCase, precision: str = "f32", quantize_activations: bool = True) -> Prepared:
    def build(ops: Any, x: Any, c: GemmCase):
        import numpy as np
        import openvino as ov

        codes, scale = _int4_groups(c.weight, c.block)
        c.borrowed = _nibbles(codes).view(np.int8)
        packed = ov.Tensor(c.borrowed, [c.n, c.k // c.block, c.block], ov.Type.i4)
        weight = ops.multiply(ops.convert(ops.constant(packed), "f32"), ops.constant(scale[..., None].numpy()))
        return x, ops.reshape(weight, ops.constant(np.array([c.n, c.k])), False)

    return _openvino(case, build, precision, case.block if quantize_activations else 0)


def _ort_int8(case: GemmCase) -> Prepared:
    codes, scale = _int8_rows(case.weight)
    constants = {"w": codes.t().contiguous().numpy(), "s": scale.numpy()}
    return _ort(case, "DynamicQuantizeMatMul", constants, bias_at=4)


def _ort_int4(case: GemmCase, accuracy_level: int = 4) -> Prepared:
    block = case.block
    codes, scale = _int4_groups(case.weight, block)
    data = _nibbles(codes + 8).reshape(case.n, case.k // block, block // 2)  # unsigned, zero point 8 by default
    attributes = {"K": case.k, "N": case.n, "bits": 4, "block_size": block, "accuracy_level": accuracy_level}
    return _ort(case, "MatMulNBits", {"w": data, "s": scale.reshape(-1).numpy()}, bias_at=5, **attributes)


def _ort(case: GemmCase, operator: str, constants: dict[str, Any], bias_at: int, **attributes: int) -> Prepared:
    import numpy as np
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    inputs = ["x", *constants, *[""] * (bias_at - 1 - len(constants)), "b"]  # inputs between them are optional
    constants = {**constants, "b": case.bias.numpy()}
    node = helper.make_node(operator, inputs, ["y"], domain="com.microsoft", **attributes)
    graph = helper.make_graph(
        [node],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [case.m, case.k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [case.m, case.n])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = case.threads, 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x, y = case.x, torch.empty(case.m, case.n)
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, np.float32, list(x.shape), x.data_ptr())
    binding.bind_output("y", "cpu", 0, np.float32, list(y.shape), y.data_ptr())
    return Prepared(lambda: session.run_with_iobinding(binding), lambda _: y.clone())


def _layer(case: GemmCase, dtype: torch.dtype = torch.float32) -> nn.Linear:
    """A layer of the case's weight that the peer may change."""
    layer = nn.Linear(case.k, case.n, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(case.weight)
        layer.bias.copy_(case.bias)
    return layer.eval()


def _int8_rows(t: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 codes and a scale per row."""
    scale = t.abs().amax(1) / 127
    return torch.round(t / scale[:, None]).to(torch.int8), scale


def _int4_groups(weight: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Symmetric 4-bit codes in [-8, 7], ``[n, k]``, and a scale per row and group, ``[n, k / block]``."""
    groups = weight.reshape(weight.shape[0], -1, block)
    scale = groups.abs().amax(-1) / 7
    return torch.round(groups / scale[..., None]).to(torch.int8).reshape(weight.shape), scale


def _nibbles(codes: Tensor):
    """Two codes a byte, the first in the low half."""
    pairs = codes.numpy().astype("uint8").reshape(-1, 2) & 15
    return pairs[:, 0] | (pairs[:, 1] << 4)


_ONNX = ("onnx", "onnxruntime")
_FLOAT_ACTIVATIONS = ("w8a16", "w4a16", "w2a16")
PEERS = [
    Candidate("torch fp32", "float", torch_fp32, also=_FLOAT_ACTIVATIONS),
    Candidate("torch bf16", "float", _torch_bf16, also=_FLOAT_ACTIVATIONS),
    Candidate("openvino bf16", "float", _openvino_bf16, ("openvino",), also=_FLOAT_ACTIVATIONS),
    Candidate("torch dynamic int8", "int8", _torch_dynamic_int8),
    Candidate(
        "torch _int_mm",
        "int8",
        _torch_int_mm,
        note="integer product only: no quantization of activations, no scales, int32 out",
        partial=True,
    ),
    Candidate("torchao int8", "int8", _torchao_int8, ("torchao",)),
    Candidate("onnxruntime int8", "int8", _ort_int8, _ONNX),
    Candidate("openvino int8", "int8", _openvino_int8, ("openvino",), note="static range of activations"),
    Candidate("torch int4", "int4", _torch_int4, note="bf16 activations", also=("w4a16",)),
    Candidate("onnxruntime int4", "int4", _ort_int4, _ONNX),
    Candidate("openvino int4", "int4", _openvino_int4, ("openvino",)),
]
# Beside ours with float activations only.
WEIGHT_ONLY = [
    Candidate("torch int8 weights", "w8a16", _torch_int8_weights, note="bf16 activations"),
    Candidate("openvino int8 weights", "w8a16", lambda case: _openvino_int8_weights(case, "f32"), ("openvino",)),
    Candidate("openvino int8 weights bf16", "w8a16", lambda case: _openvino_int8_weights(case, "bf16"), ("openvino",)),
    Candidate(
        "onnxruntime int4 weights", "w4a16", lambda case: _ort_int4(case, 1), _ONNX, note="accuracy level 1: fp32"
    ),
    Candidate("openvino int4 weights", "w4a16", lambda case: _openvino_int4(case, "f32", False), ("openvino",)),
    Candidate("openvino int4 weights bf16", "w4a16", lambda case: _openvino_int4(case, "bf16", False), ("openvino",)),
]
COMPILED = [
    Candidate("torch.compile fp32", "float", _torch_compile(torch.float32)),
    Candidate("torch.compile bf16", "float", _torch_compile(torch.bfloat16)),
    Candidate("torch.compile torchao int8", "int8", lambda case: _torchao_int8(case, compiled=True), ("torchao",)),
]
