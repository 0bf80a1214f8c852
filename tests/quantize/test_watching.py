"""Which linears are given the very same, and what torch's attention gives to what it never calls."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdnative.quantize.inputs import InputBatches
from kdnative.quantize.linears import linears_of
from kdnative.quantize.watching import Enough, find_groups, forward, watched


def groups(model, *batches):
    found = find_groups(model, linears_of(model), InputBatches(batches))
    return [(group.names, group.calls) for group in found]


class Mixed(nn.Module):
    """Queries and keys of one tensor, values of another; an output that is called twice."""

    def __init__(self):
        super().__init__()
        for name in ("out", "value", "key", "query"):  # another order than that of the calls
            setattr(self, name, nn.Linear(8, 8))

    def forward(self, *, x, same=True):
        other = x if same else x + 0
        y = self.query(x) + self.key(other)
        y = y + self.value(x.clone())
        return self.out(self.out(y))


X = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))


def test_groups_are_those_of_the_same_tensor_in_the_order_of_calls():
    assert groups(Mixed(), {"x": X}, {"x": X}) == [
        (("key", "query"), (1, 1)),
        (("value",), (1, 1)),
        (("out",), (2, 2)),
    ]


def test_linears_are_together_only_where_they_are_so_in_every_batch():
    found = groups(Mixed(), {"x": X}, {"x": X, "same": False})
    assert [names for names, _ in found] == [("query",), ("key",), ("value",), ("out",)]


def test_a_tensor_that_was_changed_is_another_one():
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            x = x.clone()
            y = self.first(x)
            return y + self.second(x.mul_(2))

    assert groups(Changing(), X) == [(("first",), (1,)), (("second",), (1,))]


def test_layers_that_run_in_some_batches_only():
    class Sometimes(Mixed):
        def forward(self, x, twice):
            return self.query(x) if twice else self.query(self.key(x))

    model = Sometimes()
    del model.value, model.out
    assert groups(model, (X, False), (X, True)) == [(("key",), (1, 0)), (("query",), (1, 1))]
    with pytest.raises(ValueError, match=r"'key' did not run on the calibration data.*keep="):
        groups(model, (X, True))


def attention_inputs(attention, query, key, value):
    """What the output projection of torch's attention multiplies, in float64, without a mask."""
    split = [w.double() for w in attention.in_proj_weight.chunk(3)], attention.in_proj_bias.double().chunk(3)
    q, k, v = (F.linear(x.double(), w, b) for x, w, b in zip((query, key, value), *split, strict=True))
    heads = [t.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for t in (q, k, v)]
    return F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("cross", [False, True])
def test_attention_of_torch(batch_first, cross):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first).eval()
    nn.init.normal_(attention.in_proj_bias)
    memory = torch.randn(2, 5, 8) if cross else X
    given = [x if batch_first else x.transpose(0, 1) for x in (X, memory)]
    inputs = (given[0], given[1], given[1]) if cross else (given[0],) * 3
    with torch.no_grad():
        plain, plain_weights = attention(*inputs)
    seen = []
    with watched(attention, linears_of(attention), lambda name, _, x: seen.append((name, x))):
        output, weights = attention(inputs[0], key=inputs[1], value=inputs[2])
    torch.testing.assert_close(output, plain)
    torch.testing.assert_close(weights, plain_weights)
    names, tensors = zip(*seen, strict=True)
    assert names == (("", "", "out_proj") if cross else ("", "out_proj"))
    torch.testing.assert_close(tensors[0], X)
    torch.testing.assert_close(tensors[-2], memory)
    expected = attention_inputs(attention, X, memory, memory).float()
    torch.testing.assert_close(tensors[-1], expected, rtol=1e-5, atol=1e-6)


def test_layers_of_torch_that_read_weights_past_their_modules():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    with torch.no_grad():
        plain = layer(X)
    sites, seen = linears_of(layer), []
    with watched(layer, sites, lambda name, _, x: seen.append(name)):
        output = layer(X)
    torch.testing.assert_close(output, plain)
    assert sorted(seen) == sorted(sites) == ["linear1", "linear2", "self_attn", "self_attn.out_proj"]


def test_everything_is_as_before_even_after_a_failure():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    layer.norm1.eval()
    before = {name: module.training for name, module in layer.named_modules()}
    projection = layer.self_attn.out_proj

    def fail(name, *_):
        raise RuntimeError(name)

    with pytest.raises(RuntimeError, match="self_attn"), watched(layer, linears_of(layer), fail):
        layer(X)
    mask = torch.zeros(7, 7)  # of the wrong size: torch fails inside its attention
    with pytest.raises(RuntimeError, match="shape"), watched(layer, linears_of(layer), lambda *_: None):
        layer(X, src_mask=mask)
    assert layer.self_attn.out_proj is projection and torch.backends.mha.get_fastpath_enabled()
    assert {name: module.training for name, module in layer.named_modules()} == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in layer.modules()) and torch.is_grad_enabled()


def test_other_values_for_a_while():
    """Of one of two layers that share a weight: the other keeps its own."""
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    model[1].weight = model[0].weight
    own, seen = model[0].weight.detach().clone(), []
    with watched(model, linears_of(model), lambda name, _, x: seen.append(x)):
        forward(model, InputBatches([X]).all[0], {"0.weight": torch.eye(8)})
    assert torch.equal(seen[1], X) and torch.equal(model[0].weight, own) and model[1].weight is model[0].weight


def test_a_forward_can_end_early():
    def stop(name, *_):
        seen.append(name)
        if name == "0":
            raise Enough

    model, seen = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), []
    with watched(model, linears_of(model), stop):
        forward(model, InputBatches([X]).all[0])
    assert seen == ["0"]
