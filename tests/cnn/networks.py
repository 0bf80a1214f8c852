"""Small networks with weights and statistics as trained ones have them, and images for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["depthwise", "images", "residual"]


def images(count: int, size: int = 17, channels: int = 3, seed: int = 0) -> Tensor:
    """[N, C, size, size], smooth and with channels of different means, as pictures are."""
    drawn = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, channels, 5, 5, generator=drawn)
    smooth = nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    means = torch.linspace(-1, 1, channels).reshape(-1, 1, 1)
    return smooth + 0.1 * torch.randn(smooth.shape, generator=drawn) + means


def _settled(model: nn.Module) -> nn.Module:
    """With channels of very different ranges, and running statistics of its own data."""
    drawn = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # of all batches alike
            with torch.no_grad():
                module.weight.copy_(torch.randn(module.weight.shape, generator=drawn).mul(0.5).exp())
                module.bias.copy_(torch.randn(module.bias.shape, generator=drawn))
    with torch.no_grad():
        model.train()(images(64, seed=2))
    return model.eval()


def _conv(inputs: int, outputs: int, kernel: int = 1, activation: type[nn.Module] = nn.ReLU, **more) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **more)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), activation())


def depthwise(activation: type[nn.Module] = nn.ReLU6) -> nn.Sequential:
    """As MobileNet is built: 1x1, depthwise, 1x1, two strides, a classifier."""
    torch.manual_seed(0)
    return _settled(
        nn.Sequential(
            _conv(3, 24, 3, activation, stride=2),
            _conv(24, 24, 3, activation, groups=24),
            _conv(24, 16, 1, nn.Identity),
            _conv(16, 40, 1, activation),
            _conv(40, 40, 3, activation, groups=40, stride=2),
            _conv(40, 20, 1, activation),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(20, 7),
        )
    )


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 16, 3, nn.ReLU)
        self.first = _conv(16, 16, 3, nn.ReLU)
        self.second = _conv(16, 16, 3, nn.Identity, groups=4)
        self.pool = nn.MaxPool2d(2)
        self.branch = _conv(16, 5, 1, nn.SiLU)
        self.classes = nn.Linear(21, 11)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.pool(torch.relu(x + self.second(self.first(x))))
        x = torch.cat([x, self.branch(x)], 1)
        return self.classes(x.mean((2, 3)))


def residual() -> nn.Module:
    """A residual, groups, pooling, a concatenation and a table."""
    torch.manual_seed(0)
    return _settled(_Residual())
