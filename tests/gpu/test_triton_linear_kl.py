"""Tiles of the divergence of two heads from Triton, for two targets: values against float64, resources, and a loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="Triton is not installed (the extra triton)")

from kdnative.distill import LinearLogits, linear_kl  # noqa: E402
from kdnative.distill.tiled import choosing, function, passes  # noqa: E402
from kdnative.distill.tiled.tiles import Rows  # noqa: E402
from kdnative.ops.backends.triton import linear_kl as kernels  # noqa: E402
from tests.distill.tiled.test_linear_kl import compare, heads, of, plain  # noqa: E402
from tests.gpu.sass import functions, missing, problems  # noqa: E402
from tests.gpu.triton_driver import compile_for  # noqa: E402

DTYPES = [torch.float16, torch.bfloat16]
ULP = {torch.float16: 2**-11, torch.bfloat16: 2**-8}
STEP = 2**-23  # of fp32, what a tensor core's sum loses at most for each term; half of it is lost by other operations


@pytest.fixture
def on_triton(monkeypatch, triton_driver):
    monkeypatch.setattr(function, "tiles_for", lambda student, teachers: choosing.triton_tiles())
    return triton_driver


def logits64(head):
    return F.linear(*(None if x is None else x.double() for x in head))


class Bounds:
    """Of a head of 16-bit numbers at a temperature: exact values, and how far those from fp32 may be off.

    A logit is a sum of K products, which are exact, and a bias: each addition loses at most a step of the magnitudes.
    exp and log are off by two steps, and by those of what they are given: the logarithm of a sum of exponentials is off
    as much as the worst logit is, by its own rounding, and by some steps for exp, log, and sums over a tile and over
    tiles, which are trees. A probability is off, relative to itself, as much as its logarithm is.
    """

    def __init__(self, head, temperature):
        hidden, weight, bias = (None if x is None else x.double() for x in head)
        sizes = F.linear(hidden.abs(), weight.abs(), None if bias is None else bias.abs())
        logits, each = logits64(head) / temperature, (hidden.shape[1] + 4) * STEP * sizes / temperature
        self.log_sum = logits.logsumexp(-1)
        self.off_log_sum = each.amax(-1) + (logits.amax(-1) - logits.amin(-1) + self.log_sum.abs() + 16) * STEP
        self.log = logits - self.log_sum[:, None]
        self.off_log = each + self.off_log_sum[:, None] + (logits.abs() + self.log.abs()) * STEP
        self.p = self.log.exp()
        self.off_p = self.p * (self.off_log + 4 * STEP)

    def divergence(self, teacher):
        """Of a teacher's rows from these, and how far they may be off."""
        parts = teacher.log - self.log
        off = teacher.p * (teacher.off_log + self.off_log) + (teacher.off_p + 12 * STEP * teacher.p) * parts.abs()
        return (teacher.p * parts).sum(-1), off.sum(-1)


def near(found, exact, off):
    """Every entry, and none is NaN."""
    assert (worst := float(((found.double() - exact).abs() / off).max())) <= 1, worst


def cast(head, dtype):
    return tuple(None if x is None else x.to(dtype) for x in head)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("rows", "classes", "bias"), [(1, 1, True), (67, 131, True), (130, 257, False), (64, 128, True)]
)
def test_tiles(triton_driver, long_grid, dtype, rows, classes, bias):
    """Each number that the kernels give, in places where the last block of rows and of classes is not full."""
    if rows > 100 or classes == 128:
        pytest.skip("KDNATIVE_GPU_GRID=1 runs more shapes") if not long_grid else None
    temperature = 3.0
    student, teacher = (cast(head, dtype) for head in heads(rows, classes, widths=(17, 70), bias=bias, scale=0.7))
    soft_student, hard_student = Bounds(student, temperature), Bounds(student, 1.0)
    theirs = Bounds(teacher, temperature)
    sums = kernels.log_sums(*student, (temperature, 1.0))
    teacher_sums = kernels.log_sums(*teacher, (temperature,))
    for found, bounds in zip([*sums, *teacher_sums], (soft_student, hard_student, theirs), strict=True):
        assert found.dtype == torch.float32
        near(found, bounds.log_sum, bounds.off_log_sum)
    soft, hard = torch.rand(rows), torch.rand(rows)
    labels = torch.arange(rows) * 7 % (classes + 3) - 1  # some belong to other tiles, or to none
    known = Rows(sums[0], teacher_sums, soft, sums[1], hard, labels)
    found = kernels.tile(student, [teacher], [1.0], temperature, known, True)
    near(found.divergence, *soft_student.divergence(theirs))
    hits = torch.zeros(rows, classes, dtype=torch.float64)
    for row, label in enumerate(labels.tolist()):
        if 0 <= label < classes:
            hits[row, label] = 1.0
    near(found.likelihood, (hits * hard_student.log).sum(-1), (hits * hard_student.off_log).sum(-1) + STEP)
    soft, hard = soft.double()[:, None], hard.double()[:, None]
    gradient = soft * (soft_student.p - theirs.p) + hard * (hard_student.p - hits)
    off = soft * (soft_student.off_p + theirs.off_p) + hard * hard_student.off_p
    off += 4 * STEP * (soft * (soft_student.p + theirs.p) + hard * (hard_student.p + hits))
    assert found.gradient.dtype == dtype
    near(
        found.gradient,
        gradient,
        off + ULP[dtype] * (gradient.abs() + off) + torch.finfo(dtype).smallest_normal * ULP[dtype],
    )
    alone = kernels.tile(student, [teacher], [1.0], temperature, Rows(sums[0], teacher_sums, known.soft), False)
    assert torch.equal(alone.divergence, found.divergence) and alone.likelihood is alone.gradient is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_loss_forward_and_backward(on_triton, monkeypatch, dtype):
    """Tiles of some classes each; the loss has fp32 sums, its gradients are products of 16-bit factors."""
    monkeypatch.setattr(passes, "TILE", 600)
    monkeypatch.setattr(passes, "SMALL_TILE", 600)
    student, teacher = heads(5, 300, widths=(20, 33), scale=0.7)
    ours, theirs = of(student, dtype, gradients=True), of(teacher, dtype)
    labels, mask = torch.tensor([0, 299, -100, -100, 130]), torch.tensor([1, 1, 0, 1, 0])
    found = compare(ours, [theirs], 4 * ULP[dtype], 2.0, labels=labels, mask=mask, soft_weight=2.0, hard_weight=0.5)
    exact = (LinearLogits(*(x.detach().double() for x in (y.hidden, y.weight, y.bias))) for y in (ours, theirs))
    student64, teacher64 = exact
    expected = plain(student64, [teacher64], 2.0, labels, mask, soft=2.0, hard=0.5)
    ours, theirs = ((x.hidden.detach(), x.weight.detach(), x.bias.detach()) for x in (ours, theirs))
    _, soft = Bounds(ours, 2.0).divergence(Bounds(theirs, 2.0))
    hard = Bounds(ours, 1.0).off_log[labels >= 0, labels[labels >= 0]]
    off = 2.0 * 4.0 * soft[mask == 1].mean() + 0.5 * hard.mean() + 8 * STEP * expected
    assert abs(float(found.loss.detach()) - float(expected)) <= float(off)
    names = [launch.kernel for launch in on_triton.launches]
    assert names.count("log_sum_kernel") == 4 and names.count("gradient_kernel") == 2, "two parts of the vocabulary"


def test_autocast_casts_parts_of_the_weight(on_triton):
    student, teacher = heads(4, 40, bias=False)
    ours = LinearLogits(student[0].float().requires_grad_(), student[1].float().requires_grad_())
    with torch.autocast("cpu", torch.bfloat16):
        compare(ours, [of(teacher, torch.float32)], 8 * ULP[torch.bfloat16])
    assert ours.weight.grad.dtype == torch.float32 and on_triton.launches


def test_extremes(on_triton):
    """Logits of 1e4, rows that are alike, and classes that both find impossible."""
    student = LinearLogits(torch.tensor([[1e4], [1.0]]).half().requires_grad_(), _column(1.0, -1.0, 0.0))
    teacher = LinearLogits(torch.tensor([[-1e4], [1.0]]).half(), _column(1.0, -1.0, 0.0))
    found = linear_kl(student, [teacher], 1.0)
    found.loss.backward()
    assert float(found.soft) == pytest.approx(1e4, rel=1e-5)
    assert float(student.hidden.grad[0]) == pytest.approx(1.0, rel=1e-3) and abs(float(student.hidden.grad[1])) < 1e-6
    bias = torch.zeros(130).index_fill_(0, torch.arange(128), -torch.inf).half()  # all of the first block
    student = LinearLogits(torch.ones(2, 1).half(), torch.ones(130, 1).half(), bias)
    same = linear_kl(student, [student], 1.0)
    assert abs(float(same.soft)) < 1e-6


def _column(*values):
    return torch.tensor(values).half()[:, None]


def test_a_row_of_nan_stays_in_its_row(triton_driver):
    student, teacher = (cast(head, torch.float16) for head in heads(3, 20))
    student[0][1, 0] = torch.nan
    (sums,) = kernels.log_sums(*student, (2.0,))
    assert sums.isnan().tolist() == [False, True, False]


def test_views_that_are_not_aligned(triton_driver):
    student = cast(heads(6, 33, widths=(32,))[0], torch.float16)
    (expected,) = kernels.log_sums(*student, (2.0,))
    wide = F.pad(student[0], (1, 1))[:, 1:33]
    flat = torch.zeros(33 * 32 + 1).half()
    flat[1:] = student[1].flatten()
    (found,) = kernels.log_sums(wide, flat[1:].view(33, 32), student[2], (2.0,))
    assert torch.equal(found, expected)


def signature(kernel, dtype, hard):
    """Types of the kernel's arguments, constants, and which are multiples of 16: what its launches have."""
    factors = {"hidden", "weight", "bias", "teacher_hidden", "teacher_weight", "teacher_bias", "gradient"}
    numbers, names = (
        {"R": "i32", "C": "i32", "K": "i32", "TEACHER_K": "i32", "STRIDE": "i32", "factor": "fp32"},
        kernel.arg_names,
    )
    constants = {"HAS_BIAS": True, "TEACHER_HAS_BIAS": True, "HARD": hard, "GRADIENT": True, **kernels.CONFIGURATION}
    constants = {name: value for name, value in constants.items() if name in names}
    pointers = {name: "*i64" if name == "labels" else f"*{dtype}" if name in factors else "*fp32" for name in names}
    types = [{**pointers, **numbers}[name] for name in names if name not in constants]
    aligned = [name for name in names if name not in constants and name not in ("R", "C", "factor")]
    return types, constants, aligned


@pytest.mark.parametrize("capability", [80, 86, 89, 90])
@pytest.mark.parametrize("kernel", [kernels.log_sum_kernel, kernels.gradient_kernel], ids=["log_sum", "gradient"])
def test_resources(triton_cache, capability, kernel, long_grid):
    """No stack and no local memory, and so few registers that two blocks of logarithms run at once."""
    if reason := missing():
        pytest.skip(reason)
    if capability in (86, 89) and not long_grid:
        pytest.skip("KDNATIVE_GPU_GRID=1 compiles for more targets")
    options = {name: kernels.CONFIGURATION[name] for name in ("num_warps", "num_stages")}
    for dtype in ("fp16", "bf16"):
        for hard in (False, True):
            types, constants, aligned = signature(kernel, dtype, hard)
            compiled = compile_for(kernel, capability, types, constants, aligned, **options)
            (found,) = functions(compiled.asm["cubin"]).values()
            most = 128 if kernel is kernels.log_sum_kernel else 200
            each = 4 if capability < 90 else 24  # an HGMMA computes what 16 or 32 HMMA do
            assert not problems(found, registers=most, instructions_per_mma=each, expected="HMMA|HGMMA"), (dtype, hard)
            blocks = found.blocks(capability, 32 * options["num_warps"], compiled.metadata.shared)
            assert blocks >= (2 if kernel is kernels.log_sum_kernel else 1)
