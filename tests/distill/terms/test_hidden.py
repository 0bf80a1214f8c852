"""Hidden-state losses against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdnative.distill import HiddenStateLoss, LossTerms, Outputs, uniform_layer_map
from tests.distill.tiny import batch


def states(layers, width, seed, batch=2, tokens=3):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, tokens, width, dtype=torch.float64, generator=generator) for _ in range(layers))


MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize("mask", [None, MASK])
def test_mse_of_mapped_layers(mask):
    s, t = states(3, 4, 0), states(5, 4, 1)
    value = HiddenStateLoss({0: 0, 2: 4}, 4, 4).distance(s, t, mask)
    kept = np.ones((2, 3), bool) if mask is None else mask.numpy().astype(bool)
    expected = np.mean([((s[i] - t[j]).numpy()[kept] ** 2).mean() for i, j in ((0, 0), (2, 4))])
    assert float(value) == pytest.approx(expected, rel=1e-12)


def test_cosine_with_projection():
    s, t = states(2, 3, 0), states(2, 5, 1)
    loss = HiddenStateLoss({1: 1}, 3, 5, metric="cosine").double()
    a, b = (s[1] @ loss.projections[0].weight.T).detach().numpy()[MASK.bool()], t[1].numpy()[MASK.bool()]
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    assert float(loss.distance(s, t, MASK).detach()) == pytest.approx((1 - cosine).mean(), rel=1e-12)


def test_projection_keeps_lengths_at_the_start():
    weight = HiddenStateLoss({1: 1}, 3, 5).projections[0].weight.detach()
    torch.testing.assert_close(weight.T @ weight, torch.eye(3), atol=1e-5, rtol=0)


def test_gradients_reach_student_and_projection_but_not_the_teacher():
    s, t = states(2, 3, 0), states(2, 5, 1)
    s[1].requires_grad_()
    t[1].requires_grad_()
    loss = HiddenStateLoss({1: 1}, 3, 5).double()
    weight = loss.projections[0].weight
    assert torch.autograd.gradcheck(lambda x, w: loss.distance((x, x), t, MASK), (s[1], weight))
    assert t[1].grad is None


def test_padding_does_not_matter_and_no_token_gives_zero():
    s, t = states(2, 4, 0), states(2, 4, 1)
    loss = HiddenStateLoss({1: 1}, 4, 4)
    before = float(loss.distance(s, t, MASK))
    s[1][0, 2] = 1e6
    assert float(loss.distance(s, t, MASK)) == before
    assert float(loss.distance(s, t, torch.zeros(2, 3))) == 0.0


@pytest.mark.parametrize("mask", [None, MASK])
def test_as_a_term_the_batch_says_which_tokens_count(mask):
    s, t = states(2, 4, 0), states(2, 4, 1)
    term = HiddenStateLoss({1: 1}, 4, 4, weight=3.0)
    inputs = {} if mask is None else {"attention_mask": mask}
    value = LossTerms([term])(batch(**inputs), Outputs(hidden_states=s), [Outputs(hidden_states=t)])
    assert float(value) == pytest.approx(3 * float(term.distance(s, t, mask)), rel=1e-12)


def test_two_teachers_with_a_term_each():
    s, first, second = states(3, 4, 0), states(3, 4, 1), states(5, 6, 2)
    terms = [
        HiddenStateLoss({1: 1}, 4, 4, weight=2.0),
        HiddenStateLoss({2: 4}, 4, 6, weight=0.5, teacher=1, name="hidden of the second").double(),
    ]
    loss = LossTerms(terms)
    assert [loss.teacher_needs(i) for i in range(3)] == [{"hidden_states"}, {"hidden_states"}, set()]
    value = loss(batch(), Outputs(hidden_states=s), [Outputs(hidden_states=h) for h in (first, second)])
    mapped = (s[2] @ terms[1].projections[0].weight.T).detach().numpy()
    expected = 2 * ((s[1] - first[1]).numpy() ** 2).mean() + 0.5 * ((mapped - second[4].numpy()) ** 2).mean()
    assert float(value.detach()) == pytest.approx(expected, rel=1e-12)
    assert list(loss.parts) == ["hidden", "hidden of the second"]
    with pytest.raises(ValueError, match=r"learns from teachers\[1\], of 1"):
        loss(batch(), Outputs(hidden_states=s), [Outputs(hidden_states=first)])


def test_uniform_layer_map():
    assert uniform_layer_map(3, 6) == {1: 2, 2: 4, 3: 6}
    assert uniform_layer_map(6, 12) == {i: 2 * i for i in range(1, 7)}
    assert uniform_layer_map(4, 6)[4] == 6
    with pytest.raises(ValueError, match="7 student layers"):
        uniform_layer_map(7, 6)


@pytest.mark.parametrize(
    ("layer_map", "message"),
    [({3: 1}, "student position 3"), ({1: 9}, "teacher position 9")],
)
def test_positions_that_do_not_exist(layer_map, message):
    with pytest.raises(ValueError, match=message):
        HiddenStateLoss(layer_map, 4, 4).distance(states(2, 4, 0), states(2, 4, 1))


def test_bad_settings_and_widths():
    with pytest.raises(ValueError, match="at least one pair"):
        HiddenStateLoss({}, 4, 4)
    with pytest.raises(ValueError, match="teacher=-1"):
        HiddenStateLoss({1: 1}, 4, 4, teacher=-1)
    with pytest.raises(ValueError, match="metric"):
        HiddenStateLoss({1: 1}, 4, 4, metric="l1")
    with pytest.raises(ValueError, match="4 wide, not student_width=6"):
        HiddenStateLoss({1: 1}, 6, 4).distance(states(2, 4, 0), states(2, 4, 1))
    with pytest.raises(ValueError, match="different texts"):
        HiddenStateLoss({1: 1}, 4, 4).distance(states(2, 4, 0), states(2, 4, 1, tokens=4))
