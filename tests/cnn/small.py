"""Small networks, each with something that models write in a way of their own, and the nodes that they must become."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SMALL", "Written"]


class Written(nn.Module):
    """A forward that is written as a function of the image and of layers."""

    def __init__(self, forward: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.written = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.written(x, *self.layers)


def conv(inputs: int = 3, outputs: int = 8, kernel: int = 3, **more) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **more)


def _residual(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    y = F.relu(a(x))
    return F.relu(b(y) + y)


def _squeeze_excite(x: Tensor, a: nn.Module, down: nn.Module, up: nn.Module) -> Tensor:
    y = a(x)
    return y * torch.sigmoid(up(F.relu(down(y.mean((2, 3), keepdim=True)))))


def _excite_by_linears(x: Tensor, a: nn.Module, down: nn.Module, up: nn.Module) -> Tensor:
    y = a(x)
    n, c = y.shape[:2]
    gate = F.hardsigmoid(up(F.relu(down(F.adaptive_avg_pool2d(y, 1).view(n, c)))))
    return gate.view(n, c, 1, 1) * y


def _shuffle(x: Tensor, a: nn.Module) -> Tensor:
    y = a(x)
    n, c, h, w = y.size()
    return a_of(y.view(n, 3, c // 3, h, w).transpose(1, 2).contiguous().view(n, -1, h, w))


def a_of(x: Tensor) -> Tensor:
    """Something that has to be a map."""
    return F.max_pool2d(x, 2)


def _branches(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    first, second = a(x).chunk(2, dim=1)
    return torch.cat([F.relu(second), b(first), first[:, 1:3]], 1)


def _in_place(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    y = a(x)
    z = b(y)
    z += y
    return z.relu_()


def _read_twice(x: Tensor, a: nn.Module, b: nn.Module, norm: nn.Module) -> Tensor:
    """Neither the activation nor the sum nor the norm may go into a convolution that something else reads."""
    y, z = a(x), b(x)
    return torch.cat([F.relu(y), norm(y), y + z, z], 1)


def _old_hard_swish(x: Tensor, a: nn.Module) -> Tensor:
    y = a(x)
    return y * (F.relu6(y + 3.0) / 6.0)


def _frozen(x: Tensor, a: nn.Module, norm: nn.BatchNorm2d) -> Tensor:
    """As torchvision's FrozenBatchNorm2d is written."""
    scale = norm.weight.reshape(1, -1, 1, 1) * (norm.running_var.reshape(1, -1, 1, 1) + norm.eps).rsqrt()
    return a(x) * scale + (norm.bias.reshape(1, -1, 1, 1) - norm.running_mean.reshape(1, -1, 1, 1) * scale)


def _standardized(x: Tensor, a: nn.Conv2d) -> Tensor:
    """A convolution whose weights are standardized in its forward."""
    weight = a.weight - a.weight.mean((1, 2, 3), keepdim=True)
    return F.conv2d(x, weight, a.bias, padding=1)


def _padded(x: Tensor, a: nn.Module) -> Tensor:
    return a(F.pad(x, (1, 0, 2, 3)))


def _transformed(x: Tensor, a: nn.Module) -> Tensor:
    """As torchvision's Inception transforms its input."""
    channels = [torch.unsqueeze(x[:, i], 1) * (0.2 + i) + 0.1 * i for i in range(3)]
    return a(torch.cat(channels, 1))


def _pyramid(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    y = F.max_pool2d(a(x), 2, ceil_mode=True)
    return F.interpolate(b(y), scale_factor=2, mode="bilinear", align_corners=False)


_NORM = nn.BatchNorm2d

SMALL: dict[str, tuple[nn.Module, str]] = {
    "norm in a convolution": (nn.Sequential(conv(bias=False), _NORM(8), nn.ReLU6()), "Input Conv"),
    "norm in front": (nn.Sequential(_NORM(3), nn.ReLU(), conv()), "Input Conv Conv"),
    "two norms": (nn.Sequential(conv(), _NORM(8), _NORM(8)), "Input Conv"),
    "norm behind an activation": (nn.Sequential(conv(), nn.ReLU(), _NORM(8)), "Input Conv Conv"),
    "residual": (Written(_residual, conv(), conv(8, 8, padding=1)), "Input Conv Conv"),
    "depthwise residual": (Written(_residual, conv(), conv(8, 8, padding=1, groups=8)), "Input Conv Conv Add"),
    "in place": (Written(_in_place, conv(), conv(8, 8, padding=1)), "Input Conv Conv"),
    "read twice": (Written(_read_twice, conv(), conv(), _NORM(8)), "Input Conv Conv Lookup Conv Add Concat"),
    "squeeze and excite": (
        Written(_squeeze_excite, conv(), conv(8, 3, 1), conv(3, 8, 1)),
        "Input Conv Pool Conv Conv Multiply",
    ),
    "excite by linears": (
        Written(_excite_by_linears, conv(), nn.Linear(8, 3), nn.Linear(3, 8)),
        "Input Conv Pool Conv Conv Multiply",
    ),
    "shuffle": (Written(_shuffle, conv(outputs=12)), "Input Conv Channels Pool"),
    "branches": (
        Written(_branches, conv(outputs=14), conv(7, 5, padding=1)),
        "Input Conv Channels Lookup Channels Conv Channels Concat",
    ),
    "hard swish of old": (Written(_old_hard_swish, conv()), "Input Conv"),
    "product of itself": (Written(lambda x, a: (lambda y: y * torch.sigmoid(y))(a(x)), conv()), "Input Conv"),
    "frozen norm": (Written(_frozen, conv(), _NORM(8)), "Input Conv"),
    "standardized weights": (Written(_standardized, conv()), "Input Conv"),
    "padding of its own": (Written(_padded, conv()), "Input Conv"),
    "padding of torch, same": (conv(kernel=4, padding="same", dilation=3), "Input Conv"),
    "transformed input": (Written(_transformed, conv()), "Input " + "Channels Conv " * 3 + "Concat Conv"),
    "pyramid": (Written(_pyramid, conv(), conv(8, 4)), "Input Conv Pool Conv Resize"),
    "flattened map": (
        nn.Sequential(conv(stride=4), nn.Flatten(), nn.ReLU(), nn.Linear(8 * 3 * 4, 5)),
        "Input Conv Conv",
    ),
    "pools": (
        nn.Sequential(
            nn.MaxPool2d(3, 2, 1),
            nn.AvgPool2d((2, 3), stride=(1, 2), padding=1, count_include_pad=False),
            nn.AdaptiveAvgPool2d((3, 2)),
            nn.AdaptiveMaxPool2d(2),
            conv(kernel=1),
        ),
        "Input Pool Pool Pool Pool Conv",
    ),
    "activations": (
        nn.Sequential(
            *(
                layer
                for activation in (
                    nn.GELU(),
                    nn.GELU(approximate="tanh"),
                    nn.SiLU(inplace=True),
                    nn.Mish(),
                    nn.ELU(0.5),
                    nn.LeakyReLU(0.2),
                    nn.Softplus(),
                    nn.Tanh(),
                    nn.Hardswish(),
                    nn.Hardsigmoid(),
                    nn.Hardtanh(0.0, 6.0),
                )
                for layer in (conv(3, 3, 1), activation)
            )
        ),
        "Input" + " Conv" * 11,
    ),
    "grouped": (
        nn.Sequential(conv(outputs=9, groups=3, stride=(1, 2), dilation=(2, 1)), nn.Dropout(0.5)),
        "Input Conv",
    ),
    "numbers": (Written(lambda x, a: (2 * a(x) - 1) / 3 + 0.25, conv()), "Input Conv"),
}
"""Networks for images of 13 x 17, and the kinds of their nodes."""
