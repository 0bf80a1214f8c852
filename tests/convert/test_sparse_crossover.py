"""Dense or sparse: the table of crossovers, and what convert_ makes of it."""

import copy

import pytest
import torch
from torch import nn

from kdnative import ops
from kdnative.convert import convert_, sparse_crossover
from kdnative.convert.sparse_crossover import crossover
from kdnative.prune import finalize_masks_, mask_
from kdnative.quantize import prepare_qat_


def pruned(zeros=0.9, pattern="4x1"):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 32)).eval()
    mask_(model, zeros, pattern)
    finalize_masks_(model)
    return model


@pytest.fixture
def table(monkeypatch):
    """Crossovers at 85 % for 4x1, never for masks, for every size; faster from 32 rows on only."""
    shares = {("any", "4x1"): (1.01, 1.01, 0.85, 0.7), ("any", "mask"): (1.01, 1.01, 1.01, 1.01)}
    monkeypatch.setattr(sparse_crossover, "measured_isa", lambda isa, rows: "any")
    monkeypatch.setattr(
        sparse_crossover, "_SHARES", {key: dict.fromkeys(sparse_crossover.SIZES, s) for key, s in shares.items()}
    )


def test_the_table_is_complete():
    assert sparse_crossover._SHARES
    for (isa, sparsity), sizes in sparse_crossover._SHARES.items():
        assert isa in ("avx2", "avxvnni", "avx512vnni", "avx512vnni in halves")
        assert sparsity in ("4x1", "mask")
        assert sizes.keys() == sparse_crossover.SIZES.keys()
        for shares in sizes.values():
            assert len(shares) == len(sparse_crossover.ROWS) and all(0 < share <= 1.01 for share in shares)


def test_lookup(table):
    assert crossover("x", "4x1", 10, 10, 32) == crossover("x", "4x1", 10, 10, 127) == 0.85
    assert crossover("x", "4x1", 10, 10, 31) == crossover("x", "4x1", 10, 10, 1) == 1.01
    assert crossover("x", "4x1", 10, 10, 128) == crossover("x", "4x1", 10, 10, 1 << 20) == 0.7
    assert crossover("x", "2:4", 10, 10, 32) == 1.01  # the masked form


def test_instruction_sets_that_share_kernels():
    assert sparse_crossover.measured_isa("avx512bf16", 512) == sparse_crossover.measured_isa("amx", 4) == "avx512vnni"
    assert sparse_crossover.measured_isa("amx", 32) == "amx" and sparse_crossover.measured_isa("avx2", 1) == "avx2"
    assert crossover("amx", "4x1", 768, 768, 32) is None
    assert crossover("neon", "mask", 768, 768, 1) is None


def test_between_two_measured_numbers_of_rows_both_must_be_faster(monkeypatch):
    shares = dict.fromkeys(sparse_crossover.SIZES, (0.5, 1.01, 0.6, 0.7))
    monkeypatch.setattr(sparse_crossover, "_SHARES", {("avx2", "mask"): shares})
    found = {rows: crossover("avx2", "mask", 10, 10, rows) for rows in (0, 1, 2, 3, 4, 5, 32, 33, 128, 129)}
    assert found == {0: 0.5, 1: 0.5, 2: 1.01, 3: 1.01, 4: 1.01, 5: 1.01, 32: 0.6, 33: 0.7, 128: 0.7, 129: 0.7}
    assert crossover("amx", "4x1", 768, 768, 3) is None


@pytest.mark.parametrize("halves", [False, True])
def test_processors_that_run_512_bits_in_halves(monkeypatch, halves):
    monkeypatch.setattr(ops, "avx512_in_halves", lambda: halves)
    gains = [crossover("avx512bf16", "mask", 4096, 4096, rows) <= 1 for rows in (1, 2, 4, 32, 128)]
    assert gains == ([True, False, False, False, False] if halves else [True, True, True, False, False])
    assert crossover("avx512bf16", "4x1", 4096, 4096, 128) == 0.5
    assert crossover("avx2", "4x1", 4096, 4096, 32) == 0.5


def test_sizes_go_to_the_nearest_class():
    assert [sparse_crossover._size_class(n) for n in (1, 384 * 384, 768 * 768, 1 << 21, 1 << 30)] == [
        "small", "small", "medium", "large", "huge",
    ]  # fmt: skip


def test_zeros_left_out():
    q = torch.ones(6, 4, dtype=torch.int8)
    q[0, 0] = 0  # alone in its block of four outputs
    q[4:, 1:] = 0  # a block at the edge has two outputs
    assert sparse_crossover.zeros_left_out(q, "mask") == pytest.approx(7 / 24)
    assert sparse_crossover.zeros_left_out(q, "4x1") == pytest.approx(3 / 8)
    with pytest.raises(ValueError, match="2:4 keeps two of four"):
        sparse_crossover.zeros_left_out(q, "2:4")


def test_convert_takes_what_is_faster(table):
    for zeros, rows, scheme in [(0.9, 32, "w8a8+4x1"), (0.8, 32, "w8a8"), (0.9, 1, "w8a8"), (0.8, 128, "w8a8+4x1")]:
        model = pruned(zeros)
        x = torch.randn(5, 128)
        want = convert_(pruned(zeros), "w8a8").model(x)
        report = convert_(model, "w8a8+4x1", rows=rows)
        assert {str(model[i].scheme) for i in (0, 2)} == {scheme}
        assert [row.scheme for row in report.rows] == [scheme, scheme]
        assert torch.equal(model(x), want)


def test_the_report_says_why(table):
    isa = ops.isa()
    reasons = {
        ("w8a8+4x1", 0.9, 32): "native sparse linear: 90 % of its 4x1 blocks are zero",
        ("w8a8+4x1", 0.8, 32): f"native linear, dense: 80 % of its 4x1 blocks are zero, and 4x1 is faster from 85 % on "
        f"({isa}, 32 rows)",
        ("w8a8+4x1", 0.8, 4): f"native linear, dense: 80 % of its 4x1 blocks are zero, and 4x1 is not faster on {isa} "
        "for its shape and 4 rows",
    }
    for (scheme, zeros, rows), reason in reasons.items():
        assert convert_(pruned(zeros), scheme, rows=rows).rows[0].reason == reason
    sparse_crossover._SHARES.clear()
    assert f"and mask was not measured on {isa}" in convert_(pruned(), "w8a8+mask").rows[0].reason


def test_a_named_layer_is_sparse_whether_it_pays_or_not(table):
    model = pruned(0.5, "unstructured")
    report = convert_(model, {"0": "w8a8+mask", "*": "w8a8+mask"})
    assert [str(model[i].scheme) for i in (0, 2)] == ["w8a8+mask", "w8a8"]
    assert report.rows[0].reason.startswith("native sparse linear: 50 % of its weights are zero")


def test_weights_that_two_of_four_cannot_hold(table):
    model = pruned(0.1, "unstructured")
    report = convert_(model, "w8a8+2:4")
    assert str(model[0].scheme) == "w8a8" and "dense: 2:4 keeps two of four" in report.rows[0].reason
    model = pruned(0.1, "unstructured")
    with pytest.raises(ValueError, match="nothing was converted: 0: 2:4 keeps two of four.*kdnative.prune"):
        convert_(model, {"0": "w8a8+2:4"})
    assert type(model[0]) is nn.Linear


def test_fake_quant_layers_keep_their_weights(table):
    """A student trained for w8a8 can be sparse: its zeros are zeros of the integers too."""
    model = pruned(0.9)
    prepare_qat_(model, "w8a8")
    want = model(x := torch.randn(3, 128)).detach()
    convert_(model, {"*": "w8a8+4x1"})
    assert str(model[0].scheme) == "w8a8+4x1" and torch.equal(model(x), want)
    model = pruned(0.9)
    prepare_qat_(model, "w8a8+4x1")
    convert_(model, "w8a8+4x1")
    assert str(model[0].scheme) == "w8a8+4x1" and torch.equal(model(x), want)
    model = pruned(0.9)
    prepare_qat_(model, "w8a8")
    with pytest.raises(ValueError, match="trained for w8a8, but w4a8-g64 is given"):
        convert_(model, {"0": "w4a8-g64"})


def test_fused_encoders_are_dense(table):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 128}
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(vocab_size=50, max_position_embeddings=16, **sizes)).eval()
    mask_(model, 0.9, "4x1")
    finalize_masks_(model)
    rows = {row.name: row for row in convert_(copy.deepcopy(model), "w8a8+4x1").rows}
    row = rows["encoder.layer.0.intermediate.dense"]
    assert (row.action, row.scheme) == ("fused", "w8a8") and "dense: fuse=False converts layer by layer" in row.reason
    rows = {row.name: row for row in convert_(model, "w8a8+4x1", fuse=False).rows}
    assert rows["encoder.layer.0.intermediate.dense"].scheme == "w8a8+4x1"


def test_rows_must_be_positive():
    with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
        convert_(pruned(), "w8a8", rows=0)
