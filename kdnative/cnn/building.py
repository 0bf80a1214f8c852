"""The nodes of a network while it is read: unique names, and views of maps as maps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from kdnative.cnn.floats import Norm, Scale, Source
from kdnative.cnn.maps import View
from kdnative.cnn.recording import Step, Value
from kdnative.formats.convnet.graph import Channels, Conv, Ending, Input, Lookup, Node

__all__ = ["Builder"]


class Builder:
    """Nodes so far, and what each recorded value is."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        n, c, h, w = shape
        self.nodes: list[Node] = [Input("input", (), None, c)]
        self.shapes: list[tuple[int, int, int]] = [(c, h, w)]
        self.sources: dict[str, Source] = {}
        self.images = n
        self.views: dict[int, View] = {0: View(0, (n, c, h, w), (n, c, h, w))}
        self._names = {"input"}
        self._channels: dict[tuple[int, tuple[int, ...]], int] = {}

    # -- what a step is given --------------------------------------------------------------------------------------

    def view(self, step: Step, argument: Any) -> View:
        """The view that an argument is."""
        if not isinstance(argument, Value):
            raise step.refuse(f"{step.function} has an input that is not computed from the image")
        return self.views[argument.number]

    def map(self, step: Step, argument: Any) -> int:
        """The number of the node that an argument is the map of: a new one where its channels are in another order."""
        view = self.view(step, argument)
        if any(view.padding):
            raise step.refuse(f"{step.function} follows a padding, which only a convolution can")
        order = view.channels()
        if order is None:
            raise step.refuse(f"{step.function} takes {list(view.shape)}, which isn't a map [N, C, H, W]")
        if order == tuple(range(view.map[1])):
            return view.node
        key = (view.node, order)
        if key not in self._channels:
            node = Channels(self.name(step, "channels"), (view.node,), None, len(order), order)
            self._channels[key] = self._append(node, (len(order), *view.map[2:]))
        return self._channels[key]

    # -- what it gives ---------------------------------------------------------------------------------------------

    def name(self, step: Step, what: str = "") -> str:
        """A name that no node has yet: the module's, for what modules are made for, or else with ``what`` behind it."""
        base = ".".join(filter(None, (step.module, what))) or step.function
        name, number = base, 2
        while name in self._names:
            name, number = f"{base}_{number}", number + 1
        self._names.add(name)
        return name

    def add(self, step: Step, node: Node) -> None:
        """The step's result is the map of a new node."""
        shape = step.shapes[0]
        c, h, w = (*shape[1:], 1, 1)[:3]
        number = self._append(node, (c, h, w))
        self.views[step.results[0]] = View(number, (self.images, c, h, w), shape)

    def conv(self, step: Step, node: Conv, source: Source) -> None:
        """A new convolution."""
        self.sources[node.name] = source
        self.add(step, node)

    def same(self, step: Step, argument: Any) -> None:
        """The step changes nothing."""
        self.views[step.results[0]] = self.view(step, argument)

    def affine(self, step: Step, argument: Any, part: Norm | Scale) -> None:
        """A factor and an offset for each channel: a depthwise 1x1 convolution, which may be folded later."""
        x = self.map(step, argument)
        c = self.nodes[x].channels
        for value in vars(part).values():
            if isinstance(value, Tensor) and value.numel() not in (1, c):
                raise step.refuse(f"{step.function} has {value.numel()} numbers for {c} channels")
        name = self.name(step, "" if isinstance(part, Norm) else step.function)
        self.conv(step, Conv(name, (x,), None, c, groups=c), Source("", None, None, (c, 1, 1, 1), (part,)))

    def activation(self, step: Step, argument: Any, ending: Ending) -> None:
        """A function of each value. What isn't a map, such as a flattened one, has it from the map it is a view of."""
        view = self.view(step, argument)
        whole = view.channels() is None and not any(view.padding)
        x = view.node if whole else self.map(step, argument)
        node = Lookup(self.name(step), (x,), None, self.nodes[x].channels, ending)
        if whole:
            self.views[step.results[0]] = replace(view, node=self._append(node, self.shapes[x]))
        else:
            self.add(step, node)

    def _append(self, node: Node, shape: tuple[int, int, int]) -> int:
        self.nodes.append(node)
        self.shapes.append(shape)
        return len(self.nodes) - 1
