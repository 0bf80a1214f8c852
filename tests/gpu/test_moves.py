"""Linears that move to the emulated GPU: packed for the CPU, laid out again by the move, and launched there."""

import pytest
import torch

from tests.gpu import building, fake_libcuda
from tests.gpu.host_cases import KERNELS, Case

pytestmark = pytest.mark.skipif(not building.has_compiler(), reason="a C++ compiler is needed: install g++")

CASES = [Case(scheme, (70, 256), (5,), torch.bfloat16, "relu") for scheme in KERNELS]


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """For each case: what its linear gives after the move, the layout it has then, and its tensors when it is back."""
    out = tmp_path_factory.mktemp("moves") / "results.pt"
    fake_libcuda.run(
        """
import pickle
from kdnative.ops import backends
from tests.gpu.test_moves import CASES
gpu, found = backends.backend_for("cpu"), []
for case in CASES:
    backends.register("cpu", backends.CPU)
    module = case.linear()
    assert module._form == ()
    backends.register("cpu", gpu)
    loaded = pickle.loads(pickle.dumps(module))
    assert module.to("cpu") is module
    assert torch.equal(loaded.packed, module.packed) and loaded._form == module._form
    before = launched()
    with torch.no_grad():
        y = module(case.x())
    assert launched() != before
    stored = pickle.dumps(module)
    backends.register("cpu", backends.CPU)
    back = pickle.loads(stored)
    found.append({"y": y, "layout": type(module.layout).__name__, "form": back._form, "packed": back.packed})
    assert torch.equal(module.cpu().packed, back.packed)
torch.save(found, sys.argv[1])
""",
        str(out),
    )
    return torch.load(out)


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: CASES[i].scheme)
def test_what_moved_computes_what_the_cpu_computes(index, moved):
    case, got = CASES[index], moved[index]
    module = case.linear()
    assert got["layout"] == KERNELS[case.scheme]
    with torch.no_grad():
        want = module(case.x())
    if "a16" in case.scheme:
        assert (got["y"].float() - want.float()).norm() < 0.02 * want.float().norm()
    else:
        assert torch.equal(got["y"], want)
    assert got["form"] == () and torch.equal(got["packed"], module.packed)


def test_other_kernels_of_the_same_device_lay_a_pickle_out_again():
    fake_libcuda.run(
        """
import pickle
from kdnative.ops import backends
from kdnative.ops.backends.cublas import CUBLAS
from tests.gpu.host_cases import Case
case = Case("w8a8+mask", (70, 256), (5,))
module = case.linear()
with torch.no_grad():
    y = module(case.x())
    packed = module.packed
    assert module.to("cpu").packed is packed and module.layout.side == 64, "a move to the same kernels changes nothing"
    gpu = backends.backend_for("cpu")
    backends.register("cpu", CUBLAS)
    other = pickle.loads(pickle.dumps(module))
    assert type(other.layout).__name__ == "W8A8" and torch.equal(other(case.x()), y)
    backends.register("cpu", gpu)
    again = pickle.loads(pickle.dumps(other))
    assert again.layout == module.layout and torch.equal(again.packed, packed)
"""
    )


def test_sparse_layers_are_judged_by_the_kernels_of_their_device():
    """2:4 and whole blocks of zeros pay on a GPU, whatever was measured on the CPU; 4x1 has no kernel."""
    fake_libcuda.run(
        """
from torch import nn
from kdnative import convert_
def model():
    torch.manual_seed(0)
    layer = nn.Linear(128, 64)
    with torch.no_grad():
        layer.weight.view(64, -1, 4)[..., 1:3] = 0
        layer.weight[:, 64:] = 0
    return nn.Sequential(layer)
def row(scheme, change=lambda weight: None):
    made = model()
    with torch.no_grad():
        change(made[0].weight)
    report = convert_(made, scheme)
    return report.rows[0], type(made[0].layout).__name__
def spoil(weight):
    weight.copy_(torch.randn(64, 128))
    weight[::2] = 0
found, layout = row("w8a8+2:4")
assert layout == "Sparse24" and found.scheme == "w8a8+2:4", found
assert found.reason == "native sparse linear: 75 % of its weights are zero", found.reason
found, layout = row("w8a8+mask")
assert layout == "Blocks" and found.scheme == "w8a8+mask", found
found, layout = row("w8a8+mask", spoil)
assert layout == "W8A8" and found.scheme == "w8a8", found
assert "dense: 50 % of its weights are zero, and its zeros leave too few blocks out" in found.reason, found.reason
found, layout = row({"0": "w8a8+mask"}, spoil)
assert layout == "W8A8" and found.scheme == "w8a8+mask", found
assert found.reason.startswith("native linear, in the dense form on cuda: 50 %") and "too few blocks" in found.reason
def pair(weight):  # two of four, in no blocks
    spoil(weight)
    weight.view(64, -1, 4)[..., 1:3] = 0
found, layout = row("w8a8+mask", pair)
assert layout == "Sparse24" and found.scheme == "w8a8+mask", found
found, layout = row("w8a8+4x1")
assert found.scheme == "w8a8" and found.reason.endswith("and cuda has no 4x1 kernel"), found.reason
found, layout = row({"0": "w8a8+4x1"})
assert found.scheme == "w8a8+4x1" and "in the dense form on cuda" in found.reason, found.reason
"""
    )
