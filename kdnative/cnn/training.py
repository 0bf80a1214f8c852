"""A network of convolutions in training: what it gives is what the network of integers gives, bit for bit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from kdnative.cnn.calibrating import NetworkCalibration
from kdnative.cnn.equalization import Pair, scaled
from kdnative.cnn.floats import FloatGraph, Folded
from kdnative.cnn.integer_weights import integer_weight
from kdnative.cnn.ranges import ending_of
from kdnative.cnn.running import run
from kdnative.cnn.straight_through import rounded, straight_through
from kdnative.cnn.tracing import trace
from kdnative.formats.convnet.graph import Graph
from kdnative.models.layer import Unsupported
from kdnative.nn import ConvNet

__all__ = ["HandedOn", "TrainedNetwork", "forgotten"]


class TrainedNetwork:
    """The forward of a module that is trained as a network of integers; it stands in for the module's own.

    The loss sees what the integer kernels make of the weights at that moment. The gradient is that of the float network
    with rounded weights and maps (a straight-through estimator, Bengio et al. 2013): it is zero where a map leaves its
    range. Ranges of maps, factors of equalization and what was taken off biases are those of the calibration, and stay;
    scales of weights follow the weights. Normalization has its running statistics, which stay too, and is folded;
    dropout does nothing. All of that is what the network computes after training (Jacob et al., "Quantization and
    Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018, folds norms likewise).

    Without gradients only the network of integers runs, packed anew when a parameter or buffer has changed.

    Args:
        modules: which compute the network together, by their names: the first has this forward, and the others only
            hand on what they are given.
        shape: of images that they can be traced with.
        graph: the network; its ranges count, its weights do not.
        factors: by which channels are multiplied.
        shifts: what is added to the bias of each convolution, float64 [C].
    """

    trains_network = True  # by which packages below this one know it

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        shape: tuple[int, ...],
        graph: Graph,
        factors: Mapping[Pair, Tensor],
        shifts: Mapping[str, Tensor],
    ) -> None:
        self.modules, self.shape = dict(modules), shape
        self.graph = replace(graph, weights={})
        self.factors, self.shifts = dict(factors), dict(shifts)
        self._own = False
        self._traced: tuple[list[Tensor], FloatGraph] | None = None
        self._packed: tuple[list[tuple[Tensor, int, int]], int, ConvNet] | None = None

    @classmethod
    def calibrated(cls, modules: Mapping[str, nn.Module], calibration: NetworkCalibration) -> TrainedNetwork:
        """The training of what a calibration has found, after its last pass.

        Raises:
            Unsupported: a parameter has no part in the graph as it is, as one that is computed from others.
        """
        if lost := forgotten(calibration.graph, modules):
            raise Unsupported(f"{lost} is not the weight that its convolutions use, so it would not be trained")
        made = calibration.result()
        biases = {name: bias.to(torch.float64) for name, (_, bias) in calibration.folded.items()}
        shifts = {name: weight.bias.to(torch.float64) - biases[name] for name, weight in made.weights.items()}
        network = cls(modules, (2, *calibration.graph.shapes[0]), made, calibration.factors, shifts)
        network._traced = list(network._tensors()), calibration.graph
        return network

    def install(self) -> None:
        """Become the forward of the modules."""
        first, *others = self.modules.values()
        first.forward = self
        for module in others:
            module.forward = HandedOn(self, module)

    def remove(self) -> None:
        """The modules have their own forward again."""
        for module in self.modules.values():
            del module.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        first = next(iter(self.modules.values()))
        if self._own:
            return type(first).forward(first, *args, **kwargs)
        given = (*args, *kwargs.values())
        if len(given) != 1:
            raise TypeError(f"a network in training takes only images, as in calibration; got {len(given)} inputs")
        x = given[0]
        _watch_optimizers()
        if not torch.is_grad_enabled():
            return self._network()(x)
        graph = self._graph()
        with torch.autocast("cpu", enabled=False):
            folded = self._folded(graph)
            quantized = self._quantized(folded)
            with torch.no_grad():
                exact = ConvNet.from_graph(quantized)(x)
            plain = run(graph, x.to(torch.float32), tap=self._round, weights=_rounded_weights(folded, quantized))
        if isinstance(exact, Tensor):
            return straight_through(exact, plain[0])
        return tuple(straight_through(*pair) for pair in zip(exact, plain, strict=True))

    def quantized(self) -> Graph:
        """The network of integers that the weights are by now."""
        with torch.no_grad():
            return self._quantized(self._folded(self._graph()))

    def _round(self, number: int, where: str, value: Tensor) -> Tensor:
        node = self.graph.nodes[number]
        codes = node.out if where == "out" else ending_of(node).before
        return value if codes is None else rounded(value, codes)

    def _folded(self, graph: FloatGraph) -> dict[str, Folded]:
        folded = scaled(graph, graph.fold(), self.factors)
        return {
            name: (weight, (bias.to(torch.float64) + self.shifts[name]).to(torch.float32))
            for name, (weight, bias) in folded.items()
        }

    def _quantized(self, folded: Mapping[str, Folded]) -> Graph:
        weights = {name: integer_weight(*each) for name, each in folded.items()}
        return replace(self.graph, weights=weights)

    def _network(self) -> ConvNet:
        """The native network of the weights as they are."""
        now = [(tensor, tensor._version, tensor.data_ptr()) for tensor in self._tensors()]
        if self._packed is not None and self._packed[1] == _steps[0]:
            before = self._packed[0]
            same = (a[0] is b[0] and a[1:] == b[1:] for a, b in zip(before, now, strict=True))
            if len(before) == len(now) and all(same):
                return self._packed[2]
        self._packed = now, _steps[0], ConvNet.from_graph(self.quantized())
        return self._packed[2]

    def _graph(self) -> FloatGraph:
        """The graph of the tensors that the modules have now: buffers may be others after a move."""
        now = list(self._tensors())
        if self._traced is None or len(now) != len(self._traced[0]) or not all(map(_is, now, self._traced[0])):
            first, *others = self.modules.values()
            # Nodes have the names that they had when the part was found (`kdnative.cnn.regions`).
            parts = ((name.rpartition(".")[2], module) for name, module in self.modules.items())
            whole = nn.Sequential(OrderedDict(parts)) if others else first
            with self._as_they_are():
                self._traced = now, trace(whole, self.shape)
        return self._traced[1]

    @contextmanager
    def _as_they_are(self) -> Iterator[None]:
        self._own = True
        try:
            yield
        finally:
            self._own = False

    def _tensors(self) -> Iterator[Tensor]:
        for module in self.modules.values():
            yield from chain(module.parameters(), module.buffers())

    def __getstate__(self) -> dict[str, Any]:
        """What copies need: the rest is made again, of their own tensors."""
        return {**self.__dict__, "_traced": None, "_packed": None}


class HandedOn:
    """The forward of a module whose part another one computes."""

    trains_network = True

    def __init__(self, network: TrainedNetwork, module: nn.Module) -> None:
        self.network, self.module = network, module

    def __call__(self, x: Tensor) -> Tensor:
        return type(self.module).forward(self.module, x) if self.network._own else x


def forgotten(graph: FloatGraph, modules: Mapping[str, nn.Module]) -> str | None:
    """The name of a parameter that is to be trained and is none of the graph's tensors; None: there is none."""
    known: set[int] = set()
    for source in graph.sources.values():
        parts = [vars(part) for part in source.behind]
        for value in (source.weight, source.bias, *(value for part in parts for value in part.values())):
            known.add(id(value))
    for name, module in modules.items():
        for own, parameter in module.named_parameters(prefix=name):
            if parameter.requires_grad and id(parameter) not in known:
                return own
    return None


def _rounded_weights(folded: Mapping[str, Folded], quantized: Graph) -> dict[str, Folded]:
    """The values of integer weights, with the gradients of those in floats."""
    return {
        name: (straight_through(quantized.weights[name].dequantize(), weight), bias)
        for name, (weight, bias) in folded.items()
    }


def _is(one: Tensor, other: Tensor) -> bool:
    return one is other


_steps = [0]
"""Steps of all optimizers so far: fused ones change parameters without counting it as a version."""


@cache
def _watch_optimizers() -> None:
    def count(*_: Any) -> None:
        _steps[0] += 1

    register_optimizer_step_post_hook(count)
