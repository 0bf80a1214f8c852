"""Every way of running a whole encoder on the CPU: ours, torch, torchao, ONNX Runtime and OpenVINO.

Each one gets the same model, token ids and mask, in memory that is bound to it beforehand where it has such a way, and
returns the last hidden state of all tokens but padding, or logits, fp32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.bench.encoder_cases import Encoder, EncoderCase, Shape
from kdnative.bench.encoder_models import POSITIONS, TorchModel, apart, converted
from kdnative.bench.peers import Candidate, Prepared, kind_of

_ONNX = ("onnx", "onnxruntime")
COARSE = "int8 per tensor"
"""The kind of int8 whose activations have one range for the whole tensor."""
BUCKETS = (8, 1)
"""Sizes of the batches that sorted sequences are cut into for peers: few with little padding, many without any."""

Inputs = Mapping[str, Tensor]
Prepare = Callable[[Encoder, Inputs, bool], Prepared]
"""Makes an engine ready for one batch; the flag says that it will get no other shape."""


INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""The order of positional inputs."""


class Positional(nn.Module):
    """A model with positional inputs and one output, as exporters want it."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, *inputs: Tensor) -> Tensor:
        return getattr(self.model(**dict(zip(INPUTS, inputs, strict=False))), self.output)


def candidates(schemes: Sequence[str], peers: bool = True, compiled: bool = False) -> list[Candidate[EncoderCase]]:
    """Candidates of one run; the arguments are those of :func:`kdnative.bench.gemm_candidates.candidates`."""
    found = [
        Candidate(f"kdnative {name}", kind_of(name), each_batch(_ours(name)), ours=True, scheme=name)
        for name in schemes
    ]
    if peers:
        found += PEERS
    if peers and compiled:
        found += COMPILED
    return found


def each_batch(prepare: Prepare) -> Callable[[EncoderCase], Prepared]:
    """An engine for one batch as one for all batches of a case, one after the other."""

    def prepare_case(case: EncoderCase) -> Prepared:
        static = len(case.batches) == 1
        ready = [prepare(case.encoder, inputs, static) for inputs in case.batches]
        return Prepared(
            lambda: [one.call() for one in ready],
            lambda found: case.of_tokens([one.decode(y) for one, y in zip(ready, found, strict=True)]),
        )

    return prepare_case


def sorted_by_length(candidate: Candidate[EncoderCase], bucket: int) -> Candidate[EncoderCase]:
    """The same engine on batches of that many sequences of like length."""

    def prepare(case: EncoderCase) -> Prepared:
        return candidate.prepare(replace(case, bucket=bucket))

    name = f"{candidate.name}, sorted, {f'batches of {bucket}' if bucket > 1 else 'one by one'}"
    return replace(candidate, name=name, prepare=prepare)


def _ours(scheme: str) -> Prepare:
    def prepare(encoder: Encoder, inputs: Inputs, static: bool) -> Prepared:
        made = encoder.build(f"kdnative {scheme}", lambda: converted(encoder.model, scheme))
        return torch_call(made, encoder, inputs)

    return prepare


def _torch(dtype: torch.dtype, compiled: bool = False) -> Prepare:
    def prepare(encoder: Encoder, inputs: Inputs, static: bool) -> Prepared:
        def make() -> nn.Module:
            return copy.deepcopy(encoder.model).to(dtype)

        model = encoder.build(f"torch {dtype}", make)
        return _compiled_call(model, encoder, inputs) if compiled else torch_call(model, encoder, inputs)

    return prepare


def _torchao_int8(encoder: Encoder, inputs: Inputs, static: bool) -> Prepared:
    def make() -> nn.Module:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        model = copy.deepcopy(encoder.model).bfloat16()
        quantize_(model, Int8DynamicActivationInt8WeightConfig())
        return model

    return _compiled_call(encoder.build("torchao int8", make), encoder, inputs)


def _torch_dynamic_int8(encoder: Encoder, inputs: Inputs, static: bool) -> Prepared:
    def make() -> nn.Module:
        return torch.ao.quantization.quantize_dynamic(copy.deepcopy(encoder.model), {nn.Linear}, dtype=torch.qint8)

    ready = torch_call(encoder.build("torch dynamic int8", make), encoder, inputs)

    def call():
        with apart():
            return ready.call()

    return Prepared(call, ready.decode)


def torch_call(model: nn.Module, encoder: Encoder, inputs: Inputs) -> Prepared:
    """A model of torch, as it is."""
    return Prepared(lambda: model(**inputs), lambda y: getattr(y, encoder.output).float())


def _compiled_call(model: nn.Module, encoder: Encoder, inputs: Inputs) -> Prepared:
    # Freezing lets the compiler pack the weights, as a deployment would; one graph for each shape.
    call = torch.compile(Positional(model, encoder.output), dynamic=False, options={"freezing": True})
    given = tuple(inputs.values())
    return Prepared(lambda: call(*given), lambda y: y.float())


def _openvino_model(encoder: Encoder) -> Any:
    import openvino as ov

    example = EncoderCase(encoder, Shape(2, 16)).inputs
    with apart():
        model = ov.convert_model(Positional(encoder.model, encoder.output), example_input=tuple(example.values()))
    for port, name in zip(model.inputs, example, strict=True):
        port.get_tensor().set_names({name})
    return model


def _openvino(precision: str, quantized: bool = False) -> Prepare:
    def prepare(encoder: Encoder, inputs: Inputs, static: bool) -> Prepared:
        import openvino as ov

        config = {
            "INFERENCE_NUM_THREADS": encoder.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
        }
        name = "openvino int8 model" if quantized else "openvino model"
        sizes = list(next(iter(inputs.values())).shape)

        def compiled() -> Any:
            model = encoder.build(name, lambda: (_openvino_quantized if quantized else _openvino_model)(encoder))
            if static:
                model = model.clone()
                model.reshape({key: sizes for key in inputs})
            return ov.Core().compile_model(model, "CPU", config)

        engine = encoder.engine(f"{name} {precision} {sizes if static else 'of any shape'}", compiled)
        request = engine.create_infer_request()
        for key, value in inputs.items():
            request.set_tensor(key, ov.Tensor(value.numpy(), shared_memory=True))
        return Prepared(request.infer, lambda _: torch.from_numpy(request.get_output_tensor().data.copy()))

    return prepare


def _openvino_quantized(encoder: Encoder) -> Any:
    """Quantization of OpenVINO's own tool: static ranges, found by calibration."""
    import nncf

    samples = [[value.numpy() for value in sample.values()] for sample in encoder.calibration()]
    model = _openvino_model(encoder)  # quantization changes it: one of its own
    return nncf.quantize(model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(samples))


def _onnx_file(encoder: Encoder) -> Path:
    """The encoder as ONNX, with ONNX Runtime's fusions for BERT-like models."""
    from onnxruntime.transformers import optimizer

    path = encoder.folder / "encoder.onnx"
    example = EncoderCase(encoder, Shape(2, 16)).inputs
    names = list(example)
    if isinstance(encoder.model, TorchModel):  # the older exporter fixes the sizes of torch's attention
        sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=POSITIONS)}
        way: dict[str, Any] = {"dynamo": True, "dynamic_shapes": (tuple(sizes for _ in names),), "verbose": False}
    else:
        axes = {name: {0: "batch", 1: "tokens"} for name in names}
        way = {"dynamo": False, "dynamic_axes": axes, "opset_version": 17}
    with apart():
        exported, inputs = Positional(encoder.model, encoder.output), tuple(example.values())
        torch.onnx.export(exported, inputs, str(path), input_names=names, output_names=["y"], **way)
    config = encoder.model.config
    fused = optimizer.optimize_model(
        str(path), model_type="bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size
    )
    fused.save_model_to_file(str(path))
    return path


def _onnxruntime(quantized: bool) -> Prepare:
    def prepare(encoder: Encoder, inputs: Inputs, static: bool) -> Prepared:
        import onnxruntime as ort

        def make() -> Any:
            file = encoder.build("onnx file", lambda: _onnx_file(encoder))
            if quantized:
                file = encoder.build("onnx int8 file", lambda: _onnx_quantized(encoder, file))
            options = ort.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = encoder.threads, 3
            return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

        session = encoder.engine(f"onnxruntime {'int8' if quantized else 'fp32'}", make)
        binding = session.io_binding()
        for name, value in inputs.items():
            binding.bind_cpu_input(name, value.numpy())
        binding.bind_output(session.get_outputs()[0].name, "cpu")
        return Prepared(
            lambda: session.run_with_iobinding(binding),
            lambda _: torch.from_numpy(binding.copy_outputs_to_cpu()[0]),
        )

    return prepare


def _onnx_quantized(encoder: Encoder, file: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = encoder.folder / "encoder_int8.onnx"
    float_type = {"DefaultTensorType": 1}  # the fusions leave tensors without a recorded type: fp32
    quantize_dynamic(str(file), str(path), weight_type=QuantType.QInt8, extra_options=float_type)
    return path


def _peer(name: str, kind: str, prepare: Prepare, packages: tuple[str, ...] = ()) -> Candidate[EncoderCase]:
    # Every engine is a peer of ours whatever it computes in: the fastest one that gives a right result counts.
    ours = ("int8", "int4", "int2", "w8a16", "w4a16", "w2a16")
    return Candidate(name, kind, each_batch(prepare), packages, also=tuple(k for k in ours if k != kind))


PEERS = [
    _peer("torch fp32", "float", _torch(torch.float32)),
    _peer("torch bf16", "float", _torch(torch.bfloat16)),
    _peer("torch dynamic int8", COARSE, _torch_dynamic_int8),
    _peer("onnxruntime fp32", "float", _onnxruntime(False), _ONNX),
    _peer("onnxruntime int8", COARSE, _onnxruntime(True), _ONNX),
    _peer("openvino bf16", "float", _openvino("bf16"), ("openvino",)),
    _peer("openvino int8", COARSE, _openvino("bf16", quantized=True), ("openvino", "nncf")),
]
OPENVINO_FP32 = _peer("openvino fp32", "float", _openvino("f32"), ("openvino",))
COMPILED = [
    _peer("torch.compile fp32", "float", _torch(torch.float32, compiled=True)),
    _peer("torch.compile bf16", "float", _torch(torch.bfloat16, compiled=True)),
    _peer("torch.compile torchao int8", "int8", _torchao_int8, ("torchao",)),
]
