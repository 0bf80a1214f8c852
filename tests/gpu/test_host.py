"""From a module to a launch: the CUDA operators of the native library on a driver whose GPU is the emulator.

Tensors of the CPU are those of an emulated GPU in another process, which gives what this one gives with its kernels.
"""

import os
import subprocess
import sys

import pytest
import torch

from tests.gpu import building, compiling, fake_libcuda
from tests.gpu.host_cases import KERNELS, Case, cases

pytestmark = pytest.mark.skipif(not building.has_compiler(), reason="a C++ compiler is needed: install g++")

CASES = list(cases())


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory):
    """What the emulated GPU gives for each case, and the kernels that were launched."""
    out = tmp_path_factory.mktemp("host") / "results.pt"
    program = "from tests.gpu.host_cases import results\ntorch.save(results(), sys.argv[1])\nprint(launched())"
    names = fake_libcuda.run(program, str(out))
    return torch.load(out), set(names.split())


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: "{0.scheme} {0.shape} {0.rows}".format(CASES[i]))
def test_the_gpu_gives_what_the_cpu_gives(index, on_gpu):
    """The very bits with int8 activations; within the rounding of 16-bit factors with float ones."""
    case, got = CASES[index], on_gpu[0][index]
    module, x = case.linear(), case.x()
    assert got["layout"] == KERNELS.get(case.scheme, "Dense")
    state = module.state_dict()
    assert got["state"].keys() == state.keys()
    assert all(torch.equal(got["state"][name], value) for name, value in state.items())
    assert got["y"].dtype == x.dtype and got["y"].shape == (*x.shape[:-1], case.shape[0])
    with torch.no_grad():
        want = module(x)
    if "a16" not in case.scheme or case.scheme not in KERNELS:
        assert torch.equal(got["y"], want)
        return
    # Activations change no sum by more than 1.13 times its error.
    error = (got["y"].double() - want.double()).abs()
    assert bool((error <= 1.13 * _bound(case, module, x) + _ulp(x.dtype) * want.double().abs()).all())


def _bound(case: Case, module, x) -> torch.Tensor:
    """What two ways of rounding factors to 16 bits, and of summing up in fp32, may differ by."""
    weight = module.quantized().dequantize().double().abs()
    sums = x.double().abs() @ weight.t()
    factors = 2.0**-10 if x.dtype == torch.float16 else 2.0**-7  # both factors, of both ways
    bias = 0 if module.bias is None else module.bias.double().abs()
    return (factors + x.shape[-1] * 2.0**-23) * sums + 2.0**-23 * bias


def _ulp(dtype: torch.dtype) -> float:
    return {torch.float32: 2.0**-23, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}[dtype]


def test_the_kernels_that_are_meant_have_run(on_gpu):
    names = on_gpu[1]
    for part in ("quantize_warp_f32", "w8a8_", "sparse24_", "blocks64_", "w8a16_gemv_", "w4a16_gemv_", "w4a16_gemm_"):
        assert any(name.startswith(part) for name in names), f"{part} is not among {sorted(names)}"


def test_large_products_of_4_bits_are_those_of_torch():
    """From 512 rows on Hopper on: weights in scratch as 16-bit floats, but not for fp32, which they would round."""
    fake_libcuda.run(
        """
from tests.gpu.host_cases import Case
ways = (torch.bfloat16, "silu", True), (torch.float16, "none", True), (torch.float32, "none", False)
for dtype, activation, way in ways:
    case = Case("w4a16-g32-asym", (40, 32), (512,), dtype, activation)
    module, x, before = case.linear(), case.x(), launched()
    with torch.no_grad():
        y = module(x)
    plain = torch.nn.functional.linear(x.double(), module.quantized().dequantize().double(), module.bias.double())
    want = torch.nn.functional.silu(plain) if activation == "silu" else plain
    assert y.dtype == dtype and (y.double() - want).abs().max() < 0.03 * want.abs().max()
    assert ("dequantize" in launched().removeprefix(before)) == way
""",
        FAKE_CUDA_CAPABILITY="90",
        FAKE_CUDA_CHECK="0",
    )


def test_torch_multiplies_where_it_is_chosen():
    """KDNATIVE_GPU_KERNELS=cublas: the same bits of int8 products, and dequantized weights, but not for fp32."""
    fake_libcuda.run(
        """
from kdnative.ops import reference
from tests.gpu.host_cases import Case
for scheme in ("w8a8", "w8a8-is", "w4a8-g64-int", "w8a8+2:4", "w8a8+4x1"):
    case = Case(scheme, (33, 192), (2, 3), torch.bfloat16, "relu")
    module, x = case.linear(), case.x()
    assert type(module.layout).__name__ == "W8A8"
    if scheme == "w8a8":  # 40 outputs are a multiple of what torch takes: the weight is not copied
        whole = Case(scheme, (40, 192), (20,)).linear()
        from kdnative.ops.backends import cublas
        codes = whole.packed[: 40 * 192].view(torch.int8).view(40, -1)
        assert cublas._padded(codes, 0, -40 % 8) is codes
    want = reference.linear_plain(x, module.quantized(), module._exact_bias(), 8, 1)
    assert torch.equal(module(x), want), scheme
assert "w8a8_" not in launched() and "quantize_" in launched()
for dtype in (torch.float16, torch.float32):
    case = Case("w4a16-g64", (40, 128), (3,), dtype)
    module, x = case.linear(), case.x()
    want = reference.linear_plain(x, module.quantized(), module._exact_bias(), 16)
    assert (module(x) - want).abs().max() < 0.01
    assert ("dequantize" in launched() and "gemv" not in launched()) == (dtype == torch.float16)
""",
        KDNATIVE_GPU_KERNELS="cublas",
        FAKE_CUDA_CHECK="0",
    )


def test_an_encoder_is_native_linears_and_attention_of_torch(tmp_path):
    """Whatever torch computes is the same in both processes, so are the linears: the same bits."""
    program = """
from tests.small_models import bert
from kdnative import convert_
torch.manual_seed(0)
model = bert(num_hidden_layers=1)
ids = torch.randint(0, 200, (2, 5))
report = convert_(model, "w8a8", fuse=FUSE)
assert not report.totals["fused"] and report.totals["converted"] >= 6, str(report)
with torch.no_grad():
    torch.save(model(ids).logits, sys.argv[1])
"""
    gpu, cpu = tmp_path / "gpu.pt", tmp_path / "cpu.pt"
    fake_libcuda.run(program.replace("FUSE", "True"), str(gpu))
    plain = "import sys, torch\ntorch.set_num_threads(1)\n" + program.replace("FUSE", "False")
    done = subprocess.run([sys.executable, "-c", plain, str(cpu)], cwd=building.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(gpu), torch.load(cpu))


def test_reports_and_doctor_say_who_computes():
    fake_libcuda.run(
        """
from torch import nn
from kdnative import convert_
model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(3)))
report = convert_(model, {"0": "w8a8", "1": "w4a16-g64", "2": "w4a8-g64"}, method="rtn")
reasons = [row.reason for row in report.rows]
assert reasons[0] == "native linear; weights by rtn", reasons
assert reasons[1].startswith("native linear; many 16-bit rows are multiplied by torch"), reasons
assert "unless a GELU is fused; float32 rows never are; weights" in reasons[1], reasons
assert reasons[2].startswith("native linear, in plain torch: cuda has no kernel of w4a8-g64"), reasons
from kdnative import doctor
found = doctor.collect()
assert found["gpu"]["driver"]["cuda"] == "12.4" and found["problems"] == []
assert found["gpu"]["devices"] == [{"name": "emulated GPU 0", "capability": "8.6", "multiprocessors": 4}]
text = doctor.describe(found)
assert "of CUDA 12.4: emulated GPU 0 (capability 8.6)" in text and "libnvrtc isn't here" in text
""",
        FAKE_CUDA_CAPABILITY="86",
        KDNATIVE_NVRTC="",
    )


def test_modules_are_copied_compiled_and_checked():
    fake_libcuda.run(
        """
import copy, pickle
from tests.gpu.host_cases import Case, KERNELS
for scheme in ("w8a8", "w4a16-g64-asym", "w8a8+mask"):
    case = Case(scheme, (70, 128), (3,))
    module, x = case.linear(), case.x()
    with torch.no_grad():
        y = module(x)
        twin = pickle.loads(pickle.dumps(copy.deepcopy(module)))
        assert twin.layout == module.layout and torch.equal(twin(x), y)
        fresh = type(module)(**module.spec)
        fresh.load_state_dict(module.state_dict())
        assert torch.equal(fresh.packed, module.packed) and torch.equal(fresh(x), y)
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), y)
        weight = torch.compile(lambda: module.weight * 1, fullgraph=True, backend="aot_eager")()
        assert torch.equal(weight, module.weight.clone())
    operator = getattr(torch.ops.kdnative, module._operator).default
    torch.library.opcheck(operator, (x, module.packed, 70, 0, *module._form))
codes, scale = ops.quantize_per_token(x[:, :37])
assert codes.shape == (3, 37) and scale.shape == (3,) and codes.is_contiguous()
from kdnative.formats import arithmetic
want, wanted_scale = arithmetic.quantize_rows(x[:, :37])
assert torch.equal(codes, want.to(torch.int8)) and torch.equal(scale, wanted_scale)
""",
        FAKE_CUDA_CHECK="0",
    )


def test_a_norm_in_front_of_int8_rows():
    """Rows of a warp and of a block, ragged ones and ones that are not dense; and calls that are refused."""
    fake_libcuda.run(
        """
import re
from kdnative import ops
from tests.ops.norm_cases import BAD, assert_codes_of, exact
torch.manual_seed(0)
for k, dtype in ((37, torch.float16), (40, torch.bfloat16), (1030, torch.float32)):
    x, (gamma, beta, factors) = torch.randn(2, 3, 2 * k).to(dtype)[..., ::2], [torch.rand(k) + 0.5 for _ in range(3)]
    for rms in (False, True):
        for given in ((beta, 1e-5, factors, rms), (None, 0.1, None, rms)):
            assert_codes_of(ops.norm_quantize(x, gamma, *given), exact(x, gamma, *given))
names = set(launched().split())
assert names == {"norm_quantize_warp_f16", "norm_quantize_warp_bf16", "norm_quantize_block_f32"}, names
codes, scale = ops.norm_quantize(torch.empty(0, 8), gamma[:8])
assert codes.shape == (0, 8) and scale.shape == (0,)
torch.library.opcheck(torch.ops.kdnative.norm_quantize.default, (torch.randn(2, 9), torch.ones(9), None, 0.1))
vectors = torch.ones(12)
moved = {"gamma": vectors[1:9]}, "gamma and beta must lie on 16 bytes"
many = {"x": torch.empty(1, 8).expand(2**31, 8)}, "a GPU takes at most"
for change, words in (*BAD, moved, many):
    given = {"x": torch.zeros(2, 8), "gamma": torch.ones(8)} | change
    try:
        ops.norm_quantize(**given)
    except RuntimeError as error:
        assert re.search(f"norm_quantize.*{words}", str(error)), f"{error} is not {words}"
    else:
        raise AssertionError(f"no error: {words}")
""",
        FAKE_CUDA_CHECK="0",
    )


def test_a_kernel_that_reads_past_a_tensor_is_noticed():
    """As it would if the host code were wrong about a size: here a tensor has less memory than its shape says."""
    fake_libcuda.run(
        """
from tests.gpu.host_cases import Case
for scheme in ("w8a8", "w4a16-g64"):
    module, x = Case(scheme, (33, 192), (5,)).linear(), torch.randn(5, 192)
    with torch.no_grad():
        module(x)
        x.untyped_storage().resize_(x.numel() * 4 - 16)
        try:
            module(x)
        except RuntimeError as error:
            assert "outside every buffer, byte 3824 of a tensor with 3824" in str(error), error
        else:
            raise AssertionError(f"{scheme}: no error")
"""
    )


def test_cubins_have_the_kernels_that_are_launched():
    """The driver is given what NVRTC makes, and finds in it the names that the host code asks for."""
    if why := compiling.missing():
        pytest.skip(why)
    fake_libcuda.run(
        """
from tests.gpu.compiling import compile_family
from tests.gpu.host_cases import Case
given = []
def image(family, capability):
    given.append((family, capability))
    return compile_family(family, f"sm_{capability}")
_C.set_cuda_images(image)
case = Case("w8a8", (33, 192), (5,))
module, x = case.linear(), case.x()
with torch.no_grad():
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        module(x.to(dtype))
assert given == [("quantize", 80), ("w8a8", 80)], given
_C.set_cuda_images(lambda family, capability: b"another program")
try:
    Case("w8a8+2:4", (33, 192), (5,)).linear()(x)
except RuntimeError as error:
    assert "refused the kernel sparse24_" in str(error) and "the image has no kernel" in str(error)
else:
    raise AssertionError
_C.set_cuda_images(lambda family, capability: 1 / 0)
try:
    Case("w4a16-g64", (33, 192), (5,)).linear()(x)
except RuntimeError as error:
    assert "linear_w4a16 of an input of shape [5, 192]: ZeroDivisionError" in str(error), error
else:
    raise AssertionError
"""
    )


def test_threads_may_launch_first_at_once():
    fake_libcuda.run(
        """
import threading, time
from tests.gpu.host_cases import Case
loads = []
def slow(family, capability):
    loads.append(family)
    time.sleep(0.05)
    return b"any"
_C.set_cuda_images(slow)
case = Case("w8a8", (33, 192), (5,))
module, x = case.linear(), case.x()
found, start = [None] * 4, threading.Barrier(4)
def work(i):
    start.wait()
    with torch.no_grad():
        found[i] = [module(x) for _ in range(3)]
threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
assert all(torch.equal(y, found[0][0]) for ys in found for y in ys)
assert {"quantize", "w8a8"} == set(loads)
""",
        FAKE_CUDA_CHECK="0",
    )


def test_split_products_have_counters_of_their_own():
    """One launch each: counters of a stream are used again, and recorded launches of graphs never share them."""
    fake_libcuda.run(
        """
from tests.gpu.host_cases import Case
argument = ctypes.CDLL(os.environ["KDNATIVE_LIBCUDA"]).fake_cuda_argument
argument.restype = ctypes.c_uint64
case = Case("w4a16-g64", (33, 2048), (2,))
module, x = case.linear(), case.x()
places, first = [], None
with torch.no_grad():
    for capturing in "001100":
        os.environ["FAKE_CUDA_CAPTURING"] = capturing
        y = module(x)
        assert first is None or torch.equal(y, first)
        first = y
        places.append(argument(9))
        assert ctypes.c_uint32.from_address(places[-1]).value == 0
assert places[0] == places[1] == places[4] == places[5] and len(set(places)) == 3, places
assert launched().count("gemv") == launched().count("\\n") == 6
""",
    )


_BAD_CALLS = r"""
import re
from kdnative.formats.gpu.form import Form
from tests.gpu.host_cases import Case

def refused(words, call):
    try:
        call()
    except RuntimeError as error:
        assert re.search(words, str(error)), f"{error} is not {words}"
    else:
        raise AssertionError(f"no error: {words}")

case = Case("w8a8", (33, 192), (5,))
module, given = case.linear(), case.x()
laid, form = module.packed, module._form[0]

def w8a8(x=given, packed=laid, n=33, activation=0, form=form):
    return lambda: torch.ops.kdnative.linear_w8a8(x, packed, n, activation, form)

refused(r"linear_w8a8: the packed weight has \d+ bytes, but one of shape \[34, 192\].*damaged", w8a8(n=34))
refused(r"linear_w8a8: the packed weight has \d+ bytes, but one of shape \[33, 192\]", w8a8(packed=laid[:-256]))
refused(r"linear_w8a8: .* one of shape \[33, 300\].*wrong width", w8a8(torch.randn(5, 300)))
refused("linear_w8a8: activation code 9 is unknown", w8a8(activation=9))
refused("linear_w8a8: out_features is 0", w8a8(n=0))
refused("linear_w8a8: the packed weight has an unknown form", w8a8(form=15))
refused(r"linear_w8a8: the packed weight of shape \[\d+\] is laid out for the CPU", w8a8(form=0))
refused("linear_w8a8: the input must be float32, bfloat16 or float16 .got float64", w8a8(given.double()))
refused(r"linear_w8a8: the packed weight must be .* not float32 of shape \[9\]", w8a8(packed=torch.ones(9)))
refused("linear_w8a8: the packed weight must be", w8a8(packed=laid[::2]))
refused("linear_w8a8: the input must have at least one dimension", w8a8(torch.tensor(1.0)))
many = torch.empty(1, 192).expand(2**31, 192)
refused(r"linear_w8a8: the input has shape \[2147483648, 192\], and a GPU takes at most", w8a8(many))
refused(r"quantize_per_token: the input has shape \[2147483648, 192\]", lambda: ops.quantize_per_token(many))

wide = torch.zeros(1, 133145)
refused(r"linear_w8a8 of an input of shape \[1, 133145\]: .*more than 133144 inputs",
        w8a8(wide, torch.zeros(133632, dtype=torch.uint8), 1, form=Form("w8a8", 8).code))

def w4a16(k, packed, form):
    return lambda: torch.ops.kdnative.linear_w4a16(torch.randn(3, k), packed, 40, 0, form)

four = Case("w4a16-g64", (40, 128), (3,)).linear()
refused(r"linear_w4a16: .* one of shape \[40, 64\]", w4a16(64, four.packed, four._form[0]))
no_bytes = torch.zeros(64 * 128 * 2 // 8 + 2 * 64 * 4, dtype=torch.uint8)
two_bits = Form("w4a16", 2, group=64).code
refused(r"linear_w4a16 of an input of shape \[3, 128\]: .*2 bits", w4a16(128, no_bytes, two_bits))

def sparse(packed, form):
    return lambda: torch.ops.kdnative.linear_sparse(torch.randn(3, 256), packed, 70, 0, form)

blocks = Case("w8a8+mask", (70, 256), (3,)).linear()
cut = sparse(blocks.packed[:-256], blocks._form[0])
refused("linear_sparse: .* no weight of 70 outputs in blocks of 64 has", cut)
odd = Form("blocks", 8, block=48).code
refused("linear_sparse: a form with blocks of 48", sparse(blocks.packed, odd))
"""


def test_bad_calls_are_errors_that_name_operator_and_shapes():
    fake_libcuda.run(_BAD_CALLS)


def test_a_gpu_that_is_too_old_and_a_missing_driver_are_named():
    program = """
from tests.gpu.host_cases import Case
case = Case("w8a8", (8, 64), (3,))
try:
    case.linear()(case.x())
except RuntimeError as error:
    print(error)
"""
    old = fake_libcuda.run(program, FAKE_CUDA_CAPABILITY="75")
    assert "linear_w8a8 of an input of shape [3, 64]: emulated GPU 0 has compute capability 7.5" in old and "8.0" in old
    none = fake_libcuda.run(program, FAKE_CUDA_DEVICES="0")
    assert "there is no CUDA device 0, the driver has 0" in none
    plain = "from kdnative import ops\nfrom kdnative import _C\n_C.cuda_devices()"
    environment = {**os.environ, "KDNATIVE_LIBCUDA": "/nowhere/libcuda.so"}
    done = subprocess.run([sys.executable, "-c", plain], env=environment, capture_output=True, text=True)
    assert (
        "RuntimeError: no CUDA driver: /nowhere/libcuda.so" in done.stderr and "install NVIDIA's driver" in done.stderr
    )


def test_tensors_of_the_cpu_are_for_a_driver_that_has_them():
    environment = {**os.environ, "KDNATIVE_BACKEND": "cuda"}
    done = subprocess.run(
        [sys.executable, "-c", "import kdnative.ops"], env=environment, capture_output=True, text=True
    )
    assert done.returncode and "KDNATIVE_LIBCUDA must name" in done.stderr and 'model with .to("cuda")' in done.stderr
    environment = {**os.environ, "KDNATIVE_GPU_KERNELS": "opencl"}
    done = subprocess.run(
        [sys.executable, "-c", "import kdnative.ops"], env=environment, capture_output=True, text=True
    )
    assert "KDNATIVE_GPU_KERNELS='opencl' can't be chosen: it is cuda, triton" in done.stderr
