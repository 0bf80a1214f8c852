"""Figures of the quality suite against other computations, and their bootstrap."""

import math

import numpy as np
import pytest
import torch

from kdnative.bench import quality_figures as figures
from kdnative.bench.quality_figures import Bootstrap


def unit(rows):
    return torch.nn.functional.normalize(torch.as_tensor(rows, dtype=torch.float64), dim=1)


def test_losses_of_embeddings_against_loops():
    generator = torch.Generator().manual_seed(1)
    exact = unit(torch.randn(20, 5, generator=generator))
    found = unit(exact + 0.3 * torch.randn(20, 5, generator=generator))
    losses = figures.embedding_losses(exact, found)

    def order(embeddings, i):
        others = [j for j in range(20) if j != i]
        return sorted(others, key=lambda j: -float(embeddings[i] @ embeddings[j]))

    for i in range(20):
        before, after = order(exact, i), order(found, i)
        assert losses["distance"][i] == pytest.approx(1 - math.fsum(exact[i] * found[i]))
        assert losses["neighbour"][i] == (before[0] == after[0])
        assert losses["ten"][i] == pytest.approx(len(set(before[:10]) & set(after[:10])) / 10)
    assert 0 < losses["neighbour"].mean() < 1  # both outcomes were looked at


def test_the_same_embeddings_lose_nothing():
    exact = unit(np.random.default_rng(0).normal(size=(15, 4)))
    losses = figures.embedding_losses(exact, exact)
    assert abs(losses["distance"]).max() < 1e-12
    assert losses["neighbour"].min() == losses["ten"].min() == 1


def test_losses_of_a_classifier_by_hand():
    exact = torch.log(torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.1, 0.9]], dtype=torch.float64))
    found = torch.log(torch.tensor([[0.5, 0.5], [0.4, 0.6], [0.1, 0.9]], dtype=torch.float64)) + 3
    losses = figures.classifier_losses(exact, found, torch.tensor([0, 1, 0]))
    kl = [0.75 * math.log(1.5) + 0.25 * math.log(0.5), 0.5 * math.log(0.5 / 0.4) + 0.5 * math.log(0.5 / 0.6), 0]
    assert losses["kl"] == pytest.approx(kl, abs=1e-12)
    assert losses["agreement"].tolist() == [1, 0, 1] and losses["accuracy"].tolist() == [1, 1, 0]


def test_the_mean_leaves_padding_out():
    hidden = torch.tensor([[[1.0, 0.0], [2.0, 1.0], [99.0, 99.0]]])
    found = figures.pooled(hidden, torch.tensor([[1, 1, 0]]))
    assert torch.allclose(found, unit([[3.0, 1.0]])) and found.dtype == torch.float64


def test_intervals_are_about_as_wide_as_theory_says():
    values = np.random.default_rng(2).normal(loc=3, size=400)
    found = Bootstrap(400).mean(values)
    half = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean()) and found.n == 400
    assert found.low == pytest.approx(values.mean() - half, abs=0.02)
    assert found.high == pytest.approx(values.mean() + half, abs=0.02)
    assert found == Bootstrap(400).mean(values)  # the same seed, the same interval


def test_pairs_cancel_what_texts_contribute():
    generator = np.random.default_rng(3)
    before = generator.exponential(size=200)
    after = 0.4 * before
    bootstrap = Bootstrap(200)
    ratio, difference = bootstrap.ratio(before, after), bootstrap.difference(before, before + 0.1)
    assert ratio[:3] == pytest.approx((0.4, 0.4, 0.4)) and difference[:3] == pytest.approx((0.1, 0.1, 0.1))
    unpaired = bootstrap.ratio(before, generator.permutation(after))
    assert unpaired.high - unpaired.low > 0.05


def test_a_ratio_to_nothing_is_no_number():
    found = Bootstrap(5).ratio(np.zeros(5), np.ones(5))
    assert found.value == math.inf


def test_perplexities_are_compared_by_their_ratio():
    losses = np.array([1.0, 2.0, 3.0])
    bootstrap = Bootstrap(3)
    assert figures.summary(bootstrap, {"perplexity": losses})["perplexity"].value == pytest.approx(math.exp(2))
    found = figures.against(bootstrap, {"perplexity": losses}, {"perplexity": losses + math.log(1.5)})
    assert found["perplexity"][:3] == pytest.approx((1.5, 1.5, 1.5))


def test_errors_are_compared_by_ratio_and_shares_by_difference():
    before = {"kl": np.array([0.2, 0.4]), "agreement": np.array([1.0, 0.0])}
    after = {"kl": np.array([0.1, 0.2]), "agreement": np.array([1.0, 1.0])}
    found = figures.against(Bootstrap(2), before, after)
    assert found["kl"].value == pytest.approx(0.5) and found["agreement"].value == pytest.approx(0.5)
