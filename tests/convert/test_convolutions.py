"""convert_ makes native networks of convolutions, and says what stays in float and why."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kdnative
from kdnative.convert import convert_, decide, prepare_networks_
from kdnative.formats.scheme import Scheme
from kdnative.nn import ConvNet, ImageInput, Linear
from kdnative.patterns import Selection
from tests.cnn.networks import depthwise, images, residual
from tests.cnn.small import Written, conv
from tests.small_models import rows as rows_by_name


class Framed(nn.Module):
    """A network with what none can be in front of it and behind it."""

    def __init__(self):
        super().__init__()
        self.trunk = residual()
        self.classes = nn.Linear(11, 64)

    def forward(self, x, scale=1.0):
        return torch.softmax(self.classes(self.trunk(x.fft.real if hasattr(x, "fft") else x.cos())), -1) * scale


def error(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def forward(model, x):
    with torch.no_grad():
        return model(x)


@pytest.mark.parametrize("make", [depthwise, residual])
def test_a_whole_model_becomes_one_operator(make):
    model, x = make(), images(32)
    wanted, same, convolutions = (
        forward(model, x),
        model,
        [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)],
    )
    report = convert_(model, "w8a8", calibration=x.split(8))
    assert report.model is same and type(model) is ConvNet
    assert error(model(x), wanted) < 0.08
    rows = rows_by_name(report)
    assert all(rows[name].action == "fused" and rows[name].scheme == "w8a8" for name in convolutions)
    assert rows[""].reason == "the whole network is one native operator"
    assert report.totals["kept"] == 0
    assert {f"{name}.qweight" for name in convolutions} <= set(model.state_dict())


@pytest.mark.parametrize(
    "said",
    [
        {"preprocess": ImageInput((20, 20), classes=("a", "b"))},
        {"preprocess": ImageInput((20, 20)), "classes": ("cat", "dog")},
        {"classes": ["cat", "dog"]},
        {"preprocess": torch.nn.functional.normalize},
    ],
)
def test_a_whole_model_keeps_what_it_was_told_of_pictures(said):
    model = depthwise()
    for name, value in said.items():
        setattr(model, name, value)
    convert_(model, calibration=[images(8)])
    assert type(model) is ConvNet
    assert {name: getattr(model, name) for name in ("preprocess", "classes") if hasattr(model, name)} == said


def test_parts_of_a_model():
    model, x = Framed().eval(), images(32)
    wanted = forward(model, x)
    report = convert_(model, calibration=list(x.split(16)))
    assert type(model) is Framed and type(model.trunk) is ConvNet and type(model.classes) is nn.Linear
    assert error(forward(model, x), wanted) < 0.08
    rows = rows_by_name(report)
    assert rows["trunk.first.0"].reason == "runs inside the fused network trunk"
    assert rows["classes"].action == "kept" and "faster in float: 11 inputs" not in rows["trunk.classes"].reason


def test_linears_outside_of_networks_go_on_as_ever():
    model, x = nn.Sequential(depthwise()[:-1], nn.Softmax(1), nn.Linear(20, 48), nn.Linear(48, 32)).eval(), images(32)
    report = convert_(model, calibration=[x], method="gptq")
    rows = rows_by_name(report)
    assert type(model[0]) is ConvNet and type(model[3]) is Linear and rows["3"].method == "gptq"
    other = nn.Sequential(depthwise()[:-1], nn.Softmax(1), nn.Linear(20, 48), nn.Linear(48, 32)).eval()
    assert rows_by_name(convert_(other, calibration=[x], method="minmax"))["3"].method == "smoothquant"


@pytest.mark.parametrize("method", ["percentil", "gptq"])
def test_methods_that_mean_nothing_are_refused(method):
    model = depthwise()
    with pytest.raises(ValueError, match=f"method='{method}' is for linear layers.*'minmax'"):
        convert_(model, calibration=[images(8)], method=method)
    assert type(model) is nn.Sequential


def test_a_method_of_ranges_reaches_networks():
    x, found = images(16), {}
    for method in (None, "mse", "minmax", "percentile"):
        model = depthwise()
        convert_(model, calibration=[x], method=method)
        found[method] = [node.out.scale for node in model.graph.nodes if node.out is not None]
    assert found[None] == found["mse"] and found["mse"] != found["percentile"] != found["minmax"] != found["mse"]
    assert all(a >= b for m in ("mse", "percentile") for a, b in zip(found["minmax"], found[m], strict=True))


def test_without_calibration_convolutions_stay_in_float():
    model, x = residual(), images(4)
    wanted = forward(model, x)
    rows = rows_by_name(convert_(model))
    assert rows["first.0"].action == "kept" and "give calibration=[batch of images, ...]" in rows["first.0"].reason
    assert torch.equal(forward(model, x), wanted)
    with pytest.raises(ValueError, match=r"first\.0: convolutions need the ranges .* give calibration="):
        convert_(residual(), {"first": "w8a8"})


@pytest.mark.parametrize("scheme", ["w4a8-g32", "w8a16", "w2a8-g32"])
def test_other_schemes(scheme):
    plan = decide(residual(), Selection(scheme, (), Scheme.parse))
    assert f"there is no kernel for convolutions in {scheme}" in str(plan["first.0"].refusal)
    with pytest.raises(ValueError, match=f"first.0: there is no kernel for convolutions in {scheme}"):
        convert_(residual(), {"first": scheme}, calibration=[images(4)])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"schemes": "w4a8-g64", "calibration": [images(4)]}, "no kernel for convolutions in w4a8-g64"),
        ({"method": "minmax"}, "give calibration="),
    ],
)
def test_where_nothing_is_left_to_calibrate_convolutions_say_why(arguments, words):
    with pytest.raises(ValueError, match=rf"nothing was converted(?s:.*)stem\.0: .*{words}"):
        convert_(residual(), **arguments)


def test_what_is_kept_splits_the_network():
    model, x = nn.Sequential(depthwise()[:3], depthwise()[3:-1]), images(32)
    model[1][0][0] = nn.Conv2d(16, 40, 1)
    wanted = forward(model.eval(), x)
    rows = rows_by_name(convert_(model, calibration=[x], keep=["1.3"]))
    assert (
        type(model[0]) is ConvNet and type(model[1][0][0]) is nn.Conv2d and type(model[1].get_submodule("4")) is ConvNet
    )
    assert rows["1.3.0"].reason == "asked for by keep='1.3'"
    assert rows["1.4.0"].reason == "runs inside the fused network 1.4"
    assert error(forward(model, x), wanted) < 0.08


class Trunk(nn.Module):
    """As ResNet is written: a stem and layers as attributes, called one after the other."""

    def __init__(self, uses_inner=False):
        super().__init__()
        parts = depthwise()
        self.stem, self.act, self.one, self.two = parts[0][:2], parts[0][2], parts[1:3], parts[3:6]
        self.pool, self.fc, self.uses_inner = nn.AdaptiveAvgPool2d(1), parts[8], uses_inner

    def forward(self, x):
        first = self.one(self.act(self.stem(x)))
        x = self.two(first)
        x = x + first.mean() if self.uses_inner else x
        return self.fc(torch.flatten(self.pool(x), 1))


def test_modules_that_follow_one_another_are_one_network():
    model, x = Trunk().eval(), images(32)
    wanted = forward(model, x)
    report = convert_(model, calibration=[x], keep=["fc"])
    assert type(model.stem) is ConvNet and type(model.fc) is nn.Linear
    assert all(type(part) is nn.Identity for part in (model.act, model.one, model.two, model.pool))
    assert error(forward(model, x), wanted) < 0.08
    rows = rows_by_name(report)
    assert rows["stem"].reason == "the whole network is one native operator"
    assert rows["two.3.0"].reason == "runs inside the fused network stem" and rows["fc"].action == "kept"


def test_what_is_used_in_between_is_not_swallowed():
    model, x = Trunk(uses_inner=True).eval(), images(32)
    wanted = forward(model, x)
    convert_(model, calibration=[x], keep=["fc"])
    assert type(model.one) is ConvNet and type(model.two) is ConvNet and type(model.stem) is nn.Sequential
    assert error(forward(model, x), wanted) < 0.08


def test_a_single_convolution_is_native_if_it_is_asked_for_by_name():
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.cut = nn.Conv2d(3, 48, 4, 4)
            self.out = nn.Linear(48, 48)

        def forward(self, x):
            return self.out(self.cut(x).flatten(2).transpose(1, 2))

    x = images(32, 16)
    model = Patches().eval()
    rows = rows_by_name(convert_(model, calibration=[x]))
    assert rows["cut"].reason.endswith("(50.0% of the model's products)") and 48 * 48 == 48 * 3 * 4 * 4
    assert rows["cut"].action == "kept" and "single convolution" in rows["cut"].reason and type(model.out) is Linear
    model = Patches().eval()
    wanted = forward(model.cut, x)
    convert_(model, {"cut": "w8a8"}, calibration=[x])
    assert type(model.cut) is ConvNet and error(model.cut(x), wanted) < 0.02


class Loader(DataLoader):
    def __init__(self, x):
        super().__init__(TensorDataset(x, torch.arange(len(x))), batch_size=7)


class ByName(nn.Sequential):
    def forward(self, x):
        return super().forward(x)


_WAYS = [lambda x: [x], lambda x: [(x,)], Loader, lambda x: [(x, torch.zeros(len(x)).long())], lambda x: [{"x": x}]]


@pytest.mark.parametrize("wrap", _WAYS)
def test_batches_as_people_have_them(wrap):
    model, x = ByName(depthwise()).eval(), images(32)
    wanted = forward(model, x)
    convert_(model, calibration=wrap(x))
    assert type(model) is ConvNet and error(model(x), wanted) < 0.08


def test_models_with_keyword_arguments():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = residual()

        def forward(self, pixel_values=None):
            return {"logits": self.trunk(pixel_values)}

    model, x = Named().eval(), images(16)
    convert_(model, calibration=[{"pixel_values": x}])
    assert type(model.trunk) is ConvNet


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "calibration holds no data"),
        ([images(4), images(4) / 0], "batch 1 of calibration: images hold NaN or infinite values"),
        (
            [images(4, channels=1)],
            r"can't run batch 0 of calibration, float32 \[4, 1, 17, 17\]: .*channels.* Give batch",
        ),
        ([(images(4) * 50).byte()], r"can't run batch 0 of calibration, uint8 \[4, 3, 17, 17\]: "),
        ([{"x": images(4).double()}], r"can't run batch 0 of calibration, float64 \[4, 3, 17, 17\]: "),
    ],
)
def test_bad_calibration(batches, words):
    model = residual()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=words):
        convert_(model, calibration=batches)
    assert type(model) is type(residual()) and all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_weights_that_are_not_finite():
    model = residual()
    with torch.no_grad():
        model.first[0].weight[0, 0, 0, 0] = torch.nan
        model.branch[1].bias[2] = torch.inf
    with pytest.raises(ValueError, match=r"(?s)first\.0: NaN or infinite.*branch\.1: NaN or infinite"):
        convert_(model, calibration=[images(4)])


class Odd(nn.Module):
    """Its code looks at values: what is followed with shapes alone is not what it computes."""

    def __init__(self, how):
        super().__init__()
        self.trunk, self.how = residual(), how
        self.seen = 0

    def forward(self, x):
        self.seen += 1
        return self.trunk(x) * self.seen if self.how == "counts" else self.trunk(x) if x.sum() > 1e9 else x.mean((2, 3))


def test_what_looks_at_values_is_left_out():
    model = Odd("counts").eval()
    convert_(model, calibration=[images(8)])
    assert type(model) is Odd and type(model.trunk) is ConvNet
    with pytest.raises(ValueError, match=r"trunk\.stem\.0 is not a convolutional network: it isn't called"):
        convert_(Odd("branches").eval(), calibration=[images(8)])


def test_hooks_and_modules_that_others_hold():
    model = residual()
    model.first[0].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="hooks"):
        convert_(model, {"first": "w8a8"}, calibration=[images(8)])
    with pytest.raises(ValueError, match=r"stem\.0: the model is not a convolutional network: first\.0 .*has hooks"):
        convert_(model, calibration=[images(8)])


def test_the_model_is_in_eval_mode_meanwhile_and_batch_statistics_stay():
    model, x = residual().train(), images(16)
    wanted = forward(copy.deepcopy(model).eval(), x)
    convert_(model, calibration=[x])
    assert error(model(x), wanted) < 0.08 and not model.training


def test_fuse_false_and_meta():
    rows = rows_by_name(convert_(residual(), fuse=False))
    assert rows["first.0"].action == "kept"
    with torch.device("meta"):
        plan = decide(
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)), Selection("w8a8", (), Scheme.parse)
        )
    assert [d.name for d in plan.needing("ranges")] == ["0", "2"]


def test_unknown_patterns_know_the_names_of_convolutions():
    with pytest.raises(ValueError, match=re.escape("pattern 'nothing' matches no module; the names are: stem.0")):
        convert_(residual(), calibration=[images(4)], keep=["nothing"])


def test_save_and_load(tmp_path):
    model, x = residual(), images(16)
    convert_(model, calibration=[x])
    kdnative.save(model, tmp_path / "net")
    assert torch.equal(kdnative.load(tmp_path / "net")(x), model(x))


def test_what_has_no_ranges_for_convolutions_says_so():
    """They would stay in float without a word."""
    words = r"trunk\..* are convolutions, and {}.*keep="
    model, x = Framed().eval(), images(32)
    made = kdnative.calibrate_(model, "w8a8", [x])
    with pytest.raises(ValueError, match=words.format("a Calibration holds weights of linear layers only")):
        convert_(model, calibration=made)
    with (
        pytest.raises(ValueError, match=words.format("native_forward has no ranges")),
        kdnative.convert.native_forward(model),
    ):
        pass
    gate = kdnative.Gate("kl", max_drop=1.0, data=list(images(400).split(8)))
    with pytest.raises(ValueError, match=words.format("a gate works for linear layers only")):
        convert_(model, ["w4a8-g64", "w8a8"], gate=gate)
    assert type(model.trunk) is not ConvNet
    assert convert_(model, calibration=made, keep=["trunk"]).totals["fused"] == 0


def _behind_a_sum(x, activation, a, b, c):
    y = a(x)
    return c(activation(torch.relu(b(y)) + y))


def _behind_a_pooling(x, activation, a, b, c):
    return c(activation(nn.functional.max_pool2d(b(torch.relu(a(x))), 2)))


@pytest.mark.parametrize("forward_of", [_behind_a_sum, _behind_a_pooling])
@pytest.mark.parametrize("activation", [nn.functional.hardswish, nn.functional.silu, nn.functional.relu6])
def test_activations_by_themselves(forward_of, activation):
    """The one is a table of codes before it in a range of their own, the other one of its input's codes."""
    torch.manual_seed(0)
    layers = conv(padding=1), conv(8, 8, padding=1), conv(8, 8)
    model, x = Written(lambda x, a, b, c: forward_of(x, activation, a, b, c), *layers).eval(), images(32)
    wanted = forward(model, x)
    trained = copy.deepcopy(model)
    convert_(model, calibration=[x])
    assert type(model) is ConvNet and error(model(x), wanted) < 0.05
    prepare_networks_(trained, calibration=[x])
    assert torch.equal(trained(x), model(x))


def test_what_is_too_much_for_the_kernels_stays_in_torch():
    body = nn.Sequential(conv(padding=1), nn.ReLU(), conv(8, 303, padding=1))
    model = nn.Sequential(body, nn.Flatten(), nn.Linear(303 * 15 * 15, 4)).eval()
    convert_(model, calibration=[images(16, 15)], keep=[])
    assert type(model[0]) is ConvNet and type(model[2]) is not ConvNet and model(images(2, 15)).shape == (2, 4)
