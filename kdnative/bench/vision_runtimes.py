"""Networks on ONNX Runtime and OpenVINO, each with the quantization of its own tools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdnative.bench.vision_engine import Engine, Load, Run, Shared

_ONNX = ("onnx", "onnxruntime")
_FLOAT_ONNX, _INT8_ONNX = "float.onnx", "int8.onnx"
_FLOAT_IR, _INT8_IR = "openvino.xml", "openvino_int8.xml"


def _save_onnx(shared: Shared) -> None:
    example = shared.calibration()[0][:2]
    axes = {"x": {0: "batch"}, "y": {0: "batch"}}
    way: dict[str, Any] = {"dynamo": False, "dynamic_axes": axes, "opset_version": 17}
    path = str(shared.path(_FLOAT_ONNX))
    torch.onnx.export(shared.model(), (example,), path, input_names=["x"], output_names=["y"], **way)


def _save_onnx_int8(shared: Shared) -> None:
    """Static ranges, u8 activations and s8 weights per channel as QDQ: what its CPU kernels take whole."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(shared.calibration())

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"x": batch.numpy()}

    _save_onnx(shared)
    prepared = str(shared.path("prepared.onnx"))
    quant_pre_process(str(shared.path(_FLOAT_ONNX)), prepared)
    quantize_static(
        prepared,
        str(shared.path(_INT8_ONNX)),
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


def _load_onnx(file: str) -> Load:
    def load(shared: Shared, threads: int) -> Callable[[Tensor], Run]:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        session = ort.InferenceSession(str(shared.path(file)), options, providers=["CPUExecutionProvider"])

        def call(x: Tensor) -> Any:
            return session.run(None, {"x": x.numpy()})[0]

        return lambda x: Run(call, torch.from_numpy)

    return load


def _save_openvino(shared: Shared) -> None:
    import openvino as ov

    model = ov.convert_model(shared.model(), example_input=shared.calibration()[0][:2])
    ov.save_model(model, shared.path(_FLOAT_IR), compress_to_fp16=False)


def _save_openvino_int8(shared: Shared) -> None:
    """NNCF with asymmetric activations where they pay (MIXED): that leaves fewest conversions in mobile networks."""
    import nncf
    import openvino as ov

    batches = [batch.numpy() for batch in shared.calibration()]
    model = ov.convert_model(shared.model(), example_input=shared.calibration()[0][:2])
    model = nncf.quantize(model, nncf.Dataset(batches), preset=nncf.QuantizationPreset.MIXED, subset_size=len(batches))
    ov.save_model(model, shared.path(_INT8_IR), compress_to_fp16=False)


def _load_openvino(file: str, precision: str) -> Load:
    def load(shared: Shared, threads: int) -> Callable[[Tensor], Run]:
        import openvino as ov

        config = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
        }

        def make(x: Tensor) -> Run:
            core = ov.Core()
            model = core.read_model(shared.path(file))
            model.reshape(list(x.shape))
            request = core.compile_model(model, "CPU", config).create_infer_request()

            def call(x: Tensor) -> None:
                request.set_input_tensor(ov.Tensor(x.numpy(), shared_memory=True))
                request.infer()

            return Run(call, lambda _: torch.from_numpy(request.get_output_tensor().data.copy()))

        return make

    return load


def _openvino(name: str, kind: str, precision: str) -> Engine:
    int8 = kind == "int8"
    file = _INT8_IR if int8 else _FLOAT_IR
    return Engine(
        f"openvino {name}",
        kind,
        _load_openvino(file, precision),
        _save_openvino_int8 if int8 else _save_openvino,
        file,
        ("openvino", "nncf") if int8 else ("openvino",),
        ("openvino",),
        holds=True,
    )


ENGINES = [
    Engine("onnxruntime fp32", "float", _load_onnx(_FLOAT_ONNX), _save_onnx, _FLOAT_ONNX, _ONNX, ("onnxruntime",)),
    Engine("onnxruntime int8", "int8", _load_onnx(_INT8_ONNX), _save_onnx_int8, _INT8_ONNX, _ONNX, ("onnxruntime",)),
    _openvino("fp32", "float", "f32"),
    _openvino("bf16", "float", "bf16"),
    _openvino("int8", "int8", "f32"),
    _openvino("int8 and bf16", "int8", "bf16"),
]
