"""A training whose forward is the native model: its outputs, with the gradients of the float model."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from kdnative.cnn.straight_through import straight_through
from kdnative.convert.building import build
from kdnative.convert.deciding import decide
from kdnative.convert.in_place import apply
from kdnative.convert.networks import refuse_networks
from kdnative.formats.scheme import Scheme
from kdnative.nn.modes import evaluating
from kdnative.patterns import Selection

__all__ = ["native_forward"]


@contextmanager
def native_forward(
    model: nn.Module,
    schemes: str | Scheme | Mapping[str, str | Scheme | None] = "w8a8",
    *,
    keep: Iterable[str] = (),
    embeddings: int | None = 8,
    fuse: bool = True,
    rows: int = 32,
) -> Iterator[nn.Module]:
    """Within it a model gives the outputs of the native model that `convert_` makes of it, and learns from them.

    Every call runs twice: through the model as it is, and through the native model of its weights at that moment, with
    fused operators and int8 tables. What is returned has the values of the native model, bit for bit, and the gradients
    of the float one (a straight-through estimator, Bengio et al. 2013, around the whole model). So the loss sees what
    quantization does to embeddings, norms and attention too, which the layers of `prepare_qat_` alone do not show.
    Prepare the model first: a layer that is an ``nn.Linear`` still is quantized in the forward, and its gradient is
    that of the float layer.

    The native model is packed anew after a step of any optimizer of torch, and when a parameter or buffer was changed
    in another way (but for writing into ``.data``, which leaves no trace); validation and accumulated batches share
    one. Without gradients only the native model runs.

    Dropout is off, as is everything else that differs in training mode (gradient checkpointing too): the native model
    has none. The model stays the same object, with the same parameters, state dict and mode; it is of a subclass of its
    class meanwhile. Nothing is left of this afterwards, and ``convert_`` with the same arguments then gives the outputs
    of the last forward. Copies (`copy.deepcopy`, pickle) that are made within are ordinary float models.

    Compute the loss from what the model returns: the gradient of a loss that the model computes itself, such as that
    of ``labels=``, would be taken at the logits of the float model. It is refused in words, as are terms of a loss that
    ask for the head of the model (`kdnative.distill.outputs.head_of`).

    Args:
        model: float32, on the CPU, as for `convert_`; usually one that `prepare_qat_` has changed.
        schemes, keep, embeddings, fuse, rows: those of the later `convert_`.

    Yields:
        ``model``.

    Raises:
        ValueError: as `convert_`, or the model has several convolutions that are not kept in float
            (`prepare_networks_` is for these), pruning masks or a forward that somebody has put in place of its
            own, before anything runs; later, when weights became NaN or infinite, when the model gives a loss, or when
            modules of it were replaced or parameters got another shape.
    """
    if "forward" in vars(model) or hasattr(model, _MARK):
        raise ValueError(
            "the model's forward was replaced, and the native form can't run the replacement: restore the "
            "original forward"
        )
    if masked := [name for name, module in model.named_modules() if "weight_mask" in module._buffers]:
        raise ValueError(
            f"{masked[0]} has a pruning mask, which the native form does not support: make masks permanent "
            "first, with kdnative.prune.finalize_masks_"
        )
    plan = decide(model, Selection(schemes, keep, Scheme.parse), embeddings=embeddings, fuse=fuse, values=True)
    refuse_networks(
        plan, model, "native_forward has no ranges for their feature maps: use kdnative.convert.prepare_networks_"
    )
    plan.check()

    shell = _Shell(model)  # before anybody watches the model with hooks, as losses of hidden states do

    def converted() -> nn.Module:
        own, twin = shell.up_to_date(), shell.copy()
        apply(twin, plan, build(plan, own, rows=rows))
        return twin

    kind, native = type(model), _UpToDate(model, converted)

    @functools.wraps(kind.forward)
    def both(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        plain = None
        if torch.is_grad_enabled():
            with _in_evaluation_mode(self):
                plain = kind.forward(self, *args, **kwargs)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            exact = native.model().forward(*args, **kwargs)  # hooks of the model itself run around both
        return _straight_through(exact, plain)

    stepped = register_optimizer_step_post_hook(native.forget)
    model.__class__ = _with_forward(kind, both)
    try:
        yield model
    finally:
        stepped.remove()
        model.__class__ = kind


_MARK = "_kdnative_native_forward"


def _with_forward(kind: type[nn.Module], forward: Callable[..., Any]) -> type[nn.Module]:
    """A class with another forward, for one object: what is copied or pickled from it is of the class it is made of.

    A forward on the instance would be copied with it, and go on running the model that it was made for.
    """

    def reduced(self: nn.Module, _: Any) -> Any:
        parts: Any = kind.__reduce_ex__(self, 1)  # later protocols insist on the class that the object has now
        make, (_, *more), *state = parts
        return (make, (kind, *more), *state)

    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind,), {**names, "forward": forward, "__reduce_ex__": reduced, _MARK: True})


class _Shell:
    """The modules of a model again, on its very parameters and buffers."""

    def __init__(self, model: nn.Module) -> None:
        self._source, self._model, self._layout = model, _copy_sharing_tensors(model), _layout(model)
        self._pairs = list(zip(model.modules(), self._model.modules(), strict=True))

    def copy(self) -> nn.Module:
        return _copy_sharing_tensors(self._model)

    def up_to_date(self) -> nn.Module:
        """The copy, with the tensors that the modules of the model have now."""
        now = _layout(self._source)
        for name in {**now, **self._layout}:
            if now.get(name) != self._layout.get(name):
                raise ValueError(
                    f"{name or 'the model'} was replaced, or has parameters or buffers of other shapes, "
                    "within native_forward, but the plan was made before: change the model first, then enter "
                    "the context again"
                )
        for own, copied in self._pairs:
            copied._parameters.update(own._parameters)
            copied._buffers.update(own._buffers)
        return self._model


def _layout(model: nn.Module) -> dict[str, tuple[nn.Module, dict[str, torch.Size]]]:
    """Every module by its name, and the shapes of its own tensors."""
    return {
        name: (module, {key: t.shape for key, t in (module._parameters | module._buffers).items() if t is not None})
        for name, module in model.named_modules()
    }


class _UpToDate:
    """The native form of a model, made again when a tensor of it has changed."""

    def __init__(self, model: nn.Module, convert: Callable[[], nn.Module]) -> None:
        self.source, self.convert = model, convert
        self._made: tuple[list[tuple[Tensor, int, int]], nn.Module] | None = None

    def forget(self, *_: Any) -> None:
        """After a step: fused optimizers change parameters without counting it as a version."""
        self._made = None

    def model(self) -> nn.Module:
        tensors = chain(self.source.parameters(), self.source.buffers())
        now = [(tensor, tensor._version, tensor.data_ptr()) for tensor in tensors]
        if self._made is None or not _same(self._made[0], now):
            self._made = None  # so that there are never two of them in memory
            self._made = now, self.convert()
        return self._made[1]


def _same(before: list[tuple[Tensor, int, int]], now: list[tuple[Tensor, int, int]]) -> bool:
    return len(before) == len(now) and all(
        old is new and was == values for (old, *was), (new, *values) in zip(before, now, strict=True)
    )


def _copy_sharing_tensors(model: nn.Module) -> nn.Module:
    """The modules again, on the very parameters and buffers."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())})


@contextmanager
def _in_evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients; each module's own mode comes back."""
    with evaluating(model), torch.enable_grad():
        yield


def _straight_through(exact: Any, plain: Any) -> Any:
    """Two outputs of one structure as one, tensor by tensor; what is no float tensor is that of the native model."""
    if isinstance(exact, Tensor):
        if not isinstance(plain, Tensor) or not plain.requires_grad:
            return exact.clone()  # nobody may take it for the output of a part of the native model
        if not exact.dim() and not torch.equal(exact, plain):  # of one that no layer has a part in, both are the same
            raise ValueError(
                "the model returns a loss, as with labels=, and its gradient would be that of the float "
                "model: leave the labels out, and compute the loss from the logits"
            )
        if exact.shape != plain.shape:
            raise RuntimeError(
                f"the model returns shape {list(plain.shape)}, but its native form returns {list(exact.shape)}"
            )
        return straight_through(exact, plain)
    if isinstance(exact, MutableMapping):  # the outputs of transformers are dicts, of which values may be replaced
        for name in exact:
            exact[name] = _straight_through(exact[name], None if plain is None else plain.get(name))
        return exact
    if isinstance(exact, (tuple, list)):
        parts = [_straight_through(*pair) for pair in zip(exact, plain or [None] * len(exact), strict=True)]
        return type(exact)(*parts) if hasattr(exact, "_fields") else type(exact)(parts)
    for name, value in getattr(exact, "__dict__", {}).items():  # of a data class
        setattr(exact, name, _straight_through(value, getattr(plain, name, None)))
    return exact
