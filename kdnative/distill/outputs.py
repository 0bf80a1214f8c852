"""What a model says of a batch, as far as loss terms ask for it: logits, hidden states, or what its head is given."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.distill.topk import TopK
from kdnative.evaluate.predict import logits_of
from kdnative.models import hidden_states
from kdnative.nn.modes import evaluating

__all__ = ["MAP", "NEEDS", "Outputs", "head_of", "run"]

NEEDS = ("logits", "hidden_states", "head")  # what a loss term may ask for
MAP = "map:"  # and this in front of a module's name: the feature map that it gives


class Outputs:
    """A model's answer to one batch. Reading what was not asked for raises a ValueError in words.

    Args:
        logits: [..., C], or a teacher's `TopK`; None: made when they are first read.
        hidden_states: tuple of [B, T, width]: the embeddings, then what each layer gives.
        hidden: [..., K], what the head is given. head: the linear that makes logits of it.
        maps: feature maps [N, C, H, W] by the names of the modules that gave them.
        answer: the model's own output, in which logits are looked for where there is no head.
        gradients: whether logits made later have some.
    """

    def __init__(
        self,
        logits: Tensor | TopK | None = None,
        hidden_states: tuple[Tensor, ...] | None = None,
        *,
        hidden: Tensor | None = None,
        head: nn.Linear | None = None,
        maps: Mapping[str, Tensor] | None = None,
        answer: Any = None,
        gradients: bool = True,
    ):
        self._logits = logits if logits is None or isinstance(logits, TopK) else _floats(logits)
        self._hidden_states, self._gradients = hidden_states, gradients
        self._hidden, self._head, self._answer = hidden, head, answer
        self._maps = maps

    @property
    def logits(self) -> Tensor | TopK:
        """fp32 (fp64 where the model computes in it), made when first read and then kept.

        They come from ``head(hidden)`` where the model ran up to its head only, else from the model's own output. Cast
        once for all terms, whose gradients so add up in fp32.
        """
        if self._logits is None:
            with torch.set_grad_enabled(self._gradients and torch.is_grad_enabled()):
                if self._head is not None:
                    self._logits = _floats(self._head(self.hidden))
                else:
                    self._logits = _floats(logits_of(_given(self._answer, "logits")))
        return self._logits

    @property
    def is_lazy(self) -> bool:
        """Whether the model ran up to its head, and logits were not made since."""
        return self._logits is None and self._head is not None

    @property
    def hidden_states(self) -> tuple[Tensor, ...]:
        return _given(self._hidden_states, "hidden_states")

    @property
    def maps(self) -> Mapping[str, Tensor]:
        return _given(self._maps, MAP)

    @property
    def hidden(self) -> Tensor:
        """What the head is given: [B, K] of a classifier, [B, T, K] of a model that has logits for each token."""
        return _given(self._hidden, "head")

    @property
    def head(self) -> nn.Linear:
        """The linear whose output the logits are. One of a subclass may compute more than its weight and bias say."""
        return _given(self._head, "head")


def run(
    model: nn.Module,
    inputs: Mapping[str, Any],
    needs: Collection[str],
    head: nn.Linear | None = None,
    logits: Tensor | TopK | None = None,
) -> Outputs:
    """Calls a model for what is needed of it.

    Args:
        inputs: its keyword arguments.
        needs: any of `NEEDS`, and `MAP` with names of modules. Hidden states are those that the model gives with
            ``output_hidden_states=True``; where it knows no such option, those of its layers, which
            `kdnative.models.layers_of` has to know.
        head: its head, as `head_of` finds it, where logits are to be made only when they are read. The model then runs
            up to there.
        logits: those that are known already.

    Raises:
        ValueError: "head" is needed and there is none, or hidden states and there are none; a module whose map is
            needed is none of the model, is not called once, or gives no map.
    """
    if "head" in needs and head is None:
        raise ValueError(
            f"a loss term needs the head of {type(model).__name__} as one nn.Linear, but its logits are "
            "computed otherwise: use a loss term on logits"
        )
    wanted = "hidden_states" in needs
    options = {"output_hidden_states": True} if wanted and _has_option(model, "output_hidden_states") else {}
    hidden = None
    with ExitStack() as around:
        recorded = around.enter_context(hidden_states(model)) if wanted and not options else None
        given = around.enter_context(_set_aside(head)) if head is not None else None
        maps = around.enter_context(_maps_of(model, [need.removeprefix(MAP) for need in needs if MAP in need]))
        answer = model(**inputs, **options)
    if given is not None:
        hidden = given[0] if len(given) == 1 else None
        if hidden is None or logits_of(answer) is not hidden:
            raise ValueError(f"{type(model).__name__} changes the output of its head, so the head can't be left out")
    states = getattr(answer, "hidden_states", None) if recorded is None else tuple(recorded)
    if wanted and not states:
        raise ValueError(f"a loss term needs hidden states, but {type(model).__name__} returns none")
    return Outputs(
        logits,
        states,
        hidden=hidden,
        head=head,
        maps=_checked(model, maps),
        answer=answer,
        gradients=torch.is_grad_enabled(),
    )


def head_of(model: nn.Module, inputs: Mapping[str, Any]) -> nn.Linear | None:
    """The linear whose output a model returns as its logits, whatever the model's structure; None: there is none.

    Found by running the model on the first example of a batch, in evaluation mode and without gradients.
    """
    seen: list[tuple[nn.Linear, Tensor]] = []
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [linear.register_forward_hook(lambda m, args, output: seen.append((m, output))) for linear in linears]
    try:
        with evaluating(model):
            answer = model(**{name: v[:1] if isinstance(v, Tensor) and v.dim() else v for name, v in inputs.items()})
    finally:
        for hook in hooks:
            hook.remove()
    try:
        logits = logits_of(answer)
    except TypeError:  # a model without logits
        return None
    found = next((linear for linear, output in seen if output is logits), None)
    return found if sum(linear is found for linear, _ in seen) == 1 else None  # it would be left out elsewhere too


@contextmanager
def _set_aside(head: nn.Linear) -> Iterator[list[Tensor]]:
    """Within it a linear returns what it is given, and keeps it in the list."""
    given: list[Tensor] = []
    before = vars(head).get("forward")  # of somebody who has replaced it already

    def keep(hidden: Tensor) -> Tensor:
        given.append(hidden)
        return hidden

    head.forward = keep
    try:
        yield given
    finally:
        del head.forward
        if before is not None:
            head.forward = before


@contextmanager
def _maps_of(model: nn.Module, names: Collection[str]) -> Iterator[dict[str, list[Any]]]:
    """Within it the results of modules are kept, by the modules' names."""
    kept: dict[str, list[Any]] = {name: [] for name in names}
    modules = dict(model.named_modules())
    if unknown := [name for name in names if name not in modules]:
        raise ValueError(f"{type(model).__name__} has no module {unknown[0]!r} for the feature map")
    with ExitStack() as hooks:
        for name, results in kept.items():
            handle = modules[name].register_forward_hook(
                lambda m, args, result, results=results: results.append(result)
            )
            hooks.callback(handle.remove)
        yield kept


def _checked(model: nn.Module, kept: Mapping[str, list[Any]]) -> dict[str, Tensor] | None:
    """The maps of modules that were called once."""
    for name, results in kept.items():
        if len(results) != 1:
            called = "isn't called" if not results else f"is called {len(results)} times"
            raise ValueError(f"a loss term reads the feature map of {name}, which {called} in {type(model).__name__}")
        if not isinstance(results[0], Tensor) or results[0].dim() != 4:
            shape = list(results[0].shape) if isinstance(results[0], Tensor) else type(results[0]).__name__
            raise ValueError(f"a loss term reads the feature map of {name}, which gives {shape}, not [N, C, H, W]")
    return {name: results[0] for name, results in kept.items()} or None


def _has_option(model: nn.Module, name: str) -> bool:
    parameters = inspect.signature(model.forward).parameters.values()
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters)


def _floats(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _given(value: Any, what: str) -> Any:
    if value is None:
        raise ValueError(f"the model did not record {what!r}: name it in the term's needs or teacher_needs")
    return value
