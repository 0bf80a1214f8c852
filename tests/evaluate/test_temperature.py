"""The fitted temperature, against cases worked by hand and a search over a grid."""

from __future__ import annotations

import math

import pytest
import torch

from kdnative.evaluate.temperature import HIGHEST, LOWEST, fit_temperature


@pytest.mark.parametrize(("gap", "right"), [(4.0, 8), (1.0, 9), (2.5, 6)])
def test_two_classes_by_hand(gap, right):
    """Ten answers, all with this gap between the logits: the best confidence is the share that is right."""
    logits = torch.tensor([[gap, 0.0]]).repeat(10, 1)
    labels = torch.tensor([0] * right + [1] * (10 - right))
    share = right / 10
    assert fit_temperature(logits, labels) == pytest.approx(gap / math.log(share / (1 - share)), rel=1e-4)


def test_no_temperature_of_a_grid_is_likelier():
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(300, 5, generator=generator) * 2
    labels = torch.multinomial(true.softmax(-1), 1, generator=generator)[:, 0]
    found = fit_temperature(3 * true, labels)
    grid = torch.linspace(0.5, 8, 2000, dtype=torch.float64)
    losses = torch.stack([torch.nn.functional.cross_entropy(3 * true.double() / t, labels) for t in grid])
    assert found == pytest.approx(grid[losses.argmin()].item(), abs=0.01) and 2.5 < found < 3.5


@pytest.mark.parametrize("scale", [0.1, 5.0, 40.0])
def test_separable_answers_give_the_bound_however_sure_they_are(scale):
    labels = torch.tensor([0, 1, 2, 1])
    logits = scale * torch.nn.functional.one_hot(labels, 3).float()
    assert fit_temperature(logits, labels) == LOWEST


def test_bounds_where_there_is_no_best_one():
    logits = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert fit_temperature(logits, torch.tensor([0, 1])) == pytest.approx(LOWEST)  # all right: the surer, the better
    assert fit_temperature(logits, torch.tensor([1, 0])) == pytest.approx(HIGHEST)  # all wrong
