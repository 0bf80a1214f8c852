"""How many channels of each group stay: budgets, widths, and what goes first."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from kdnative.nn.modes import evaluating
from kdnative.prune.channels.choosing import Choice, choose_all_alike, choose_shares, choose_worst_first
from kdnative.prune.channels.groups import find_groups
from kdnative.prune.channels.importance import scores_of
from kdnative.prune.channels.layers import Layer, read_layers
from tests.prune.channel_networks import NETWORKS, conv, graph, settled


def chain(*widths):
    """Convolutions of 1x1 with so many channels, on one pixel: MACs are products of neighbours."""
    return nn.Sequential(*(nn.Conv2d(a, b, 1) for a, b in itertools.pairwise(widths)))


def choice_of(model, round_to=1, size=1, cost=Layer.macs):
    layers = read_layers(model, {"": graph(model.eval(), torch.zeros(1, model[0].in_channels, size, size))})
    return Choice(layers, [group for group in find_groups(layers) if not group.why], cost, round_to)


def scores(choice, *values):
    found = torch.zeros(len(choice.layers.parents), dtype=torch.float64)
    for group, own in zip(choice.groups, values, strict=True):
        found[torch.tensor(group.units)] = torch.tensor(own, dtype=torch.float64)
    return found


def test_multiplications_are_those_of_kept_channels():
    choice = choice_of(chain(2, 10, 6, 3))
    assert choice.total == 2 * 10 + 10 * 6 + 6 * 3
    assert choice.saved(0, 7) == 3 * (2 + 6)
    choice.set(0, 7)
    assert choice.saved(1, 4) == 2 * (7 + 3)
    choice.set(1, 4)
    assert choice.total == 2 * 7 + 7 * 4 + 4 * 3


def test_pixels_and_kernels_count():
    model = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.Conv2d(5, 5, 3, groups=5), nn.Conv2d(5, 2, 1))
    choice = choice_of(model, size=9)  # 5 x 5, then 3 x 3
    assert choice.total == 25 * 9 * 3 * 5 + 9 * 9 * 5 + 9 * 5 * 2
    choice.set(0, 3)
    assert choice.total == 25 * 9 * 3 * 3 + 9 * 9 * 3 + 9 * 3 * 2


def test_by_loss_for_the_cost_that_is_saved():
    # A unit of the first group saves 1 + 4, one of the second 4 + 1: the one of 0.4 goes, then that of 0.5.
    choice = choice_of(chain(1, 4, 4, 1))
    assert choose_worst_first(choice, scores(choice, [0.4, 2, 2, 2], [0.5, 3, 3, 3]), 17, per_cost=True)
    assert choice.kept == [3, 3] and choice.total == 3 + 9 + 3
    # What costs 100 times as much goes first, though it matters ten times as much.
    choice = choice_of(chain(100, 4, 4, 1))
    assert choose_worst_first(choice, scores(choice, [10, 20, 20, 20], [1, 20, 20, 20]), 400, per_cost=True)
    assert choice.kept == [3, 4]


def test_what_is_left_of_a_group_is_worth_more():
    # By scores alone all of the loss would be the first group's, 10 -> 5: 5 + 50 + 10 <= 70.
    choice = choice_of(chain(1, 10, 10, 1))
    assert choose_worst_first(choice, scores(choice, [1.0] * 10, [1.5] * 10), 70, per_cost=True)
    assert choice.kept == [6, 8]


def test_relative_to_the_group():
    # 10 of a mean of 100 is less than 1 of a mean of 4.
    choice = choice_of(chain(1, 4, 4, 1))
    assert choose_worst_first(choice, scores(choice, [10, 130, 130, 130], [1, 5, 5, 5]), 19, per_cost=False)
    assert choice.kept == [3, 4]


def test_the_same_share_of_every_group():
    choice = choice_of(chain(3, 100, 40, 3))
    assert choose_all_alike(choice, choice.total * 0.25)
    first, second = choice.kept
    assert choice.total <= 0.25 * (300 + 4000 + 120)
    assert abs(first / 100 - second / 40) < 0.05 and 0.4 < first / 100 < 0.5


@pytest.mark.parametrize(
    ("width", "round_to", "widths"),
    [
        (64, None, {64, 48, 32, 16}),
        (116, None, {116, 112, 96, 80, 64, 48, 32, 16}),
        (24, None, {24, 16, 8}),
        (7, None, {7}),
        (9, 1, {9, 8, 7, 6, 5, 4, 3, 2}),
        (100, 7, set(range(14, 100, 7)) | {100}),
    ],
)
def test_widths(width, round_to, widths):
    choice = choice_of(chain(2, width, 2), round_to)
    seen = {width}
    while choice.kept[0] > choice.least(0):
        choice.set(0, choice.below(0, choice.kept[0] - 1))
        seen.add(choice.kept[0])
    assert seen == widths


def test_widths_of_whole_groups_fill_tiles():
    model = nn.Sequential(conv(3, 96, 1), conv(96, 96, 1, groups=16), nn.Conv2d(96, 2, 1))
    layers = read_layers(model, {"": graph(model.eval(), torch.zeros(1, 3, 1, 1))})
    choice = Choice(layers, [group for group in find_groups(layers) if not group.why], Layer.macs, None)
    assert choice.step(0) == 8 and choice.below(0, 15) == 8  # groups of 6 channels: 48 are three tiles


def test_a_tile_that_saves_nothing_goes_with_the_next():
    def tiles(layer, inputs, outputs):
        return -(-outputs // 16) * 1.0

    choice = choice_of(chain(2, 32, 2), round_to=8, cost=tiles)
    assert choose_worst_first(choice, scores(choice, [1.0] * 32), 2, per_cost=True)
    assert choice.kept == [16]


def test_shares_are_rounded_to_the_nearest_width():
    choice = choice_of(chain(2, 64, 64, 2), None)
    choose_shares(choice, {0: 0.4, 1: 0.99})
    assert choice.kept == [32, 16]


def test_what_cannot_be_met():
    choice = choice_of(chain(2, 16, 2))
    values = scores(choice, [1.0] * 16)
    assert not choose_worst_first(choice, values, 1, per_cost=True) and choice.kept == [2]
    assert not choose_all_alike(choice_of(chain(2, 16, 2)), 1)


@pytest.mark.parametrize("name", ["Residual", "Gated", "Side", "Flattened"])
def test_taylor_is_the_derivative_by_gates(name):
    """The gates of a group are put on what its dense layers read."""
    torch.manual_seed(0)
    model = settled(NETWORKS[name]()).double()
    batches = [(torch.randn(3, 3, 12, 12, dtype=torch.float64), torch.tensor([0, 1, 1])) for _ in range(2)]

    def loss_of(model, batch):
        out = model(batch[0])
        return nn.functional.cross_entropy(out if out.dim() == 2 else out.mean((2, 3)), batch[1])

    layers = read_layers(model, {"": graph(model, batches[0][0])})
    found = scores_of(model, layers, "taylor", batches, loss_of)
    modules = dict(model.named_modules())
    want = torch.zeros_like(found)
    for batch in batches:
        gates, handles = {}, []
        for layer in layers.layers:
            if not layer.dense:
                continue
            blocks = torch.tensor([layers.find(number) for number in layer.inputs])
            gate = torch.ones(len(blocks), dtype=torch.float64, requires_grad=True)
            gates[layer.name] = (gate, blocks)

            def put(module, args, gate=gate):
                x = args[0]
                spread = gate.repeat_interleave(x.shape[1] // len(gate)) if x.dim() == 2 else gate.reshape(-1, 1, 1)
                return (x * spread,)

            handles.append(modules[layer.name].register_forward_pre_hook(put))
        with evaluating(model), torch.enable_grad():
            gradients = torch.autograd.grad(loss_of(model, batch), [gate for gate, _ in gates.values()])
        change = torch.zeros_like(want)
        for (_, blocks), gradient in zip(gates.values(), gradients, strict=True):
            change.index_add_(0, blocks, gradient)
        want += change.abs()
        for handle in handles:
            handle.remove()
    assert want.sum() > 0
    torch.testing.assert_close(found, want / 2, rtol=1e-9, atol=1e-12)


def test_sizes_of_weights_and_of_normalization():
    model = nn.Sequential(conv(1, 3, 1), nn.Conv2d(3, 1, 1, bias=False)).eval()
    with torch.no_grad():
        model[0][0].weight.copy_(torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1))
        model[0][1].weight.copy_(torch.tensor([1.0, -1.0, 4.0]))
        model[0][1].eps = 0.0
        model[1].weight.copy_(torch.tensor([3.0, 0.0, 0.0]).reshape(1, 3, 1, 1))
    layers = read_layers(model, {"": graph(model, torch.zeros(1, 1, 1, 1))})
    (group,) = (group for group in find_groups(layers) if not group.why)
    units = torch.tensor(group.units)
    given = torch.tensor([1.0, 4.0, 144.0], dtype=torch.float64)  # (weight * factor) ** 2
    want = given / given.mean() + torch.tensor([3.0, 0.0, 0.0])
    torch.testing.assert_close(scores_of(model, layers, "l2")[units], want)
    torch.testing.assert_close(scores_of(model, layers, "bn")[units], torch.tensor([0.5, 0.5, 2.0]).double())
    assert torch.equal(scores_of(model, layers, "random", seed=1), scores_of(model, layers, "random", seed=1))
    assert not torch.equal(scores_of(model, layers, "random", seed=1), scores_of(model, layers, "random", seed=2))
