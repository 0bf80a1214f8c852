"""Channel pruning as a whole: budgets, the report, errors, and models that are left as they were."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from kdnative.convert import finish_networks_, prepare_networks_
from kdnative.prune import mask_, prune_channels_
from kdnative.prune.channels import latency
from kdnative.prune.channels.layers import read_layers
from tests.prune.channel_networks import NETWORKS, conv, graph

IMAGES = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def wide(width=32):
    torch.manual_seed(0)
    return nn.Sequential(
        conv(3, width), conv(width, width, groups=width), conv(width, 48, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(48, 5),
    )  # fmt: skip


def state(model):
    tensors = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    return tensors, [(type(m), m.training, dict(m.__dict__)) for m in model.modules()]


def assert_untouched(model, before):
    tensors, modules = before
    now = model.state_dict(keep_vars=True)
    assert now.keys() == tensors.keys()
    for name, (tensor, values) in tensors.items():
        assert now[name] is tensor and torch.equal(tensor, values), name
    for module, (kind, training, attributes) in zip(model.modules(), modules, strict=True):
        assert (type(module), module.training) == (kind, training)
        plain = {k: v for k, v in attributes.items() if not k.startswith("_")}
        assert plain == {k: v for k, v in module.__dict__.items() if not k.startswith("_")}


@pytest.mark.parametrize("importance", ["l2", "bn", "random", "taylor"])
@pytest.mark.parametrize("ranking", ["global", "layer"])
def test_half_of_the_multiplications(importance, ranking):
    model = wide().train()
    batches = [(IMAGES, torch.tensor([0, 3]))]
    with torch.no_grad():
        before = [buffer.clone() for buffer in model.buffers()]
    report = prune_channels_(model, IMAGES, macs=0.5, importance=importance, ranking=ranking, batches=batches)
    widths = model[0][0].out_channels, model[2][0].out_channels
    assert all(width % 8 == 0 for width in widths) and model[1][0].groups == widths[0]

    def macs(a, b):
        return 144 * (27 * a + 9 * a + a * b) + 5 * b

    assert report.macs_before == macs(32, 48) and report.macs_after == macs(*widths) <= 0.5 * macs(32, 48)
    assert {row.name: (row.channels_before, row.channels_after) for row in report} == {
        "0.0": (32, widths[0]), "2.0": (48, widths[1]), "5": (5, 5)
    }  # fmt: skip
    assert report.parameters_after == sum(p.numel() for p in model.parameters()) < report.parameters_before
    assert model.training and all(p.grad is None for p in model.parameters())
    kept = [buffer for buffer in model.buffers() if buffer.shape in {b.shape for b in before}]
    assert kept
    model(IMAGES).sum().backward()
    assert json.loads(json.dumps(report.to_dict()))["macs_after"] == report.macs_after
    assert "million MACs" in str(report)


def test_shares_by_pattern():
    model = wide()
    report = prune_channels_(model, IMAGES, shares={"2": 0.7, "*": 0.5})
    assert (model[0][0].out_channels, model[2][0].out_channels) == (16, 16)
    assert [row.why for row in report] == ["", "", "it is what the network returns"]


def test_the_smallest_channels_go_and_the_rest_stays_as_it_is():
    model = wide()
    with torch.no_grad():
        model[2][0].weight[::3] *= 0.01
        model[5].weight[:, ::3] *= 0.01
    weight = model[2][0].weight.detach().clone()
    prune_channels_(model, IMAGES, shares={"2.0": 1 / 3}, importance="l2")
    stay = [i for i in range(48) if i % 3]
    assert torch.equal(model[2][0].weight, weight[stay])


def test_kept_modules():
    model = wide()
    prune_channels_(model, IMAGES, macs=0.7, keep=["0.*"])
    assert model[0][0].out_channels == 32 and model[2][0].out_channels < 48


def test_measured_milliseconds(monkeypatch):
    monkeypatch.setattr(latency, "_measured", {})

    def fake(layer, inputs, outputs):  # in tiles of inputs and outputs
        asked.append((layer.name, inputs, outputs))
        return float(-(-inputs // 16) * -(-outputs // 16))

    asked: list[tuple] = []
    monkeypatch.setattr(latency, "layer_ms", fake)
    model = wide(64)
    report = prune_channels_(model, IMAGES, latency=0.6)
    assert report.ms_before is not None and report.ms_after is not None and report.ms_before == 4 + 16 + 12 + 3
    assert report.ms_after <= 0.6 * report.ms_before
    assert len(set(asked)) == len(asked)  # each shape once
    before = len(asked)
    prune_channels_(wide(64), IMAGES, latency=0.6)
    assert len(asked) == before


@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_of_every_kind_of_layer_can_be_timed(name):
    for layer in read_layers(model := NETWORKS[name](), {"": graph(model.eval(), IMAGES)}).layers:
        table = latency.LatencyTable()
        whole = table(layer, len(layer.inputs), len(layer.outputs))
        assert whole >= 0 and (whole > 0) == (layer.source.weight is not None)
        if layer.dense:
            assert table(layer, max(len(layer.inputs) - 1, 1), max(len(layer.outputs) // 2, 1)) <= whole


class Counting(nn.Module):
    """Code that knows how many channels there are."""

    def __init__(self, what):
        super().__init__()
        self.what, self.stem, self.last = what, conv(3, 32), nn.Conv2d(32, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        if self.what == "fails":
            x = x.view(x.shape[0], 32, *x.shape[2:])
        if self.what == "differs" and x.shape[1] < 32:
            x = torch.relu(-x)
        if self.what == "training" and self.training:
            x = x + torch.zeros(32, 1, 1)
        return self.last(x)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("fails", "can't run on the example with fewer channels: .*32.*keep="),
        ("differs", "computes something else with fewer channels"),
        ("training", "can't run in training mode with fewer channels.*keep="),
    ],
)
def test_models_that_count_channels_are_restored(what, message):
    model = Counting(what).train()
    before = state(model)
    with pytest.raises(ValueError, match=message):
        prune_channels_(model, IMAGES, macs=0.5)
    assert_untouched(model, before)


def test_a_part_of_a_model_that_cannot_be_followed_as_a_whole():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Sequential(conv(3, 32), conv(32, 6)), nn.Linear(6, 2)

        def forward(self, x):
            return self.head(self.body(x).sort(dim=2).values.mean((2, 3)))

    model = Outer()
    report = prune_channels_(model, IMAGES, macs=0.6)
    assert model.body[0][0].out_channels == 16 and model.body[1][0].out_channels == 6
    assert {row.name: row.why for row in report} == {"body.0.0": "", "body.1.0": "body returns it"}


def test_a_model_without_convolutions_to_follow():
    with pytest.raises(ValueError, match="has no part whose channels can be followed"):
        prune_channels_(Sorting(), IMAGES, macs=0.5)


class Sorting(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return x.sort(dim=2).values.mean((2, 3)) * self.weight


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give exactly one of macs, latency and shares, got none"),
        ({"macs": 0.5, "latency": 0.5}, "shares, got macs, latency"),
        ({"macs": 0}, "0 < macs < 1"),
        ({"latency": 1.0}, "0 < latency < 1"),
        ({"shares": {"0": 1}}, "0 <= share < 1"),
        ({"shares": {"missing": 0.5}}, "matches no layer that gives channels; these are 0.0, 2.0"),
        ({"shares": {"5": 0.5}}, "the channels of 5 must stay: it is what the network returns"),
        ({"macs": 0.5, "importance": "l1"}, "allowed are 'taylor', 'l2', 'bn', 'random' and None"),
        ({"macs": 0.5, "importance": "taylor"}, "needs batches="),
        ({"macs": 0.5, "batches": []}, "holds no batches"),
        ({"macs": 0.5, "batches": [IMAGES]}, "batches must be pairs"),
        ({"macs": 0.5, "batches": [0], "loss": lambda model, batch: torch.tensor(float("nan"))}, "finite number"),
        ({"macs": 0.5, "ranking": "best"}, "ranking='best'"),
        ({"macs": 0.5, "round_to": 0}, "1 or more"),
        ({"macs": 0.5, "round_to": 8.0}, "round_to=8.0; a whole number, 1 or more"),
        ({"macs": 0.5, "keep": ["7.*"]}, "matches no module"),
        (
            {"macs": 0.01},
            r"macs=0.01: 0\.\d+ is the smallest share that this model can reach.*5: it is what the network returns",
        ),
    ],
)
def test_errors_leave_the_model_as_it_was(options, message):
    model = wide()
    before = state(model)
    with pytest.raises(ValueError, match=message):
        prune_channels_(model, IMAGES, **options)
    assert_untouched(model, before)


@pytest.mark.parametrize("example", [torch.zeros(3, 12, 12), torch.zeros(0, 3, 12, 12), [1, 3, 12, 12]])
def test_examples_that_are_no_images(example):
    with pytest.raises(ValueError, match="example must be at least one image"):
        prune_channels_(wide(), example, macs=0.5)


def test_masks_come_later():
    model = wide()
    mask_(model, 0.5)
    with pytest.raises(ValueError, match="prune channels first"):
        prune_channels_(model, IMAGES, macs=0.5)


def test_prepared_models_are_finished_first():
    model = wide().eval()
    prepare_networks_(model, calibration=[IMAGES])
    with pytest.raises(ValueError, match="prepared as native networks: call finish_networks_ first"):
        prune_channels_(model, IMAGES, macs=0.5)
    finish_networks_(model)
    prune_channels_(model, IMAGES, macs=0.5)


def test_channels_without_normalization_stay_where_it_ranks_them():
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), conv(32, 32), nn.Conv2d(32, 2, 1))
    words = "the channels of 0 must stay: batch normalization gives no ranking"
    with pytest.raises(ValueError, match=words):
        prune_channels_(model, IMAGES, shares={"0": 0.5}, importance="bn")
    report = prune_channels_(model, IMAGES, shares={"2.0": 0.5}, importance="bn")
    assert {row.name: bool(row.why) for row in report} == {"0": True, "2.0": False, "3": True}


def test_copies_and_state_of_a_pruned_model():
    model = wide().eval()
    prune_channels_(model, IMAGES, macs=0.5)
    again = copy.deepcopy(model)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(IMAGES), model(IMAGES))
