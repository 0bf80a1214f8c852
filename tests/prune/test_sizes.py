"""How many layers, heads and neurons stay, and models whose layers differ in size."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kdnative import convert_, load, save
from kdnative.convert import to_float_
from kdnative.nn import Encoder
from kdnative.prune import evenly_spaced, shrink_shapes_, structured_
from kdnative.prune.sizes import kept_counts, kept_units
from tests.prune.test_structured import BATCH, FAMILIES, INPUTS, assert_same, build, logits, parts, snapshot

HEADS, FFN = [4, 2, 2, 4], [256, 128, 64, 64]


@pytest.mark.parametrize(
    ("total", "share", "unit", "expected"),
    [
        (1536, 0.5, 1, 768),
        (1536, 0.33, 1, 1024),  # 1029 neurons, 16.08 tiles
        (12, 0.25, 32, 10),  # 9 heads are 4.5 tiles: the tie goes up
        (12, 0.5, 64, 6),
        (12, 0.99, 64, 1),
        (12, 0.99, 32, 2),
        (3, 0.4, 48, 2),  # no whole tiles below the full width
        (1, 0.9, 64, 1),
        (40, 0.5, 1, 20),
        (100, 0.02, 1, 100),
    ],
)
def test_rounding_to_tiles(total, share, unit, expected):
    assert kept_units(total, share, unit, 64) == expected


def test_evenly_spaced():
    assert [evenly_spaced(6, n) for n in (1, 2, 3, 6)] == [[0], [0, 5], [0, 3, 5], [0, 1, 2, 3, 4, 5]]
    assert evenly_spaced(12, 6) == [0, 2, 4, 7, 9, 11]
    for total in range(1, 25):
        for count in range(1, total + 1):
            kept = evenly_spaced(total, count)
            assert len(set(kept)) == count and kept == sorted(kept) and (count == 1 or kept[-1] == total - 1)
    with pytest.raises(ValueError, match="1 to 6"):
        evenly_spaced(6, 7)


class TestNumbersForEachLayer:
    def test_are_taken_as_they_are(self):
        assert kept_counts("heads", [6, 4, 2], [12, 12, 12], [32, 32, 32], 64) == [6, 4, 2]
        assert kept_counts("heads", [3, 1], [3, 3], [48, 48], 64) == [3, 1], "no whole tiles below the full width"
        assert kept_counts("ffn", [100, 64], [100, 128], [1, 1], 64) == [100, 64], "all may stay"
        assert kept_counts("heads", 0.5, [12, 6], [64, 64], 64) == [6, 3], "a share is of each layer"

    @pytest.mark.parametrize(
        ("name", "amount", "words"),
        [
            ("heads", [6, 4], r"heads=\[6, 4\] has 2 numbers, but there are 3 layers"),
            ("heads", [6, 14, 2], "layer 1 has 12 heads, so it can't keep 14"),
            (
                "heads",
                [6, 4, 3],
                r"layer 2 would keep 3 heads, 96 columns, .* not a multiple of 64: .* multiple of 2 heads",
            ),
            ("ffn", [64, 100, 64], "layer 1 would keep 100 neurons, 100 columns, .* a multiple of 64 neurons"),
        ],
    )
    def test_that_do_not_fit(self, name, amount, words):
        unit = 32 if name == "heads" else 1
        with pytest.raises(ValueError, match=words):
            kept_counts(name, amount, [12 if name == "heads" else 1536] * 3, [unit] * 3, 64)


def kinds(model: nn.Module) -> set[type]:
    return {type(module) for module in model.modules()}


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "MPNet"])
def test_layers_of_different_sizes(family, tmp_path):
    """Every layer keeps its best units; then the model is saved, and converted into one encoder."""
    model = build(family)
    before = copy.deepcopy(model)
    options = {"calibration": [BATCH], "example_inputs": INPUTS}
    structured_(model, heads=HEADS, ffn=FFN, **options)
    for (attention, q, *_, out, up, down), heads, ffn in zip(parts(model), HEADS, FFN, strict=True):
        assert getattr(attention, "num_attention_heads", getattr(attention, "n_heads", None)) == heads
        assert q.out_features == out.in_features == 32 * heads and up.out_features == down.in_features == ffn
    uniform = copy.deepcopy(before)
    structured_(uniform, heads=0.5, ffn=0.75, **options)
    ours, theirs = list(parts(model)), list(parts(uniform))
    for mine, other in zip(ours[2], theirs[2], strict=True):  # 2 of 4 heads and 64 of 256 neurons in both
        if isinstance(mine, nn.Linear):
            assert torch.equal(mine.weight, other.weight)
    whole, first = list(parts(before)), ours[0]
    assert torch.equal(first[1].weight, whole[0][1].weight), "a layer that keeps all keeps it in order"
    shapes = build(family)
    shrink_shapes_(shapes, heads=HEADS, ffn=FFN)
    assert [p.shape for p in shapes.parameters()] == [p.shape for p in model.parameters()]

    save(model, tmp_path / "float")
    assert torch.equal(logits(load(tmp_path / "float").eval()), logits(model))
    native = convert_(copy.deepcopy(model), "w8a8").model
    assert kinds(native) == kinds(convert_(before, "w8a8").model), "fused like the whole model"
    assert (Encoder in kinds(native)) == (family != "Electra"), "its embeddings have a projection of their own"
    # int8 weights and activations cost little, and layers at the wrong places would cost everything
    error = (logits(native) - logits(model)).abs().max()
    assert error < 0.1 * logits(model).std(), float(error)
    save(native, tmp_path / "native")
    loaded = load(tmp_path / "native")
    assert torch.equal(logits(loaded), logits(native))
    with pytest.raises(ValueError, match="different sizes from the native model, whose layers may be pruned"):
        to_float_(loaded)


def test_after_layers_have_gone():
    model = build("Bert")
    structured_(model, layers=[0, 3], heads=[2, 4], ffn=[64, 128], example_inputs=INPUTS)
    found = list(parts(model))
    assert [p[5].out_features for p in found] == [64, 128] and [p[1].out_features for p in found] == [64, 128]
    assert model.config.intermediate_size == 256, "no layer has the size of the other"


@pytest.mark.parametrize(
    ("family", "arguments", "words"),
    [
        ("Bert", {"heads": []}, r"heads=\[\]; whole numbers to keep"),
        ("Bert", {"heads": [2, 2, True, 2]}, "whole numbers to keep"),
        ("Bert", {"ffn": [0, 64, 64, 64]}, "at least 1"),
        ("Bert", {"heads": 2}, "heads=2; the share to remove"),
        ("Bert", {"heads": "2"}, "heads=2; the share to remove"),
        ("Bert", {"ffn": [64, 64]}, "has 2 numbers, but there are 4 layers"),
        ("Bert", {"heads": [2, 2, 2, 2], "ffn": [64, 65, 64, 64]}, "layer 1 would keep 65 neurons"),
        ("MPNet", {"heads": [4, 2, 2, 2]}, "share one position bias, .* the same number for every layer"),
    ],
)
def test_bad_numbers_change_nothing(family, arguments, words):
    model = build(family)
    before = snapshot(model)
    with pytest.raises(ValueError, match=words):
        structured_(model, **arguments, example_inputs=INPUTS)
    assert_same(model, before)
    with pytest.raises(ValueError, match=words):
        shrink_shapes_(model, **arguments)
    assert_same(model, before)


def test_equal_numbers_where_layers_share_a_bias():
    model, other = build("MPNet"), build("MPNet")
    structured_(model, heads=[2] * 4, ffn=FFN, example_inputs=INPUTS)
    structured_(other, heads=0.5, example_inputs=INPUTS)
    assert [p[1].weight.shape for p in parts(model)] == [p[1].weight.shape for p in parts(other)]
    assert [p[5].out_features for p in parts(model)] == FFN


def test_numbers_need_layers():
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 8))
    with pytest.raises(ValueError, match=r"ffn=\[32\]: Sequential has no stack of layers: give a share"):
        structured_(model, ffn=[32], example_inputs=torch.randn(2, 8), multiple_of=8)
