"""The stage `recover` of networks of convolutions: they are trained as the native networks that they become."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from kdnative.patterns import within
from kdnative.pipeline.folder import PipelineError
from kdnative.pipeline.kinds.pictures import calibration_pictures
from kdnative.pipeline.stages.base import Context
from kdnative.pipeline.stages.pruning import stand_in

if TYPE_CHECKING:
    from kdnative.pipeline.rehearsed_models import Rehearsal

__all__ = ["finish", "prepare", "rehearse_networks", "restore"]

_NETWORKS = "networks.safetensors"  # beside the model: the ranges of maps that it was trained with


def prepare(context: Context, model: nn.Module) -> None:
    """Gives a student the forward of the native model that it becomes, in place; ranges come from training pictures."""
    from kdnative.convert import prepare_networks_

    recipe = context.recipe
    pictures = calibration_pictures(context, recipe.student_source)
    try:
        prepare_networks_(model, recipe.recover.schemes, calibration=pictures, keep=recipe.convert.keep)
    except ValueError as error:
        raise PipelineError(f"recover: {error}") from error


def finish(context: Context, model: nn.Module) -> list[str]:
    """Keeps what the training knows besides weights, and returns the names of the layers that it was about."""
    from kdnative.convert import finish_networks_, save_networks
    from kdnative.convert.network_training import trained_parts

    save_networks(model, context.folder / _NETWORKS)
    parts = [name for network in trained_parts(model).values() for name in network.modules]
    finish_networks_(model)
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return [name for name in layers if any(within(name, part) for part in parts)]


def restore(context: Context, model: nn.Module) -> None:
    """Makes the trained student what it was in training, in place: converted, it is the very network that was."""
    from kdnative.convert import restore_networks_

    restore_networks_(model, context.input("recover") / _NETWORKS)


def rehearse_networks(rehearsal: Rehearsal) -> None:
    """PipelineError where no part of the student can be a native network."""
    from kdnative.convert import prepare_networks_

    recipe, model = rehearsal.recipe, rehearsal.student
    if model is None or "recover" not in rehearsal.pending:
        return
    with rehearsal.blaming("recover", {"recover"}), torch.random.fork_rng([]):
        pictures = torch.randn(2, 3, *[recipe.data.pictures.size] * 2)
        options = {"calibration": [pictures], "keep": recipe.convert.keep}
        prepare_networks_(stand_in(model).eval(), recipe.recover.schemes, **options)
