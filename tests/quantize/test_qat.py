import copy

import pytest
import torch
from torch import nn

from kdnative import convert_
from kdnative.quantize import FakeQuantLinear, finish_qat_, prepare_qat_, quantize_weight
from tests.small_models import bert


def network():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Sequential(nn.Linear(32, 48), nn.Linear(48, 3)))


def test_prepare_swaps_and_keeps_parameters_hooks_and_modes():
    model = network().eval()
    parameters, modules = list(model.parameters()), list(model.modules())
    seen = []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    assert prepare_qat_(model) == ["0", "2.0", "2.1"]
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    assert all(isinstance(m, FakeQuantLinear) and not m.training for m in (model[0], *model[2]))
    model(torch.randn(2, 64))
    assert seen == [1]


def test_patterns():
    model = network()
    assert prepare_qat_(model, {"2.1": None, "2": "w8a8", "0": "w4a8-g32"}) == [
        "0",
        "2.0",
    ]
    assert str(model[0].scheme) == "w4a8-g32" and str(model[2][0].scheme) == "w8a8"
    assert type(model[2][1]) is nn.Linear
    assert prepare_qat_(network(), "w8a8", keep=["2.*"]) == ["0"]


@pytest.mark.parametrize(
    ("schemes", "words"),
    [
        ({"nothing*": "w8a8"}, "matches no module"),
        ("w4a8-g64", "2.0"),
        ({"*": None}, "there is no layer to"),
        ({}, "empty"),
    ],
)
def test_refusals_leave_the_model_alone(schemes, words):
    model = network()
    with pytest.raises(ValueError, match=words):
        prepare_qat_(model, schemes)
    assert not any(isinstance(m, FakeQuantLinear) for m in model.modules())


def test_what_is_left_alone():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(10, 32)
            self.head = nn.Linear(32, 10)
            self.head.weight = self.table.weight
            self.attention = nn.MultiheadAttention(32, 2)
            self.body = nn.Linear(32, 32)

    model = Tied()
    assert prepare_qat_(model) == ["body"]
    with pytest.raises(ValueError, match="there is no layer to"):
        prepare_qat_(model)


def test_shared_layer_stays_shared():
    shared = nn.Linear(32, 32)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    prepare_qat_(model)
    assert model[0] is model[2] and isinstance(shared, FakeQuantLinear)


def test_a_bare_layer():
    layer = nn.Linear(32, 4)
    assert prepare_qat_(layer) == [""] and isinstance(layer, FakeQuantLinear)


@pytest.mark.parametrize("clip", [None, "search", "learn"])
def test_finish_gives_dequantized_linears(clip):
    model = network()
    prepare_qat_(model, {"*": "w8a8", "0": "w8a8"}, clip=clip)
    expected = [m.quantized().dequantize() for m in (model[0], *model[2])]
    assert finish_qat_(model) == ["0", "2.0", "2.1"]
    linears = (model[0], *model[2])
    assert all(type(m) is nn.Linear and torch.equal(m.weight, w) for m, w in zip(linears, expected, strict=True))
    assert set(model.state_dict()) == set(network().state_dict())
    assert finish_qat_(model) == []


def test_finish_reads_shared_weights_before_it_writes():
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
    model[1].weight = model[0].weight
    prepare_qat_(model, "w2a8-g32", clip="search")
    expected = model[0].quantized().dequantize()
    finish_qat_(model)
    assert torch.equal(model[0].weight, expected) and model[0].weight is model[1].weight


def test_transformer_layers_do_not_bypass_the_fake_layers():
    layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True).eval()
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        before = layer(x)
    weights = [copy.deepcopy(layer.linear1), copy.deepcopy(layer.linear2)]
    assert prepare_qat_(layer, "w2a8-g32") == ["linear1", "linear2"]
    with torch.no_grad():
        quantized = layer(x)
    assert (quantized - before).abs().max() > 1e-3  # two-bit weights show, so they were used
    finish_qat_(layer)
    expected = quantize_weight(weights[0].weight, "w2a8-g32").dequantize()
    assert torch.equal(layer.linear1.weight, expected) and layer.activation_relu_or_gelu == 1


def test_training_loop_with_an_optimizer_made_before():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    prepare_qat_(model)
    x, target = torch.randn(64, 64), torch.randint(0, 3, (64,))
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8-g32", "w2a8-g32-asym", "w4a8-g32-int"])
def test_what_a_converted_model_has_of_the_bits_of_training(scheme):
    """Every bit where its linears alone become native; by default embeddings and whole layers do, and that shows."""
    model, inputs = bert(), torch.randint(200, (8, 20))
    prepare_qat_(model, scheme)
    model.eval()

    def converted(**options):
        return convert_(copy.deepcopy(model), scheme, **options).model(inputs).logits

    with torch.no_grad():
        trained = model(inputs).logits
        assert torch.equal(converted(fuse=False, embeddings=None), trained)
        for options in ({}, {"fuse": False}, {"embeddings": None}):
            difference = (converted(**options) - trained).abs().max()
            assert difference < 0.1 * trained.std(), options
            assert difference > 0 or options.get("embeddings", 8) is None
