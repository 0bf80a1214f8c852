"""Training that starts from integer weights which are there already."""

import copy
import logging

import pytest
import torch
from torch import nn

from kdnative import convert_, load, save
from kdnative.quantize import FakeQuantLinear, calibrate_, prepare_qat_, quantize_weight
from tests.small_models import bert

SCHEMES = ["w8a8", "w8a16", "w4a8-g32", "w4a8-g64-asym", "w2a8-g32", "w2a8-g32-asym", "w4a8-g32-int"]


def some_weight(weight, scheme, seed=1):
    """Codes that are not the nearest ones, as a method makes them that moves errors to other columns."""
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)) * weight.abs().mean() / 2
    return quantize_weight(weight.detach().float() + noise, scheme, clip_search=True)


def same(a, b):
    names = ("qweight", "scale", "zero", "group_scale", "input_scale")
    pairs = [(getattr(a, name), getattr(b, name)) for name in names]
    return all((x is None and y is None) or torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("clip", [None, "search", "learn"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_forward_has_the_codes_and_scales_of_the_given_weight(scheme, clip, dtype):
    if clip == "learn" and scheme.endswith("-int"):
        pytest.skip("integer scales are not learned")
    layer = nn.Linear(128, 24).to(dtype)
    given = some_weight(layer.weight, scheme)
    parameter = layer.weight
    assert prepare_qat_(layer, scheme, clip=clip, weights={"": given}) == [""]
    assert layer.weight is parameter and same(layer.quantized(), given)
    assert torch.equal(layer.weight, given.dequantize().to(dtype))
    x = torch.randn(5, 128).to(dtype)
    converted = convert_(copy.deepcopy(nn.Sequential(layer)), "w8a8").model
    with torch.no_grad():
        exact = scheme != "w8a16"  # there are kernels with bfloat16 factors for it
        torch.testing.assert_close(layer(x), converted(x), rtol=0 if exact else 1 / 64, atol=0 if exact else 1 / 64)


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8-g32", "w2a8-g32"])
def test_weights_with_input_scales(scheme):
    layer = nn.Linear(96, 24)
    factors = torch.rand(96) * 4 + 0.1
    given = some_weight(layer.weight / factors, scheme).changed(input_scale=factors)
    prepare_qat_(layer, scheme, weights={"": given})
    assert str(layer.scheme) == f"{scheme}-is" and same(layer.quantized(), given)
    assert torch.equal(layer.weight, given.dequantize())
    x = torch.randn(5, 96)
    converted = convert_(copy.deepcopy(nn.Sequential(layer)), scheme).model
    with torch.no_grad():
        assert torch.equal(layer(x), converted(x))
    layer(x).sum().backward()
    assert (layer.weight.grad != 0).any() and layer.input_scale.grad is None


def test_a_weight_without_zero_points_fits_schemes_that_have_some():
    layer = nn.Linear(64, 8)
    given = some_weight(layer.weight, "w4a8-g32")
    prepare_qat_(layer, "w4a8-g32-asym", weights={"": given})
    assert not layer.zero.any() and torch.equal(layer.quantized().qweight, given.qweight)


def test_steps_are_held_or_learned():
    x = torch.randn(64, 64)
    for clip in ("search", "learn"):
        layer = nn.Linear(64, 32)
        given = some_weight(layer.weight, "w2a8-g32")
        prepare_qat_(layer, "w2a8-g32", clip=clip, weights={"": given})
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
        for _ in range(3):
            layer(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert torch.equal(layer.quantized().scale, given.scale) == (clip == "search")
        assert not torch.equal(layer.quantized().qweight, given.qweight)


def test_learned_steps_recover_what_held_ones_cannot():
    """LSQ from ranges four times too narrow: held steps leave most weights clipped, whatever the weights become."""
    target, x = torch.randn(16, 64), torch.randn(256, 64)
    errors = {}
    for clip in ("search", "learn"):
        layer = FakeQuantLinear(64, 16, bias=False, scheme="w4a8-g32", clip=clip)
        with torch.no_grad():
            layer.weight.copy_(target)
            layer.refresh_clip()
            layer.scale.div_(4)
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
        for _ in range(60):
            loss = (layer(x) - x @ target.t()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        errors[clip] = loss.item()
    assert errors["learn"] < 0.2 * errors["search"]


def test_a_step_that_is_driven_through_zero_stays_usable():
    layer = FakeQuantLinear(64, 8, scheme="w4a8-g32", clip="learn")
    with torch.no_grad():
        layer.scale[0], layer.scale[1] = -1.0, torch.inf
    with pytest.raises(ValueError, match="scale"):
        layer.quantized()
    with torch.no_grad():
        layer.scale[1] = 1e38
    assert (layer.quantized().scale > 0).all() and torch.isfinite(layer(torch.randn(3, 64))[:, 0]).all()


def test_nan_weights_are_not_hidden_by_held_steps():
    layer = FakeQuantLinear(64, 8, scheme="w4a8-g32", clip="search")
    with torch.no_grad():
        layer.weight[2, 5] = torch.nan
    y = layer(torch.randn(3, 64))
    assert y[:, 2].isnan().all() and not y[:, [0, 1, 3, 4, 5, 6, 7]].isnan().any()
    with pytest.raises(ValueError, match="NaN"):
        layer.quantized()


def test_a_calibration_is_taken_as_it_is():
    model, inputs = bert(), torch.randint(200, (4, 16))
    found = calibrate_(model, "w2a8-g32", [{"input_ids": inputs}] * 4, method="gptq")
    expected = convert_(copy.deepcopy(model), "w2a8-g32", calibration=found, fuse=False, embeddings=None).model
    names = prepare_qat_(model, "w2a8-g32", weights=found)
    assert set(names) >= set(found)
    layers = dict(model.named_modules())
    assert all(same(layers[name].quantized(), weight) for name, weight in found.items())
    with torch.no_grad():
        native = convert_(copy.deepcopy(model), "w2a8-g32", fuse=False, embeddings=None).model(inputs).logits
        assert torch.equal(model(inputs).logits, native)
        assert torch.allclose(expected(inputs).logits, native, atol=0.05)  # heads that are small stay in float there


@pytest.mark.parametrize("options", [{"clip": "learn"}, {"ternary": "channel"}, {"ternary": "group", "clip": "learn"}])
def test_checkpoints(options, tmp_path):
    layer = nn.Linear(64, 32)
    prepare_qat_(layer, "w2a8-g32", **options)
    with torch.no_grad():
        layer.scale.mul_(1.5)
    fresh = FakeQuantLinear(64, 32, scheme="w2a8-g32", **options)
    fresh.load_state_dict(layer.state_dict())
    assert same(fresh.quantized(), layer.quantized())
    save(nn.Sequential(layer), tmp_path / "m")
    loaded = load(tmp_path / "m")[0]
    assert same(loaded.quantized(), layer.quantized()) and loaded.ternary == options.get("ternary")
    assert isinstance(loaded.scale, nn.Parameter) == ("clip" in options)


def refused(words, scheme="w2a8-g32", **options):
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 8))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=words):
        prepare_qat_(model, scheme, **options)
    assert not any(isinstance(module, FakeQuantLinear) for module in model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_that_do_not_fit_leave_the_model_alone():
    good, four = (quantize_weight(torch.randn(32, 64), scheme) for scheme in ("w2a8-g32", "w4a8-g32"))
    stray = "which is not a quantized linear layer"
    refused(f"'2' and 1 others, {stray}", weights={"2": good, "3": good, "0": good})
    refused(f"'1', {stray}", weights={"1": good}, keep=["1"])
    refused(r"^1: .*shape \[32, 64\], and the layer \[8, 32\]", weights={"0": good, "1": good})
    refused("^0: .*4 bits, groups of 32, no zero points, which is not w2a8-g32", weights={"0": four})
    refused("^0: .*a QuantizedWeight is needed, not Tensor", weights={"0": torch.randn(32, 64)})
    refused("^0: .*code book", weights={"0": good.changed(codebook=torch.arange(4.0))})
    refused("^0: .*codes of -2", ternary="group", weights={"0": good.changed(qweight=good.qweight - 1)})
    trits = good.changed(qweight=good.qweight.clamp(min=-1))
    refused("^0: .*a step for each group", ternary="channel", weights={"0": trits})
    refused("^0: .*which is not w2a8-g32-is", scheme="w2a8-g32-is", weights={"0": good})
    shared = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    shared[1].weight = shared[0].weight
    two = quantize_weight(torch.randn(64, 64), "w2a8-g32")
    with pytest.raises(ValueError, match="0 share one float weight"):
        prepare_qat_(shared, "w2a8-g32", weights={"0": two, "1": two})
    layer = FakeQuantLinear(64, 32, scheme="w2a8-g32")
    with pytest.raises(ValueError, match="clip=None derives the steps"):
        layer.start_from_(good)


def test_four_bits_are_said_to_be_better_calibrated(caplog):
    with caplog.at_level(logging.WARNING):
        prepare_qat_(nn.Linear(64, 32), "w2a8-g32")
        assert not caplog.records
        prepare_qat_(nn.Linear(64, 32), "w4a8-g32")
    assert "GPTQ" in caplog.text and "4-bit" in caplog.text
