"""How networks of convolutions become one native operator each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from kdnative.convert.plan import Decision, Region
from kdnative.convert.refusals import Refusal, not_quantizable, unusual
from kdnative.convert.registry import Converter, Native, RegionConverter, converts
from kdnative.convert.surroundings import Site
from kdnative.convert.transformer_layers import WeightOf
from kdnative.convert.weights import Weights
from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight
from kdnative.nn import ConvNet
from kdnative.ops.backends import backend_for

__all__ = ["SCHEME", "ConvolutionConverter", "NetworkConverter", "has_convolutions"]

SCHEME = Scheme.parse("w8a8")
"""What convolutions have kernels for."""


def has_convolutions(module: nn.Module) -> bool:
    """Whether there are convolutions of images in a module."""
    return any(isinstance(part, nn.Conv2d) for part in module.modules())


@converts(nn.Conv2d)
class ConvolutionConverter(Converter):
    """``nn.Conv2d``: native as a part of a network only, whose maps have ranges that calibration finds."""

    def decide(self, site: Site, scheme: Scheme) -> Scheme | Refusal:
        backend = backend_for(site.module.weight.device)
        if not backend.fused:
            return Refusal(f"the backend {backend.name!r} has no fused operators, which convolutions need")
        if scheme.plain != SCHEME:
            return Refusal(f"there is no kernel for convolutions in {scheme}: use {SCHEME}")
        if why := unusual(site.module, (type(site.module),)) or not_quantizable(site.module, site.around.values):
            return why
        networks = site.around.networks
        if networks is None:
            words = "convolutions need the ranges of their inputs and results, which calibration finds"
            return Refusal(f"{words}: give calibration=[batch of images, ...]", needs="ranges")
        why_not = networks.refusals.get(site.name)
        return scheme.plain if why_not is None else Refusal(why_not)

    def apart(self, site: Site) -> Refusal | None:
        return Refusal("convolutions are native only in a fused network: leave fuse=False out")

    def build(self, module: nn.Module, decision: Decision, weights: Weights) -> Native:
        raise ValueError(f"{decision.name}: convolutions are native only in a fused network")


@converts(when=has_convolutions)
class NetworkConverter(RegionConverter):
    """What convolutions compute together with all between them: one :class:`kdnative.nn.ConvNet`."""

    noun = "network"
    follows_calls = True
    brings_weights = True

    def considers(self, site: Site) -> bool:
        networks = site.around.networks
        return networks is not None and site.name in networks.parts

    def decide(self, site: Site, scheme_of: Callable[[str, nn.Linear], Scheme]) -> Region | Refusal | None:
        assert site.around.networks is not None
        network = site.around.networks.parts[site.name]
        return Region(site.name, network.modules, type(self).__name__, {"graph": network.graph})

    def build(self, region: Region, modules: Mapping[str, nn.Module], weight_of: WeightOf) -> nn.Module:
        return ConvNet.from_graph(region.spec["graph"]).eval()

    def bytes_of(self, name: str, part: nn.Module, weight: QuantizedWeight | None) -> int:
        """Codes, and a scale and a bias for each output; what is folded into these has nothing of its own."""
        if not isinstance(part, nn.Conv2d | nn.Linear):
            return 0
        return part.weight.numel() + 8 * len(part.weight)
