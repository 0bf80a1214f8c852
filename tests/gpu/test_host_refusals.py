"""What the host code does when a driver or torch refuses something, and around CUDA graphs and autocast."""

import pytest

from tests.gpu import building, fake_libcuda

pytestmark = pytest.mark.skipif(not building.has_compiler(), reason="a C++ compiler is needed: install g++")

_FAKE = """
from tests.gpu.host_cases import Case
fake = ctypes.CDLL(os.environ["KDNATIVE_LIBCUDA"])
def refused(words, call):
    try:
        call()
    except RuntimeError as error:
        assert all(word in str(error) for word in words), error
        return str(error)
    raise AssertionError(words)
"""


def test_a_refused_load_is_tried_again():
    """The same error at each call while it lasts, and results once the driver loads."""
    fake_libcuda.run(
        _FAKE
        + """
case = Case("w8a8", (33, 192), (5,))
module, x = case.linear(), case.x()
os.environ["FAKE_CUDA_REFUSED_LOADS"] = "2"
for _ in range(2):
    refused(["linear_w8a8 of an input of shape [5, 192]: the CUDA driver refused the kernels of quantize"],
            lambda: module(x))
    assert fake.fake_cuda_pushed() == fake.fake_cuda_capture_mode() == 0
os.environ["FAKE_CUDA_REFUSED_LOADS"] = "900"
refused(["a CUDA graph is being recorded, and the kernels of quantize", "call the layer once before recording"],
        lambda: module(x))
del os.environ["FAKE_CUDA_REFUSED_LOADS"]
module(x)
"""
    )


def test_the_first_call_may_be_recorded_in_a_graph():
    """It loads kernels and takes memory for counters, which the driver allows in a mode that is given back."""
    fake_libcuda.run(
        _FAKE
        + """
case = Case("w4a16-g64", (33, 2048), (2,))  # split, so with counters
module, x = case.linear(), case.x()
first = module(x)
assert launched().count("gemv") == 1 and torch.equal(module(x), first)
assert fake.fake_cuda_pushed() == fake.fake_cuda_capture_mode() == 0
""",
        FAKE_CUDA_CAPTURING="1",
    )


def test_counters_that_a_full_device_has_no_memory_for_are_taken_later():
    fake_libcuda.run(
        _FAKE
        + """
fake.fake_cuda_argument.restype = ctypes.c_uint64
case = Case("w4a16-g64", (33, 2048), (2,))
module, x = case.linear(), case.x()
ys, places = [], []
for refusal in "2200":
    os.environ["FAKE_CUDA_REFUSED_MEMORY"] = refusal
    ys.append(module(x))
    places.append(fake.fake_cuda_argument(9))
assert places[2] == places[3] != places[1] and all(torch.equal(y, ys[0]) for y in ys)
"""
    )
    fake_libcuda.run(
        _FAKE
        + """
case = Case("w4a16-g64", (33, 2048), (2,))
module, x = case.linear(), case.x()
refused(["linear_w4a16 of an input of shape [2, 2048]: the CUDA driver refused memory for counters"],
        lambda: module(x))
assert fake.fake_cuda_pushed() == fake.fake_cuda_capture_mode() == 0
""",
        FAKE_CUDA_REFUSED_MEMORY="1",
    )


def test_autocast_changes_no_type():
    """However many rows there are, and whoever multiplies: that of the input."""
    fake_libcuda.run(
        _FAKE
        + """
case = Case("w4a16-g32-asym", (40, 32), (3, 200), torch.float16, "silu")
module, x = case.linear(), case.x()
with torch.no_grad():
    want = module(x)
    strided = x.mT.contiguous().mT
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = [module(x), module(strided)]
assert "dequantize" in launched()
assert all(y.dtype == torch.float16 and torch.equal(y, want) for y in got)
arguments = module.packed, 40, module._activation_code, *module._form
assert torch.equal(torch.ops.kdnative.linear_w4a16(x.clone().requires_grad_(), *arguments), want)
with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
    assert module(x[0, :3]).dtype == torch.float16
""",
        FAKE_CUDA_CAPABILITY="90",
        FAKE_CUDA_CHECK="0",
    )


def test_memory_that_torch_does_not_have_is_named_as_torch_names_it():
    fake_libcuda.run(
        _FAKE
        + """
import resource
case = Case("w8a8", (33, 192), (5,))
module, x = case.linear(), case.x()
module(x)
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30), resource.RLIM_INFINITY))
many = x[:1].expand(2**22, 192)
text = refused(["of shape [4194304, 192]", "allocate 805306368 times 4 bytes for a tensor of shape [4194304, 192] on"],
               lambda: module(many))
assert text.startswith("CUDA out of memory. kdnative: linear_w8a8"), text
text = refused(["[16777216, 192]"], lambda: ops.quantize_per_token(x[:1].expand(2**24, 192)))
assert text.startswith("CUDA out of memory. kdnative: quantize_per_token of an input"), text
"""
    )


def test_rows_without_columns_have_scales_of_zero():
    fake_libcuda.run(
        """
for rows in (3, 70, 0):
    torch.full((rows,), 7.0)  # whose memory may be taken next
    codes, scale = ops.quantize_per_token(torch.empty(rows, 0))
    assert codes.shape == (rows, 0) and torch.equal(scale, torch.zeros(rows))
"""
    )


def test_a_packed_weight_may_lie_on_16_bytes():
    """As torch's compiled programs place constants; 256 bytes are for scratch memory alone."""
    fake_libcuda.run(
        _FAKE
        + """
for scheme in ("w8a8-is", "w4a16-g64-asym", "w8a8+2:4", "w8a8+mask"):
    case = Case(scheme, (70, 256), (5,), torch.bfloat16)
    module, x = case.linear(), case.x()
    want, size = module(x), module.packed.numel()
    memory = torch.empty(size + 512, dtype=torch.uint8)
    for off in (16, 8):
        at = (off - memory.data_ptr()) % 256
        packed = memory[at : at + size].copy_(module.packed)
        call = getattr(torch.ops.kdnative, module._operator)
        if off == 16:
            assert torch.equal(call(x, packed, 70, 0, *module._form), want)
        else:
            refused(["doesn't begin at a multiple of 16 bytes"], lambda: call(x, packed, 70, 0, *module._form))
""",
        FAKE_CUDA_CHECK="0",
    )


@pytest.mark.parametrize(("eager", "seed"), [("1", "0"), ("0", "5")])
def test_the_order_of_threads_and_copies_changes_nothing(eager, seed):
    fake_libcuda.run(
        """
from tests.gpu.host_cases import Case
for scheme in ("w8a8", "w8a8+2:4", "w8a8+mask", "w4a16-g64"):
    case = Case(scheme, (70, 256), (19,), torch.bfloat16)
    module, x = case.linear(), case.x()
    orders = (os.environ.pop("FAKE_CUDA_EAGER", "0"), os.environ.pop("FAKE_CUDA_SEED", "0"))
    want = module(x)
    os.environ["FAKE_CUDA_EAGER"], os.environ["FAKE_CUDA_SEED"] = orders
    assert torch.equal(module(x), want), scheme
""",
        FAKE_CUDA_EAGER=eager,
        FAKE_CUDA_SEED=seed,
    )
