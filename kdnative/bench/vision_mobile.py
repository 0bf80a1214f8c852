"""Networks on the runtimes of phones, LiteRT and ExecuTorch, which both run XNNPACK's kernels on a CPU.

Their packages pin others, so they may be in an environment of their own: ``--python`` names its interpreter.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from kdnative.bench.vision_engine import Engine, Run, Shared

_LITERT, _EXECUTORCH = "int8.tflite", "int8-{}.pte"


def _save_litert(shared: Shared) -> None:
    import litert_torch
    from ai_edge_quantizer import quantizer, recipe

    pictures = torch.cat(shared.calibration())
    model = litert_torch.convert(shared.model(), (pictures[:1],))
    path = str(shared.path("float.tflite"))
    model.export(path)
    samples = {"serving_default": [{"args_0": x.numpy()} for x in pictures.split(1)]}
    quantize = quantizer.Quantizer(path, recipe.static_wi8_ai8())
    quantize.quantize(quantize.calibrate(samples)).export_model(str(shared.path(_LITERT)), overwrite=True)


def _load_litert(shared: Shared, threads: int) -> Callable[[Tensor], Run]:
    from ai_edge_litert.interpreter import Interpreter

    def make(x: Tensor) -> Run:
        engine = Interpreter(str(shared.path(_LITERT)), num_threads=threads)
        given = engine.get_input_details()[0]
        if list(given["shape"]) != list(x.shape):
            engine.resize_tensor_input(given["index"], list(x.shape))
        engine.allocate_tensors()
        given, found = engine.get_input_details()[0], engine.get_output_details()[0]

        def call(x: Tensor) -> np.ndarray:
            engine.set_tensor(given["index"], _as_type(x.numpy(), given))
            engine.invoke()
            return engine.get_tensor(found["index"])

        return Run(call, lambda y: torch.from_numpy(_as_floats(y, found)))

    return make


def _as_type(values: np.ndarray, details: dict) -> np.ndarray:
    """In the type of a tensor of LiteRT, which may be codes."""
    if details["dtype"] == np.float32:
        return values
    scale, zero = details["quantization"]
    limits = np.iinfo(details["dtype"])
    return np.clip(np.rint(values / np.float32(scale)) + zero, limits.min, limits.max).astype(details["dtype"])


def _as_floats(values: np.ndarray, details: dict) -> np.ndarray:
    if details["dtype"] == np.float32:
        return values
    scale, zero = details["quantization"]
    return ((values.astype(np.float32) - zero) * scale).astype(np.float32)


def _save_executorch(shared: Shared) -> None:
    """A file for each batch size of the run: the sizes of maps are fixed when it is made."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    pictures = torch.cat(shared.calibration())
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    for batch in sorted({1, len(shared.pictures())}):
        example = (pictures[:1].expand(batch, -1, -1, -1).clone(),)
        prepared = prepare_pt2e(torch.export.export(shared.model(), example).module(), quantizer)
        for first in range(0, max(len(pictures) - batch, 0) + 1, batch):
            prepared(pictures[first : first + batch])
        program = torch.export.export(convert_pt2e(prepared), example)
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
        shared.path(_EXECUTORCH.format(batch)).write_bytes(lowered.buffer)


def _load_executorch(shared: Shared, threads: int) -> Callable[[Tensor], Run]:
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    portable_lib._unsafe_reset_threadpool(threads)

    def make(x: Tensor) -> Run:
        path = shared.path(_EXECUTORCH.format(len(x)))
        if not path.is_file():
            raise ValueError(f"it has no file for batches of {len(x)}: its files have one batch size each")
        method = Runtime.get().load_program(path).load_method("forward")
        return Run(lambda x: method.execute([x])[0], lambda y: y.clone().float())

    return make


ENGINES = [
    Engine(
        "litert int8",
        "int8",
        _load_litert,
        _save_litert,
        _LITERT,
        ("ai_edge_litert", "litert_torch"),
        ("ai_edge_litert.interpreter",),
    ),
    Engine(
        "executorch int8",
        "int8",
        _load_executorch,
        _save_executorch,
        "executorch",
        ("executorch", "torchao"),
        ("executorch.runtime",),
    ),
]
