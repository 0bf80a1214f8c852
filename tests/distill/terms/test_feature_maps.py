"""Feature maps: values by numpy and by hand, projections, sizes, and how maps are read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kdnative.distill import FeatureMapLoss, LossTerms, Outputs, TrainConfig, train
from kdnative.distill.outputs import MAP, run
from tests.distill.tiny import batch


class Network(nn.Module):
    def __init__(self, width=4, stride=1, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(3, width, 3, stride)
        self.blocks = nn.Sequential(nn.ReLU(), nn.Conv2d(width, 2 * width, 3))
        self.head = nn.Linear(2 * width, 5)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Pictures:
    """What `train` reads of a data set."""

    fingerprint = "pictures"

    def __len__(self):
        return 3

    def epoch(self, number, start=0):
        for i in range(start, 3):
            yield Picture(torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(i)))


class Picture:
    def __init__(self, x):
        self.inputs, self.labels, self.index = {"x": x}, None, torch.arange(len(x))

    def to(self, device):
        return self


def maps(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def distance(ours, theirs, metric="mse", **options):
    term = FeatureMapLoss({"a": "b"}, [(ours.shape[1], theirs.shape[1])], metric, **options).to(ours.dtype)
    return term, term(batch(), Outputs(maps={"a": ours}), [Outputs(maps={"b": theirs})])


def test_mean_square():
    a, b = maps(2, 3, 5, 7), maps(2, 3, 5, 7, seed=1)
    assert float(distance(a, b)[1]) == pytest.approx(((a.numpy() - b.numpy()) ** 2).mean(), rel=1e-12)


def test_a_learned_projection_where_channels_differ():
    a, b = maps(2, 3, 5, 7), maps(2, 6, 5, 7, seed=1)
    term, value = distance(a, b)
    weight = term.projections[0].weight.detach().numpy()[:, :, 0, 0]
    projected = np.einsum("oc,nchw->nohw", weight, a.numpy())
    assert float(value.detach()) == pytest.approx(((projected - b.numpy()) ** 2).mean(), rel=1e-9)
    value.backward()
    assert term.projections[0].weight.grad.abs().max() > 0
    assert not list(distance(a, b, "attention")[0].parameters())


def test_the_larger_map_is_averaged_down():
    a, b = maps(2, 3, 4, 5), maps(2, 3, 8, 5, seed=1)
    halved = b.numpy().reshape(2, 3, 4, 2, 5).mean(3)
    for ours, theirs in ((a, b), (b, a)):
        assert float(distance(ours, theirs)[1]) == pytest.approx(((a.numpy() - halved) ** 2).mean(), rel=1e-9)


def test_attention():
    a, b = maps(2, 3, 4, 5), maps(2, 6, 4, 5, seed=1)
    x, y = ((m.numpy() ** 2).sum(1).reshape(2, -1) for m in (a, b))
    x, y = (m / np.sqrt((m**2).sum(1, keepdims=True)) for m in (x, y))
    assert float(distance(a, b, "attention")[1]) == pytest.approx(((x - y) ** 2).sum(1).mean(), rel=1e-9)


def test_attention_by_hand():
    # One channel, two pixels: (1, 0) against (0, 2) lie at right angles, whatever their lengths are.
    a, b = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 2.0]]]])
    assert float(distance(a, b, "attention")[1]) == pytest.approx(2.0)
    assert float(distance(a, 3 * a, "attention")[1]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("metric", ["mse", "attention"])
def test_gradients(metric):
    a, b = maps(2, 3, 3, 2).requires_grad_(), maps(2, 3, 2, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: distance(x, b, metric)[1], a)
    distance(a, b, metric)[1].backward()
    assert b.grad is None, "no gradient into the teacher"


def test_maps_are_read_while_a_model_runs():
    model, x = Network(), torch.randn(2, 3, 9, 9)
    found = run(model, {"x": x}, {"logits", MAP + "stem", MAP + "blocks.1"})
    assert torch.equal(found.maps["stem"], model.stem(x)) and found.maps["blocks.1"].shape == (2, 8, 5, 5)
    assert torch.equal(found.logits, model(x))
    assert not any(module._forward_hooks for module in model.modules()), "nothing is left of it"


def test_a_student_comes_closer_to_its_teacher():
    student, teacher = Network(2, 2, seed=1), Network(4)
    term = FeatureMapLoss.between(
        student, teacher, {"stem": "stem", "blocks": "blocks.1"}, {"x": torch.zeros(1, 3, 9, 9)}
    )
    assert term.channels == [(2, 4), (4, 8)] and len(list(term.parameters())) == 2
    config = TrainConfig(epochs=6, lr=1e-2, device="cpu", precision="fp32")
    history = train(student, Pictures(), LossTerms([term]), config, teachers=[teacher])
    losses = [entry["maps"] for entry in history.epochs]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FeatureMapLoss({}, []), "one or more pairs"),
        (lambda: FeatureMapLoss({"a": "b"}, []), "one or more pairs, channels of each"),
        (lambda: FeatureMapLoss({"a": "b"}, [(1, 1)], "cosine"), 'allowed are "mse" and "attention"'),
        (lambda: FeatureMapLoss({"a": "b"}, [(1, 1)], teacher=-1), "positions count from 0"),
        (lambda: run(Network(), {"x": torch.zeros(1, 3, 9, 9)}, {MAP + "neck"}), "has no module 'neck'"),
        (lambda: run(Network(), {"x": torch.zeros(1, 3, 9, 9)}, {MAP + "head"}), r"gives \[1, 5\], not"),
        (lambda: run(Network(), {"x": torch.zeros(1, 3, 9, 9)}, {"logits"}).maps, "the model did not record 'map:'"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_module_that_nobody_calls():
    model = Network()
    model.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match="reads the feature map of spare, which isn't called in Network"):
        run(model, {"x": torch.zeros(1, 3, 9, 9)}, {MAP + "spare"})


def test_maps_of_other_channels_than_said():
    term = FeatureMapLoss({"a": "b"}, [(3, 3)])
    with pytest.raises(ValueError, match=r"made for \(3, 3\) channels, and got \[2, 4, 5, 5\] of a"):
        term(batch(), Outputs(maps={"a": torch.zeros(2, 4, 5, 5)}), [Outputs(maps={"b": torch.zeros(2, 3, 5, 5)})])
