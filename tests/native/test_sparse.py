"""linear_sparse: the bits of the dense operator on every instruction set, and exact integers besides."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kdnative import ops
from kdnative.formats import dense, sparse
from kdnative.quantize import QuantizedWeight

FORMS = ["4x1", "mask", "2:4"]
SHAPES = [
    (1, 1, 1),
    (3, 33, 7),
    (2, 31, 64),
    (16, 100, 130),
    (17, 70, 192),
    (33, 47, 96),
    (65, 96, 320),
    (131, 40, 1000),
]


def weight(form: str, n: int, k: int, zeros: float = 0.7, extreme: bool = False) -> QuantizedWeight:
    """Random weights."""
    q = torch.randint(-127, 128, (n, k), dtype=torch.int8)
    if extreme:
        q = torch.where(torch.rand(n, k) < 0.5, -127, 127).to(torch.int8)
    if form == "4x1":
        kept = (torch.rand(-(-n // 4), k) >= zeros).repeat_interleave(4, 0)[:n]
    elif form == "2:4":
        kept = (torch.rand(n, -(-k // 4), 4).argsort(-1) < 2).view(n, -1)[:, :k] & (torch.rand(n, k) >= zeros / 2)
    else:
        kept = torch.rand(n, k) >= zeros
    return QuantizedWeight(q * kept, torch.rand(n) * 0.02 + 1e-3, None, 8, None)


def run(w: QuantizedWeight, form: str, x, bias=None, activation: int = 0) -> torch.Tensor:
    return ops.linear_sparse(x, sparse.pack(w, bias, form), w.out_features, activation)


def dense_linear(w: QuantizedWeight, x, bias=None, activation: int = 0) -> torch.Tensor:
    return ops.linear_w8a8(x, dense.pack(w, bias), w.out_features, activation)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_has_the_bits_of_the_dense_operator(isa, form, m, n, k):
    for zeros in (0.0, 0.5, 0.9, 1.0):
        w, bias = weight(form, n, k, zeros), torch.randn(n)
        packed, packed_dense = sparse.pack(w, bias, form), dense.pack(w, bias)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            x = torch.randn(m, w.in_features).to(dtype)
            got = ops.linear_sparse(x, packed, n, 0)
            assert got.dtype == dtype and torch.equal(got, ops.linear_w8a8(x, packed_dense, n, 0))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 64, 128), (19, 96, 1024), (70, 33, 4096)])
def test_integers_are_exact_at_the_extremes(isa, form, m, n, k):
    """Ends of the ranges and scales that are powers of two: every bit is known without another kernel."""
    w = weight(form, n, k, zeros=0.3, extreme=True)
    w = replace(w, scale=torch.exp2(torch.randint(-1, 2, w.scale.shape).float()))
    x = torch.where(torch.rand(m, w.in_features) < 0.5, -127.0, 127.0)  # quantizes to itself with scale 1
    exact = x.double() @ w.dequantize().double().t()
    assert torch.equal(run(w, form, x), exact.float())


@pytest.mark.parametrize("form", ["4x1", "mask"])
def test_crowded_and_empty_parts_side_by_side(isa, form):
    """Parts without a zero and parts without anything else, whose lengths differ most."""
    w = weight(form, 96, 512, zeros=0.0)
    w.qweight[32:48] = 0
    w.qweight[:, 64:256] = 0
    w.qweight[90, 7] = 1
    for m in (1, 5, 40, 100):
        x = torch.randn(m, 512)
        assert torch.equal(run(w, form, x), dense_linear(w, x))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("activation", sorted(ops.ACTIVATIONS.values()))
def test_activations(isa, form, activation):
    w, bias = weight(form, 48, 64), torch.randn(48)
    x = torch.randn(9, w.in_features)
    assert torch.equal(run(w, form, x, bias, activation), dense_linear(w, x, bias, activation))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 4096, 1024), (40, 1000, 1024), (300, 200, 512), (129, 31, 8192)])
def test_threads_do_not_change_the_result(isa, form, m, n, k):
    if isa == "reference":  # scalar code: a smaller problem that still splits
        m = min(m, 8)
    w, x = weight(form, n, k), torch.randn(m, k)
    packed = sparse.pack(w, torch.randn(n), form)
    torch.set_num_threads(1)
    want = ops.linear_sparse(x, packed, n, 0)
    for threads in (2, 3, 7):
        torch.set_num_threads(threads)
        assert torch.equal(ops.linear_sparse(x, packed, n, 0), want)


@pytest.mark.parametrize("form", FORMS)
def test_shapes_and_strides(isa, form):
    w = weight(form, 20, 128)
    for x in (
        torch.randn(128),
        torch.randn(2, 3, 128),
        torch.randn(5, 128, 7).transpose(1, 2),
        torch.randn(4, 256)[:, ::2],
        torch.randn(0, 128),
        torch.randn(2, 0, 128),
    ):
        got = run(w, form, x)
        assert got.shape == (*x.shape[:-1], 20) and torch.equal(got, dense_linear(w, x))


@pytest.mark.parametrize("form", FORMS)
def test_non_finite_rows_stay_in_their_rows(isa, form):
    w, x = weight(form, 33, 128), torch.randn(4, 128)
    x[1, 5], x[3, 0] = float("inf"), float("nan")
    got = run(w, form, x)
    assert torch.isnan(got[[1, 3]]).all()
    assert torch.equal(got[[0, 2]], dense_linear(w, torch.nan_to_num(x, 0.0, 0.0, 0.0))[[0, 2]])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 3), (33, 130), (64, 64), (100, 1001)])
def test_packing_round_trips(form, n, k):
    for zeros in (0.0, 0.6, 1.0):
        w, bias = weight(form, n, k, zeros), torch.randn(n)
        found, found_bias = sparse.unpack(sparse.pack(w, bias, form))
        assert (found.bits, found.group_size, found.zero) == (w.bits, w.group_size, None)
        assert torch.equal(found.qweight, w.qweight) and torch.equal(found.scale, w.scale)
        assert torch.equal(found_bias, bias)
    assert sparse.unpack(sparse.pack(w, None, form))[1] is None


def test_packing_leaves_zeros_out():
    full, fewer = (sparse.pack(weight("4x1", 512, 512, z), None, "4x1").numel() for z in (0.0, 0.9))
    assert full > 1.4 * 512 * 512 and fewer < 0.25 * 512 * 512
    assert sparse.pack(weight("mask", 512, 512, 0.9), None, "mask").numel() < 0.27 * 512 * 512


def test_many_inputs():
    """Inputs beyond 2^15, whose 16-bit numbers have the top bit set."""
    w, x = weight("4x1", 8, 65536, 0.95), torch.randn(2, 65536)
    assert torch.equal(run(w, "4x1", x), dense_linear(w, x))
    with pytest.raises(ValueError, match=r"at most 65536 inputs, the weight has 65537: use \+mask"):
        sparse.pack(weight("4x1", 4, 65537), None, "4x1")


def test_bad_weights_are_refused_in_words():
    w = weight("mask", 8, 32, zeros=0.0)
    with pytest.raises(ValueError, match=r"groups of this weight have more .*kdnative\.prune\.mask_.*2:4"):
        sparse.pack(w, None, "2:4")
    with pytest.raises(ValueError, match="'8x1' has no packed form; allowed: 4x1, mask, 2:4"):
        sparse.pack(w, None, "8x1")
    codes = QuantizedWeight(w.qweight.clamp(-8, 7), torch.ones(8, 1), None, 4, 32)
    for bad, kind, words in (
        (codes, "mask", r"8 bits and one scale per output \(got 4 bits and groups of 32\)"),
        (replace(codes, qweight=codes.qweight.clamp(-2, 1), bits=2), "4x1", "got 2 bits and groups of 32"),
    ):
        with pytest.raises(ValueError, match=words):
            sparse.pack(bad, None, kind)
    with pytest.raises(ValueError, match="empty weight"):
        sparse.pack(QuantizedWeight(w.qweight[:0], w.scale[:0], None, 8, None))
    with pytest.raises(ValueError, match="not a packed weight"):
        sparse.unpack(dense.pack(w))


def test_bad_input_is_named():
    w = weight("mask", 8, 32)
    packed, x = sparse.pack(w), torch.randn(2, 32)
    with pytest.raises(RuntimeError, match=r"linear_sparse: .*shape \[2, 31\], but its last dimension must be 32"):
        ops.linear_sparse(x[:, :31], packed, 8, 0)
    with pytest.raises(RuntimeError, match="must be float32, bfloat16 or float16"):
        ops.linear_sparse(x.double(), packed, 8, 0)
    with pytest.raises(RuntimeError, match="out_features is 9 but the packed weight has 8"):
        ops.linear_sparse(x, packed, 9, 0)
    with pytest.raises(RuntimeError, match="activation code 6 is unknown"):
        ops.linear_sparse(x, packed, 8, 6)
    with pytest.raises(RuntimeError, match="not a packed sparse weight"):
        ops.linear_sparse(x, dense.pack(w), 8, 0)
    with pytest.raises(RuntimeError, match="wrong magic number"):
        ops.linear_w8a8(x, packed, 8, 0)
    with pytest.raises(RuntimeError, match="truncated"):
        ops.linear_sparse(x, packed[:-64].clone(), 8, 0)
    with pytest.raises(RuntimeError, match="shorter than its header"):
        ops.linear_sparse(x, packed[:64].clone(), 8, 0)
    with pytest.raises(RuntimeError, match="contiguous 1-D uint8"):
        ops.linear_sparse(x, packed.float(), 8, 0)


@pytest.mark.parametrize("form", ["4x1", "mask"])
@pytest.mark.parametrize("field", range(1, 32))
def test_a_tampered_header_never_crashes(form, field):
    packed = sparse.pack(weight(form, 40, 128), torch.randn(40), form)
    x = torch.randn(3, 128)
    for value in (-1, 0, 1, 7, 64, 2**20, 2**31 - 1, -(2**31)):
        bad = packed.clone()
        bad[:128].view(torch.int32)[field] = value
        try:
            result = ops.linear_sparse(x, bad, 40, 0)
        except RuntimeError as error:
            assert "packed weight" in str(error) or "the weight is [40, " in str(error)
        else:  # the field happens to be harmless (a reserved word, or the old value)
            assert result.shape == (3, 40)


@pytest.mark.parametrize("form", ["4x1", "mask"])
@pytest.mark.parametrize("m", [1, 20, 100])
def test_damaged_indices_are_an_error(isa, form, m):
    """What a look at the header can't find is found by the kernels, before they read anything that is not there."""
    packed = sparse.pack(weight(form, 64, 256), None, form)
    header = sparse.read_header(packed)
    index, start = int(header["index"]), int(header["start"])
    size = int(header["count"]) * 8 if form == "4x1" else 64 * 256 // 8
    x = torch.randn(m, 256)
    for fill in (0xFF, 0x80):
        bad = packed.clone()
        bad[index : index + size] = fill
        with pytest.raises(RuntimeError, match="packed weight is damaged"):
            ops.linear_sparse(x, bad, 64, 0)
    bad = packed.clone()
    bad[index + size - 1] = 0xFF  # one of many
    with pytest.raises(RuntimeError, match="packed weight is damaged"):
        ops.linear_sparse(x, bad, 64, 0)
    bad = packed.clone()
    bad[start + 8 : start + 16].view(torch.int64)[0] = int(header["count"]) + 1
    with pytest.raises(RuntimeError, match="packed weight is damaged"):
        ops.linear_sparse(x, bad, 64, 0)


def test_random_damage_never_crashes(isa):
    rng = np.random.default_rng(3)
    for form in ("4x1", "mask"):
        packed = sparse.pack(weight(form, 64, 192), torch.randn(64), form)
        for m in (1, 20, 70):
            x = torch.randn(m, 192)
            for _ in range(40):
                bad = packed.clone()
                places = rng.integers(0, bad.numel(), size=8)
                bad[torch.from_numpy(places)] = torch.from_numpy(rng.integers(0, 256, size=8).astype(np.uint8))
                try:
                    assert ops.linear_sparse(x, bad, 64, 0).shape == (m, 64)
                except RuntimeError as error:
                    assert "packed" in str(error) or "out_features" in str(error) or "last dimension" in str(error)


@pytest.mark.parametrize("form", FORMS)
def test_opcheck(form):
    w = weight(form, 40, 64)
    packed = sparse.pack(w, torch.randn(40), form)
    torch.library.opcheck(ops.linear_sparse, (torch.randn(3, 5, w.in_features), packed, 40, 2))


@pytest.mark.parametrize("form", FORMS)
def test_compiles_in_one_graph(form):
    w = weight(form, 40, 64)
    packed, x = sparse.pack(w, None, form), torch.randn(3, w.in_features)
    compiled = torch.compile(lambda x: ops.linear_sparse(x, packed, 40, 0) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), dense_linear(w, x) + 1)
