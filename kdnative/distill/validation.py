"""What a model is judged by after every epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn

from kdnative.data.batches import Batches
from kdnative.evaluate.metrics import mean_divergence
from kdnative.evaluate.predict import predict

__all__ = ["Classification", "Fidelity", "Validation", "evaluator"]


class Validation(Protocol):
    """Anything that measures a model. A function of the model will do as well.

    It is called in evaluation mode, without gradients, on the device and in the precision of the training. ``names`` is
    optional: the metrics it will give, so that a wrong ``select_by`` is noticed before anything is trained.
    """

    def evaluate(self, model: nn.Module) -> dict[str, float]: ...


class Classification:
    """Cross entropy ("loss", nats) and "accuracy" of a classifier on labelled batches.

    Raises:
        ValueError: the batches have no labels.
    """

    names = ("loss", "accuracy")

    def __init__(self, batches: Batches):
        if batches.data.labels is None:
            raise ValueError(
                "the validation batches have no labels, so nothing can be measured on them: give labelled batches"
            )
        self.batches = batches

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        found = predict(model, self.batches, device=device)
        value = nn.functional.cross_entropy(found.logits.double(), found.labels)
        accuracy = (found.classes == found.labels).double().mean()
        return {"loss": float(value), "accuracy": float(accuracy)}


class Fidelity:
    """How near a classifier is to another one: "kl", the mean KL(teacher || model) in nats, and "agreement" of classes.

    What a compressed model is to be chosen by, as ``TrainConfig(select_by=("kl", "min"), early_stopping=1)``: on a few
    thousand labels its accuracy moves by chance, and a second epoch on the teacher's own training texts often leads
    away from it.

    Args:
        batches: of texts that neither was trained on.
        teacher: the other classifier, which is run once, now; or its logits [N, C] in the order of the data.

    Raises:
        ValueError: logits of another number of examples.
    """

    names = ("kl", "agreement")

    def __init__(self, batches: Batches, teacher: nn.Module | torch.Tensor):
        self.batches = batches
        self.logits = predict(teacher, batches).logits if isinstance(teacher, nn.Module) else teacher
        if self.logits.dim() != 2 or len(self.logits) != len(batches.data):
            raise ValueError(f"the teacher's logits are {list(self.logits.shape)} for {len(batches.data)} examples")

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        found = predict(model, self.batches, device=device)
        same = (found.classes == self.logits.argmax(-1)).double().mean()
        return {"kl": mean_divergence(self.logits, found.logits), "agreement": float(same)}


def evaluator(given: Any, select_by: tuple[str, str] | None) -> Callable[[nn.Module], dict[str, float]] | None:
    """The function behind ``train(validation=...)``; batches of a classifier are measured by `Classification`.

    Raises:
        ValueError: `select_by` without a validation, or with a metric that it doesn't give.
        TypeError: not a validation.
    """
    if given is None:
        if select_by is not None:
            raise ValueError(f"select_by={select_by} needs validation=")
        return None
    validation = Classification(given) if isinstance(given, Batches) else given
    names = getattr(validation, "names", None)
    if select_by is not None and names is not None and select_by[0] not in names:
        raise ValueError(f"select_by={select_by}, but the validation gives {', '.join(names)}: give one of these")
    evaluate = getattr(validation, "evaluate", validation)
    if not callable(evaluate):
        raise TypeError(f"validation is {type(given).__name__}: batches, or something with evaluate(model) is needed")
    return evaluate
