"""A weight on its way: looked at once, while it is quantized, and packed once."""

from collections import Counter

import pytest
import torch
from torch import nn

from kdnative.convert import convert_, weights
from kdnative.nn import Linear
from tests.small_models import bert


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8-g32-asym", "w4a8-g64-int"])
@pytest.mark.parametrize("fuse", [True, False])
def test_each_weight_is_quantized_and_packed_once(monkeypatch, fuse, scheme):
    model = bert()
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "classifier"}
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    shapes = {tuple(m.weight.shape) for m in (*linears.values(), *tables)}
    quantized, packed, looked_at = Counter(), [], []
    quantize, pack, isfinite = weights.quantize_weight, Linear._pack, torch.isfinite

    def counting(weight, *arguments, **options):
        quantized[weight.data_ptr()] += 1
        return quantize(weight, *arguments, **options)

    monkeypatch.setattr(weights, "quantize_weight", counting)
    monkeypatch.setattr(Linear, "_pack", lambda self, *given: packed.append(self) or pack(self, *given))
    monkeypatch.setattr(torch, "isfinite", lambda tensor: looked_at.append(tuple(tensor.shape)) or isfinite(tensor))
    expected = {linear.weight.data_ptr(): 1 for linear in linears.values()}
    convert_(model, scheme, fuse=fuse)
    assert quantized == expected
    assert len(packed) == (4 * 2 + 1 if fuse else len(linears))  # queries, keys and values are one product
    assert not shapes & set(looked_at), "a whole weight was looked at besides"


def test_what_stays_is_not_looked_at(monkeypatch):
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    convert_(model, {"1": "w8a8"})
    assert type(model[0]) is nn.Linear and type(model[1]) is Linear
