import copy

import pytest
import torch
from torch import nn

import kdnative as kd
from kdnative.formats import layouts
from kdnative.prune import finalize_masks_, mask_, masked_modules, sparsify
from kdnative.quantize import prepare_qat_, quantize_weight
from kdnative.quantize.methods import GPTQ
from tests.quantize.methods.correlated import inputs, statistics, weights


def reference(weight, moment, pattern, sparsity, damping=0.05):
    """Optimal brain surgery in float64, column by column, with an explicit inverse over the columns that are left."""
    n, k = weight.shape
    h = moment.double() + damping * moment.double().diagonal().mean() * torch.eye(k)
    inverses = [torch.linalg.inv(h[j:, j:]) for j in range(k)]
    w, kept = weight.double().clone(), torch.ones(n, k, dtype=torch.bool)
    rows = 4 if pattern == "4x1" else 1
    run = 4 if pattern == "2:4" else 128
    for j in range(k):
        if j % run == 0:
            columns = range(j, min(j + run, k))
            cost = torch.stack([w[:, c] ** 2 / inverses[c][0, 0] for c in columns], 1)
            if pattern == "2:4":
                for row in range(n):
                    kept[row, [j + int(c) for c in cost[row].argsort()[:2]]] = False
            else:
                total = torch.stack([cost[r : r + rows].sum(0) for r in range(0, n, rows)])
                done = -(-n // rows) * j
                count = int(sparsity * (done + total.numel()) + 0.5) - int(sparsity * done + 0.5)
                for index in total.flatten().argsort()[:count].tolist():
                    r, c = divmod(index, total.shape[1])
                    kept[r * rows : (r + 1) * rows, j + c] = False
        error = w[:, j] * ~kept[:, j] / inverses[j][0, 0]
        w[:, j:] -= error[:, None] * inverses[j][0]
        w[:, j] *= kept[:, j]
    return w, kept


@pytest.mark.parametrize(("pattern", "sparsity"), [("2:4", None), ("4x1", 0.5), ("unstructured", 0.7)])
@pytest.mark.parametrize(("n", "k"), [(8, 12), (10, 160), (1, 4)])
def test_against_optimal_brain_surgery(pattern, sparsity, n, k):
    weight, moment = weights(n, k), statistics(inputs(400, k)).second_moment
    found, mask = sparsify(weight, moment, pattern, sparsity)
    right, kept = reference(weight, moment, pattern, sparsity)
    assert torch.equal(mask, kept)
    assert torch.allclose(found.double(), right, rtol=1e-3, atol=1e-5)
    assert (found[~mask] == 0).all() and found.is_contiguous() and mask.is_contiguous()


@pytest.mark.parametrize(("pattern", "sparsity"), [("2:4", None), ("4x1", 0.5), ("unstructured", 0.8), ("8x8", 0.3)])
def test_better_than_magnitude_on_inputs_not_seen(pattern, sparsity):
    x, layer = inputs(2000, 96), nn.Linear(96, 64, bias=False)
    magnitude = copy.deepcopy(layer)
    mask_(nn.Sequential(magnitude), sparsity, pattern)
    found, mask = sparsify(layer.weight, statistics(x[:1000]).second_moment, pattern, sparsity)
    unseen, right = x[1000:], layer(x[1000:])
    ours, theirs = (unseen @ found.t() - right).square().sum(), (magnitude(unseen) - right).square().sum()
    assert ours < 0.7 * theirs
    assert int((~mask).sum()) == int((magnitude.weight_mask == 0).sum())


def test_a_mask_stays_and_counts():
    weight, moment = weights(16, 300), statistics(inputs(400, 300)).second_moment
    first, mask = sparsify(weight, moment, "4x1", 0.3)
    second, more = sparsify(first, moment, "4x1", 0.6, mask=mask)
    assert not (more & ~mask).any() and (second[~more] == 0).all()
    assert int((~more).sum()) == 4 * int(0.6 * 4 * 300 + 0.5)
    moved = second + ~more  # as an optimizer's step leaves it
    same, again = sparsify(moved, moment, "4x1", 0.2, mask=more)  # less than there is
    assert torch.equal(again, more) and torch.allclose(same, second)


def test_dtypes_and_dead_inputs():
    x = inputs(300, 64)
    x[:, 7] = 0
    weight = weights(64, 8).bfloat16().t()
    found, mask = sparsify(weight, statistics(x).second_moment, "2:4")
    assert found.dtype == torch.bfloat16 and torch.isfinite(found).all()
    assert (mask.view(8, 16, 4).sum(-1) == 2).all()
    assert torch.equal(found[:, 7], weight[:, 7] * mask[:, 7])  # nothing makes up for it, and it for nothing
    zero, _ = sparsify(weight, torch.zeros(64, 64), "unstructured", 0.5)
    assert int((zero == 0).sum()) == 4 * 64


def test_words():
    weight, moment = weights(4, 8), torch.eye(8)
    with pytest.raises(ValueError, match=r"needs \[8, 8\]"):
        sparsify(weight, torch.eye(4))
    with pytest.raises(ValueError, match="does not divide"):
        sparsify(weights(4, 6), torch.eye(6))
    with pytest.raises(ValueError, match="sparsity=None"):
        sparsify(weight, moment, "4x1")
    with pytest.raises(ValueError, match="NaN"):
        sparsify(weight, moment * torch.nan)
    with pytest.raises(ValueError, match="not positive definite"):
        sparsify(weight, moment - 3 * torch.eye(8).roll(1, 0) - 3 * torch.eye(8).roll(-1, 0))
    for mask in (torch.ones(4, 7, dtype=torch.bool), torch.ones(8, 4, dtype=torch.bool), torch.ones(4, 8)):
        with pytest.raises(ValueError, match=r"the mask has shape .*; bool \[4, 8\] is needed"):
            sparsify(weight, moment, mask=mask)
    with pytest.raises(ValueError, match=r"the weight has shape \[8\]; a matrix"):
        sparsify(weight[0], moment)
    for damping in (0.0, -1.0, 2.0, float("nan")):
        with pytest.raises(ValueError, match=r"damping=.*within \(0, 1\]"):
            sparsify(weight, moment, damping=damping)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 32))


@pytest.mark.parametrize(("pattern", "sparsity"), [("2:4", None), ("4x1", 0.5)])
def test_masks_of_a_model_are_held_and_convert(network, pattern, sparsity):
    x = inputs(600, 64)
    right = network(x[300:])
    magnitude = copy.deepcopy(network)
    mask_(magnitude, sparsity, pattern)
    report = mask_(network, sparsity, pattern, method="sparsegpt", calibration=list(x[:300].split(64)))
    assert [row.sparsity for row in report.rows] == [0.5, 0.5] and set(masked_modules(network)) == {"0", "2"}
    assert (network(x[300:]) - right).square().mean() < 0.6 * (magnitude(x[300:]) - right).square().mean()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    network(x[:8]).square().sum().backward()
    optimizer.step()
    network(x[:8])
    assert all((layer.weight[~layer.weight_mask] == 0).all() for layer in masked_modules(network).values())
    finalize_masks_(network)
    expected = network(x[:8]).detach()
    for layer in (network[0], network[2]):
        layouts.Sparse(pattern).pack(
            quantize_weight(layer.weight, "w8a8"), layer.bias
        )  # refuses what is not of the pattern
    kd.convert_(network, f"w8a8+{pattern}")
    assert torch.allclose(network(x[:8]), expected, atol=0.05 * float(expected.abs().max()))


def test_gptq_keeps_its_zeros(network):
    x = inputs(600, 64)
    mask_(network, 0.5, "4x1", method="sparsegpt", calibration=[x])
    weight = network[0].weight.detach()
    (quantized,) = GPTQ().quantize([weight], "w8a8+4x1", statistics(x))
    assert (quantized.qweight[weight == 0] == 0).all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "needs calibration="),
        ({"calibration": []}, "no data"),
        ({"calibration": [torch.ones(4, 64)], "scope": "global"}, "scope='layer'"),
        ({"calibration": [torch.full((16, 64), torch.nan)]}, "NaN"),
        ({"calibration": [torch.ones(4, 64)], "method": "magnitude"}, "for method='sparsegpt' only"),
        ({"method": "wanda"}, "method='wanda'; allowed are 'magnitude' and 'sparsegpt'"),
    ],
)
def test_a_model_is_unchanged_where_it_is_refused(network, options, text):
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match=text):
        mask_(network, 0.5, "4x1", **{"method": "sparsegpt", **options})
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not masked_modules(network)


class Tied(nn.Module):
    """An output layer with the weight of the embedding, and two linears that share one."""

    def __init__(self):
        super().__init__()
        self.embedding, self.layer = nn.Embedding(80, 64), nn.Linear(64, 64)
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.output = nn.Linear(64, 80, bias=False)
        self.output.weight, self.second.weight = self.embedding.weight, self.first.weight

    def forward(self, tokens):
        return self.output(self.second(self.first(self.layer(self.embedding(tokens)))))


def test_shared_weights_are_left_alone():
    model, data = Tied(), {"method": "sparsegpt", "calibration": [torch.arange(80).view(20, 4)]}
    before = copy.deepcopy(model.state_dict())
    report = mask_(model, pattern="2:4", **data)
    kinds = {row.name: (row.what, row.sparsity) for row in report}
    assert kinds == {"layer": ("mask", 0.5), **dict.fromkeys(("first", "second", "output"), ("shared", 0.0))}
    assert "shared" in str(report) and set(masked_modules(model)) == {"layer"}
    after = model.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["layer.weight"]
    with pytest.raises(ValueError, match="output shares its weight with embedding, .*: leave it out"):
        mask_(model, pattern="2:4", modules=["output"], **data)
    with pytest.raises(ValueError, match="no layer to mask: the model has 4 linear layers"):
        mask_(model, pattern="2:4", keep="layer", **data)


def test_options_of_the_data(network):
    told = []
    with pytest.warns(UserWarning, match="calibration has 2 examples") as caught:
        mask_(
            network,
            pattern="2:4",
            method="sparsegpt",
            calibration=[inputs(1, 64), inputs(1, 64, 1)],
            progress=lambda *what: told.append(what),
        )
    assert caught[0].filename == __file__
    assert told == [
        *[("finding layers with shared inputs", i, 2) for i in (1, 2)],
        *[("reading the data", i, 2) for i in (1, 2)],
        *[("removing weights", i, 2) for i in (1, 2)],
    ]
    with pytest.raises(ValueError, match="max_length=0"):
        mask_(network, pattern="2:4", method="sparsegpt", calibration=["a"], tokenizer=object(), max_length=0)


def test_layers_in_training_for_a_scheme_are_refused(network):
    prepare_qat_(network, "w8a8")
    with pytest.raises(ValueError, match="FakeQuantLinear"):
        mask_(network, pattern="2:4", method="sparsegpt", calibration=[inputs(50, 64)])
