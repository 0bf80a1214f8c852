"""Layouts of a GPU: their form as a number, and the way from the CPU's layout and back."""

import warnings

import pytest
import torch
from torch import nn

from kdnative.formats.gpu.form import FAMILIES, Form
from kdnative.formats.gpu.layouts import W8A8, Blocks, Sparse24, of_form
from kdnative.formats.layouts import Dense
from kdnative.nn import Linear, laid_out
from kdnative.ops import backends
from kdnative.ops.backends import CPU
from kdnative.ops.backends.cuda import CUDA
from tests.gpu.host_cases import IN_TORCH, KERNELS, Case


def moved(module, backend):
    """The module where a device with this backend is; its tensors stay."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laid_out, "target_of", lambda fn, tensor: torch.device("xpu"))
        for kind in ("xpu", "cpu"):
            patch.setitem(backends._BACKENDS, kind, backend)
        return module._apply(lambda tensor: tensor)


@pytest.mark.parametrize("scheme", KERNELS)
@pytest.mark.parametrize("bias", [True, False])
def test_weights_go_to_the_gpu_and_come_back_bit_for_bit(scheme, bias):
    module = Case(scheme, (70, 256), (1,), bias=bias).linear()
    before, state = module.packed.clone(), {name: value.clone() for name, value in module.state_dict().items()}
    moved(module, CUDA)
    layout = module.layout
    assert type(layout).__name__ == KERNELS[scheme] and module._form == (layout.form.code,)
    assert of_form(*module._form, 70, 256) == layout
    assert all(torch.equal(state[name], value) for name, value in module.state_dict().items())
    if size := layout.size(70, 256, module.scheme, bias):
        assert module.packed.numel() == size
    assert (layout.bias(module.packed) is not None) == bias
    moved(module, CPU)
    assert torch.equal(module.packed, before) and module._form == ()


def test_a_mask_without_whole_blocks_of_zeros_is_2_of_4_or_dense_on_the_gpu():
    torch.manual_seed(0)
    source = nn.Linear(128, 64)
    with torch.no_grad():
        source.weight[:, ::2] = 0
    module = Linear.from_float(source, "w8a8+mask")
    before, plain = module.packed.clone(), module.quantized().qweight
    moved(module, CUDA)
    assert module.layout == Sparse24(64, 128, True) and module._operator == "linear_sparse"
    assert torch.equal(module.quantized().qweight, plain)
    assert torch.equal(moved(module, CPU).packed, before)
    with torch.no_grad():
        source.weight[3, :3] = 1  # three of four, once
    module = moved(Linear.from_float(source, "w8a8+mask"), CUDA)
    assert module.layout == W8A8(64, 128, True) and module._operator == "linear_sparse"
    with torch.no_grad():
        source.weight[:, 32:] = 0
    assert isinstance(moved(Linear.from_float(source, "w8a8+mask"), CUDA).layout, Blocks)


@pytest.mark.parametrize("scheme", IN_TORCH)
def test_schemes_without_kernels_keep_the_layout_of_the_cpu(scheme):
    module = Case(scheme, (9, 64), (1,)).linear()
    with pytest.warns(UserWarning, match=f"no kernels of {scheme} for xpu: its linears run in plain torch"):
        moved(module, CUDA)
    assert module.layout == Dense() and module._form == ()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved(Case("w8a8", (9, 64), (1,)).linear(), CUDA)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_form_is_a_number_and_back(family):
    for form in (
        Form(family, 8),
        Form(family, 4, bias=True, group=128),
        Form(family, 4, input_scales=True, zeros=True, block=64),
    ):
        assert Form.parse(form.code) == form and 0 < form.code < 2**63
    with pytest.raises(ValueError, match="15 is not the form of a packed weight"):
        Form.parse(15)
    with pytest.raises(ValueError, match="group=4096 doesn't fit"):
        _ = Form(family, 4, group=4096).code


def test_a_layout_without_a_shape_is_an_error():
    with pytest.raises(ValueError, match="needs the shape of the layer"):
        CUDA.layout(Linear(64, 8).scheme)


def test_shapes_are_traced_on_a_gpu_that_is_not_there():
    """torch.compile sees shapes, dtypes and devices alone: a torch without CUDA can trace a model that is on one."""
    from torch._subclasses import FakeTensorMode

    module = moved(Case("w4a16-g64", (40, 128), (3,)).linear(), CUDA)
    with FakeTensorMode():
        packed = torch.empty(module.packed.shape, dtype=torch.uint8, device="cuda:1")
        x = torch.empty(2, 3, 128, dtype=torch.float16, device="cuda:1")
        module.packed = packed
        with torch.no_grad():
            y = module(x)
            assert y.shape == (2, 3, 40) and y.dtype == torch.float16 and y.device == torch.device("cuda:1")
            codes, scale = torch.ops.kdnative.quantize_per_token(x)
            assert codes.device == scale.device == y.device and codes.dtype == torch.int8
            with pytest.raises(
                RuntimeError, match="on cuda:1, but its input is on cpu|on cuda:1 and the input is on cpu"
            ):
                module(torch.empty(3, 128))
