"""What only a GPU can show: the modules of the CPU on it, streams, recorded graphs, several devices, Triton, the loss.

`make test-gpu` runs this, and the tests named "small" once more under compute-sanitizer.
"""

import copy
import functools
import os
import subprocess
import sys

import pytest
import torch

from kdnative import convert_
from kdnative.distill.tiled import LinearLogits, linear_kl
from kdnative.nn import Linear
from tests.gpu.host_cases import KERNELS, Case, cases
from tests.small_models import bert

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

BITS = ("W8A8", "Sparse24", "Blocks")  # layouts of schemes whose sums are integers
LARGE = [Case(scheme, (1000, 1024), (m,), torch.float16) for scheme in KERNELS for m in (1, 8, 17, 300, 2100)]
# What csrc/cuda/w4a16.h chooses with 108 or 132 multiprocessors: blocks that share the inputs of a strip (1, 4 and 8
# rows), of a tile of 16 rows (16) and of 64 (64), and the tile of 128 rows.
PLANS = [(1000, 8192, 1), (1000, 8192, 4), (1000, 8192, 8), (4096, 4096, 16), (4096, 4096, 64), (14336, 4096, 256)]
SHARED = [Case(scheme, (n, k), (m,), torch.float16) for scheme in ("w4a16-g64-asym", "w8a16") for n, k, m in PLANS]
SHARED_SMALL = [Case("w4a16-g64", (32, 4096), (1,), torch.float16), Case("w4a16-g64", (128, 512), (16,), torch.float16)]
FUNCTIONS = {
    "none": torch.nn.Identity(),
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": functools.partial(torch.nn.functional.gelu, approximate="tanh"),
    "silu": torch.nn.functional.silu,
    "tanh": torch.tanh,
}
DEQUANTIZED_ROWS = 512  # from which weights may be made 16-bit ones, which torch multiplies


def both(case):
    """The result of the CPU and that of the GPU, and the module on the GPU."""
    module = case.linear()
    with torch.no_grad():
        wanted = module(case.x())
        module = module.cuda()
        return wanted, module(case.x().cuda()).cpu(), module


def close(found, wanted, case):
    """Within the error of 16-bit outputs and factors; and of float32 inputs that become bf16 on a GPU."""
    limit = 2e-2 if case.dtype in (torch.float32, torch.bfloat16) else 4e-3
    error = (found.double() - wanted.double()).norm() / wanted.double().norm().clamp_min(1e-9)
    return float(error) < limit


def bounded(found, x, layer, case, *, rounded_weight=False):
    """Whether each element of a product of float activations is as near to that in float64 as the kernels promise.

    Weights of 4 bits are added up in units of 32 inputs, which cost one rounding each beside some 80 of the two mma and
    one for each block that shares the inputs; each mma of 8-bit ones costs two. ``rounded_weight``: weights are
    factors too, and blocks may add their sums in 16 bits.
    """
    half = torch.float16 if case.dtype == torch.float16 else torch.bfloat16
    device, weight = found.device, layer.quantized()
    x = x.to(device).float()
    if weight.input_scale is not None:
        x, weight = x * weight.input_scale.to(device), weight.changed(input_scale=None)
    factors, plain = x.to(half).double(), weight.dequantize().to(device).double()
    k = plain.shape[1]
    roundings = 84 + (k // 32 + k // 128 if weight.bits == 4 else k // 8)
    size = factors.abs() @ plain.abs().T
    error = size * roundings * 2.0**-24
    unit = {torch.float32: 2.0**-23, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
    if rounded_weight or factors.shape[:-1].numel() >= DEQUANTIZED_ROWS:
        error += 4 * unit[half] * size
    exact = factors @ plain.T
    if layer.has_bias:
        exact = exact + layer._exact_bias().to(device).double()
    error += exact.abs() * 2.0**-23
    y = FUNCTIONS[case.activation](exact)
    # No activation is steeper than 1.13; those with exponentials are approximations.
    error = error * 1.13 + (0 if case.activation in ("none", "relu") else (1 + y.abs()) * 2.0**-20)
    return bool(((found.double() - y).abs() <= error + (y.abs() + error) * unit[case.dtype] + 2.0**-24).all())


def same(case, *, rounded_weight=False):
    wanted, found, module = both(case)
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    layout = KERNELS.get(case.scheme)
    if layout in BITS:
        assert torch.equal(found, wanted), case
    else:
        assert close(found, wanted, case), case
    if layout == "W4A16":
        assert bounded(found.to(module.packed.device), case.x(), module, case, rounded_weight=rounded_weight), case
    return module


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_small_layers_give_what_the_cpu_gives(case):
    module = same(case)
    before = case.linear().state_dict()
    for name, value in module.cpu().state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("case", SHARED_SMALL, ids=str)
def test_small_sums_of_several_blocks(case):
    same(case)


@pytest.mark.parametrize("case", LARGE + SHARED, ids=str)
def test_large_layers_give_what_the_cpu_gives(case):
    same(case)


def test_rows_that_fill_the_device_many_times():
    case = Case("w8a8", (512, 512), (70_000,), torch.float16)
    same(case)


@pytest.mark.parametrize("k", [1024, 8192])  # the latter shared by blocks, which count in memory of the stream
def test_the_stream_of_the_caller_is_used(k):
    layer, x = Case("w4a16-g64", (512, k), (4,), torch.float16).linear().cuda(), torch.randn(4, k).half().cuda()
    with torch.no_grad():
        wanted = layer(x)
        streams = [torch.cuda.Stream() for _ in range(4)]
        found = []
        for stream in streams:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                torch.cuda._sleep(5_000_000)  # what another stream launches would overtake this
                late = x * 1
                found.append(layer(late))
        torch.cuda.synchronize()
    assert all(torch.equal(each, wanted) for each in found)


@pytest.mark.parametrize(
    ("scheme", "k", "m"), [("w8a8", 512, 8), ("w8a8+2:4", 512, 8), ("w4a16-g64", 8192, 8), ("w4a16-g64", 1024, 16)]
)
def test_recorded_graphs_replay_with_new_inputs(scheme, k, m):
    case = Case(scheme, (256, k), (m,), torch.float16)
    apart, layer = case.linear(), case.linear().cuda()
    x = torch.zeros(m, k, dtype=torch.float16, device="cuda")
    with torch.no_grad():
        layer(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = layer(x)
        for seed in range(3):
            torch.manual_seed(seed)
            given = torch.randn(m, k).half()
            x.copy_(given)
            graph.replay()
            if KERNELS[scheme] in BITS:
                assert torch.equal(y.cpu(), apart(given))
            else:
                assert bounded(y, given, apart, case)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_two_devices():
    case = Case("w8a8", (64, 128), (5,), torch.float16)
    wanted, found, module = both(case)
    moved = module.to("cuda:1")
    with torch.no_grad():
        assert torch.equal(moved(case.x().to("cuda:1")).cpu(), wanted) and torch.equal(found, wanted)
        with pytest.raises(RuntimeError, match="move both"):
            moved(case.x().to("cuda:0"))


def test_compiled():
    layer, x = Case("w8a8", (64, 128), (5,), torch.float16).linear().cuda(), torch.randn(5, 128).half().cuda()
    with torch.no_grad():
        assert torch.equal(torch.compile(layer, fullgraph=True)(x), layer(x))


def test_an_encoder():
    model = bert(num_labels=2)
    inputs = {"input_ids": torch.randint(1, 200, (3, 17))}
    apart = copy.deepcopy(model)
    convert_(apart, "w8a8", fuse=False)
    model = model.cuda()
    convert_(model, "w8a8")
    assert sum(isinstance(module, Linear) for module in model.modules()) > 10
    with torch.no_grad():
        wanted = apart(**inputs).logits
        found = model(**{name: value.cuda() for name, value in inputs.items()}).logits.cpu()
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.02)


def test_small_bad_input_is_refused_in_words():
    layer = Case("w8a8", (16, 64), (5,), torch.float16).linear().cuda()
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="move both"):
            layer(torch.randn(5, 64))
        with pytest.raises(RuntimeError, match="linear_w8a8"):
            layer(torch.randn(5, 60, device="cuda"))
        with pytest.raises(RuntimeError, match="linear_w8a8"):
            layer(torch.randn(5, 64, device="cuda", dtype=torch.float64))


def test_triton_gives_the_same():
    """In a process of its own: the kernels are chosen when kdnative is imported."""
    pytest.importorskip("triton")
    text = (
        "import torch\n"
        "from tests.gpu.test_on_device import BITS, same\n"
        "from tests.gpu.host_cases import Case\n"
        "for scheme in ('w8a8', 'w8a8-is', 'w4a16-g64', 'w4a16-g64-asym', 'w8a8+mask'):\n"
        "    for m in (1, 17, 300):\n"
        "        same(Case(scheme, (192, 256), (m,), torch.float16), rounded_weight=True)\n"
        "print('same')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", text],
        env={**os.environ, "KDNATIVE_GPU_KERNELS": "triton"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0 and "same" in run.stdout, run.stderr[-2000:]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_distillation_without_logits(dtype):
    torch.manual_seed(0)

    def logits(width, seed):
        torch.manual_seed(seed)
        return [torch.randn(100, width), torch.randn(3000, width) / width**0.5, torch.randn(3000)]

    student, teacher, labels = logits(64, 1), logits(96, 2), torch.randint(0, 3000, (100,))

    def run(device, kind):
        own = [value.to(device, kind).requires_grad_() for value in student]
        other = [value.to(device, kind) for value in teacher]
        found = linear_kl(LinearLogits(*own), [LinearLogits(*other)], 2.0, labels=labels.to(device))
        found.loss.backward()
        return [found.loss.detach(), *(value.grad for value in own)]

    for found, wanted in zip(run("cuda", dtype), run("cpu", torch.float64), strict=True):
        error = (found.double().cpu() - wanted).norm() / wanted.norm()
        assert float(error) < 0.03
