"""The tiled loss against float64 formulas and autograd of logits, however its tiles are cut."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from kdnative.distill import LinearLogits, linear_kl
from kdnative.distill.tiled import function, passes

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Unit roundoff of a product's factors; sums of V or K terms in fp32 add less than another.
ROUNDING = {torch.float64: 2**-53, torch.float32: 2**-24, torch.bfloat16: 2**-9, torch.float16: 2**-12}


@pytest.fixture(params=["whole", "rows", "classes"])
def cut(request, monkeypatch):
    """Everything in one tile; some rows in each; or some classes in each, in two passes. The last tiles are smaller."""
    if request.param == "classes":
        monkeypatch.setattr(function, "tiles_for", lambda student, teachers: passes.Tiles(whole=False))
    if request.param != "whole":
        for name, value in {"TILE": 60, "SMALL_TILE": 60, "ROWS": 3, "CLASSES": 7}.items():
            monkeypatch.setattr(passes, name, value)


def heads(rows=7, classes=29, widths=(5, 6), seed=0, bias=True, scale=1.0):
    """float64 hidden states, weight and bias of a student and of each teacher."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator) * scale

    return [(random(rows, k), random(classes, k), random(classes) if bias else None) for k in widths]


def of(head, dtype=torch.float64, gradients=False):
    given = [None if x is None else x.detach().clone().to(dtype).requires_grad_(gradients) for x in head]
    return LinearLogits(*given)


def exact(logits: LinearLogits, gradients=False) -> LinearLogits:
    """The same values as float64 leaves."""
    given = (logits.hidden, logits.weight, logits.bias)
    return LinearLogits(*(None if x is None else x.detach().double().requires_grad_(gradients) for x in given))


def plain(student, teachers, temperature=2.0, labels=None, mask=None, weights=None, soft=1.0, hard=1.0):
    """The formula, from logits in float64."""
    s, *t = (F.linear(x.hidden, x.weight, x.bias) for x in (student, *teachers))
    weights = [1.0] * len(t) if weights is None else weights
    p = sum(w * (x / temperature).softmax(-1) for w, x in zip(weights, t, strict=True)) / sum(weights)
    log_q = (s / temperature).log_softmax(-1)
    rows = temperature**2 * (torch.xlogy(p, p) - p * log_q).sum(-1)
    kept = torch.ones_like(rows) if mask is None else (mask != 0).to(rows)
    total = soft * (rows * kept).sum() / kept.sum().clamp(min=1)
    if labels is not None and bool((labels >= 0).any()):
        chosen = s.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        known = (labels >= 0).to(rows)
        total = total - hard * (chosen * known).sum() / known.sum()
    return total


def gradients(logits):
    return [x.grad.double() for x in (logits.hidden, logits.weight, logits.bias) if x is not None]


def compare(student, teachers, tolerance, temperature=2.0, reference=None, **options):
    """Loss and gradients of the student against autograd of the formula, relative to the largest entry of each."""
    wanted = exact(student, gradients=True)
    exact_options = {"weights" if k == "teacher_weights" else k.split("_")[0]: v for k, v in options.items()}
    expected = plain(wanted, [exact(t) for t in teachers], temperature, **exact_options)
    found = linear_kl(student, teachers, temperature, **options)
    found.loss.backward()
    expected.backward()
    size = max(abs(float(expected.detach())), 1.0)
    assert abs(float(found.loss.detach()) - float(expected.detach())) <= tolerance * size
    for ours, theirs in zip(gradients(student), gradients(wanted), strict=True):
        assert float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())
    return found


def test_two_rows_of_three_classes_by_hand():
    # Logits of the student: 0, 0, 0 and ln 2, 0, 0; of the teacher: ln 2, 0, 0 and 0, 0, 0. At T = 1 the rows of
    # probabilities are a = (1/3, 1/3, 1/3) and b = (1/2, 1/4, 1/4), and the divergences KL(b || a) and KL(a || b).
    ln2 = math.log(2.0)
    student = LinearLogits(torch.tensor([[0.0], [1.0]]).requires_grad_(), torch.tensor([[ln2], [0.0], [0.0]]))
    teacher = LinearLogits(torch.tensor([[1.0], [0.0]]), torch.tensor([[ln2], [0.0], [0.0]]))
    first = 0.5 * math.log(1.5) + 0.5 * math.log(0.75)
    second = (math.log(2 / 3) + 2 * math.log(4 / 3)) / 3
    found = linear_kl(student, [teacher], 1.0, labels=torch.tensor([-100, 0]), soft_weight=3.0, hard_weight=2.0)
    assert float(found.soft) == pytest.approx((first + second) / 2, rel=1e-5)
    assert float(found.hard) == pytest.approx(ln2, rel=1e-6)
    assert float(found.loss.detach()) == pytest.approx(1.5 * (first + second) + 2 * ln2, rel=1e-6)
    found.loss.backward()
    # Only the first logit has a weight, ln 2: d soft = (q - p) / 2 there, d hard = q - 1 in the second row.
    expected = [[3 * ln2 * (1 / 3 - 1 / 2) / 2], [3 * ln2 * (1 / 2 - 1 / 3) / 2 + 2 * ln2 * (1 / 2 - 1)]]
    torch.testing.assert_close(student.hidden.grad, torch.tensor(expected))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "classes", "bias"), [(1, 1, True), (1, 31, False), (7, 29, True), (13, 2, True)])
def test_formula_and_gradients(cut, dtype, rows, classes, bias):
    student, teacher = heads(rows, classes, bias=bias)
    ours = of(student, dtype, gradients=True)
    labels = torch.arange(rows) * 10 % classes  # 20 is the first class of the second tile
    # Logits are of the size of 4, and so is their rounding; a gradient is a sum of that many rounded products.
    compare(ours, [of(teacher, dtype)], 16 * ROUNDING[dtype], labels=labels, hard_weight=0.5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0, 8.0])
def test_temperatures(cut, temperature):
    student, teacher = heads()
    compare(of(student, gradients=True), [of(teacher)], 1e-13, temperature)


@pytest.mark.parametrize("weights", [None, (1.0, 3.0), (0.0, 2.0)])
def test_teachers_of_other_widths_average_their_probabilities(cut, weights):
    student, *teachers = heads(widths=(5, 3, 11))
    compare(of(student, gradients=True), [of(t) for t in teachers], 1e-13, 2.0, teacher_weights=weights)


def test_rows_that_do_not_count(cut):
    student, teacher = heads()
    mask, labels = torch.tensor([1, 0, 1, 1, 0, 0, 1]), torch.tensor([-100, 3, 28, -100, -100, 0, 5])
    compare(of(student, gradients=True), [of(teacher)], 1e-13, mask=mask, labels=labels, soft_weight=0.7)
    student[0][4] = teacher[0][4] = torch.nan  # neither asks for it
    ours = of(student, gradients=True)
    found = linear_kl(ours, [of(teacher)], mask=mask, labels=labels)
    found.loss.backward()
    assert all(torch.isfinite(x).all() for x in (found.loss, ours.weight.grad, ours.hidden.grad))
    assert torch.equal(ours.hidden.grad[4], torch.zeros(5, dtype=torch.float64))


def test_no_row_counts():
    student, teacher = heads()
    ours = of(student, gradients=True)
    found = linear_kl(ours, [of(teacher)], mask=torch.zeros(7), labels=torch.full((7,), -100))
    found.loss.backward()
    assert [float(x.detach()) for x in found] == [0.0, 0.0, 0.0]
    assert torch.equal(ours.hidden.grad, torch.zeros_like(ours.hidden))


def test_other_labels_may_mean_none():
    student, teacher = heads()
    labels = torch.tensor([0, 1, 2, 0, 4, 5, 6], dtype=torch.int32)
    found = linear_kl(of(student), [of(teacher)], labels=labels, ignore_index=0)
    changed = linear_kl(of(student), [of(teacher)], labels=labels.where(labels != 0, -100))
    assert torch.equal(found.hard, changed.hard)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_large_logits(cut, dtype):
    # One class of each leads by 2e4: KL is the difference of the student's logits there.
    student = LinearLogits(torch.tensor([[1e4], [1.0]], dtype=dtype).requires_grad_(), _column(dtype, 1.0, -1.0, 0.0))
    teacher = LinearLogits(torch.tensor([[-1e4], [1.0]], dtype=dtype), _column(dtype, 1.0, -1.0, 0.0))
    found = linear_kl(student, [teacher], 1.0, labels=torch.tensor([1, 0]))
    found.loss.backward()
    # Rows are alike but for the sign of the first: its KL is 2e4, the second row's 0.
    assert float(found.soft) == pytest.approx(1e4, rel=1e-6)
    assert float(found.hard) == pytest.approx((2e4 + _log_sum(1.0, -1.0, 0.0) - 1.0) / 2, rel=1e-6)
    torch.testing.assert_close(student.hidden.grad[0], torch.tensor([2.0], dtype=dtype))  # (1 - -1) / 2 of each part


def _column(dtype, *values):
    return torch.tensor(values, dtype=dtype)[:, None]


def _log_sum(*values):
    return math.log(sum(math.exp(v) for v in values))


def test_the_same_student_and_teacher(cut):
    (student,) = heads(widths=(5,))
    ours = of(student, gradients=True)
    found = linear_kl(ours, [of(student)], 2.0)
    found.loss.backward()
    assert abs(float(found.soft)) < 1e-14
    assert float(ours.weight.grad.abs().max()) < 1e-14


def test_derivatives(cut):
    student, *teachers = heads(3, 8, widths=(2, 3, 2))
    labels, mask = torch.tensor([1, -100, 7]), torch.tensor([1, 1, 0])

    def loss(*given):
        theirs = [of(teacher) for teacher in teachers]
        return linear_kl(LinearLogits(*given), theirs, 3.0, labels=labels, mask=mask, hard_weight=0.3).loss

    assert torch.autograd.gradcheck(loss, tuple(x.requires_grad_() for x in student))


def test_gradients_of_some_only(cut):
    student, teacher = heads()
    whole = of(student, gradients=True)
    linear_kl(whole, [of(teacher)]).loss.backward()
    for name in ("hidden", "weight", "bias"):
        one = of(student)
        getattr(one, name).requires_grad_()
        linear_kl(one, [of(teacher)]).loss.backward()
        torch.testing.assert_close(getattr(one, name).grad, getattr(whole, name).grad, rtol=0, atol=1e-14)
    assert not linear_kl(of(student), [of(teacher)]).loss.requires_grad
    with torch.no_grad():
        assert float(linear_kl(whole, [of(teacher)]).loss) == pytest.approx(float(linear_kl(whole, [of(teacher)]).soft))


def test_no_gradient_into_teachers():
    student, teacher = heads()
    theirs = of(teacher, gradients=True)
    linear_kl(of(student, gradients=True), [theirs]).loss.backward()
    assert theirs.hidden.grad is None and theirs.weight.grad is None


def test_tensors_that_are_not_contiguous(cut):
    student, teacher = heads(8, 30)
    ours = LinearLogits(student[0].T.contiguous().T, student[1].T.contiguous().T, student[2].repeat_interleave(2)[::2])
    theirs = LinearLogits(teacher[0].repeat(1, 2)[:, : teacher[0].shape[1]], teacher[1], teacher[2])
    compare(of((ours.hidden, ours.weight, ours.bias), gradients=True), [theirs], 1e-13)


def test_tokens_of_texts():
    student, teacher = heads(12)
    shaped = [(h.view(3, 4, -1), w, b) for h, w, b in (student, teacher)]
    labels = torch.arange(12).view(3, 4)
    ours = of(shaped[0], gradients=True)
    found = linear_kl(ours, [of(shaped[1])], labels=labels, mask=labels % 2)
    flat = linear_kl(of(student), [of(teacher)], labels=labels.view(-1), mask=labels.view(-1) % 2)
    found.loss.backward()
    assert torch.equal(found.loss.detach(), flat.loss) and ours.hidden.grad.shape == (3, 4, 5)


def test_backward_twice_and_scaled(cut):
    student, teacher = heads()
    ours = of(student, gradients=True)
    loss = linear_kl(ours, [of(teacher)]).loss
    (first,) = torch.autograd.grad(loss, ours.weight, retain_graph=True)
    (second,) = torch.autograd.grad(3 * loss, ours.weight)
    torch.testing.assert_close(second, 3 * first, rtol=1e-14, atol=0)


def test_the_gradient_is_not_copied():
    student, teacher = heads()
    ours = of(student, gradients=True)
    loss = linear_kl(ours, [of(teacher)]).loss
    given = loss.grad_fn.gradients[1].data_ptr()
    loss.backward()
    assert ours.weight.grad.data_ptr() == given


def test_second_derivatives_are_refused():
    student, teacher = heads()
    ours = of(student, gradients=True)
    with pytest.raises(RuntimeError, match="linear_kl has first derivatives only"):
        torch.autograd.grad(linear_kl(ours, [of(teacher)]).loss, ours.weight, create_graph=True)


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16], ids=str)
def test_autocast(cut, given):
    """Products of bf16 factors, gradients in the dtypes of the tensors; float64 is left alone."""
    student, teacher = heads()
    ours = of(student, torch.float32)
    ours = LinearLogits(
        ours.hidden.to(given).requires_grad_(), ours.weight.requires_grad_(), ours.bias.requires_grad_()
    )
    with torch.autocast("cpu", torch.bfloat16):
        compare(ours, [of(teacher, torch.float32)], 16 * ROUNDING[torch.bfloat16])
        assert (ours.hidden.grad.dtype, ours.weight.grad.dtype) == (given, torch.float32)
        compare(of(student, gradients=True), [of(teacher)], 1e-13)


def test_small_gradients_of_many_rows_do_not_vanish_in_fp16():
    rows = 4096
    student, teacher = heads(1, 8, bias=False, scale=0.05)
    ours = LinearLogits(student[0].half().repeat(rows, 1), student[1].float().requires_grad_())
    with torch.autocast("cpu", torch.float16):
        linear_kl(ours, [LinearLogits(teacher[0].half().repeat(rows, 1), teacher[1].half())]).loss.backward()
    wanted = exact(LinearLogits(student[0].half(), student[1].half()), gradients=True)
    plain(wanted, [exact(LinearLogits(teacher[0].half(), teacher[1].half()))]).backward()
    worst = (ours.weight.grad.double() - wanted.weight.grad).abs().max() / wanted.weight.grad.abs().max()
    # Each entry of a logit's gradient, 1e-2 / 4096, would be a subnormal of fp16 with some five bits.
    assert float(worst) < 2**-7


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_parts_of_the_vocabulary_are_summed_before_they_are_rounded(monkeypatch, dtype):
    """No further from float64 than autograd of logits, which rounds a gradient once: 32 parts that are 8 times as large
    as their sum. Frequent classes come first in vocabularies, and have the more of the teacher's probability; all
    embeddings have a part in common."""
    rows, classes, width = 64, 2048, 16
    monkeypatch.setattr(passes, "TILE", rows * classes // 32)
    monkeypatch.setattr(passes, "SMALL_TILE", rows * classes // 32)
    monkeypatch.setattr(passes, "CLASSES", 64)
    generator = torch.Generator().manual_seed(0)
    hidden = 0.02 * torch.randn(rows, width, generator=generator, dtype=torch.float64)
    weight = 4 + torch.randn(classes, width, generator=generator, dtype=torch.float64)
    slope = torch.linspace(1, -1, classes, dtype=torch.float64)
    heads_of = [of((hidden, weight, bias), dtype) for bias in (-slope, slope)]
    (wanted, found, once), theirs = ([LinearLogits(*x) for x in _copies(heads_of[0], dtype)], heads_of[1])
    plain(wanted, [exact(theirs)]).backward()
    linear_kl(found, [theirs]).loss.backward()
    s, t = (F.linear(x.hidden, x.weight, x.bias).float() / 2 for x in (once, theirs))
    (4 * F.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="batchmean")).backward()
    for ours, rounded_once, right in zip(gradients(found), gradients(once), gradients(wanted), strict=True):
        assert float((ours - right).norm()) <= 1.05 * float((rounded_once - right).norm())


def _copies(head, dtype):
    """As float64 leaves, and twice as leaves of a dtype."""
    given = (head.hidden, head.weight, head.bias)
    return [[x.detach().to(kind).requires_grad_() for x in given] for kind in (torch.float64, dtype, dtype)]


def test_products_on_a_gpu_are_summed_in_fp32():
    """What is asked of a GPU that is not there: shapes, dtypes, and the product that doesn't round."""
    from torch._subclasses import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class Called(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            names.append(str(function))
            return function(*arguments, **(options or {}))

    names = []
    with FakeTensorMode(), Called():
        to = torch.zeros(8, 16, device="cuda")
        a, b = (torch.ones(*shape, dtype=torch.bfloat16, device="cuda") for shape in ((8, 32), (32, 16)))
        passes._add_product(to, a, b)
        assert (to.dtype, to.shape) == (torch.float32, (8, 16))
    assert "aten.mm.dtype" in names and "aten.mm.default" not in names


def test_compiled():
    student, teacher = heads()
    ours, theirs = of(student, torch.float32, gradients=True), of(teacher, torch.float32)

    def step(hidden):
        loss = linear_kl(LinearLogits(hidden * 2, ours.weight, ours.bias), [theirs]).loss * 3
        return loss

    expected = step(ours.hidden)
    (wanted,) = torch.autograd.grad(expected, ours.weight)
    found = torch.compile(step, backend="aot_eager")(ours.hidden)
    (given,) = torch.autograd.grad(found, ours.weight)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(given, wanted)


def bad(student=None, teacher=None, **options):
    own, other = heads()
    ours = LinearLogits(*own) if student is None else student(*own)
    theirs = [LinearLogits(*other)] if teacher is None else teacher(*other)
    return linear_kl(ours, theirs, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"soft_weight": -1.0}, "soft_weight=-1.0"),
        ({"hard_weight": math.inf}, "hard_weight=inf"),
        ({"teacher": lambda *x: []}, "teachers is empty"),
        ({"teacher_weights": (1, 1)}, "2 entries for 1 teachers"),
        ({"teacher_weights": (0,)}, "one must be above 0"),
        ({"student": lambda h, w, b: LinearLogits(h[:0], w, b)}, r"\[0, 5\] have no rows"),
        ({"student": lambda h, w, b: LinearLogits(h[:, :4], w, b)}, r"student's hidden states \[7, 4\].* do not fit"),
        ({"student": lambda h, w, b: LinearLogits(h, w[:0], b[:0])}, "do not fit"),
        ({"student": lambda h, w, b: LinearLogits(h, w, b[:3])}, r"bias \[3\] does not fit 29 classes"),
        ({"student": lambda h, w, b: LinearLogits(h.float(), w, b)}, "one dtype is needed, or autocast"),
        ({"student": lambda h, w, b: LinearLogits(h.long(), w, b)}, "floats are needed"),
        ({"student": lambda h, w, b: LinearLogits(h.to("meta"), w, b)}, "tensors are on meta, cpu"),
        ({"teacher": lambda h, w, b: [LinearLogits(h[:6], w, b)]}, r"logits \[6, 29\], the student \[7, 29\]"),
        ({"teacher": lambda h, w, b: [LinearLogits(h, w[:28], b[:28])]}, r"logits \[7, 28\], the student \[7, 29\]"),
        ({"mask": torch.ones(3)}, r"mask has shape \[3\]; the hidden states call for \[7\]"),
        ({"labels": torch.zeros(7, 1)}, r"labels has shape \[7, 1\]"),
        ({"labels": torch.zeros(7)}, "labels are torch.float32"),
        ({"labels": torch.tensor([0, 1, 2, 29, 3, 4, 5])}, "a label is 29; allowed are 0 to 28, and -100"),
        ({"labels": torch.tensor([0, 1, 2, -1, 3, 4, 5])}, "a label is -1"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        bad(**options)
