"""Pictures: networks of torchvision and timm, the channels last in memory."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdnative.convert import decide
from kdnative.data import Batches, Dataset, DataSplits
from kdnative.data.batches import EncodedDataset
from kdnative.data.images import Augmentation, AugmentedBatches, ImageDataset, Preprocessing
from kdnative.data.types import IMAGE
from kdnative.evaluate import Predictions
from kdnative.evaluate.predict import fast_bf16
from kdnative.extras import require
from kdnative.files import replace_text
from kdnative.nn import ImageInput
from kdnative.ops.backends import accepted
from kdnative.patterns import Selection
from kdnative.pipeline import networks
from kdnative.pipeline.folder import PipelineError
from kdnative.pipeline.kinds.base import Context, Kind, Recipe, Rehearsal, Shared, Source
from kdnative.pipeline.robustness import corruptions, samples
from kdnative.pipeline.trial import faster_in_bf16
from kdnative.tasks import task_named

__all__ = ["PICTURES", "calibration_pictures"]

_PRECISION = "precision.json"  # of a stage: what a short trial has decided, so that a resumed stage goes on with it
_CALIBRATION, _BATCH = 128, 32  # pictures that ranges are calibrated with


class _Pictures(Kind):
    things, unit = "pictures", "pixels"
    convolutions = True
    models = (
        "folder or file: give torchvision:NAME, timm:NAME, package:NAME or the folder of a model made by an "
        "image recipe; weights is a file"
    )

    def load_data(self, recipe: Recipe) -> DataSplits:
        require("PIL.Image", "a recipe for pictures")  # before a data set is fetched
        data, images = recipe.data, recipe.data.pictures
        return task_named(recipe.task).load(
            data.source,
            side=images.stored or images.size,
            fit=images.fit,
            group=images.group,
            broken=images.broken,
            labelled=data.labelled,
            split=data.split,
            limit=data.limit,
        )

    def encode(self, shared: Shared, source: str, part: Dataset) -> EncodedDataset:
        return ImageDataset(part, _preprocessing(shared.recipe))

    def shown(self, part: Dataset, index: int) -> dict[str, Any]:
        return {"texts": [part[index].id], "image": data_uri(part, index)}

    def load(self, context: Context, settings: Source, *, fine_tuned: bool = False) -> nn.Module:
        try:
            model, new = networks.load_network(settings.source, settings.weights, settings.width, context.data.labels)
        except ValueError as error:
            raise PipelineError(f"{settings.source}: {error}") from error
        if fine_tuned and new:
            raise PipelineError(_not_fine_tuned(settings.source))
        return _channels_last(model)

    def rehearsed(self, rehearsal: Rehearsal, key: str, settings: Source, stages: set[str]) -> nn.Module | None:
        """Its weights are read, too, and it is given two pictures."""
        source = settings.source
        if source == "teacher":
            source, settings = rehearsal.recipe.teacher.source, settings.model_copy(update={"weights": None})
            settings = settings.model_copy(update={"source": source})
        if not (rehearsal.now & stages or networks.is_here(source)):
            return None
        with rehearsal.blaming(key, stages), torch.random.fork_rng([]):
            model, new = networks.load_network(source, settings.weights, settings.width, rehearsal.labels)
            if key == "teacher.source" and rehearsal.recipe.teacher.fine_tuned and new:
                raise PipelineError(_not_fine_tuned(source))
            _try(model, rehearsal.recipe.data.pictures.size, source)
        return model.to("meta").eval()

    def save(self, context: Context, model: nn.Module, source: str, path: Path) -> None:
        import kdnative

        images = context.recipe.data.pictures
        model.preprocess = ImageInput(
            (images.size, images.size), None, images.fit, images.mean, images.std, classes=tuple(context.data.labels)
        )
        kdnative.save(model, path)
        networks.save_description(path, _network(context))

    def load_saved(self, path: Path) -> nn.Module:
        return networks.load_saved(path)

    def copied(self, context: Context, path: Path) -> nn.Module:
        """With a width of its own it starts from evenly spaced channels of the teacher."""
        width = context.recipe.student.width
        if width is None:
            return self.load_saved(path)
        return _channels_last(networks.load_network(str(path), None, width, context.data.labels)[0])

    def check_sizes(self, recipe: Recipe, who: str, source: str, model: nn.Module, pending: Collection[str]) -> None:
        """Pictures have the size that the rehearsal has tried."""

    def check_training(self, context: Context, source: str) -> None:
        """Nothing that a rehearsal could not tell."""

    def batches(self, context: Context, source: str, data: EncodedDataset) -> Any:
        seed, augment = context.recipe.seed, context.recipe.data.pictures.augment
        changes = Augmentation(1.0, 0.0) if augment is None else Augmentation(**dict(augment))
        return AugmentedBatches(Batches(data, context.settings.batch_size, shuffle=True, seed=seed), changes, seed)

    def changes_inputs(self, context: Context) -> bool:
        return context.recipe.data.pictures.augment is not None

    def precision(self, context: Context, model: nn.Module, batches: Any, loss: Sequence[nn.Module]) -> str:
        """bf16 only where a few steps are quicker in it: it is slower for depthwise convolutions."""
        device = torch.device(context.device)
        if context.section == "recover":  # its integer kernels give fp32
            return "fp32"
        if device.type != "cpu" or not fast_bf16(device) or not context.settings.epochs:
            return "auto"
        path = context.folder / _PRECISION
        if not path.is_file():
            faster = faster_in_bf16(model, next(iter(batches.epoch(0))).inputs)
            replace_text(path, json.dumps({"bf16": faster}) + "\n")
        found = "bf16" if json.loads(path.read_text())["bf16"] else "fp32"
        context.log.info("%s: trains in %s, the faster precision in a short trial", context.section, found)
        return found

    def conversion(self, context: Context, source: str, model: nn.Module, schemes: Any) -> dict[str, Any]:
        """Where layers need the ranges of their inputs, these come from training pictures as they are."""
        if not decide(model, Selection(schemes, (), accepted)).needing("ranges"):
            return {}
        return {"calibration": calibration_pictures(context, source)}

    def sizes(self, recipe: Recipe) -> tuple[int, list[int]]:
        size = recipe.data.pictures.size
        return size, [size]

    def measured(
        self, context: Context, models: dict[str, nn.Module], answers: dict[str, Predictions]
    ) -> dict[str, Any]:
        test = ImageDataset(context.data.test, _preprocessing(context.recipe))
        return {
            "pictures": samples(test, answers),
            "corruptions": corruptions(context, test, models),
        }


def calibration_pictures(context: Context, source: str) -> list[dict[str, torch.Tensor]]:
    """Training pictures as they are, as batches of inputs."""
    data = PICTURES.encode(context.shared, source, context.data.train.head(_CALIBRATION))
    return [batch.inputs for batch in Batches(data, _BATCH)]


def data_uri(part: Dataset, index: int) -> str:
    """A picture as it is stored, for HTML."""
    file = io.BytesIO()
    require("PIL.Image").fromarray(part[index].fields[IMAGE].pixels).save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _preprocessing(recipe: Recipe) -> Preprocessing:
    images = recipe.data.pictures
    return Preprocessing(images.size, images.mean, images.std)


def _network(context: Context) -> networks.Network:
    """What the model of a stage is built as, before values."""
    teacher, student = context.recipe.teacher, context.recipe.student
    found = networks.network_of(teacher.source, teacher.width)
    if not context.of_teacher:
        own = student.source != "teacher"
        found = networks.network_of(student.source, student.width) if own else found
        found = found if own or student.width is None else replace(found, width=student.width)
    return replace(found, classes=tuple(context.data.labels))


def _channels_last(model: nn.Module) -> nn.Module:
    return model.to(memory_format=torch.channels_last)


def _try(model: nn.Module, size: int, source: str) -> None:
    """ValueError where a network can't read pictures of this size."""
    try:
        with torch.no_grad():
            model.train()(torch.zeros(2, 3, size, size))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(
            f"{source} can't read pictures of {size} x {size} pixels (data.images.size): {' '.join(str(error).split())}"
        ) from error


def _not_fine_tuned(source: str) -> str:
    return (
        f"teacher.fine_tuned is true, but {source} has no head for the data's classes: leave fine_tuned out "
        "to train it in this run, or give a model folder made by an image recipe for these classes"
    )


PICTURES = _Pictures()
