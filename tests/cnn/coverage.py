"""Which models of torchvision and timm are networks of convolutions to `kdnative.cnn`, whole or in parts, as a table.

``python -m tests.cnn.coverage`` traces each with random weights and statistics, runs the graphs in torch, and compares.
"""

from __future__ import annotations

import argparse
import warnings
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdnative.cnn import FloatGraph, regions, run

TORCHVISION = (
    "resnet18 resnet50 resnext50_32x4d wide_resnet50_2 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large "
    "efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_v2_s regnet_y_400mf "
    "regnet_y_800mf regnet_x_400mf regnet_x_800mf mnasnet0_5 mnasnet1_0 shufflenet_v2_x0_5 shufflenet_v2_x1_0 "
    "vgg11 vgg11_bn vgg16 vgg16_bn densenet121 squeezenet1_0 squeezenet1_1 googlenet inception_v3 alexnet "
    "convnext_tiny"
).split()
TIMM = (
    "resnet18 resnet50 resnet50d resnext50_32x4d seresnet50 resnetv2_50 mobilenetv2_100 mobilenetv3_small_100 "
    "mobilenetv3_large_100 mobilenetv4_conv_small efficientnet_b0 tf_efficientnet_b0 tf_efficientnet_lite0 "
    "tf_efficientnet_lite2 tf_efficientnetv2_s regnetx_004 regnety_004 densenet121 vgg11 vgg11_bn repvgg_a0 "
    "ghostnet_100 ese_vovnet19b_dw hardcorenas_a mnasnet_100 mobileone_s0 fbnetc_100 spnasnet_100 lcnet_050 "
    "tinynet_e semnasnet_075 mixnet_s rexnet_100 dla34 hrnet_w18_small selecsls42b cspresnet50 cspdarknet53 "
    "darknet53 inception_v3 inception_v4 xception41 res2net50_26w_4s resnest14d skresnet18 ecaresnet26t dpn68 "
    "hgnet_tiny hgnetv2_b0 starnet_s1 repghostnet_050 convnext_atto nf_resnet50"
).split()

SIZES = {
    "inception_v3": (91, 107),
    "inception_v4": (91, 107),
    "alexnet": (91, 107),
    "dla34": (64, 96),
    "hrnet_w18_small": (64, 96),
}
"""Height and width of images where 61 x 83 doesn't fit the model."""


@dataclass(frozen=True)
class Row:
    """What one model is.

    Args:
        parts: graphs by module name. why: what keeps the whole from being one.
        error: the largest relative error of a graph (L2), all in float64.
        covered: how many of the model's convolutions lie in a graph.
    """

    name: str
    parts: dict[str, FloatGraph]
    why: str
    error: float
    covered: int
    convolutions: int

    def __str__(self) -> str:
        kinds = Counter(type(node).__name__ for graph in self.parts.values() for node in graph.nodes)
        parts = "whole" if "" in self.parts else f"{len(self.parts)} parts"
        nodes = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if kind != "Input")
        sizes = "" if not any(graph.fixed for graph in self.parts.values()) else "this size alone. "
        cells = (
            self.name,
            parts,
            f"{self.covered} of {self.convolutions}",
            nodes,
            f"{self.error:.0e}",
            sizes + self.why,
        )
        return f"| {' | '.join(cells)} |"


def randomize(model: nn.Module) -> nn.Module:
    """Statistics and parameters of normalization that are not those of a new model; the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
    return model.eval()


def build(name: str) -> nn.Module:
    """A model with random weights: "mobilenet_v2" of torchvision, "timm/mobilenetv2_100" of timm."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name.startswith("timm/"):
            import timm

            return randomize(timm.create_model(name.removeprefix("timm/")))
        import torchvision

        extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        return randomize(torchvision.models.get_model(name, weights=None, **extra))


def row(name: str) -> Row:
    """Trace one model, and compare each of its graphs with the module it comes from."""
    model = build(name).double()
    size = SIZES.get(name.removeprefix("timm/"), (61, 83))
    found = regions(model, (2, 3, *size))
    error = max((relative_error(model.get_submodule(part), graph) for part, graph in found.graphs.items()), default=0.0)
    convolutions = {n for n, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    covered = {n for n in convolutions if any(p in ("", n) or n.startswith(f"{p}.") for p in found.graphs)}
    return Row(name, found.graphs, found.left.get("", ""), error, len(covered), len(convolutions))


def relative_error(module: nn.Module, graph: FloatGraph) -> float:
    """The largest |graph - module| / |module| of the outputs (L2), on random images of the size that was traced.

    In float64: random networks of a hundred layers make large differences of small ones.
    """
    torch.manual_seed(1)
    images = torch.randn(3, *graph.shapes[0], dtype=torch.float64)
    with torch.no_grad():
        expected = module(images)
        outputs = (expected,) if isinstance(expected, Tensor) else tuple(expected)
        pairs = list(zip(run(graph, images, weights=graph.fold(torch.float64)), outputs, strict=True))
    assert all(a.shape == b.shape and b.any() for a, b in pairs)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=[*TORCHVISION, *(f"timm/{name}" for name in TIMM)])
    print("| model | graph | convolutions | nodes | error | why not whole |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in parser.parse_args().models:
        print(row(name), flush=True)


if __name__ == "__main__":
    main()
