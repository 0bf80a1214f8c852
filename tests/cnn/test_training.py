"""A network in training: values of the native network, bit for bit; gradients by formulas written out in torch."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdnative.cnn import trace
from kdnative.cnn.calibrating import NetworkCalibration
from kdnative.cnn.straight_through import rounded
from kdnative.cnn.training import TrainedNetwork
from kdnative.formats.convnet.graph import Range
from kdnative.models.layer import Unsupported
from kdnative.nn import ConvNet
from tests.cnn.networks import depthwise, images, residual
from tests.cnn.small import SMALL


def calibrated(model, x, **options):
    calibration = NetworkCalibration(trace(model, x), **options)
    for _ in range(calibration.passes):
        calibration.add(x)
        calibration.end_pass()
    return calibration


def prepared(model, x, **options):
    """The model with the forward of a network in training, and the native network that calibration makes."""
    calibration = calibrated(model, x, **options)
    network = TrainedNetwork.calibrated({"": model}, calibration)
    network.install()
    return network, ConvNet.from_graph(calibration.result())


def step(model, x, lr=1e-2):
    optimizer = torch.optim.SGD(model.parameters(), lr)
    model(x).square().mean().backward()
    optimizer.step()


def without_gradients(model, x):
    with torch.no_grad():
        return model(x)


@pytest.mark.parametrize("make", [lambda: depthwise(nn.SiLU), residual])
def test_values_are_those_of_the_native_network(make, isa):
    model, x = make(), images(8)
    network, native = prepared(model, x)
    model.train()
    assert torch.equal(model(x).detach(), native(x)), "the first forward is what calibration alone gives"
    step(model, x)
    trained = ConvNet.from_graph(network.quantized())
    new = images(5, seed=5)
    for given in (x, new, new.to(torch.bfloat16), new.to(memory_format=torch.channels_last)):
        assert torch.equal(model(given).detach(), trained(given))
        assert torch.equal(without_gradients(model, given), trained(given))
    assert not torch.equal(trained(x), native(x))


@pytest.mark.parametrize("name", [name for name in SMALL if name not in ("standardized weights", "frozen norm")])
def test_every_way_of_writing(name):
    torch.manual_seed(0)
    model, x = copy.deepcopy(SMALL[name][0]).eval(), torch.randn(4, 3, 13, 17)
    for layer in model.modules():  # of weights that don't depend on what was imported before
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.reset_parameters()
    _, native = prepared(model, x)
    found = model(x)
    assert torch.equal(found.detach(), native(x))
    found.square().mean().backward()
    assert all(bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in model.parameters())


def test_gradients_by_a_formula():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))
    x = torch.randn(6, 3, 7, 5, requires_grad=True)
    network, _ = prepared(model, x.detach(), equalize=False, correct_bias=False)
    codes = {node.name: node.out for node in network.graph.nodes}
    (model(3 * x) ** 2).sum().backward()  # three times what calibration saw: much is beyond the ranges

    def fake(value, found):
        inside = value.clamp((-0.5 - found.zero_point) * found.scale, (255.5 - found.zero_point) * found.scale)
        q = (value / found.scale + found.zero_point).round().clamp(0, 255)
        return inside + ((q - found.zero_point) * found.scale - inside).detach()

    def weight(w):
        scale = w.detach().abs().flatten(1).amax(1).reshape(-1, *[1] * (w.dim() - 1)) / 127
        return w + ((w / scale).round() * scale - w).detach()

    own = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}
    given = x.detach().clone().requires_grad_()
    conv, pool = [codes[name] for name in ("0", "2")]
    y = fake(F.conv2d(fake(3 * given, codes["input"]), weight(own["0.weight"]), own["0.bias"]).relu(), conv)
    y = F.linear(fake(y.mean((2, 3)), pool), weight(own["4.weight"]), own["4.bias"])
    (y**2).sum().backward()
    assert (given.grad == 0).float().mean() > 0.2 and given.grad.any()
    for found, wanted in ((x.grad, given.grad), *((p.grad, own[name].grad) for name, p in model.named_parameters())):
        assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


@pytest.mark.parametrize("make", [depthwise, residual])
def test_gradients_are_about_those_of_the_float_network(make):
    """Folding and equalization change how a network is written, not what moves it."""
    model, x = make(), images(24)
    floats = copy.deepcopy(model)
    prepared(model, x)
    for each in (model, floats):
        F.cross_entropy(each(x), torch.arange(24) % 7).backward()
    for (name, ours), theirs in zip(model.named_parameters(), floats.parameters(), strict=True):
        likeness = F.cosine_similarity(ours.grad.flatten(), theirs.grad.flatten(), dim=0)
        assert likeness > 0.9, name


def test_rounding_by_hand():
    values = torch.tensor([-0.3, -0.2, 0.0, 0.26, 25.0, 25.4], requires_grad=True)
    found = rounded(values, Range(0.1, 2))  # codes 0 to 255 reach from -0.2 to 25.3
    assert torch.allclose(found, torch.tensor([-0.2, -0.2, 0.0, 0.3, 25.0, 25.3]))
    found.sum().backward()
    assert values.grad.tolist() == [0, 1, 1, 1, 1, 0]


def test_training_reaches_what_a_teacher_gives():
    teacher, model, x = depthwise(), depthwise(), images(64)
    wanted = without_gradients(teacher, x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    prepared(model, x)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, fused=True)
    errors = []
    for _ in range(40):
        optimizer.zero_grad()
        error = (model(x) - wanted).square().mean()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach()))
    assert min(errors[-5:]) < 0.2 * errors[0]


def test_statistics_and_ranges_stay():
    model, x = depthwise(), images(24)
    network, _ = prepared(model, x)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    nodes = network.graph.nodes
    model.train()
    step(model, 10 * x)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert network.graph.nodes == nodes and set(model.state_dict()) == set(depthwise().state_dict())


def test_without_gradients_it_is_packed_once(monkeypatch):
    model, x = depthwise(), images(8)
    prepared(model, x)
    made, own = [], ConvNet.from_graph.__func__
    monkeypatch.setattr(ConvNet, "from_graph", classmethod(lambda cls, graph: made.append(1) or own(cls, graph)))
    first = without_gradients(model, x)
    assert torch.equal(first, without_gradients(model, x)) and len(made) == 1
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)  # which counts no versions
    model(x).sum().backward()
    optimizer.step()
    assert not torch.equal(without_gradients(model, x), first) and len(made) == 3
    with torch.no_grad():
        model[0][1].running_mean.add_(0.5)
    second = without_gradients(model, x)
    assert len(made) == 4 and torch.equal(model(x).detach(), second)


def test_copies_are_trained_by_themselves():
    model, x = depthwise(), images(16)
    prepared(model, x)
    step(model, x)
    wanted = without_gradients(model, x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(without_gradients(other, x), wanted)
        step(other, x)
        assert torch.equal(without_gradients(model, x), wanted)
        assert not torch.equal(without_gradients(other, x), wanted)


def test_buffers_may_be_replaced():
    model, x = depthwise(), images(16)
    network, _ = prepared(model, x)
    model(x)
    model[0][1].running_mean = model[0][1].running_mean + 1.0
    assert torch.equal(model(x).detach(), ConvNet.from_graph(network.quantized())(x))
    network.remove()
    after = without_gradients(model.eval(), x)
    network.install()
    assert float((model(x).detach() - after).norm()) < 0.3 * float(after.norm())


def test_a_weight_that_is_computed_is_refused():
    model, x = SMALL["standardized weights"][0].eval(), torch.randn(4, 3, 13, 17)
    with pytest.raises(Unsupported, match=r"layers\.0\.weight is not the weight that its convolutions use"):
        TrainedNetwork.calibrated({"": model}, calibrated(model, x))
