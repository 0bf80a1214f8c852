"""What backends say of themselves: the refusals that schemes had, in the same words."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from kdnative.convert import convert_, decide
from kdnative.formats.layouts import Dense, Sparse
from kdnative.formats.scheme import NAMES, Scheme
from kdnative.nn import Linear
from kdnative.ops import schemas
from kdnative.ops.backends import accepted, backend_for
from kdnative.ops.backends.reference import REFERENCE
from kdnative.patterns import Selection
from kdnative.quantize import FakeQuantLinear, prepare_qat_


def refused(text, words):
    """By the backend, and wherever a layer of the scheme is made."""
    import re

    scheme, shape = Scheme.parse(text), (256, 256)
    assert re.search(words, backend_for("cpu").refusal(scheme)) and not backend_for("cpu").supports(scheme)
    for make in (
        lambda: Linear(*shape, text),
        lambda: FakeQuantLinear(*shape, scheme=text),
        lambda: convert_(nn.Sequential(nn.Linear(*shape)), text),
        lambda: prepare_qat_(nn.Sequential(nn.Linear(*shape)), text),
    ):
        with pytest.raises(ValueError, match=words):
            make()


def test_the_cpu_takes_every_documented_scheme():
    cpu = backend_for("cpu")
    assert cpu.schemes == tuple(NAMES) and cpu.fused and not cpu.is_fallback and cpu is backend_for("meta")
    for name in NAMES:
        scheme = Scheme.parse(name)
        assert cpu.supports(scheme) and cpu.refusal(scheme) is None and cpu.refusal(scheme, (8, 256)) is None
        assert cpu.layout(scheme) == (Sparse(scheme.sparsity) if scheme.sparsity else Dense())
        assert cpu.operator(scheme) in schemas.OPERATORS


@pytest.mark.parametrize("backend", [backend_for("cpu"), REFERENCE], ids=lambda backend: backend.name)
def test_dense_schemes_have_a_form_with_input_scales_that_is_not_listed(backend):
    for name in NAMES:
        scheme = Scheme.parse(name).with_input_scales()
        assert backend.supports(scheme) == (scheme.sparsity is None) and str(scheme) not in backend.schemes
        assert (backend.refusal(scheme, (8, 256)) is None) == (scheme.sparsity is None)
        if scheme.sparsity is None:
            assert backend.operator(scheme) == backend.operator(Scheme.parse(name))
    with pytest.raises(ValueError, match="scheme w8a8-is is what calibration makes of w8a8: ask for that"):
        accepted("w8a8-is")
    assert "divisible by its group size 64" in backend.refusal(Scheme.parse("w4a8-g64-is"), (8, 96))


@pytest.mark.parametrize("text", ["w4a8", "w2a8-asym", "w4a16"])
def test_low_bits_without_a_group(text):
    refused(text, "has no group size: . ?-?bit weights need one|has no group size: [24]-bit weights need one")


@pytest.mark.parametrize(
    ("text", "meant"), [("w4a8", "w4a8-g64"), ("w4a16", "w4a16-g64"), ("w2a8", "w2a8-g64"), ("w8a16-g64", "w8a16")]
)
def test_what_was_meant(text, meant):
    refused(text, f"did you mean '{meant}'")


@pytest.mark.parametrize("text", ["w8a8-g64", "w8a8-asym", "w4a8-g16", "w8a16-g64", "w4a16-g64-int"])
def test_combinations_without_a_kernel(text):
    refused(text, f"unknown scheme '{text}'.*Allowed: w8a8, w8a16, w4a8-gG")


@pytest.mark.parametrize(
    "text", ["w4a8-g64+mask", "w4a8-g32+2:4", "w4a8-g64-asym+4x1", "w4a16-g64+mask", "w2a8-g32+mask"]
)
def test_sparse_schemes_without_a_kernel(text):
    refused(text, "only w8a8 weights are stored without zeros.*Allowed: .*w8a8\\+4x1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("w8au8", "static uint8 activations, and linears have no kernel"),
        ("w8a8-ag64", "groups of activations, and there is no kernel"),
        ("w8a8-is+4x1", "has input scales, and weights that are stored without zeros have no place for them"),
    ],
)
def test_formats_whose_kernels_are_to_come(text, words):
    refused(text, words)


@pytest.mark.parametrize(
    ("text", "shape", "words"),
    [
        ("w4a8-g64", (8, 96), "divisible by its group size 64, got 96; use g32"),
        ("w8a8", (0, 64), "at least 1, got 64 and 0"),
        ("w8a8+4x1", (8, 2**16 + 1), "4x1 blocks number at most 65536 inputs, the weight has 65537: use \\+mask"),
    ],
)
def test_shapes(text, shape, words):
    with pytest.raises(ValueError, match=words):
        Linear(shape[1], shape[0], text)
    assert backend_for("cpu").refusal(Scheme.parse(text), shape) is not None
    assert backend_for("cpu").refusal(Scheme.parse("w8a8+4x1"), (8, 2**16)) is None


@pytest.mark.parametrize(
    ("text", "fits"), [("w8a8", False), ("w4a8-g64-int", False), ("w4a8-g64", True), ("w8a16", True)]
)
def test_inputs_whose_products_could_overflow(text, fits):
    """Refused when a model is planned, not at its first call."""
    most, more = 133120, 133184  # multiples of 64 around 133144
    cpu, scheme = backend_for("cpu"), Scheme.parse(text)
    assert cpu.refusal(scheme, (64, most)) is None and (cpu.refusal(scheme, (64, more)) is None) == fits
    model = nn.Sequential(nn.Linear(more, 64, device="meta"))
    plan = decide(model, Selection(text, (), Scheme.parse))
    assert plan["0"].action == ("converted" if fits else "kept")
    if fits:
        FakeQuantLinear(more, 64, scheme=text, device="meta")
    else:
        assert "more than 133144 inputs" in plan["0"].refusal.reason
        with pytest.raises(ValueError, match="more than 133144 inputs.*use a scheme with groups"):
            prepare_qat_(model, text)


def test_devices_without_a_backend_have_the_reference():
    reference = backend_for("xpu:1")
    assert reference.is_fallback and not reference.fused and reference.name == "reference"
    assert reference.supports(Scheme.parse("w4a8-g64")) and reference.supports(Scheme.parse("w8a8-is"))
    assert "static" in reference.refusal(Scheme.parse("w8au8"))


_REPLACED = """
import torch
impl = torch.library.Library.impl

def as_in_torch_2_10(*arguments, allow_override=False, **options):  # later ones replace without being asked
    impl(*arguments, allow_override=allow_override, **options)

torch.library.Library.impl = as_in_torch_2_10
from kdnative import ops
from kdnative.ops.backends import implement, reference
for device in ("cuda", "xpu", "privateuseone"):
    implement(device, reference.IMPLEMENTATIONS)
for value in (1, 2):
    implement("cpu", {"quantize_per_token": lambda x: (torch.full_like(x, value).to(torch.int8), x[..., 0])})
    assert bool((ops.quantize_per_token(torch.randn(2, 3))[0] == value).all())
try:
    implement("mps", {})
except ValueError as error:
    assert "can't be implemented for 'mps': allowed are cpu, cuda, xpu" in str(error)
else:
    raise AssertionError
"""


def test_a_backend_takes_over_from_the_reference():
    done = subprocess.run([sys.executable, "-c", _REPLACED], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_devices_without_float64_are_refused():
    """Before a module moves to where the reference could not compute."""
    words = "there are no kernels for mps, and no float64"
    assert words in backend_for("mps").refusal(Scheme.parse("w8a8"), (8, 64))
    assert not torch._C._dispatch_has_kernel_for_dispatch_key("kdnative::linear_w8a8", "MPS")
    with pytest.raises(RuntimeError, match=f"Linear can't move to mps:0: {words}"):
        Linear.from_float(nn.Linear(64, 8))._refuse(torch.device("mps:0"))


def test_every_operator_has_shapes_and_is_registered_with_torch():
    for name in schemas.OPERATORS:
        operator = getattr(torch.ops.kdnative, name).default
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"kdnative::{name}", "CPU")
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"kdnative::{name}", "CUDA")
        assert operator._schema.name == f"kdnative::{name}"
    native = {each.removeprefix("kdnative::") for each in torch._C._dispatch_get_all_op_names()} - {"linear_weight"}
    assert {name for name in native if hasattr(torch.ops.kdnative, name)} >= set(schemas.OPERATORS)


_PROGRAM = """
import torch
from kdnative import ops
from kdnative.formats import QuantizedWeight, Scheme
from kdnative.nn import Linear
from kdnative.ops.backends import backend_for
from kdnative.quantize import quantize_weight
assert backend_for("cpu").name == "reference"
table = ops.kernel_table()
assert table["linear_w8a8"] == table["quantize_per_token"] == "plain torch" != table["encoder"]
torch.manual_seed(0)
source = torch.nn.Linear(128, 33)
x = torch.randn(5, 128)
schemes = "w8a8", "w4a8-g32-asym", "w4a8-g64-int", "w8a8+mask"
outputs = {scheme: Linear.from_float(source, scheme)(x) for scheme in schemes}
torch.save(outputs, "OUT")
scale = torch.rand(128) + 0.5
plain = quantize_weight(source.weight.detach() / scale, "w8a8")
weight = QuantizedWeight(plain.qweight, plain.scale, None, 8, None, input_scale=scale)
scaled = Linear.from_quantized(weight, source.bias, "w8a8-is")
assert torch.equal(scaled(x), Linear.from_quantized(plain, source.bias, "w8a8")(x * scale))
assert torch.equal(scaled.weight.clone(), weight.dequantize()) and "input_scale" in scaled.state_dict()
fresh = Linear(**scaled.spec)
fresh.load_state_dict(scaled.state_dict())
assert torch.equal(fresh.packed, scaled.packed) and torch.equal(fresh(x), scaled(x))
with torch.no_grad():
    compiled = torch.compile(scaled, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), scaled(x))
"""


def test_the_reference_computes_where_it_is_chosen(tmp_path):
    """A whole process under KDNATIVE_BACKEND=reference gives the bits of the kernels, and knows input scales."""
    out = tmp_path / "out.pt"
    program = _PROGRAM.replace("OUT", str(out))
    environment = {**os.environ, "KDNATIVE_BACKEND": "reference"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    torch.manual_seed(0)
    source = torch.nn.Linear(128, 33)
    x = torch.randn(5, 128)
    with torch.no_grad():
        for scheme, got in torch.load(out).items():
            assert torch.equal(got, Linear.from_float(source, scheme)(x))


def test_other_choices_are_refused():
    environment = {**os.environ, "KDNATIVE_BACKEND": "fpga"}
    done = subprocess.run(
        [sys.executable, "-c", "import kdnative.ops"], env=environment, capture_output=True, text=True
    )
    assert done.returncode and "KDNATIVE_BACKEND='fpga' can't be chosen" in done.stderr
