"""Networks of torchvision and timm: their weights, heads, widths, and the sizes that pruning leaves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("torchvision")

import kdnative
from kdnative.pipeline import networks
from kdnative.pipeline.networks import Network, build, fitted, load_network, network_of

SMALL = "torchvision:shufflenet_v2_x0_5"


def test_a_file_gives_all_but_a_head_of_other_classes(tmp_path):
    old = build(Network("torchvision", "shufflenet_v2_x0_5", None, tuple("abcde")))
    torch.save({"state_dict": {f"module.{name}": v for name, v in old.state_dict().items()}}, tmp_path / "w.pth")
    model, new = load_network(SMALL, str(tmp_path / "w.pth"), None, ("x", "y"))
    assert new and model.fc.weight.shape == (2, 1024)
    same = {name for name, v in model.state_dict().items() if torch.equal(v, old.state_dict()[name])}
    assert set(model.state_dict()) - same == {"fc.weight", "fc.bias"}
    model, new = load_network(SMALL, str(tmp_path / "w.pth"), None, tuple("vwxyz"))
    assert not new and torch.equal(model.fc.weight, old.fc.weight)  # as many classes, and a file knows no names


def test_a_checkpoint_knows_its_classes(tmp_path):
    network = Network("torchvision", "shufflenet_v2_x0_5", None, ("a", "b"))
    model = build(network)
    kdnative.save(model, tmp_path / "m")
    networks.save_description(tmp_path / "m", network)
    assert network_of(str(tmp_path / "m")) == network
    for labels, is_new in ((("a", "b"), False), (("b", "a"), True), (("a", "c"), True)):
        found, new = load_network(str(tmp_path / "m"), None, None, labels)
        assert new == is_new and torch.equal(found.fc.weight, model.fc.weight) != is_new


def test_a_narrower_network_starts_from_evenly_spaced_channels(tmp_path):
    """Of a layer with n of N channels, number i comes from floor(i * N / n), on both sides."""
    wide = build(Network("torchvision", "mobilenet_v2", 1.0, ("a", "b")))
    torch.save(wide.state_dict(), tmp_path / "w.pth")
    model, _ = load_network("torchvision:mobilenet_v2", str(tmp_path / "w.pth"), 0.5, ("a", "b"))
    mine, theirs = model.features[2].conv[0][0].weight, wide.features[2].conv[0][0].weight
    rows = [i * theirs.shape[0] // mine.shape[0] for i in range(mine.shape[0])]
    columns = [i * theirs.shape[1] // mine.shape[1] for i in range(mine.shape[1])]
    assert mine.shape == (48, 8, 1, 1) and torch.equal(mine, theirs[rows][:, columns])
    assert torch.isfinite(model.eval()(torch.zeros(1, 3, 32, 32))).all()


def test_a_wider_network_than_the_weights_is_refused(tmp_path):
    torch.save(build(Network("torchvision", "mobilenet_v2", 0.5, ("a", "b"))).state_dict(), tmp_path / "w.pth")
    for width in (1.0, None):
        with pytest.raises(ValueError, match="give weights of the same network and width"):
            load_network("torchvision:mobilenet_v2", str(tmp_path / "w.pth"), width, ("a", "b"))


def test_tensors_of_other_names_are_taken_by_their_places():
    """As those of EfficientNet-Lite are."""
    pytest.importorskip("timm")
    network = Network("timm", "tf_efficientnet_lite0")
    with torch.device("meta"):
        own = build(Network("timm", "tf_efficientnet_lite0", None, ("",) * 1000)).state_dict()
    renamed = networks._renamed({f"other{i}": v for i, v in enumerate(own.values())}, network)
    assert list(renamed) == list(own)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "googlenet", "mnasnet0_5"])
def test_networks_of_torchvision_have_a_head_for_the_classes(name):
    model = build(Network("torchvision", name, None, ("a", "b", "c"))).eval()
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_a_network_takes_the_sizes_that_pruning_left(tmp_path):
    """Convolutions (also depthwise), normalisations and linears get other sizes, and load."""

    def net(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, width, 3, bias=False),
            nn.BatchNorm2d(width),
            nn.Conv2d(width, width, 3, groups=width),
            nn.Flatten(),
            nn.Linear(width * 4, 2),
        )

    small, large = net(5).eval(), net(8)
    small[1].running_mean.normal_()
    fitted(large, {name: list(v.shape) for name, v in small.state_dict().items()})
    large.load_state_dict(small.state_dict())
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(large.eval()(x), small(x))
    assert large[2].groups == 5 and large[2].in_channels == 5 and large[4].in_features == 20


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("torchvision:nothing", "torchvision has no network 'nothing' for pictures"),
        ("timm:nothing", "timm has no network 'nothing' for pictures"),
        ("nowhere", "'nowhere' is no folder; give `package:mobilenet-v2`"),
    ],
)
def test_names_that_mean_nothing(source, words):
    with pytest.raises(ValueError, match=words):
        load_network(source, None, None, ("a", "b"))
