import copy

import numpy as np
import pytest
import torch
from torch import nn

from kdnative.prune import MaskSchedule, finalize_masks_, mask_, masked_modules, sparsity_report
from kdnative.quantize import prepare_qat_


def network(*sizes):
    return nn.Sequential(*(nn.Linear(k, n) for k, n in zip(sizes, sizes[1:], strict=False)))


def zeros(layer):
    return int((layer.weight == 0).sum())


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.83, 0.999])
def test_unstructured_removes_exactly_the_smallest(sparsity):
    model = network(37, 23)
    before = model[0].weight.detach().clone()
    report = mask_(model, sparsity)
    count = int(sparsity * 37 * 23 + 0.5)
    smallest = before.abs().flatten().argsort()[:count]
    expected = before.flatten().clone()
    expected[smallest] = 0
    assert torch.equal(model[0].weight.detach().flatten(), expected)
    assert report.rows[0].parameters_after == 37 * 23 - count and report.rows[0].name == "0"


def test_exact_count_with_ties():
    model = network(32, 32)
    nn.init.ones_(model[0].weight)
    mask_(model, 0.3)
    assert zeros(model[0]) == 307


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8"])
def test_n_of_m_against_sorting(pattern):
    n, m = map(int, pattern.split(":"))
    model = network(64, 9)
    groups = model[0].weight.detach().numpy().reshape(9, -1, m).copy()
    mask_(model, pattern=pattern)
    order = np.abs(groups).argsort(-1)
    np.put_along_axis(groups, order[..., : m - n], 0, -1)
    assert np.array_equal(model[0].weight.detach().numpy(), groups.reshape(9, 64))


@pytest.mark.parametrize(("pattern", "rows", "columns"), [("4x1", 4, 1), ("16x16", 16, 16), ("1x8", 1, 8)])
@pytest.mark.parametrize("shape", [(48, 64), (37, 50), (3, 5)])
def test_blocks(pattern, rows, columns, shape):
    model = network(shape[1], shape[0])
    weight = model[0].weight.detach().double().numpy().copy()
    mask_(model, 0.5, pattern)
    blocks = [(r, c) for r in range(0, shape[0], rows) for c in range(0, shape[1], columns)]
    score = {(r, c): np.mean(weight[r : r + rows, c : c + columns] ** 2) for r, c in blocks}
    removed = sorted(blocks, key=score.get)[: int(0.5 * len(blocks) + 0.5)]
    for r, c in removed:
        weight[r : r + rows, c : c + columns] = 0
    assert np.array_equal(model[0].weight.detach().double().numpy(), weight)


def test_global_scope_ranks_all_layers_together():
    model = network(32, 32, 32)
    with torch.no_grad():
        model[1].weight.mul_(10)
    mask_(model, 0.5, scope="global")
    assert zeros(model[0]) + zeros(model[1]) == 1024 and zeros(model[0]) > 900
    mask_(other := network(32, 32, 32), 0.5, scope="layer")
    assert zeros(other[0]) == zeros(other[1]) == 512


def test_selection():
    model = network(8, 8, 8)
    mask_(model, 0.5, keep="1")
    assert list(masked_modules(model)) == ["0"]
    mask_(model, 0.5, modules=["1"])
    assert list(masked_modules(model)) == ["0", "1"]


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9)])
def test_zeros_survive_training_and_the_rest_learns(optimizer):
    model = network(16, 16, 16)
    mask_(model, 0.6)
    masks = [layer.weight_mask.clone() for layer in model]
    before = [layer.weight.detach().clone() for layer in model]
    steps = optimizer(model.parameters(), lr=1e-2)
    for _ in range(5):
        loss = (model(torch.randn(8, 16)) + model(torch.randn(8, 16))).square().mean()  # two forwards, one backward
        steps.zero_grad()
        loss.backward()
        steps.step()
    model(torch.randn(1, 16))
    for layer, mask, old in zip(model, masks, before, strict=True):
        assert (layer.weight[~mask] == 0).all() and torch.equal(layer.weight_mask, mask)
        assert (layer.weight[mask] != old[mask]).all()


def test_gradients_are_those_of_the_masked_layer():
    model = network(8, 4)
    mask_(model, 0.5)
    x = torch.randn(3, 8)
    reference = nn.functional.linear(x, model[0].weight.detach().clone().requires_grad_(), model[0].bias)
    assert torch.equal(model(x), reference)


def test_state_dict_and_deepcopy_carry_masks():
    model = network(16, 16)
    mask_(model, 0.7)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin[0].weight.fill_(1.0)
    twin(torch.randn(1, 16))
    assert zeros(twin[0]) == zeros(model[0]) == 179
    fresh = network(16, 16)
    mask_(fresh, 0.1)
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        fresh[0].weight.fill_(1.0)
    fresh(torch.randn(1, 16))
    assert torch.equal(fresh[0].weight != 0, model[0].weight_mask)


def test_finalize_leaves_an_ordinary_model():
    model = network(16, 16, 16)
    mask_(model, 0.5)
    with torch.no_grad():
        model[0].weight.add_(1.0)  # an optimizer step after the last forward
    assert finalize_masks_(model) == ["0", "1"]
    assert zeros(model[0]) == zeros(model[1]) == 128
    assert set(model.state_dict()) == set(network(16, 16, 16).state_dict())
    assert not model[0]._forward_pre_hooks and finalize_masks_(model) == []


def test_masks_work_with_quantization_aware_layers():
    model = network(64, 32)
    mask_(model, 0.5, "4x1")
    prepare_qat_(model, "w4a8-g32-asym")
    with torch.no_grad():
        model[0].weight.add_(0.01)
    model(torch.randn(2, 64))
    mask = model[0].weight_mask
    assert (model[0].quantized().dequantize()[~mask] == 0).all() and zeros(model[0]) == 1024
    mask_(model, 0.75, "4x1")
    assert zeros(model[0]) == 1536


def test_report():
    model = network(10, 10, 5)
    mask_(model, 0.5, modules="0")
    report = sparsity_report(model)
    assert [(r.name, r.parameters_before, r.parameters_after) for r in report] == [("0", 100, 50), ("1", 50, 50)]
    assert report.sparsity == pytest.approx(1 / 3) and report.rows[0].sparsity == 0.5
    assert "50.0%" in str(report) and report.to_dict()["parameters_after"] == 100


def test_schedule_follows_the_cubic_and_nests():
    schedule = MaskSchedule(10, 50, 0.8, initial=0.2, frequency=10)
    expected = {0: 0.0, 9: 0.0, 10: 0.2, 30: 0.8 - 0.6 * 0.5**3, 50: 0.8, 99: 0.8}
    assert {t: schedule.sparsity(t) for t in expected} == pytest.approx(expected)
    model = network(32, 32)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    gone = torch.zeros(32, 32, dtype=torch.bool)
    renewed = []
    for step in range(60):
        model(torch.randn(4, 32)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if schedule.step(model, step):
            renewed.append(step)
            now = model[0].weight == 0
            assert (now | ~gone).all()  # what was removed stays removed
            assert zeros(model[0]) == int(schedule.sparsity(step) * 1024 + 0.5)
            gone = now
    assert renewed == [10, 20, 30, 40, 50]


def test_schedule_ends_on_its_final_sparsity_between_two_renewals():
    model = network(10, 10)
    schedule = MaskSchedule(0, 7, 0.5, frequency=3)
    assert [t for t in range(10) if schedule.step(model, t)] == [0, 3, 6, 7] and zeros(model[0]) == 50


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sparsity": 1.0}, "0 <= sparsity < 1"),
        ({"sparsity": -0.1}, "0 <= sparsity < 1"),
        ({}, "sparsity=None"),
        ({"sparsity": 0.5, "pattern": "3:2"}, "0 < N < M"),
        ({"sparsity": 0.5, "pattern": "0x4"}, "allowed are"),
        ({"sparsity": 0.6, "pattern": "2:4"}, "always removes 0.5"),
        ({"pattern": "2:4"}, "does not divide"),
        ({"sparsity": 0.5, "scope": "all"}, "'layer' and 'global'"),
        ({"sparsity": 0.5, "modules": "nothing"}, "matches no module"),
        ({"sparsity": 0.5, "keep": "*"}, "no layer to mask"),
    ],
)
def test_bad_arguments_change_nothing(arguments, words):
    model = network(8, 6, 8)
    with pytest.raises(ValueError, match=words):
        mask_(model, **arguments)
    assert not masked_modules(model) and zeros(model[0]) == 0


def test_nan_and_parametrized_weights_are_refused():
    model = network(8, 8)
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="0.weight holds NaN"):
        mask_(model, 0.5)
    other = network(8, 8)
    nn.utils.parametrizations.weight_norm(other[0])
    with pytest.raises(ValueError, match="parametrization"):
        mask_(other, 0.5)


@pytest.mark.parametrize(
    "arguments",
    [(5, 5, 0.5), (-1, 5, 0.5), (0, 5, 1.0), (0, 5, 0.5, 0.6), (0, 5, 0.5, 0.0, 0), (0, 5, 0.5, 0.0, 1, "2:4")],
)
def test_bad_schedules(arguments):
    with pytest.raises(ValueError, match="needed|steps|one sparsity"):
        MaskSchedule(*arguments)
