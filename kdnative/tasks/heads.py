"""A classification head that a model brings along, matched to the data's classes by their names."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Sequence

import torch
from torch import nn

log = logging.getLogger("kdnative.run.heads")  # below the run's logger: both its file and the screen show it


def mismatch(own: Sequence[str], labels: Sequence[str]) -> str | None:
    """Why a head for some classes is none for the data's, in words; None where it is, or where names can't tell."""
    if _order(own, labels) is not None:
        return None
    if len(own) == len(labels) and (_says_nothing(own) or _are_numbers(labels)):
        return None
    return f"its head is for the classes {_listed(own)}, the data's are {_listed(labels)}"


def fit_head(
    model: nn.Module, own: Sequence[str], labels: Sequence[str], missing: Collection[str], source: str
) -> bool:
    """Makes row i of a loaded head mean ``labels[i]``, in place.

    The same names in another order (upper and lower case count as one): the rows are put into the data's order. Names
    that say nothing (LABEL_0 ..., with a warning), or data whose labels are the numbers 0, 1, ...: the rows stay. Other
    names: the head was trained for something else and its last layer is drawn anew, with a warning.

    Args:
        model: a classifier of ``len(labels)`` classes, as transformers loaded it.
        own: the class names in the model's own configuration, in the order of its rows.
        labels: the data's.
        missing: names of the parameters that the model's file does not have.
        source: where the model comes from, for messages.

    Returns:
        Whether the last layer was drawn anew here.

    Raises:
        ValueError: the head has to change and is not a linear layer of one output per class after the encoder.
    """
    order = _order(own, labels)
    if order == list(range(len(labels))):
        return False
    resized = len(own) != len(labels)
    name = last_linear(model, len(labels))
    if f"{name}.weight" in missing:
        return False  # the file holds no head, only names: nothing to match
    if order is None and _says_nothing(own):
        if name is not None and not resized and not _are_numbers(labels):
            log.warning(
                "%s: its classes have no names, so the rows of its head are assigned to the data's classes "
                "in order: %s; if this is wrong, give the names as id2label in its config.json",
                source,
                _listed([f"row {i} for {label}" for i, label in enumerate(labels)]),
            )
        return False
    if order is None and not resized and _are_numbers(labels):
        log.info("%s: the data's labels are numbers: rows of its head, %s", source, _listed(own))
        return False
    if name is None and not resized:
        raise ValueError(
            f"{source}: its classes are {_listed(own)}, the data's {_listed(labels)}, and its head can't be "
            f"replaced, because no linear layer with {len(labels)} outputs follows its encoder. Give a model "
            "without a classification head, or one whose config.json lists the data's classes in this order "
            "(id2label)"
        )
    if order is not None:
        _permute(model.get_submodule(name), order)
        log.info(
            "%s: the rows of its head were sorted into the order of the data's classes, %s", source, _listed(labels)
        )
        return False
    if not resized:
        _draw(model.get_submodule(name), getattr(model.config, "initializer_range", 0.02))
    log.warning("%s: %s: its last layer is initialised at random and must be trained", source, mismatch(own, labels))
    return True


def _says_nothing(own: Sequence[str]) -> bool:
    """Whether names are those that transformers gives to classes without a name."""
    return all(re.fullmatch(r"LABEL_\d+", str(name)) for name in own)


def _are_numbers(labels: Sequence[str]) -> bool:
    return list(labels) == [str(i) for i in range(len(labels))]


def _order(own: Sequence[str], labels: Sequence[str]) -> list[int] | None:
    """The row of the model that each of the data's classes has, or None where the names are not the same."""
    for form in (str.strip, lambda name: name.strip().casefold()):  # letter by letter first: "a" and "A" may both exist
        ours, theirs = [form(str(name)) for name in own], [form(name) for name in labels]
        if len(set(ours)) == len(ours) and len(set(theirs)) == len(theirs) and set(ours) == set(theirs):
            return [ours.index(name) for name in theirs]
    return None


def last_linear(model: nn.Module, outputs: int) -> str | None:
    """The name of the last linear layer of so many outputs, in a model of transformers behind the encoder.

    Inside the encoder, a width may be equal by chance.
    """
    encoder = f"{getattr(model, 'base_model_prefix', '')}."
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == outputs and not name.startswith(encoder)
    ]
    return found[-1] if found else None


@torch.no_grad()
def scale_logits(model: nn.Module, factor: float, outputs: int, source: str) -> None:
    """Multiplies what a classifier answers, in the weights of its last layer, in place.

    Raises:
        ValueError: no linear layer of ``outputs`` outputs follows its encoder.
    """
    name = last_linear(model, outputs)
    if name is None:
        raise ValueError(
            f"{source}: no linear layer with {outputs} outputs follows its encoder, so it can't be calibrated"
        )
    head = model.get_submodule(name)
    head.weight.mul_(factor)
    if head.bias is not None:
        head.bias.mul_(factor)


@torch.no_grad()
def _permute(head: nn.Linear, order: list[int]) -> None:
    head.weight.copy_(head.weight[order])
    if head.bias is not None:
        head.bias.copy_(head.bias[order])


def _draw(head: nn.Linear, deviation: float) -> None:
    nn.init.normal_(head.weight, std=deviation)
    if head.bias is not None:
        nn.init.zeros_(head.bias)


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
