"""Graphs compute what their models compute, in as few nodes as there should be, and refuse in words what they can't."""

from __future__ import annotations

import copy
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdnative.cnn import FloatGraph, run, trace
from kdnative.formats.convnet.graph import Conv, Pool, Resize
from kdnative.models.layer import Unsupported
from tests.cnn.coverage import build, randomize, relative_error, row
from tests.cnn.small import SMALL, Written, conv


def kinds(graph: FloatGraph) -> str:
    return " ".join(type(node).__name__ for node in graph.nodes)


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize("name", SMALL)
def test_small_networks(name):
    model, expected = copy.deepcopy(SMALL[name])
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.1, 0.3)
    graph = trace(randomize(model.double()), (1, 3, 13, 17))
    assert kinds(graph) == expected.strip()
    assert relative_error(model, graph) < 1e-12


@pytest.mark.parametrize(
    "name",
    ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1"],
)
def test_models_of_torchvision(name):
    pytest.importorskip("torchvision")
    found = row(name)
    assert list(found.parts) == [""] and found.covered == found.convolutions
    assert not found.parts[""].fixed
    assert found.error < 1e-12


@pytest.mark.parametrize("name", ["timm/lcnet_050", "timm/resnet18d"])
def test_models_of_timm(name):
    pytest.importorskip("timm")
    found = row(name)
    assert list(found.parts) == [""] and not found.parts[""].fixed
    assert found.error < 1e-12


def test_a_graph_fits_images_of_other_sizes():
    model = copy.deepcopy(SMALL["pyramid"][0])
    graph = trace(model, (1, 3, 40, 40))
    for size in ((40, 40), (33, 65), (97, 31)):
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(run(graph, images)[0], model(images), rtol=1e-4, atol=1e-4)


def test_tensorflows_padding_fits_every_size():
    pytest.importorskip("timm")
    from timm.layers import Conv2dSame

    model = nn.Sequential(Conv2dSame(3, 8, 3, stride=2), nn.ReLU(), Conv2dSame(8, 8, 5, stride=2, groups=8))
    graph = trace(model, (1, 3, 64, 64))
    assert [node.padding for node in graph.nodes[1:]] == ["same", "same"] and not graph.fixed
    for size in ((64, 64), (63, 65), (66, 61), (1, 2)):
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(run(graph, images)[0], model(images), rtol=1e-5, atol=1e-5)


def test_padding_by_hand_is_not_tensorflows():
    graph = trace(Written(lambda x, a: a(F.pad(x, (0, 1, 0, 1))), conv(stride=2)), (1, 3, 12, 16))
    assert graph.nodes[1].padding == (0, 1, 0, 1) and not graph.fixed


def test_the_head_of_a_flattened_map_fits_one_size():
    graph = trace(nn.Sequential(conv(), nn.Flatten(), nn.Linear(8 * 36, 5)), (1, 3, 8, 8))
    assert graph.fixed.size == (8, 8) and ("mat1 and mat2" in graph.fixed.why or "shape" in graph.fixed.why)
    assert graph.nodes[-1].kernel == (6, 6)


def test_a_size_that_follows_from_another_map_is_a_factor():
    def forward(x, a):
        return F.interpolate(F.max_pool2d(a(x), 2), size=(x.shape[2] // 2 * 2, x.shape[3] // 2 * 2))

    graph = trace(Written(forward, conv(padding=1)), (1, 3, 12, 16))
    resize = graph.nodes[-1]
    assert isinstance(resize, Resize) and (resize.size, resize.factor) == (None, (2.0, 2.0))
    assert not graph.fixed

    def to_the_image(x, a):
        return F.interpolate(F.max_pool2d(a(x), 2), size=x.shape[2:])

    assert "resize depends on the size" in trace(Written(to_the_image, conv(padding=1)), (1, 3, 12, 16)).fixed.why

    fixed = trace(Written(lambda x, a: F.interpolate(a(x), size=(7, 9)), conv()), (1, 3, 12, 16))
    assert fixed.nodes[-1].size == (7, 9) and not fixed.fixed


def test_a_branch_on_the_size_is_noticed():
    def forward(x, a):
        return a(x) if x.shape[2] < 20 else F.relu(a(x))

    assert "depends on the size" in trace(Written(forward, conv()), (1, 3, 12, 16)).fixed.why


def test_several_outputs():
    def forward(x, a):
        y = F.relu(a(x))
        return y, y.mean((2, 3)), F.max_pool2d(y, 2)

    model = Written(forward, conv()).double()
    graph = trace(model, (1, 3, 13, 17))
    assert graph.flat == (False, True, False)
    assert [type(graph.nodes[i]) for i in graph.outputs] == [Conv, Pool, Pool]
    assert relative_error(model, graph) < 1e-12


# -- what a graph keeps of its model -----------------------------------------------------------------------------------


def test_nodes_have_the_names_of_their_modules():
    pytest.importorskip("torchvision")
    model = build("resnet18")
    graph = trace(model, (1, 3, 64, 64))
    names = {name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
    assert set(graph.sources) == names
    assert graph.sources["layer1.0.conv1"].modules == ("layer1.0.conv1", "layer1.0.bn1")
    assert graph.sources["layer1.0.conv1"].weight is model.get_parameter("layer1.0.conv1.weight")
    assert {"maxpool", "avgpool", "input"} <= {node.name for node in graph.nodes}


def test_names_are_unique_where_a_module_is_called_twice():
    graph = trace(Written(lambda x, a: a(a(x)), conv(3, 3)), (1, 3, 9, 9))
    assert [node.name for node in graph.nodes] == ["input", "layers.0", "layers.0_2"]


def test_gradients_reach_parameters_and_training_is_seen():
    model = randomize(SMALL["norm in a convolution"][0])
    graph = trace(model, (1, 3, 13, 17))
    images = torch.randn(2, 3, 13, 17)
    expected = torch.autograd.grad(model(images).square().sum(), list(model.parameters()))
    found = torch.autograd.grad(run(graph, images)[0].square().sum(), list(model.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        model[0].weight.mul_(2)
        torch.testing.assert_close(run(graph, images)[0], model(images), rtol=1e-4, atol=1e-4)


def test_normalization_is_folded_in_float64():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)).eval()
    with torch.no_grad():
        model[0].weight.fill_(3.0)
        model[0].bias.fill_(1.0)
        model[1].running_mean.fill_(5.0)
        model[1].running_var.fill_(16.0)
        model[1].weight.fill_(2.0)
        model[1].bias.fill_(-1.0)
    weight, bias = trace(model, (1, 1, 2, 2)).fold(torch.float64)["0"]
    assert weight.item() == 1.5  # 3 * 2 / 4
    assert bias.item() == -3.0  # (1 - 5) * 2 / 4 - 1


def test_the_meta_device_will_do():
    with torch.device("meta"):
        model = nn.Sequential(
            conv(), nn.BatchNorm2d(8), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
        )
    graph = trace(model, (1, 3, 13, 17))
    assert kinds(graph) == "Input Conv Pool Conv"
    assert all(weight.is_meta for weight, _ in graph.fold().values())


def test_in_inference_mode_too():
    with torch.inference_mode():
        assert kinds(trace(Written(lambda x, a: a(x).relu_(), conv()), (1, 3, 13, 17))) == "Input Conv"


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(conv(), nn.BatchNorm2d(8), nn.Dropout())
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    trace(model, (1, 3, 13, 17))
    assert [m.training for m in model] == [True, False, True]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


def test_taps_see_every_edge_and_can_change_it():
    graph = trace(nn.Sequential(conv(), nn.SiLU(), nn.MaxPool2d(2)), (1, 3, 13, 17))
    images = torch.randn(1, 3, 13, 17)
    seen = {}
    run(graph, images, tap=lambda number, where, value: seen.setdefault((number, where), value))
    assert list(seen) == [(0, "out"), (1, "before"), (1, "out"), (2, "out")]
    torch.testing.assert_close(F.silu(seen[1, "before"]), seen[1, "out"])
    zero = run(graph, images, tap=lambda number, where, value: value * 0 if where == "before" else None)
    assert not zero[0].any()


# -- refusals ----------------------------------------------------------------------------------------------------------


def _norm_of_torch(x, a):
    return torch.batch_norm(a(x), None, None, torch.zeros(8), torch.ones(8), False, 0.1, 1e-5, False)


def _changed_view(x, a):
    y = a(x)
    first, _ = y.chunk(2, 1)
    first.mul_(2)
    return y


def _written_into(x, a):
    gate = torch.ones(8)
    gate[:] = a(x).mean((2, 3))[0]
    return a(x) * gate[None, :, None, None]


def _added_through_a_view(x, a):
    y = a(x)
    y.view(-1).add_(a(x).view(-1))
    return y


def _written_through_a_view(x, a):
    gate = torch.ones(2, 8)
    torch.sigmoid(a(x).mean((2, 3)), out=gate.view(16).view(2, 8))
    return a(x) * gate[0].view(1, -1, 1, 1)


def _changed_constant(x, a):
    gate = torch.ones(1, 8, 1, 1)
    y = a(x) * gate
    gate.view(-1).add_(1)
    return y


class Maps(NamedTuple):
    high: torch.Tensor
    low: torch.Tensor


REFUSED = {
    "layer_norm": (nn.Sequential(conv(), nn.LayerNorm([8, 11, 15])), "1 (LayerNorm): layer_norm is not supported"),
    "transposed": (nn.ConvTranspose2d(3, 4, 3), "conv_transpose2d is not supported"),
    "statistics": (nn.Sequential(conv(), nn.BatchNorm2d(8, track_running_stats=False)), "running statistics"),
    "values": (Written(lambda x, a: a(x) if x.sum() > 0 else x, conv()), "traced with the shapes of"),
    "spatial gate": (
        Written(lambda x, a: x * torch.sigmoid(a(x)), conv(3, 1, padding=1, kernel=3)),
        r"Written at test_tracing.py:\d+: a product of maps",
    ),
    "broadcast sum": (Written(lambda x, a: a(x) + a(x).mean((2, 3), keepdim=True), conv()), "a sum of"),
    "wrong axis": (Written(lambda x, a: torch.cat([a(x), a(x)], 2), conv()), "along 2; only dimension 1 (channels)"),
    "a vector along the width": (Written(lambda x, a: a(x) * torch.ones(15), conv()), "one number per channel"),
    "limits": (nn.Sequential(conv(), nn.Hardtanh()), "limits of -1.0 and 1.0"),
    "pixel shuffle": (nn.Sequential(conv(outputs=12), nn.PixelShuffle(2)), "pixel_shuffle is not supported"),
    "batch": (Written(lambda x, a: F.max_pool2d(a(x).flip(0), 2), conv()), "isn't a map"),
    "reflection": (nn.Sequential(nn.ReflectionPad2d(1), conv()), "rows and columns of zeros"),
    "changed view": (Written(_changed_view, conv()), "changed in place through another view"),
    "added through a view": (Written(_added_through_a_view, conv()), "changed in place through another view"),
    "written through a view": (
        Written(_written_through_a_view, conv()),
        r"Written at test_tracing.py:\d+: sigmoid writes what depends on the image into another tensor",
    ),
    "changed constant": (Written(_changed_constant, conv()), "changed in place after it was read"),
    "written into a constant": (Written(_written_into, conv()), r"Written at test_tracing.py:\d+: setitem writes what"),
    "too large a pooling": (
        nn.Sequential(nn.Upsample(scale_factor=9.0), nn.AvgPool2d(65)),
        "a kernel of 65 x 65 pixels; 4096",
    ),
    "too long a stride": (nn.MaxPool2d(3, stride=5000), "a stride of 5000 x 5000 pixels; 4096 a side"),
    "too many taps": (nn.Sequential(nn.ZeroPad2d(40), conv(kernel=65)), "a kernel of 65 x 65 pixels; 4096 pixels"),
    "too many products": (
        nn.Sequential(nn.Conv2d(3, 302, 1), nn.Flatten(), nn.Linear(302 * 13 * 17, 2)),
        "66742 products",
    ),
    "too much padding": (nn.Sequential(conv(padding=1025)), "padding or dilation of more than 1024"),
    "dilated pooling": (nn.Sequential(conv(), nn.MaxPool2d(2, dilation=2)), r"max pooling with a dilation of (2, 2)"),
    "list": (Written(lambda x, a: [a(x), x], conv()), "it returns list; it must return a tensor or a plain tuple"),
    "named tuple": (Written(lambda x, a: Maps(a(x), x), conv()), "it returns Maps"),
    "dictionary": (Written(lambda x, a: {"out": a(x)}, conv()), "it returns dict"),
    "rows": (nn.Sequential(conv(), nn.Flatten()), "it returns"),
    "mirrored": (Written(lambda x, a: F.max_pool2d(a(x).flip(3), 2), conv()), "isn't a map"),
    "divided": (Written(lambda x, a: 1 / a(x), conv()), "rdiv is not supported"),
    "dropout of old": (Written(lambda x, a: F.dropout(a(x)), conv()), "pass it training=self.training"),
    "torch's own norm": (Written(_norm_of_torch, conv()), "use torch.nn.functional.batch_norm instead"),
    "an operator": (Written(lambda x, a: torch.ops.aten.relu(a(x)), conv()), "torch.ops.aten.relu is not supported"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_and_why(name):
    model, why = REFUSED[name]
    with pytest.raises(Unsupported, match=why.replace("(", r"\(").replace(")", r"\)")):
        trace(model, (1, 3, 13, 17))


def test_tensors_of_unknown_origin_are_refused():
    def forward(x, a):
        y = a(x)
        with torch._C.DisableTorchFunction():
            z = y + 1
        return F.relu(z)

    with pytest.raises(Unsupported, match="it reads the result of code that can't be traced"):
        trace(Written(forward, conv()), (1, 3, 13, 17))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripts_are_refused():
    script = torch.jit.script(nn.Sequential(nn.ReLU()))
    with pytest.raises(Unsupported, match="torch.ops.aten.relu.default is not supported"):
        trace(nn.Sequential(conv(), script, nn.ReLU()), (1, 3, 13, 17))


@pytest.mark.parametrize("size", [(3, 8, 8), (1, 3, 0, 8)])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match=r"\[N, C, H, W\]"):
        trace(conv(), size)
