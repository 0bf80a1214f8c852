"""Conversion of plain models: what was asked for, what can't be converted, and layers trained for a scheme."""

import json
import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import kdnative
from kdnative.convert import convert_
from kdnative.convert.refusals import MIN_IN_FEATURES, MIN_OUT_FEATURES
from kdnative.formats.scheme import Scheme
from kdnative.nn import Embedding, Linear
from kdnative.patterns import Selection, matches
from kdnative.prune import mask_
from kdnative.quantize import FakeQuantLinear, prepare_qat_, quantize_weight
from tests.small_models import rows


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Embedding(100, 64, padding_idx=0), nn.Linear(64, 256), nn.GELU(), nn.LayerNorm(256), nn.Linear(256, 128),
        nn.Tanh(), nn.Linear(128, 2),
    )  # fmt: skip


def snapshot(model):
    return {k: v.clone() for k, v in model.state_dict().items()}, [(n, id(m)) for n, m in model.named_modules()]


def assert_untouched(model, before):
    state, modules = before
    assert modules == [(n, id(m)) for n, m in model.named_modules()]
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


# -- plain models ------------------------------------------------------------------------------------------------------


def test_mlp():
    model = mlp().train()
    ids = torch.randint(0, 100, (4, 7))
    with torch.no_grad():
        expected = model(ids)
    report = convert_(model)
    assert report.model is model and not model.training
    assert [type(m) for m in model] == [Embedding, Linear, nn.GELU, nn.LayerNorm, Linear, nn.Tanh, nn.Linear]
    with torch.no_grad():
        assert ((model(ids) - expected).norm() / expected.norm()) < 0.03
    found = rows(report)
    assert list(found) == ["0", "1", "3", "4", "6"]
    assert {n: r.action for n, r in found.items()} == {
        "0": "converted", "1": "converted", "3": "kept", "4": "converted", "6": "kept"
    }  # fmt: skip
    assert found["1"].scheme == "w8a8" and found["1"].shape == [256, 64] and found["0"].scheme == "int8"
    assert "no native LayerNorm" in found["3"].reason and "2 outputs" in found["6"].reason
    assert all(row.reason for row in report.rows)


def test_report_counts_bytes_and_reads_as_a_table():
    model = mlp()
    before = sum(p.numel() * 4 for p in model.parameters())
    report = convert_(model)
    after = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    totals = report.totals
    assert totals == {"converted": 3, "fused": 0, "kept": 2, "bytes_before": before, "bytes_after": after}
    lines = str(report).splitlines()
    assert len(lines) == 7 and lines[0].split()[:2] == ["module", "kind"]
    column = lines[0].index("reason")
    assert all(line[column - 2 : column] == "  " and line[column] != " " for line in lines[:-1])
    assert lines[-1].startswith("3 converted, 0 fused, 2 kept")
    assert json.loads(json.dumps(report.to_dict()))["totals"] == totals


def test_second_call_changes_nothing():
    model = mlp()
    convert_(model)
    modules = list(model)
    report = convert_(model, "w4a8-g64")
    assert list(model) == modules and report.totals["converted"] == 0
    assert rows(report)["1"].reason == "already native, in w8a8" and rows(report)["1"].shape == [256, 64]


def test_the_weights_are_those_of_quantize_weight():
    model, original = mlp(), mlp()
    convert_(model, "w4a8-g32-asym", clip_search=True)
    expected = quantize_weight(original[1].weight, Scheme.parse("w4a8-g32-asym"), clip_search=True)
    assert torch.equal(model[1].quantized().qweight, expected.qweight)
    assert torch.equal(model[1].quantized().scale, expected.scale)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(dtype):
    model = mlp().to(dtype)
    ids = torch.randint(0, 100, (4, 7))
    with torch.no_grad():
        expected = model(ids)
        convert_(model)
        y = model(ids)
    assert y.dtype == dtype and (y - expected).float().norm() / expected.float().norm() < 0.05


@pytest.mark.parametrize("root, native", [(nn.Linear(128, 64), Linear), (nn.Embedding(50, 64), Embedding)])
def test_root_that_is_a_layer_becomes_native(root, native):
    holder = nn.Sequential(root)
    x = torch.randn(3, 128) if native is Linear else torch.tensor([1, 49])
    expected = root(x)
    report = convert_(root)
    assert report.model is root and type(root) is native and not root.training and report.rows[0].name == ""
    assert holder[0] is root and "(model)" in str(report)
    torch.testing.assert_close(holder(x), expected, rtol=0.1, atol=0.1)


def test_root_that_can_not_be_converted_is_unchanged():
    linear = nn.Linear(128, 64)
    with torch.no_grad():
        linear.weight[0, 0] = float("nan")
    attributes = dict(vars(linear))
    with pytest.raises(ValueError, match="NaN"):
        convert_(linear)
    assert type(linear) is nn.Linear and vars(linear) == attributes and linear.training


def test_two_bits_take_half_of_four():
    two, four = (rows(convert_(mlp(), {"4": scheme}, method="rtn"))["4"] for scheme in ("w2a8-g128", "w4a8-g128"))
    assert two.scheme == "w2a8-g128" and two.action == "converted"
    assert four.bytes_after - two.bytes_after == 128 * 256 // 4


def test_a_module_used_twice_is_replaced_everywhere():
    shared = nn.Linear(64, 64)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    report = convert_(model)
    assert type(model[0]) is Linear and model[0] is model[2] and len(report.rows) == 1


# -- what was asked for ------------------------------------------------------------------------------------------------


def test_first_match_wins_and_unmatched_stay():
    model = nn.ModuleDict({name: nn.Linear(64, 64) for name in ("query", "key", "value", "other")})
    report = convert_(model, {"query": "w4a8-g32", "re:(query|key)": "w8a8", "val*": None})
    found = rows(report)
    assert [found[n].scheme for n in ("query", "key", "value", "other")] == ["w4a8-g32", "w8a8", None, None]
    assert "'val*' is None" in found["value"].reason and "no pattern" in found["other"].reason


def test_keep_beats_schemes_and_covers_what_is_inside():
    model = nn.Sequential(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), nn.Linear(64, 64))
    report = convert_(model, {"*": "w8a8"}, keep=("0",))
    assert [type(m) for m in (*model[0], model[1])] == [nn.Linear, nn.Linear, Linear]
    assert rows(report)["0.1"].reason == "asked for by keep='0'"


def test_embeddings_follow_their_own_argument():
    model = mlp()
    report = convert_(model, embeddings=None)
    assert type(model[0]) is nn.Embedding and "embeddings=None" in rows(report)["0"].reason
    assert type(convert_(mlp(), {"4": "w8a8"}).model[0]) is Embedding
    assert type(convert_(mlp(), {"4": "w8a8", "0": None}).model[0]) is nn.Embedding
    assert type(convert_(mlp(), keep="0").model[0]) is nn.Embedding
    with pytest.raises(ValueError, match="embeddings must be 8 or None, got 4"):
        convert_(mlp(), embeddings=4)


@pytest.mark.parametrize("call", [{"schemes": {"nope": "w8a8"}}, {"keep": ["nope"]}, {"schemes": {"re:x+": None}}])
def test_patterns_that_match_nothing_list_the_names(call):
    model = mlp()
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"matches no module; the names are: 0, 1, 4, 6"):
        convert_(model, **call)
    assert_untouched(model, before)


def test_bad_requests():
    with pytest.raises(ValueError, match="Allowed"):
        convert_(mlp(), "w8a32")
    with pytest.raises(ValueError, match="no regular expression"):
        convert_(mlp(), {"re:(": "w8a8"})
    with pytest.raises(ValueError, match="empty mapping"):
        convert_(mlp(), {})
    with pytest.raises(TypeError, match="torch.nn.Module, not str"):
        convert_("model")
    with pytest.raises(TypeError, match="a pattern is a string"):
        convert_(mlp(), {1: "w8a8"})


@pytest.mark.parametrize("scheme", ["w8a16", "w4a16-g64"])
def test_float_activations(scheme):
    model = mlp()
    ids = torch.randint(0, 100, (4, 7))
    report = convert_(model, scheme, embeddings=None)
    assert model[1].scheme == Scheme.parse(scheme) and rows(report)["1"].scheme == scheme
    with torch.no_grad():
        h = model[3](model[2](torch.nn.functional.linear(model[0](ids), model[1].weight, model[1].bias)))
        expected = model[6](torch.tanh(torch.nn.functional.linear(h, model[4].weight, model[4].bias)))
        assert (model(ids) - expected).norm() / expected.norm() < 0.01  # bf16 factors on some processors


def test_matching():
    assert matches("encoder.*.query", "encoder.layer.0.query") and matches("encoder", "encoder.layer.0")
    assert not matches("layer", "encoder.layer.0") and not matches("enc", "encoder")
    assert matches("re:.*[13]", "layer.1.dense") and not matches("re:layer", "a.layer")
    assert Selection("w8a8").choose("x").explicit is False and Selection({"x": "w8a8"}).choose("x").explicit is True


# -- what can't be converted -------------------------------------------------------------------------------------------


def test_small_layers_stay_unless_named():
    model = nn.Sequential(nn.Linear(64, MIN_OUT_FEATURES - 1), nn.Linear(MIN_IN_FEATURES - 1, 64), nn.Linear(64, 64))
    found = rows(convert_(model))
    assert [found[n].action for n in "012"] == ["kept", "kept", "converted"]
    assert "faster in float" in found["0"].reason and "faster in float" in found["1"].reason
    assert type(convert_(model, {"0": "w8a8"}).model[0]) is Linear


@pytest.mark.parametrize("schemes", ["w8a8", {"*": "w8a8"}, {"1": "w8a8"}])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("which", ["weight", "bias"])
def test_nan_weights_are_an_error_before_anything_changes(schemes, value, which):
    model = mlp()
    with torch.no_grad():
        getattr(model[1], which).view(-1)[5] = value
    modules = list(model)
    with pytest.raises(ValueError, match=rf"nothing was converted.*\n  1: NaN or infinite values: its {which} has 1"):
        convert_(model, schemes)
    assert list(model) == modules
    assert type(convert_(model, "w8a8", keep="1").model[4]) is Linear


def test_groups_that_do_not_divide():
    model = nn.Sequential(nn.Linear(96, 64), nn.Linear(64, 64))
    before = snapshot(model)
    with pytest.raises(ValueError, match="\n  0: scheme w4a8-g64 needs in_features divisible by .* got 96; use g32"):
        convert_(model, {"0": "w4a8-g64", "1": "w8a8"})
    assert_untouched(model, before)
    report = convert_(model, "w4a8-g64")
    assert type(model[0]) is nn.Linear and type(model[1]) is Linear
    assert "got 96; use g32" in rows(report)["0"].reason


def test_every_impossible_request_is_listed_at_once():
    model = nn.Sequential(nn.Linear(96, 64), nn.Linear(64, 64).double(), nn.Linear(100, 8))
    with pytest.raises(ValueError) as info:
        convert_(model, {"[012]": "w4a8-g64"})
    assert all(f"\n  {name}: " in str(info.value) for name in "012")


def unusual_layers():
    class Scaled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    def with_forward():
        layer = nn.Linear(64, 64)
        layer.forward = lambda x: x
        return layer

    def hooked(register):
        layer = nn.Linear(64, 64)
        getattr(layer, register)(lambda *a: None)
        return layer

    masked = nn.Sequential(nn.Linear(64, 64))
    mask_(masked, 0.5)
    return {
        "masked": (masked[0], "finalize_masks_"),
        "subclass": (Scaled(64, 64), "Scaled is a subclass of nn.Linear"),
        "parametrized": (parametrizations.weight_norm(nn.Linear(64, 64)), r"parametrized \(weight\)"),
        "forward hook": (hooked("register_forward_hook"), "has hooks"),
        "pre-hook": (hooked("register_forward_pre_hook"), "has hooks"),
        "instance forward": (with_forward(), "its own forward"),
        "float64": (nn.Linear(64, 64).double(), "torch.float64"),
        "empty": (nn.Linear(64, 0), "empty"),
        "meta": (nn.Linear(64, 64, device="meta"), "meta device"),
        "max_norm": (nn.Embedding(10, 64, max_norm=1.0), "max_norm"),
    }


UNUSUAL = (
    "masked", "subclass", "parametrized", "forward hook", "pre-hook", "instance forward", "float64", "empty", "meta",
    "max_norm",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_layers_are_kept_or_refused_in_words(kind):
    layers = unusual_layers()
    assert set(layers) == set(UNUSUAL)
    layer, words = layers[kind]
    model = nn.Sequential(layer, nn.Linear(64, 64))
    if kind != "max_norm":  # schemes are for linears
        with pytest.raises(ValueError, match=words):
            convert_(model, {"0": "w8a8"})
    report = convert_(model, "w8a8")
    assert model[0] is layer and type(model[1]) is Linear
    assert rows(report)["0"].action == "kept" and re.search(words, rows(report)["0"].reason)


def test_modules_that_read_their_linears_weights():
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True).eval()
    x = torch.randn(2, 5, 64)
    with torch.no_grad():
        expected = layer(x)
        report = convert_(nn.Sequential(layer), fuse=False).rows
        assert torch.equal(layer(x), expected)
    reasons = {row.name: row.reason for row in report}
    assert "fast path" in reasons["0.linear1"] and "fast path" in reasons["0.self_attn.out_proj"]
    assert "fast path" in reasons["0.self_attn"]


# -- quantization-aware training ---------------------------------------------------------------------------------------


def test_fake_quant_layers_give_the_same_bits_after_conversion():
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 3))
    prepare_qat_(model, {"0": "w4a8-g32", "2": "w8a8"}, clip="search")
    x = torch.randn(6, 64)
    with torch.no_grad():
        expected = model(x)
        report = convert_(model, "w8a8")
        assert torch.equal(model(x), expected)
    assert [rows(report)[n].scheme for n in "02"] == ["w4a8-g32", "w8a8"], "they keep the scheme they were trained for"
    assert rows(report)["0"].kind == "FakeQuantLinear"


def test_fake_quant_layers_refuse_another_scheme():
    model = nn.Sequential(FakeQuantLinear(64, 64, scheme="w4a8-g32"))
    with pytest.raises(ValueError, match="trained for w4a8-g32, but w8a8 is given"):
        convert_(model, {"0": "w8a8"})
    assert type(model[0]) is FakeQuantLinear


def test_public_names():
    assert kdnative.convert_ is convert_ and kdnative.ConversionReport is type(convert_(mlp()))
