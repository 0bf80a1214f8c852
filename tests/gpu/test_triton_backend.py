"""From nn.Linear to a launch: models converted for the Triton kernels give what they give on the CPU."""

import copy
import os
import subprocess
import sys
import warnings
from contextlib import contextmanager

import pytest
import torch
from torch import nn

pytest.importorskip("triton", reason="Triton is not installed (the extra triton)")

import kdnative as kd  # noqa: E402
from kdnative.formats.gpu.layouts import W8A8, TritonBlocks, TritonW4A16, of_form  # noqa: E402
from kdnative.ops import backends  # noqa: E402
from kdnative.ops.backends.triton.backend import IMPLEMENTATIONS, TRITON  # noqa: E402
from kdnative.ops.backends.triton.layer_norm_quantize import MOST_INPUTS  # noqa: E402
from kdnative.quantize import quantize_weight  # noqa: E402
from tests.ops.norm_cases import BAD, assert_codes_of, exact  # noqa: E402

INTEGER = ["w8a8", "w8a8-is", "w8a8+mask", "w8a8+2:4", "w4a8-g32-int"]
FLOAT = ["w4a16-g32", "w4a16-g64-asym", "w4a16-g128-is"]
K, N = 128, 67


@contextmanager
def triton_computes():
    """Lets the Triton kernels compute the operators of tensors on the CPU."""
    library, before = torch.library.Library("kdnative", "IMPL"), backends._BACKENDS["cpu"]
    with warnings.catch_warnings():  # torch warns of functions that are replaced
        warnings.simplefilter("ignore", UserWarning)
        for name, function in IMPLEMENTATIONS.items():
            library.impl(name, function, "CPU", allow_override=True)
    backends.register("cpu", TRITON)
    try:
        yield
    finally:
        backends.register("cpu", before)
        library._destroy()


def _model(scheme):
    """A float model with many zeros in its weight, and that weight as integers."""
    model = nn.Sequential(nn.Linear(K, N), nn.ReLU())
    with torch.no_grad():
        model[0].weight.view(N, -1, 4)[..., 2:] = 0
        if scheme.endswith("+mask"):  # all but a few blocks
            model[0].weight[:, 40:] = 0
            model[0].weight[:32] = 0
            model[0].weight[48:] = 0
    weight = quantize_weight(model[0].weight.detach(), kd.Scheme.parse(scheme).with_input_scales(False))
    if scheme.endswith("-is"):
        weight = weight.changed(input_scale=torch.rand(K) + 0.5)
    return model, weight


def _convert(model, scheme, weight):
    model = copy.deepcopy(model)
    if "+" in scheme:  # the converter stores so small a weight with its zeros
        model[0] = kd.nn.Linear.from_quantized(weight, model[0].bias.detach(), scheme)
    else:
        kd.convert_(model, scheme.removesuffix("-is"), weights={"0": weight})
    assert str(model[0].scheme) == scheme
    return model


def _layouts(model):
    return [m.layout for m in model.modules() if isinstance(m, kd.nn.Linear)]


@pytest.mark.parametrize("scheme", INTEGER)
def test_int8_activations_give_the_bits_of_the_cpu(triton_driver, scheme):
    model, weight = _model(scheme)
    inputs = [torch.randn(2, 3, K).to(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)]
    native = _convert(model, scheme, weight)
    expected = [native(x) for x in inputs]
    with triton_computes():
        converted = _convert(model, scheme, weight)
        results = [converted(x) for x in inputs]
    layout, kernel = (TritonBlocks, "_blocks") if scheme.endswith("+mask") else (W8A8, "_w8a8")
    assert [type(each) for each in _layouts(converted)] == [layout]
    assert sum(launch.kernel == kernel for launch in triton_driver.launches) == 3
    assert all(torch.equal(y, e) for y, e in zip(results, expected, strict=True))


@pytest.mark.parametrize("scheme", FLOAT)
def test_floating_point_activations(triton_driver, scheme):
    """Both sum exact products of the same factors in float32, in another order: they differ by the bound of either.

    The CPU multiplies float16 inputs by input scales without rounding to float16, which the GPU does.
    """
    model, weight = _model(scheme)
    x = torch.randn(5, K).half()
    native = _convert(model, scheme, weight)
    with triton_computes():
        converted = _convert(model, scheme, weight)
        y = converted(x)
    assert [type(layout) for layout in _layouts(converted)] == [TritonW4A16]
    assert [launch.kernel for launch in triton_driver.launches] == ["_w4a16"]
    size = x.double().abs() @ weight.dequantize().double().abs().t() + model[0].bias.double().abs()
    rounding = 2**-11 if scheme.endswith("-is") else 0
    expected = native(x).double()
    assert ((y.double() - expected).abs() <= size * (K * 2**-22 + rounding) + expected.abs() * 2**-10).all()


@pytest.mark.parametrize("scheme", [*INTEGER, *FLOAT])
def test_there_and_back(triton_driver, scheme):
    """What a module stores does not depend on the layout of its weight, and the layout follows from its number."""
    model, weight = _model(scheme)
    native = _convert(model, scheme, weight)
    with triton_computes():
        converted = _convert(model, scheme, weight)
        (layout,) = _layouts(converted)
        assert of_form(layout.form.code, N, K) == layout
        assert layout.size(N, K, kd.Scheme.parse(scheme), True) in (0, converted[0].packed.numel())
        state = converted.state_dict()
    for name, tensor in native.state_dict().items():
        assert torch.equal(state[name], tensor), name


def test_schemes_without_a_kernel_run_in_torch(triton_driver):
    model, weight = _model("w2a8-g32")
    native = _convert(model, "w2a8-g32", weight)
    x = torch.randn(2, K)
    assert not TRITON.has_kernels(kd.Scheme.parse("w2a8-g32"))
    with triton_computes():
        converted = _convert(model, "w2a8-g32", weight)
        assert torch.equal(converted(x), native(x))
    assert not triton_driver.launches


def test_damaged_weights_and_inputs_that_do_not_fit(triton_driver):
    model, weight = _model("w8a8")
    with triton_computes():
        layer = _convert(model, "w8a8", weight)[0]
        run, form = torch.ops.kdnative.linear_w8a8, layer.layout.form.code
        with pytest.raises(RuntimeError, match=r"linear_w8a8: a damaged packed weight: .*input \[2, 300\], 67 outputs"):
            run(torch.randn(2, 300), layer.packed, N, 0, form)
        with pytest.raises(RuntimeError, match="linear_w8a8: a damaged packed weight"):
            run(torch.randn(2, K), layer.packed[:-256], N, 0, form)
        with pytest.raises(RuntimeError, match="linear_w8a8: .*activation code 9"):
            run(torch.randn(2, K), layer.packed, N, 9, form)
        with pytest.raises(RuntimeError, match="linear_w8a8: .*float64"):
            run(torch.randn(2, K).double(), layer.packed, N, 0, form)
        with pytest.raises(RuntimeError, match="linear_w8a8: the packed weight is laid out for the CUDA kernels"):
            run(torch.randn(2, K), layer.packed, N, 0, form + 1)
        with pytest.raises(RuntimeError, match="linear_w8a8: 15 is not the form"):
            run(torch.randn(2, K), layer.packed, N, 0, 15)
    assert not triton_driver.launches


def test_quantize_per_token(triton_driver):
    x = torch.randn(2, 3, 17)[:, ::2]
    expected = torch.ops.kdnative.quantize_per_token(x)
    with triton_computes():
        found = torch.ops.kdnative.quantize_per_token(x)
        assert [t.shape for t in torch.ops.kdnative.quantize_per_token(x[..., :0])] == [(2, 2, 0), (2, 2)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("rms", [0, 1])
def test_norm_quantize(triton_driver, rms):
    x, (gamma, beta, factors) = torch.randn(2, 3, 35).half()[:, ::2], torch.rand(3, 35) + 0.5
    run = torch.ops.kdnative.norm_quantize
    with triton_computes():
        for given in ((beta, 1e-5, factors, rms), (None, 0.1, None, rms)):
            assert_codes_of(run(x, gamma, *given), exact(x, gamma, *given))
        assert [launch.kernel for launch in triton_driver.launches] == ["_layer_norm_quantize"] * 2
        wide = torch.randn(1, MOST_INPUTS + 1)  # which torch normalizes
        assert_codes_of(run(wide, torch.ones(wide.shape[1]), None, 0.1), exact(wide, 1, None, 0.1, None, False))
        for change, words in BAD:
            bad = {"x": torch.zeros(2, 8), "gamma": torch.ones(8), "beta": None, "eps": 1e-5} | change
            with pytest.raises(RuntimeError, match=f"norm_quantize.*{words}"):
                run(**bad)
    assert len(triton_driver.launches) == 2


def test_triton_is_imported_where_it_is_asked_for():
    show = """
import os, sys
import kdnative.ops
before = "triton" in sys.modules
os.environ["KDNATIVE_GPU_KERNELS"] = "triton"
kdnative.ops.backends._start()
print(before, "triton" in sys.modules, kdnative.ops.backends.backend_for("cuda").name)
"""
    environment = {name: value for name, value in os.environ.items() if name != "KDNATIVE_GPU_KERNELS"}
    result = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, env=environment)
    assert result.stdout.split() == ["False", "True", "triton"], result.stderr


def test_without_triton_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in [name for name in sys.modules if name.startswith("kdnative.ops.backends.triton")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(backends, "triton")
    with pytest.raises(ImportError, match=r"needs the package 'triton', .*: pip install \"kdnative\[triton\]\""):
        backends._gpu_backend("triton", "cuda")
