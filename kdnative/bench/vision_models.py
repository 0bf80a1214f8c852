"""What the vision suite runs: a network, pictures to calibrate with, and pictures to run and to compare on.

A network without weights of its own gets random ones. Its batch norms get the statistics of pictures: left at 0 and 1,
these would make activations vanish layer by layer, and denormal numbers are slow in some engines. They get a shift of 1
as well, so that few values lie on the bend of a ReLU: without it rounding grows from layer to layer as it does in no
trained network, until 8 bits leave nothing of the result to compare. Neither changes what is computed, or how fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MODELS = "mobilenet_v2,mobilenet_v3_large,efficientnet_b0,resnet50"
NAMES = "a name of torchvision, timm:NAME, package:NAME, or a folder that an image recipe saved"
CALIBRATION = 32  # pictures that engines find ranges with
_CLASSES = 1000


@dataclass(frozen=True)
class Network:
    """One network of the suite.

    Attributes:
        model: float32, in eval mode.
        pictures: ``[N, 3, pixels, pixels]``, what is run.
        calibration: the same with other values.
    """

    model: nn.Module
    pictures: Tensor
    calibration: Tensor


def load_network(source: str, pixels: int, count: int) -> Network:
    """A network and pictures for it.

    Args:
        source: see `NAMES`.
        pixels: height and width of the pictures.
        count: pictures to run.

    Raises:
        ValueError: no such network; the text says what there is.
        ImportError: the library that builds it is not installed.
    """
    calibration = pictures(CALIBRATION, pixels, seed=1)
    torch.manual_seed(0)
    if Path(source).is_dir():
        model = _saved(Path(source))
    else:
        from kdnative.pipeline import networks

        name = source if ":" in source else f"torchvision:{source}"
        model, new = networks.load_network(name, None, None, tuple(map(str, range(_CLASSES))))
        if new:
            settle_norms_(model, calibration)
    return Network(model.eval(), pictures(count, pixels, seed=2), calibration)


def _saved(folder: Path) -> nn.Module:
    from kdnative.nn import ConvNet
    from kdnative.pipeline.kinds.pictures import PICTURES

    model = PICTURES.load_saved(folder)
    if any(isinstance(module, ConvNet) for module in model.modules()):
        raise ValueError(
            f"{folder} holds a native network, which no other engine can run: give the folder of the float one, such "
            "as stages/distil/model of its run"
        )
    return model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def pictures(count: int, pixels: int, seed: int) -> Tensor:
    """Random pictures, ``[count, 3, pixels, pixels]`` float32, with as much in coarse structure as in fine.

    Pictures of noise alone look alike to a network: after its pooling their outputs would hardly differ, and an engine
    that mixes pictures up would not be noticed.
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, 3, pixels, pixels)
    size, layers = 1, 0
    while size <= pixels:
        grid = torch.randn(count, 3, size, size, generator=generator)
        total += F.interpolate(grid, (pixels, pixels), mode="bilinear", align_corners=False)
        size, layers = 3 * size, layers + 1
    return total / layers**0.5


def settle_norms_(model: nn.Module, images: Tensor) -> None:
    """Gives every batch norm a shift of 1 and the statistics of its input for these pictures; the model is in eval
    mode afterwards."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    model.eval()
    before = [norm.momentum for norm in norms]
    for norm in norms:
        nn.init.ones_(norm.bias)
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None  # the mean over all batches
    with torch.no_grad():
        for batch in images.split(16):
            model(batch)
    for norm, momentum in zip(norms, before, strict=True):
        norm.eval()
        norm.momentum = momentum


def products(model: nn.Module, picture: Tensor) -> int:
    """Multiply-accumulates of the convolutions and linear layers for one picture ``[1, 3, H, W]``."""
    found = 0

    def add(module: nn.Module, _: object, result: Tensor) -> None:
        nonlocal found
        each = module.weight[0].numel()
        found += each * result[0].numel()

    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    try:
        with torch.no_grad():
            model(picture)
    finally:
        for hook in hooks:
            hook.remove()
    return found
