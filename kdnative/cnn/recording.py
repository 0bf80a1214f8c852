"""What a model calls on the way from one image to its results, as a list of steps.

The model runs once, in evaluation mode, on tensors without values (PyTorch's fake tensors), and every function of torch
that it calls on them is written down. So whatever Python does in between is allowed, as long as it looks at shapes and
not at values. What a model computes from its own tensors alone (standardized weights, say) is computed, not recorded.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload, OpOverloadPacket
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from kdnative.models.layer import Unsupported

__all__ = ["ModuleCall", "Recording", "Step", "Value", "record"]


@dataclass(frozen=True)
class Value:
    """A tensor that depends on the image: its number (0 is the image itself)."""

    number: int


@dataclass(frozen=True)
class Step:
    """One call of a function of torch.

    Args:
        function: its name, without underscores in front or behind; of operators "torch.ops" and the whole name.
        call: the function itself.
        args, kwargs: as it was called, with a `Value` in the place of each tensor that depends on the image.
        results: the value each result got, in order.
        shapes: of the results.
        module: name of the module whose code called; empty for the outermost.
        kind: the class of that module.
        line: "resnet.py:102", where the call is written; empty where torch's own modules call each other.
    """

    function: str
    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    module: str
    kind: str
    line: str

    def bind(self, *names: str, **defaults: Any) -> SimpleNamespace:
        """The arguments by name: those of ``names`` and then of ``defaults``, in the order of the function's own."""
        given = dict(zip((*names, *defaults), self.args, strict=False))
        return SimpleNamespace(**{**defaults, **given, **self.kwargs})

    def refuse(self, why: str) -> Unsupported:
        """The error that says that this step is no part of a native network."""
        where = f"{self.module} ({self.kind})" if self.module else self.kind
        return Unsupported(f"{where}{f' at {self.line}' if self.line else ''}: {why}")


@dataclass(frozen=True)
class ModuleCall:
    """How a module was called.

    Args:
        times: how often.
        shape: of the one tensor that it took the last time; None where it took something else.
        result: the class of what it returned; "Tensor" for a tensor.
    """

    times: int
    shape: tuple[int, ...] | None
    result: str

    def why_no_part(self) -> str:
        """What keeps it from being a network of its own, seen from outside; empty where nothing does."""
        if self.times > 1:
            return f"it is called {self.times} times"
        if self.shape is None:
            return "its input is not one tensor"
        if len(self.shape) != 4:
            return f"it takes {list(self.shape)}, which isn't a map [N, C, H, W]"
        return "" if self.result == "Tensor" else f"it returns {self.result}; a part of a model must return one tensor"


@dataclass
class Recording:
    """What a model did with an image.

    Args:
        shape: of the image.
        steps: in order.
        result: what the model returned, with a `Value` in the place of each tensor.
        calls: of modules by name, for those that returned.
        changes_image: whether the image has other values afterwards.
        failure: why the model could not be followed to its end.
    """

    shape: tuple[int, ...]
    steps: list[Step] = field(default_factory=list)
    result: Any = None
    calls: dict[str, ModuleCall] = field(default_factory=dict)
    changes_image: bool = False
    failure: Unsupported | None = None


def record(module: nn.Module, shape: Sequence[int]) -> Recording:
    """Run ``module`` on an image without values, and write down what it calls.

    Args:
        module: called with one tensor. Its tensors may be on the meta device. It is left as it was.
        shape: of the image, [N, C, H, W].
    """
    with torch.inference_mode(False), _evaluating(module), torch.no_grad():
        recorder = _Recorder(module, _image(module, shape))
        recording = recorder.recording
        try:
            with _quietly(), recorder.hooks(), recorder:
                result = module(recorder.image)
            recording.result = recorder.values_of(result)
            recorder.check_constants()
            recording.changes_image = recorder.image._version > 0
        except Unsupported as error:
            recording.failure = error
        except Exception as error:  # whatever a user's code raises
            words = str(error).strip().splitlines() or [""]
            recording.failure = Unsupported(
                f"{recorder.place()}: it can't be traced with the shapes of an image of {list(shape)}: "
                f"{type(error).__name__}: {words[0]}"
            )
        return recording


def _image(module: nn.Module, shape: Sequence[int]) -> Tensor:
    """An image without values, of the device and type of the module's tensors."""
    tensors = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    like = tensors[0] if tensors else torch.empty(0)
    if like.is_meta:
        return torch.empty(tuple(shape), dtype=like.dtype, device="meta")
    with FakeTensorMode(allow_non_fake_inputs=True):
        return torch.empty(tuple(shape), dtype=like.dtype, device=like.device)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without torch's own log of what failed on tensors without values: the error says it."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = before


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """In evaluation mode, and afterwards each module in its own again."""
    before = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, training in before:
            m.training = training


class _Recorder(TorchFunctionMode):
    """Sees every call of torch's functions, and knows the modules that are running."""

    def __init__(self, module: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.module = module
        self.image = image
        self.recording = Recording(tuple(image.shape))
        self.stack: list[tuple[str, nn.Module]] = []
        # Tensors are known by their ids, so they must live. The version tells whether one was changed since.
        self.known: dict[int, tuple[Tensor, int, int]] = {id(image): (image, image._version, 0)}
        self.count = 1
        # Tensors that don't depend on the image, and their versions when they were read first. Steps hold them as they
        # are, not their values, so a later change would reach earlier steps.
        self.constants: dict[int, tuple[Tensor, int]] = {}

    @contextmanager
    def hooks(self) -> Iterator[None]:
        with ExitStack() as stack:
            for name, module in self.module.named_modules():
                if isinstance(module, torch.jit.ScriptModule):  # it takes no hooks, and nothing of it is seen
                    continue
                stack.callback(module.register_forward_pre_hook(self._entering(name), with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(self._leaving(name), with_kwargs=True).remove)
            yield

    def _entering(self, name: str):
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            self.stack.append((name, module))

        return hook

    def _leaving(self, name: str):
        def hook(module: nn.Module, args: tuple, kwargs: dict, result: Any) -> None:
            self.stack.pop()
            before = self.recording.calls.get(name)
            single = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
            self.recording.calls[name] = ModuleCall(
                times=before.times + 1 if before else 1,
                shape=tuple(args[0].shape) if single else None,
                result="Tensor" if isinstance(result, Tensor) else type(result).__name__,
            )

        return hook

    def place(self) -> str:
        name, module = self.stack[-1] if self.stack else ("", self.module)
        return f"{name} ({type(module).__name__})" if name else type(module).__name__

    def values_of(self, tree: Any) -> Any:
        """The tree with a `Value` in the place of each tensor that depends on the image."""
        return tree_map(self._value, tree)

    def _value(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or (id(leaf) not in self.known and not isinstance(leaf, FakeTensor)):
            return leaf
        if id(leaf) not in self.known:
            raise Unsupported(
                f"{self.place()}: it reads the result of code that can't be traced, such as compiled code"
            )
        _, version, number = self.known[id(leaf)]
        if version != leaf._version:
            raise Unsupported(f"{self.place()}: it reads a tensor that was changed in place through another view of it")
        return Value(number)

    def _constants(self, tree: Any) -> list[tuple[Tensor, int]]:
        """The tensors that don't depend on the image, and their versions."""
        leaves = [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor) and id(leaf) not in self.known]
        found = [(leaf, _version(leaf)) for leaf in leaves]
        for tensor, version in found:
            self.constants.setdefault(id(tensor), (tensor, version))
        return found

    def check_constants(self) -> None:
        """Unsupported where a constant has changed since it was read."""
        if any(version != _version(tensor) for tensor, version in self.constants.values()):
            raise Unsupported(
                f"{self.place()}: a tensor is changed in place after it was read; create a new tensor instead"
            )

    def _reads(self, tree: Any) -> bool:
        return any(isinstance(leaf, Tensor) and id(leaf) in self.known for leaf in tree_flatten(tree)[0])

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        read = self._reads((args, kwargs))
        values_args, values_kwargs = self.values_of((args, kwargs)) if read else ((), {})
        constants = self._constants((args, kwargs)) if read else []
        result = func(*args, **kwargs)
        results = [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]
        written = any(version != _version(tensor) for tensor, version in constants)
        if written or (read and result is None and self._reads((args[1:], kwargs))):
            # What is read from there later, through another view of it say, could not be told from a constant.
            raise Unsupported(
                f"{self.place()} at {_line(sys._getframe(1))}: {_name(func)} writes what depends on the image "
                "into another tensor; create a new tensor instead, for example with torch.cat or torch.where"
            )
        if not read or not results:
            return result
        first = self.count
        for tensor in results:
            self.known[id(tensor)] = (tensor, tensor._version, self.count)
            self.count += 1
        name, module = self.stack[-1] if self.stack else ("", self.module)
        step = Step(
            function=_name(func),
            call=func,
            args=values_args,
            kwargs=values_kwargs,
            results=tuple(range(first, self.count)),
            shapes=tuple(tuple(tensor.shape) for tensor in results),
            module=name,
            kind=type(module).__name__,
            line=_line(sys._getframe(1)),
        )
        self.recording.steps.append(step)
        return result


def _version(tensor: Tensor) -> int:
    """How often a tensor was changed in place. Those of inference mode don't count, and can't be changed here."""
    return 0 if tensor.is_inference() else tensor._version


def _name(function: Callable[..., Any]) -> str:
    """A function's name as steps have it. Operators (torch.ops, TorchScript) have their own order of arguments."""
    if isinstance(function, (OpOverload, OpOverloadPacket)):
        return f"torch.ops.{function}"
    return getattr(function, "__name__", str(function)).strip("_")


_TORCH = f"{Path(torch.__file__).parent}{os.sep}"


def _line(frame: FrameType | None) -> str:
    """Where the model's code is: the innermost line that isn't torch's, up to `record`."""
    while frame is not None and frame.f_code.co_filename != __file__:
        file = frame.f_code.co_filename
        if not file.startswith(_TORCH):
            return f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
