"""A converter for a module that nobody knew: added in a few lines, it decides, builds, reports and refuses."""

import pytest
import torch
from torch import nn

from kdnative.convert import Converter, Native, Refusal, Region, RegionConverter, convert_, converts, decide, registry
from kdnative.convert.layers import LinearConverter
from kdnative.formats.scheme import Scheme
from kdnative.nn import Embedding, Linear
from kdnative.patterns import Selection
from tests.small_models import rows


class Scaled(nn.Module):
    """``y = factor * (x @ weight.T)``: no nn.Linear, and nothing that the library knows."""

    def __init__(self, inputs, outputs, factor=3.0, ranged=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.factor, self.ranged = factor, ranged

    def forward(self, x):
        return self.factor * (x @ self.weight.t())


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_BY_TYPE", {kind: list(entries) for kind, entries in registry._BY_TYPE.items()})
    monkeypatch.setattr(registry, "_BY_TEST", list(registry._BY_TEST))


@pytest.fixture
def scaled():
    @converts(Scaled)
    class ScaledConverter(Converter):
        def decide(self, site, scheme):
            if site.module.factor <= 0:
                return Refusal("its factor is not positive")
            if site.module.ranged and site.name not in site.around.given:
                return Refusal("its activations are static", needs="ranges")
            return scheme

        def build(self, module, decision, weights):
            linear = nn.Linear(module.weight.shape[1], module.weight.shape[0], bias=False)
            linear.weight = nn.Parameter(module.weight.detach() * module.factor)
            weight = weights.of(decision.name, linear, decision.scheme)
            native = Linear.from_quantized(weight, None, decision.scheme)
            return Native(native, str(decision.scheme), "its factor is in its weight")

    return ScaledConverter


def test_it_converts_and_reports(scaled):
    model = nn.Sequential(Scaled(64, 96), nn.ReLU(), nn.Linear(96, 32)).eval()
    x = torch.randn(5, 64)
    with torch.no_grad():
        expected = model(x)
        report = convert_(model, {"0": "w4a8-g32", "*": "w8a8"})
        assert (model(x) - expected).norm() < 0.15 * expected.norm()
    assert type(model[0]) is Linear and str(model[0].scheme) == "w4a8-g32"
    row = rows(report)["0"]
    assert (row.kind, row.action, row.scheme, row.shape) == ("Scaled", "converted", "w4a8-g32", [96, 64])
    assert row.reason == "its factor is in its weight"
    assert row.bytes_before == 96 * 64 * 4 and row.bytes_after == model[0].packed.numel()


def test_without_a_converter_it_stays():
    row = rows(convert_(nn.Sequential(Scaled(64, 96))))["0"]
    assert row.action == "kept" and row.reason == "there is no native Scaled, so it runs in torch"


def test_it_refuses(scaled):
    model = nn.Sequential(Scaled(64, 96, factor=-1.0), Scaled(64, 96))
    with pytest.raises(ValueError, match=r"nothing was converted.*\n  0: its factor is not positive"):
        convert_(model, {"0": "w8a8", "*": "w8a8"})
    found = rows(convert_(model))
    assert (found["0"].action, found["0"].reason) == ("kept", "its factor is not positive")
    assert found["1"].action == "converted"
    kept = rows(convert_(nn.Sequential(Scaled(64, 96)), keep="0"))["0"]
    assert kept.reason == "asked for by keep='0'"


def test_it_may_need_ranges_first(scaled):
    """Calibration asks the plan who does."""
    model = nn.Sequential(Scaled(64, 96, ranged=True), Scaled(64, 96))
    plan = decide(model, Selection("w8a8", parse=Scheme.parse))
    assert [d.name for d in plan.needing("ranges")] == ["0"] and plan["1"].refusal is None
    assert plan["0"].refusal == Refusal("its activations are static", needs="ranges")
    assert rows(convert_(model))["0"].reason == "its activations are static"


def test_its_values_are_looked_at(scaled):
    model = nn.Sequential(Scaled(64, 96))
    with torch.no_grad():
        model[0].weight[1, 2] = torch.nan
    with pytest.raises(ValueError, match=r"\n  0: NaN or infinite values: its weight has 1"):
        convert_(model)
    assert type(model[0]) is Scaled


def test_the_most_derived_class_counts():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = nn.Sequential(nn.Linear(64, 64), Doubled(64, 64))
    assert (
        "Doubled is a subclass of nn.Linear" in decide(model, Selection("w8a8", parse=Scheme.parse))["1"].refusal.reason
    )

    @converts(Doubled)
    class DoubledConverter(LinearConverter):
        known = (Doubled,)

        def layer(self, module):
            linear = nn.Linear(module.in_features, module.out_features, device="meta")
            linear.weight, linear.bias = (
                nn.Parameter(2 * module.weight.detach()),
                nn.Parameter(2 * module.bias.detach()),
            )
            return linear

    x = torch.randn(3, 64)
    with torch.no_grad():
        expected = model[1](x)
        convert_(model)
        assert type(model[1]) is Linear and (model[1](x) - expected).norm() < 0.02 * expected.norm()
    assert type(registry.converter_of(nn.Linear(1, 1))) is LinearConverter


def test_the_last_one_that_was_registered_counts():
    @converts(nn.Embedding, when=lambda module: module.num_embeddings > 50)
    class Large(Converter):
        def decide(self, site, scheme):
            return Refusal("too large")

        def build(self, module, decision, weights):
            raise AssertionError

    model = nn.Sequential(nn.Embedding(51, 64), nn.Embedding(50, 64))
    assert rows(convert_(model))["0"].reason == "too large" and type(model[1]) is Embedding


def test_a_test_alone_finds_families():
    @converts(when=lambda module: type(module).__name__ == "Scaled")
    class ByName(Converter):
        def decide(self, site, scheme):
            return Refusal("found by its name")

        def build(self, module, decision, weights):
            raise AssertionError

    assert rows(convert_(nn.Sequential(Scaled(64, 64))))["0"].reason == "found by its name"
    with pytest.raises(TypeError, match="needs classes of modules, or a test"):
        converts()


# -- regions -----------------------------------------------------------------------------------------------------------


class Normed(nn.Module):
    """A native linear and the norm behind it."""

    def __init__(self, linear, norm):
        super().__init__()
        self.linear, self.weight = linear, norm.weight.detach().clone()

    def forward(self, x):
        return nn.functional.rms_norm(self.linear(x), self.weight.shape, self.weight)


@pytest.fixture
def pair():
    """A linear and the norm behind it, which is beside it in the tree, become one operator in the linear's place."""

    @converts(nn.Linear)
    class PairConverter(RegionConverter):
        def decide(self, site, scheme_of):
            outer, _, own = site.name.rpartition(".")
            beside = f"{outer}.{int(own) + 1}".strip(".") if own.isdigit() else ""
            if not isinstance(site.around.modules.get(beside), nn.RMSNorm):
                return None
            if site.module.out_features % 32:
                return Refusal("its norm is too narrow")
            return Region(site.name, (site.name, beside), "PairConverter", {"scheme": str(scheme_of("", site.module))})

        def build(self, region, modules, weight_of):
            linear, norm = (modules[name] for name in region.modules)
            weight = weight_of("", linear)
            return Normed(Linear.from_quantized(weight, linear.bias, region.spec["scheme"]), norm)


def pairs(width=96):
    return nn.Sequential(nn.Linear(64, width), nn.RMSNorm(width), nn.ReLU(), nn.Linear(width, 64)).eval()


def test_a_region_of_modules_beside_each_other(pair):
    model, x = pairs(), torch.randn(4, 64)
    with torch.no_grad():
        model[1].weight.copy_(torch.rand(96))
        expected = model(x)
        found = rows(convert_(model))
        assert (model(x) - expected).norm() < 0.03 * expected.norm()
    assert [type(module) for module in model] == [Normed, nn.Identity, nn.ReLU, Linear]
    assert [found[name].action for name in "013"] == ["fused", "fused", "converted"]
    assert found["0"].reason == "the whole region is one native operator" and found["0"].shape == [96, 64]
    assert found["1"].reason == "runs inside the fused region 0" and found["1"].bytes_before == 96 * 4


def test_a_region_that_is_refused_leaves_its_parts_to_their_converters(pair):
    found = rows(convert_(pairs(100)))
    assert [found[name].action for name in "013"] == ["converted", "kept", "converted"]
    hooked = pairs()
    hooked[1].register_forward_hook(lambda *a: None)
    convert_(hooked)
    assert [type(module) for module in hooked] == [Linear, nn.RMSNorm, nn.ReLU, Linear]
    apart = pairs()
    convert_(apart, fuse=False)
    assert [type(module) for module in apart] == [Linear, nn.RMSNorm, nn.ReLU, Linear]
