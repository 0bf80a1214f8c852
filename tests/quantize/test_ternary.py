import copy

import pytest
import torch
from torch import nn

from kdnative import convert_, ops
from kdnative.formats import dense
from kdnative.quantize import FakeQuantLinear, finish_qat_, prepare_qat_, ternary_weight
from kdnative.quantize.methods import Ternary
from kdnative.quantize.statistics import Statistics
from tests.small_models import bert


def test_a_case_worked_by_hand():
    w = torch.zeros(1, 32)
    w[0, :4] = torch.tensor([1.0, -2.0, 0.1, 3.0])
    w[0, 4:8] = 0.05
    # mean |w| = 6.3 / 32, threshold 0.1378: three weights are kept, with the mean magnitude 2
    found = ternary_weight(w, "w2a8-g32")
    assert found.qweight[0, :4].tolist() == [1, -1, 0, 1] and not found.qweight[0, 4:].any()
    assert found.scale.tolist() == [[2.0]]


@pytest.mark.parametrize("step", ["channel", "group"])
@pytest.mark.parametrize("shape", [(7, 96), (1, 32), (5, 992)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_against_float64(step, shape, dtype):
    w = torch.randn(shape).mul_(torch.rand(shape[0], 1) * 3).to(dtype)
    found = ternary_weight(w.t().contiguous().t(), "w2a8-g32", step)
    sizes = w.double().view(shape[0], -1, 32).abs()
    over = (1, 2) if step == "channel" else 2
    kept = sizes > 0.7 * sizes.mean(over, keepdim=True)
    alpha = (sizes * kept).sum(over, keepdim=True) / kept.sum(over, keepdim=True)
    wanted = (w.double().view(sizes.shape).sign() * kept * alpha).view(shape)
    assert torch.allclose(found.dequantize().double(), wanted, rtol=1e-6)
    assert found.scale.shape == (shape[0], shape[1] // 32)


def test_zeros_tiny_and_huge_weights():
    w = torch.randn(4, 64)
    w[0], w[1, :32], w[2], w[3] = 0, 0, 1e-35, 3e38
    found = ternary_weight(w, "w2a8-g32", "group")
    assert torch.isfinite(found.scale).all() and (found.scale > 0).all()
    assert not found.dequantize()[0].any() and not found.qweight[1, :32].any() and not found.dequantize()[2].any()
    assert ternary_weight(torch.zeros(0, 32), "w2a8-g32").scale.shape == (0, 1)


@pytest.mark.parametrize("step", ["channel", "group"])
@pytest.mark.parametrize("clip", [None, "search", "learn"])
def test_training_starts_from_its_steps_and_gives_the_bits_of_the_kernel(step, clip, isa):
    layer = nn.Linear(96, 40)
    wanted = ternary_weight(layer.weight, "w2a8-g32", step)
    prepare_qat_(layer, "w2a8-g32", clip=clip, ternary=step)
    found = layer.quantized()
    assert torch.equal(found.scale, wanted.scale) and (found.qweight == wanted.qweight).float().mean() > 0.8
    nearest = (layer.weight.detach().view(40, 3, 32) / wanted.scale[..., None]).round().clamp(-1, 1)
    assert torch.equal(found.qweight.float(), nearest.view(40, 96))
    assert layer.scale.shape == (40, 1 if step == "channel" else 3)
    assert isinstance(layer.scale, nn.Parameter) == (clip == "learn")
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.03)
    x = torch.randn(9, 96)
    for _ in range(3):
        layer(x).square().sum().backward()
        optimizer.step()
    found = layer.quantized()
    assert set(found.qweight.unique().tolist()) == {-1, 0, 1}
    assert torch.equal(layer(x).detach(), ops.linear(x, dense.pack(found, layer.bias), 2, 40))


def test_a_ternary_model_becomes_native_bit_for_bit():
    model, inputs = bert(), torch.randint(200, (8, 20))
    prepare_qat_(model, "w2a8-g32", ternary="channel")
    with torch.no_grad():
        trained = model(inputs).logits
        report = convert_(model, "w2a8-g32", fuse=False, embeddings=None)
        assert torch.equal(model(inputs).logits, trained)
    assert {str(row.scheme) for row in report.rows if row.action == "converted"} == {"w2a8-g32"}


def test_layers_of_more_bits_are_what_they_are_without():
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 8))
    plain = copy.deepcopy(model)
    prepare_qat_(model, {"0": "w2a8-g32", "1": "w8a8"}, ternary="group")
    prepare_qat_(plain, {"1": "w8a8"})
    assert (model[0].ternary, model[1].ternary, model[1].clip) == ("group", None, None)
    assert torch.equal(model[1].quantized().qweight, plain[1].quantized().qweight)


def test_finished_weights_are_ternary():
    model = nn.Sequential(nn.Linear(64, 8))
    prepare_qat_(model, "w2a8-g32", ternary="group")
    finish_qat_(model)
    sizes = model[0].weight.abs().view(8, 2, 32)
    assert type(model[0]) is nn.Linear and ((sizes == 0) | (sizes == sizes.amax(-1, keepdim=True))).all()


@pytest.mark.parametrize("step", ["channel", "group"])
def test_compensated_codes_have_less_error_at_the_output(step):
    inputs = torch.randn(400, 24) @ torch.randn(24, 96)  # correlated, so that errors can make up for each other
    weight = torch.randn(32, 96)
    moment = (inputs.double().t() @ inputs.double() / 400).float()
    statistics = Statistics(400, moment, moment.diagonal().clone(), inputs.abs().amax(0), None)
    plain = ternary_weight(weight, "w2a8-g32", step)
    (found,) = Ternary(step=step).quantize([weight], "w2a8-g32", statistics)
    assert torch.equal(found.scale, plain.scale) and set(found.qweight.unique().tolist()) <= {-1, 0, 1}

    def error(w):
        return float((inputs @ (w.dequantize() - weight).t()).square().mean())

    assert error(found) < 0.5 * error(plain)
    layer = nn.Linear(96, 32)
    layer.weight.data = weight
    prepare_qat_(layer, "w2a8-g32", ternary=step, weights={"": found})
    assert torch.equal(layer.quantized().qweight, found.qweight)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ternary_weight(torch.ones(4, 32), "w4a8-g32"), "stored in 2 bits without zero points"),
        (lambda: ternary_weight(torch.ones(4, 32), "w2a8-g32-asym"), "stored in 2 bits without zero points"),
        (lambda: ternary_weight(torch.ones(4, 32), "w2a8-g32", "row"), "'channel' .* and 'group'"),
        (lambda: ternary_weight(torch.full((4, 32), torch.nan)), "NaN"),
        (lambda: FakeQuantLinear(32, 4, scheme="w8a8", ternary="channel"), "stored in 2 bits"),
        (
            lambda: prepare_qat_(nn.Sequential(nn.Linear(32, 4)), "w8a8", ternary="group"),
            "no layer has a 2-bit scheme",
        ),
        (lambda: prepare_qat_(nn.Linear(32, 4), "w2a8-g32-asym", ternary="group"), "^the model: .*without zero points"),
        (lambda: prepare_qat_(nn.Linear(32, 4), "w2a8-g32", ternary="always"), "allowed are 'channel'"),
    ],
)
def test_bad_arguments(make, words):
    with pytest.raises(ValueError, match=words):
        make()
