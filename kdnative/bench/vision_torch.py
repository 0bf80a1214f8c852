"""Networks on torch: ours, float32, bfloat16, compiled, and the two int8 ways of torch itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from kdnative.bench.vision_engine import Engine, Load, Run, Shared
from kdnative.machine.timer import measure

OURS = "kdnative.w8a8"
_NCHW, _NHWC = torch.contiguous_format, torch.channels_last


def _save_ours(shared: Shared) -> None:
    import kdnative

    model = shared.model()
    kdnative.convert_(model, "w8a8", calibration=shared.calibration())
    kdnative.save(model, shared.path(OURS))


def _load_ours(shared: Shared, threads: int) -> Callable[[Tensor], Run]:
    import kdnative

    try:
        model = kdnative.load(shared.path(OURS))
    except kdnative.CheckpointError:  # parts of it stayed in float, so its own class is needed
        model = kdnative.load(shared.path(OURS), into=shared.model())
    return lambda x: Run(model, Tensor.float)


def _float(dtype: torch.dtype) -> Load:
    def load(shared: Shared, threads: int) -> Callable[[Tensor], Run]:
        def make(x: Tensor) -> Run:
            model = shared.model().to(dtype)

            def seconds(layout: torch.memory_format) -> float:
                call = partial(_in_layout, _laid_out(model, layout), layout, dtype, x)
                return measure(call, rounds=2, warmup=1, round_seconds=0.0).p20

            # Which layout is quicker depends on the network and on the batch.
            best = min((_NCHW, _NHWC), key=seconds)
            return Run(partial(_in_layout, _laid_out(model, best), best, dtype), Tensor.float)

        return make

    return load


def _laid_out(model: nn.Module, layout: torch.memory_format) -> nn.Module:
    return model.to(memory_format=layout)  # type: ignore[call-overload]


def _in_layout(model: Callable[[Tensor], Tensor], layout: torch.memory_format, dtype: torch.dtype, x: Tensor) -> Tensor:
    return model(x.to(dtype, memory_format=layout))


def _compiled(dtype: torch.dtype) -> Load:
    def load(shared: Shared, threads: int) -> Callable[[Tensor], Run]:
        model = _laid_out(shared.model().to(dtype), _NHWC)

        def make(x: Tensor) -> Run:
            # Freezing lets the compiler pack the weights, as a deployment would.
            call = torch.compile(model, dynamic=False, options={"freezing": True})
            return Run(partial(_in_layout, call, _NHWC, dtype), Tensor.float)

        return make

    return load


def _load_fx(shared: Shared, threads: int) -> Callable[[Tensor], Run]:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    torch.backends.quantized.engine = "x86"
    batches = shared.calibration()
    model = prepare_fx(shared.model(), get_default_qconfig_mapping("x86"), (batches[0],))
    for batch in batches:
        model(batch)
    model = convert_fx(model)
    return lambda x: Run(partial(_in_layout, model, _NHWC, torch.float32), Tensor.float)


def _load_pt2e(shared: Shared, threads: int) -> Callable[[Tensor], Run]:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    model, batches = _laid_out(shared.model(), _NHWC), shared.calibration()
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())

    def make(x: Tensor) -> Run:
        with torch.enable_grad():  # exporting in inference mode is refused
            example = x.to(memory_format=_NHWC).clone()
            prepared = prepare_pt2e(torch.export.export(model, (example,)).module(), quantizer)
        pictures = torch.cat(batches)
        for first in range(0, max(len(pictures) - len(x), 0) + 1, len(x)):
            prepared(pictures[first : first + len(x)].to(memory_format=_NHWC))
        call = torch.compile(convert_pt2e(prepared), dynamic=False, options={"freezing": True})
        return Run(partial(_in_layout, call, _NHWC, torch.float32), Tensor.float)

    return make


ENGINES = [
    Engine(
        "kdnative w8a8",
        "int8",
        _load_ours,
        _save_ours,
        OURS,
        imports=("kdnative.nn", "kdnative.checkpoint"),
        holds=True,
    ),
    Engine("torch fp32", "float", _float(torch.float32), holds=True),
    Engine("torch bf16", "float", _float(torch.bfloat16), holds=True),
    Engine("torch FX int8", "int8", _load_fx, holds=True, served=False),
    Engine("torch.compile fp32", "float", _compiled(torch.float32), holds=True, served=False, compiled=True),
    Engine("torch.compile bf16", "float", _compiled(torch.bfloat16), holds=True, served=False, compiled=True),
    Engine(
        "torch.compile pt2e int8", "int8", _load_pt2e, packages=("torchao",), holds=True, served=False, compiled=True
    ),
]
