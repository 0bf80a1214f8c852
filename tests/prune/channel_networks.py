"""Small networks, one for each way in which channels depend on each other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdnative.cnn import FloatGraph
from kdnative.cnn.recording import record
from kdnative.cnn.tracing import graph_of, image_size

__all__ = ["NETWORKS", "Flattened", "Shuffled", "conv", "graph", "settled"]


def settled(model: nn.Module) -> nn.Module:
    """With weights and statistics that are those of no other channel."""
    drawn = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.3 * torch.rand(tensor.shape, generator=drawn))
    return model.eval()


def conv(inputs: int, outputs: int, kernel: int = 3, **more) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **more), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Residual(nn.Module):
    """Sums: what goes in a goes in every partner."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = conv(3, 7), conv(7, 5), conv(5, 7)
        self.depthwise = conv(7, 7, groups=7)
        self.classes = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.second(self.first(x))
        return self.classes(self.depthwise(x).mean((2, 3)))


class Gated(nn.Module):
    """Squeeze and excite, with a function that isn't 0 at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 11)
        self.fc1, self.fc2 = nn.Conv2d(11, 3, 1), nn.Conv2d(3, 11, 1)
        self.head = nn.Conv2d(11, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))))
        return self.head(x * gate)


class Side(nn.Module):
    """Concatenations, with a normalization of their own and a sum with a map that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 5), conv(3, 6)
        self.norm = nn.BatchNorm2d(11)
        self.mixed, self.whole = conv(11, 4), nn.Conv2d(15, 15, 1)
        self.last = nn.Conv2d(15, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        side = torch.cat([self.a(x), self.b(x)], 1)
        x = torch.cat([side, self.mixed(torch.relu(self.norm(side)))], 1)
        return self.last(torch.relu(x + self.whole(x)))


class Flattened(nn.Module):
    """A linear layer over all pixels, and one behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 5)
        self.hidden, self.classes = nn.Linear(5 * 3 * 3, 9), nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.stem(x), 4).flatten(1)
        return self.classes(torch.relu(self.hidden(x)))


class Grouped(nn.Module):
    """Groups: 3 -> 2 channels each, and a depthwise convolution with two outputs for each input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped, self.more = conv(3, 12), conv(12, 8, groups=4), conv(8, 16, groups=8)
        self.last = nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.more(self.grouped(self.stem(x))))


class Shuffled(nn.Module):
    """A block whose result is shuffled, which only leaves what is inside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.inner, self.outer = conv(4, 6), conv(6, 4)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.stem(x).chunk(2, 1)
        x = torch.cat([a, self.outer(self.inner(b))], 1)
        n, c, h, w = x.shape
        return self.last(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))


NETWORKS = {kind.__name__: kind for kind in (Residual, Gated, Side, Flattened, Grouped, Shuffled)}


def graph(model: nn.Module, images: Tensor) -> FloatGraph:
    """As for one size of images, which is a third of the work of finding out whether others fit."""
    return graph_of(record(model, image_size(images)))
