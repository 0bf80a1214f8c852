"""What all methods have in common."""

import dataclasses

import pytest
import torch

from kdnative import Scheme
from kdnative.quantize.methods import AWQ, GPTQ, HQQ, METHODS, SmoothQuant, method_named
from kdnative.quantize.statistics import Statistics
from tests.quantize.methods.correlated import inputs, output_error, statistics, weights

SCHEMES = ["w8a8", "w8a16", "w4a8-g32", "w4a8-g64-asym", "w4a8-g32-int", "w4a16-g64", "w2a8-g32", "w2a8-g64-asym"]
K = 192
X = inputs(700, K)
KNOWN = statistics(X)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_are_valid_and_share_their_input_scales(name, scheme):
    given = [weights(8, K), weights(5, K, 2).bfloat16(), weights(K, 1, 3).t()]
    before = [w.clone() for w in given]
    found = METHODS[name].quantize(given, scheme, KNOWN)
    assert all(torch.equal(w, old) for w, old in zip(given, before, strict=True))
    for weight, quantized in zip(given, found, strict=True):
        dataclasses.replace(quantized)  # runs the checks
        assert quantized.qweight.shape == weight.shape and quantized.qweight.is_contiguous()
        assert quantized.format == dataclasses.replace(Scheme.parse(scheme).weight)
        assert (quantized.input_scale is None) or METHODS[name].input_scales
        if quantized.input_scale is not None:
            assert torch.equal(quantized.input_scale, found[0].input_scale)
    assert found[0].qweight.untyped_storage().nbytes() == 8 * K


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("scheme", ["w8a8", "w4a8-g32", "w4a8-g32-asym", "w4a8-g32-int", "w2a8-g32"])
def test_dead_channels_and_weights_of_zero(name, scheme):
    x = X.clone()
    x[:, 3:9] = 0
    weight = weights(6, K)
    weight[2] = 0
    weight[:, 11] = 0
    (quantized,) = METHODS[name].quantize([weight], scheme, statistics(x))
    dataclasses.replace(quantized)
    values = quantized.dequantize()
    assert torch.isfinite(values).all() and (values[2] == 0).all()
    # Other data may need the channels that this did not reach: they keep their weights. At 2 bits few are left anyhow.
    if scheme != "w2a8-g32":
        assert (values[:, 3:9] - weight[:, 3:9]).square().sum() < 0.2 * weight[:, 3:9].square().sum()
    (nothing,) = METHODS[name].quantize([torch.zeros(3, K)], scheme, statistics(torch.zeros(4, K)))
    assert (nothing.dequantize() == 0).all()


@pytest.mark.parametrize("name", ["clip", "gptq", "awq", "awq+gptq", "hqq"])
@pytest.mark.parametrize("scheme", ["w4a8-g64", "w2a8-g32"])
def test_output_is_better_than_round_to_nearest(name, scheme):
    unseen, weight = inputs(700, K)[350:], weights(64, K)
    known = statistics(X[:350])
    (nearest,) = METHODS["rtn"].quantize([weight], scheme)
    (found,) = METHODS[name].quantize([weight], scheme, known)
    assert output_error(unseen, weight, found, 8) < 0.95 * output_error(unseen, weight, nearest, 8)


@pytest.mark.parametrize("scheme", ["w4a8-g64", "w2a8-g32"])
def test_gptq_is_better_than_its_ranges_alone(scheme):
    weight = weights(64, K)
    (clipped,) = METHODS["clip"].quantize([weight], scheme, KNOWN)
    (found,) = METHODS["gptq"].quantize([weight], scheme, KNOWN)
    assert output_error(X, weight, found) < 0.9 * output_error(X, weight, clipped)


def test_extreme_weights_stay_finite():
    weight = weights(4, K)
    weight[0] *= 1e30
    weight[1] *= 1e-30
    for name, method in METHODS.items():
        (quantized,) = method.quantize([weight], "w4a8-g32", KNOWN)
        dataclasses.replace(quantized)
        assert torch.isfinite(quantized.dequantize()).all(), name


def test_one_row_of_data():
    known = statistics(X[:1])
    for method in METHODS.values():
        (quantized,) = method.quantize([weights(3, K)], "w4a8-g32", known)
        dataclasses.replace(quantized)


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.needs])
def test_missing_and_wrong_statistics(name):
    method, weight = METHODS[name], [weights(2, K)]
    with pytest.raises(ValueError, match="calibration data"):
        method.quantize(weight, "w8a8")
    with pytest.raises(ValueError, match=f"needs {'.*'.join(sorted(method.needs, reverse=False)[:1])}"):
        method.quantize(weight, "w8a8", Statistics(7))
    with pytest.raises(ValueError, match="did not reach"):
        method.quantize(weight, "w8a8", dataclasses.replace(KNOWN, rows=0))
    with pytest.raises(ValueError, match="another layer"):
        method.quantize(weight, "w8a8", statistics(X[:, :64]))
    broken = {each: getattr(KNOWN, each).clone() for each in method.needs}
    for values in broken.values():
        values.view(-1)[5] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        method.quantize(weight, "w8a8", dataclasses.replace(KNOWN, **broken))


def test_wrong_weights():
    with pytest.raises(ValueError, match="same in_features"):
        METHODS["rtn"].quantize([weights(2, 64), weights(2, 128)], "w8a8")
    with pytest.raises(ValueError, match="NaN"):
        METHODS["gptq"].quantize([torch.full((2, K), torch.nan)], "w8a8", KNOWN)
    with pytest.raises(ValueError, match="divisible"):
        METHODS["gptq"].quantize([weights(2, 63)], "w4a8-g32", KNOWN)


@pytest.mark.parametrize("name", ["smoothquant", "awq", "awq+gptq"])
def test_sparse_schemes_have_no_input_scales(name):
    with pytest.raises(ValueError, match=r"w8a8\+4x1.*'gptq'"):
        METHODS[name].quantize([weights(4, K)], "w8a8+4x1", KNOWN)


def test_names():
    assert list(METHODS) == ["rtn", "clip", "smoothquant", "gptq", "awq", "awq+gptq", "hqq"]
    assert method_named("gptq") is METHODS["gptq"]
    own = GPTQ(damping=0.1)
    assert method_named(own) is own
    with pytest.raises(ValueError, match="did you mean 'gptq'.*rtn, clip"):
        method_named("gtpq")
    with pytest.raises(ValueError, match=r"unknown method 'xyzzy'\. Allowed: rtn, clip"):
        method_named("xyzzy")
    with pytest.raises(ValueError, match=r"Ternary\(step='channel'\) .*recover\.ternary"):
        method_named("ternary")
    with pytest.raises(TypeError, match="a name such as 'gptq'"):
        method_named(3)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: GPTQ(damping=0), "damping=0"),
        (lambda: GPTQ(block=0), "block=0"),
        (lambda: SmoothQuant(alpha=1.5), "alpha=1.5"),
        (lambda: SmoothQuant(alpha=()), "alpha="),
        (lambda: AWQ(steps=0), "steps=0"),
        (lambda: HQQ(p=2), "p=2"),
    ],
)
def test_wrong_options(make, text):
    with pytest.raises(ValueError, match=text):
        make()
