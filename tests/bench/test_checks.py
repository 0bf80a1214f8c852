"""What the suites take for a right result: every scheme's own, and none that a wrong kernel would give."""

import types

import pytest
import torch

from kdnative import quantize
from kdnative.bench import encoder_candidates, gemm
from kdnative.bench.encoder_cases import Encoder, EncoderCase, Shape
from kdnative.bench.encoder_checks import checks
from kdnative.bench.encoder_models import load_encoder
from kdnative.bench.gemm_candidates import GemmCase, candidates
from kdnative.bench.peers import Check, worst_row_error
from kdnative.bench.round_trip import rounded, rounded_asymmetric, rounded_weight
from kdnative.formats.scheme import Scheme

EIGHT = ["w8a8", "w4a8-g32", "w4a8-g64-asym", "w4a8-g32-int", "w2a8-g32", "w2a8-g64-asym"]
SIXTEEN = ["w8a16", "w4a16-g32", "w2a16-g64-asym"]


def test_values_rounded_by_hand():
    row = torch.tensor([[0.0, 1.0, -3.5, 7.0]])
    assert rounded(row, 4).tolist() == [[0.0, 1.0, -4.0, 7.0]]  # a step is 1; halves go to even
    assert rounded(row, 2).tolist() == [[0.0, 0.0, 0.0, 7.0]]  # a step is 7
    assert rounded(torch.tensor([[2.0], [8.0]]), 2, None).tolist() == [[0.0], [8.0]]  # one range for all
    assert rounded(torch.zeros(2, 3), 8).tolist() == [[0.0] * 3] * 2
    assert rounded_asymmetric(torch.tensor([[-1.0, 0.0, 0.4, 2.0]]), 2).tolist() == [[-1.0, 0.0, 0.0, 2.0]]


@pytest.mark.parametrize("scheme", EIGHT)
def test_the_quantizer_gives_the_same_weights(scheme):
    weight = torch.randn(40, 128, generator=torch.Generator().manual_seed(3))
    found = quantize.quantize_weight(weight, scheme).dequantize().double()
    expected = rounded_weight(weight, Scheme.parse(scheme))
    different = (found - expected).abs() > 1e-5  # a code on the edge of two, now and then
    assert float(different.double().mean()) < 2e-3


def wrong_results(right, bias):
    """What kernels with a mistake return."""
    swapped = right.clone()
    swapped[[1, 2]] = right[[2, 1]]
    return {
        "zeros": torch.zeros_like(right),
        "a swapped row": swapped,
        "no bias": right - bias,
        "negative": -right,
        "columns reversed": right.flip(1),
        "a row is missing": right[1:],
    }


@pytest.mark.parametrize("scheme", [*EIGHT, *SIXTEEN])
def test_linear_layers_of_a_wrong_kernel_are_noticed(scheme):
    case = GemmCase(96, 128, 64, 1)
    (ours,) = candidates([scheme], peers=False)
    check = gemm.checks(case)(ours)
    ready = ours.prepare(case)
    right = ready.decode(ready.call()).double()
    assert check.problem(right) is None
    for name, wrong in wrong_results(right, case.bias.double()).items():
        assert "wrong result" in check.problem(wrong), name


def test_of_peers_too():
    case = GemmCase(96, 128, 64, 1)
    for kind in ("float", "int8", "int4", "w8a16", "w4a16"):
        check = gemm.checks(case)(types.SimpleNamespace(ours=False, kind=kind))
        assert check.problem(case.reference) is None
        for name, wrong in wrong_results(case.reference, case.bias.double()).items():
            assert "wrong result" in check.problem(wrong), (kind, name)


@pytest.fixture(scope="module")
def tiny():
    pytest.importorskip("transformers", reason='needs pip install "kdnative[pipeline]"')
    return load_encoder("random-tiny")


@pytest.mark.parametrize("scheme", EIGHT)
def test_encoders_of_a_wrong_kernel_are_noticed(tiny, scheme):
    case = EncoderCase(Encoder(tiny), Shape(3, 12, (12, 5, 8)))
    (ours,) = encoder_candidates.candidates([scheme], peers=False)
    with torch.inference_mode():
        check = checks(case)(ours)
        ready = ours.prepare(case)
        right = ready.decode(ready.call())
        assert check.problem(right) is None and check.limit <= 0.35
        forgetful = load_encoder("random-tiny")
        forgetful.encoder.layer[1].output.dense.bias.zero_()
        without = ours.prepare(EncoderCase(Encoder(forgetful), case.shape))
        wrong = wrong_results(right, torch.zeros(())) | {"no bias": without.decode(without.call())}
    for name, result in wrong.items():
        assert "wrong result" in check.problem(result), name


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_encoders_of_peers_too(tiny, kind):
    case = EncoderCase(Encoder(tiny), Shape(2, 8))
    with torch.inference_mode():
        check = checks(case)(types.SimpleNamespace(ours=False, kind=kind))
        assert check.problem(case.reference) is None and check.limit <= 0.5
        for name in ("zeros", "a swapped row", "negative", "columns reversed"):
            assert "wrong result" in check.problem(wrong_results(case.reference, torch.zeros(()))[name]), name


def test_engines_with_one_range_stay_in_the_table_unless_they_return_something_else(tiny):
    case = EncoderCase(Encoder(tiny), Shape(2, 8))
    with torch.inference_mode():
        check = checks(case)(types.SimpleNamespace(ours=False, kind=encoder_candidates.COARSE))
        assert check.problem(case.reference * 1.8) is None  # far off, as with outliers
        for name in ("zeros", "negative", "columns reversed"):
            assert "wrong result" in check.problem(wrong_results(case.reference, torch.zeros(()))[name]), name


def test_rows_are_compared_one_by_one():
    exact = torch.ones(100, 4)
    off = exact.clone()
    off[7] = -1.0
    assert worst_row_error(off, exact) == pytest.approx(2.0)
    assert Check(exact, 0.45).problem(off) == "wrong result: relative error of one row 2, allowed 0.9"
    exact[3] = 0.0  # a row of zeros is measured against the mean row
    assert worst_row_error(exact + 0.1, exact) == pytest.approx(0.1 / 0.99**0.5, rel=1e-3)
