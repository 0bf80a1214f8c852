"""Every way of running a whole encoder on the CPU: ours, torch, torchao, ONNX Runtime and OpenVINO.

Each one gets the same model, token ids and mask and returns the last hidden state of all tokens but padding, fp32.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.bench.encoder_cases import EncoderCase, Shape
from kdnative.bench.encoder_models import POSITIONS, TorchModel, apart, converted
from kdnative.bench.peers import Candidate, Prepared, kind_of
from kdnative.machine.latency import example_inputs

_ONNX = ("onnx", "onnxruntime")
COARSE = "int8 per tensor"
"""The kind of int8 whose activations have one range for the whole tensor."""


class HiddenStates(nn.Module):
    """An encoder with positional inputs and one output, as exporters want it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        names = ("input_ids", "attention_mask", "token_type_ids")
        return self.model(**dict(zip(names, inputs, strict=False))).last_hidden_state


def candidates(schemes: Sequence[str], peers: bool = True, compiled: bool = False) -> list[Candidate[EncoderCase]]:
    """Candidates of one run; the arguments are those of :func:`kdnative.bench.gemm_candidates.candidates`."""
    found = [Candidate(f"kdnative {name}", kind_of(name), _ours(name), ours=True) for name in schemes]
    if peers:
        found += PEERS
    if peers and compiled:
        found += COMPILED
    return [replace(candidate, prepare=_of_tokens(candidate.prepare)) for candidate in found]


def _of_tokens(prepare):
    def prepare_and_select(case: EncoderCase) -> Prepared:
        ready = prepare(case)
        return Prepared(ready.call, lambda y: case.of_tokens(ready.decode(y)))

    return prepare_and_select


def _ours(scheme: str):
    def prepare(case: EncoderCase) -> Prepared:
        made = case.encoder.build(f"kdnative {scheme}", lambda: converted(case.encoder.model, scheme))
        return _torch_call(made, case)

    return prepare


def _torch(dtype: torch.dtype, compiled: bool = False):
    def prepare(case: EncoderCase) -> Prepared:
        def make() -> nn.Module:
            return copy.deepcopy(case.encoder.model).to(dtype)

        model = case.encoder.build(f"torch {dtype}", make)
        return _compiled_call(model, case) if compiled else _torch_call(model, case)

    return prepare


def _torchao_int8(case: EncoderCase, compiled: bool = False) -> Prepared:
    def make() -> nn.Module:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        model = copy.deepcopy(case.encoder.model).bfloat16()
        quantize_(model, Int8DynamicActivationInt8WeightConfig())
        return model

    model = case.encoder.build("torchao int8", make)
    return _compiled_call(model, case) if compiled else _torch_call(model, case)


def _torch_dynamic_int8(case: EncoderCase) -> Prepared:
    def make() -> nn.Module:
        return torch.ao.quantization.quantize_dynamic(copy.deepcopy(case.encoder.model), {nn.Linear}, dtype=torch.qint8)

    ready = _torch_call(case.encoder.build("torch dynamic int8", make), case)

    def call():
        with apart():
            return ready.call()

    return Prepared(call, ready.decode)


def _torch_call(model: nn.Module, case: EncoderCase) -> Prepared:
    inputs = case.inputs
    return Prepared(lambda: model(**inputs), lambda y: y.last_hidden_state.float())


def _compiled_call(model: nn.Module, case: EncoderCase) -> Prepared:
    # Freezing lets the compiler pack the weights, as a deployment would; one graph for each shape.
    call = torch.compile(HiddenStates(model), dynamic=False, options={"freezing": True})
    inputs = case.positional
    return Prepared(lambda: call(*inputs), lambda y: y.float())


def _openvino_model(case: EncoderCase) -> Any:
    import openvino as ov

    inputs = EncoderCase(case.encoder, Shape(2, 16)).positional
    with apart():
        model = ov.convert_model(HiddenStates(case.encoder.model), example_input=inputs)
    for port, name in zip(model.inputs, case.inputs, strict=True):
        port.get_tensor().set_names({name})
    return model


def _openvino(case: EncoderCase, name: str, make_model) -> Prepared:
    import openvino as ov

    config = {
        "INFERENCE_NUM_THREADS": case.encoder.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16",
    }

    def make():
        return ov.Core().compile_model(make_model(), "CPU", config).create_infer_request()

    request = case.encoder.engine(name, make)
    feed = [value.numpy() for value in case.positional]
    return Prepared(lambda: request.infer(feed), lambda y: torch.from_numpy(y[0].copy()))


def _openvino_bf16(case: EncoderCase) -> Prepared:
    def model():
        return case.encoder.build("openvino model", lambda: _openvino_model(case))

    return _openvino(case, "openvino bf16", model)


def _openvino_int8(case: EncoderCase) -> Prepared:
    def quantized():
        import nncf

        samples = [
            [value.numpy() for value in example_inputs(case.encoder.model, 1, 64, seed).values()] for seed in range(8)
        ]
        data = nncf.Dataset(samples)
        ir = _openvino_model(case)  # quantization changes it: one of its own
        return nncf.quantize(ir, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(samples))

    return _openvino(case, "openvino int8", lambda: case.encoder.build("openvino int8 model", quantized))


def _onnx_file(case: EncoderCase) -> Path:
    """The encoder as ONNX, with ONNX Runtime's fusions for BERT-like models."""
    from onnxruntime.transformers import optimizer

    path = case.encoder.folder / "encoder.onnx"
    names = list(case.inputs)
    example = EncoderCase(case.encoder, Shape(2, 16)).positional
    if isinstance(case.encoder.model, TorchModel):  # the older exporter fixes the sizes of torch's attention
        sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=POSITIONS)}
        way: dict[str, Any] = {"dynamo": True, "dynamic_shapes": (tuple(sizes for _ in names),), "verbose": False}
    else:
        axes = {name: {0: "batch", 1: "tokens"} for name in names}
        way = {"dynamo": False, "dynamic_axes": axes, "opset_version": 17}
    with apart():
        torch.onnx.export(
            HiddenStates(case.encoder.model), example, str(path), input_names=names, output_names=["y"], **way
        )
    config = case.encoder.model.config
    fused = optimizer.optimize_model(
        str(path), model_type="bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size
    )
    fused.save_model_to_file(str(path))
    return path


def _onnxruntime(case: EncoderCase, name: str, make_file) -> Prepared:
    import onnxruntime as ort

    def make():
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = case.encoder.threads, 3
        return ort.InferenceSession(str(make_file()), options, providers=["CPUExecutionProvider"])

    session = case.encoder.engine(name, make)
    feed = {key: value.numpy() for key, value in case.inputs.items()}
    return Prepared(lambda: session.run(None, feed), lambda y: torch.from_numpy(y[0]))


def _onnxruntime_fp32(case: EncoderCase) -> Prepared:
    return _onnxruntime(case, "onnxruntime fp32", lambda: case.encoder.build("onnx file", lambda: _onnx_file(case)))


def _onnxruntime_int8(case: EncoderCase) -> Prepared:
    def quantized() -> Path:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        source = case.encoder.build("onnx file", lambda: _onnx_file(case))
        path = case.encoder.folder / "encoder_int8.onnx"
        float_type = {"DefaultTensorType": 1}  # the fusions leave tensors without a recorded type: fp32
        quantize_dynamic(str(source), str(path), weight_type=QuantType.QInt8, extra_options=float_type)
        return path

    return _onnxruntime(case, "onnxruntime int8", lambda: case.encoder.build("onnx int8 file", quantized))


# Every engine is a peer of ours whatever it computes in: the fastest one that gives a right result counts.
_OURS = ("int8", "int4", "int2")
PEERS = [
    Candidate("torch fp32", "float", _torch(torch.float32), also=_OURS),
    Candidate("torch bf16", "float", _torch(torch.bfloat16), also=_OURS),
    Candidate("torch dynamic int8", COARSE, _torch_dynamic_int8, also=_OURS),
    Candidate("onnxruntime fp32", "float", _onnxruntime_fp32, _ONNX, also=_OURS),
    Candidate("onnxruntime int8", COARSE, _onnxruntime_int8, _ONNX, also=_OURS),
    Candidate("openvino bf16", "float", _openvino_bf16, ("openvino",), also=_OURS),
    Candidate("openvino int8", COARSE, _openvino_int8, ("openvino", "nncf"), also=_OURS),
]
COMPILED = [
    Candidate("torch.compile fp32", "float", _torch(torch.float32, compiled=True), also=_OURS),
    Candidate("torch.compile bf16", "float", _torch(torch.bfloat16, compiled=True), also=_OURS),
    Candidate(
        "torch.compile torchao int8", "int8", lambda case: _torchao_int8(case, compiled=True), ("torchao",), also=_OURS
    ),
]
