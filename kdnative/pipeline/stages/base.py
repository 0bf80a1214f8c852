"""What a stage is: a name, what it is made from, and a function that fills a folder and returns figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from logging import Logger
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..folder import RunFolder

if TYPE_CHECKING:
    from kdnative.data import DataSplits

    from ..schema import Recipe


@dataclass
class Context:
    """What a stage works with.

    Attributes:
        recipe: the whole recipe; ``settings`` is the stage's own section.
        run: the run's folder, to read the outputs of earlier stages from.
        folder: where this stage writes. Kept when the stage is interrupted, made visible when it returns.
        device: ``"cpu"`` or ``"cuda"``, for training; conversion and native measurements are on the CPU.
    """

    recipe: Recipe
    run: RunFolder
    stage: str
    folder: Path
    device: str
    log: Logger
    progress: bool
    shared: Shared

    @property
    def settings(self) -> Any:
        return getattr(self.recipe, self.stage)

    @property
    def data(self) -> DataSplits:
        return self.shared.data

    def input(self, stage: str) -> Path:
        """The output folder of an earlier stage, one of those this stage says it needs."""
        return self.run.output(stage)


@dataclass
class Shared:
    """What several stages of one run load only once."""

    recipe: Recipe
    cache: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def data(self) -> DataSplits:
        from kdnative.data import load_dataset

        options = self.recipe.data.model_dump(exclude={"source", "text", "label", "max_length"})
        section = self.recipe.data
        return load_dataset(section.source, text_column=section.text, label_column=section.label, **options)


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline.

    Attributes:
        name: also the name of its section in the recipe and of its folder.
        run: fills ``context.folder`` and returns the stage's figures, ready for JSON.
        needs: the stages whose output it reads, given the recipe (stages may be left out of a recipe).
        uses: recipe sections besides its own that change its result.
        uses_data: whether the data set changes its result.
    """

    name: str
    run: Callable[[Context], dict]
    needs: Callable[[Recipe], tuple[str, ...]] = lambda recipe: ()
    uses: tuple[str, ...] = ()
    uses_data: bool = True
