"""What depends on the size of images is native for the size of the calibration alone, and refuses others in words."""

from __future__ import annotations

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kdnative
from kdnative.convert import convert_, prepare_networks_, restore_networks_, save_networks
from kdnative.nn import ConvNet
from tests.cnn.small import Written, conv


def _u_net(x, a, b):
    return F.interpolate(b(F.max_pool2d(F.relu(a(x)), 2)), size=x.shape[2:])


def _branch(x, a, b):
    y = F.relu(a(x))
    return b(y) if x.shape[2] > 20 else b(F.relu(b(y)))


def _pooled(x, a, b):
    y = b(F.relu(a(x)))
    return F.avg_pool2d(y, y.shape[2:])


def _made_even(x, a, b):
    return b(F.relu(a(F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2)))))


SIZED = {
    "resized to the image": (_u_net, (32, 32)),
    "a branch": (_branch, (32, 32)),
    "pooled to its size": (_pooled, (17, 23)),
    "made even": (_made_even, (17, 23)),
}


def made(name):
    torch.manual_seed(3)
    return Written(SIZED[name][0], conv(padding=1), conv(8, 8, padding=1)).eval()


@pytest.fixture(scope="module")
def pictures():
    return torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", SIZED)
def test_other_sizes_are_refused(name, pictures, tmp_path):
    model, height, width = made(name), *SIZED[name][1]
    with torch.no_grad():
        wanted = model(pictures)
    convert_(model, calibration=[pictures])
    kdnative.save(model, tmp_path / "net")
    words = re.escape(f"images of {height} x {width} pixels in a network for 16 x 16: it was followed at that size")
    for native in (model, kdnative.load(tmp_path / "net"), copy.deepcopy(model)):
        assert type(native) is ConvNet
        assert float((native(pictures) - wanted).norm() / wanted.norm()) < 0.1
        with pytest.raises(ValueError, match=words):
            native(torch.randn(2, 3, height, width))


@pytest.mark.parametrize("name", ["a branch", "made even"])
def test_training_refuses_them_too(name, pictures, tmp_path):
    model, other = made(name), torch.randn(2, 3, *SIZED[name][1])
    prepare_networks_(model, calibration=[pictures])
    save_networks(model, tmp_path / "networks.safetensors")
    restored = made(name)
    restore_networks_(restored, tmp_path / "networks.safetensors")
    for prepared in (model, restored):
        prepared(pictures).sum().backward()
        with pytest.raises(ValueError, match="in a network for 16 x 16"):
            prepared(other)
        with torch.no_grad(), pytest.raises(ValueError, match="in a network for 16 x 16"):
            prepared(other)


def test_a_layer_for_one_size(pictures):
    model = nn.Sequential(conv(padding=1), nn.ReLU(), conv(8, 4), nn.Flatten(), nn.Linear(4 * 14 * 14, 5)).eval()
    convert_(model, calibration=[pictures])
    assert type(model) is ConvNet and model(pictures).shape == (32, 5)
    with pytest.raises(ValueError, match=r"images of 24 x 16 pixels in a network for 16 x 16.*shape"):
        model(torch.randn(1, 3, 24, 16))


def test_any_size_will_do_where_nothing_depends_on_it(pictures):
    model = nn.Sequential(conv(padding=1), nn.ReLU(), conv(8, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    convert_(model, calibration=[pictures])
    assert type(model) is ConvNet and model(torch.randn(1, 3, 24, 19)).shape == (1, 4)
