"""What ``kdnative bench qat`` compares: a classifier as it is, calibrated, and trained further in some arithmetic."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from kdnative.convert import convert_, native_forward
from kdnative.data import Batches, TokenizedDataset
from kdnative.distill import DistillationLoss, Fidelity, SoftLabels, TrainConfig, train
from kdnative.prune import structured_
from kdnative.quantize import Calibration, calibrate_, prepare_qat_
from kdnative.quantize.methods import Ternary

__all__ = ["WAYS", "Material", "Result", "Sizes", "Way"]

HEAD = "classifier"  # stays in float, as convert_ leaves it
BATCH = 32
TEMPERATURE, HARD = 2.0, 0.5
STUDENT_LR = 2e-4


@dataclass(frozen=True)
class Way:
    """One row of the table.

    Args:
        name: what tables call it.
        scheme: None for fp32.
        start: where codes come from: "gptq", "ternary" (GPTQ with codes of -1, 0 and 1) or "search".
        lr: of the training; None: there is none.
        clip: whether steps are kept ("search") or learned ("learn").
        native: train on the outputs of the native model.
    """

    name: str
    scheme: str | None = None
    start: str | None = None
    lr: float | None = None
    clip: str = "search"
    native: bool = False

    @property
    def ternary(self) -> str | None:
        return "channel" if self.start == "ternary" else None


FLOAT, FLOAT_TRAINED = "fp32", "fp32, trained as long"
TWO, FOUR = "w2a8-g32", "w4a8-g64"
WAYS = (
    Way(FLOAT),
    Way(FLOAT_TRAINED, lr=1e-4),
    Way("w2 GPTQ", TWO, "gptq"),
    Way("w2 QAT from clip search", TWO, "search", 2e-4),
    Way("w2 QAT from GPTQ", TWO, "gptq", 2e-4),
    Way("w2 QAT from GPTQ, learned steps", TWO, "gptq", 2e-4, clip="learn"),
    Way("w2 QAT from GPTQ, native forward", TWO, "gptq", 2e-4, native=True),
    Way("ternary GPTQ", TWO, "ternary"),
    Way("ternary QAT from GPTQ", TWO, "ternary", 2e-4),
    Way("w4 GPTQ", FOUR, "gptq"),
    Way("w4 QAT from GPTQ", FOUR, "gptq", 1e-4),
)


@dataclass(frozen=True)
class Sizes:
    """How many heads and neurons each layer of a student keeps."""

    heads: list[int]
    neurons: list[int]


@dataclass(frozen=True)
class Result:
    """A model that a way has made.

    Args:
        model: native, or float where the way has no scheme.
        seconds: of calibration and training.
        history: of the training, an entry for each epoch; empty without.
        best: the entry whose weights were kept.
    """

    model: nn.Module
    seconds: float
    history: list[dict[str, float]]
    best: int | None


@dataclass
class Material:
    """What all ways are given.

    Args:
        model: the fine-tuned classifier, or a student of it, fp32; not changed.
        data: what is trained on.
        soft_labels: the classifier's, of ``data``.
        validation: what training is stopped by. exact: the classifier's logits of it.
        calibration: batches of inputs.
        epochs, seed: of every training.
    """

    model: nn.Module
    data: TokenizedDataset
    soft_labels: SoftLabels
    validation: TokenizedDataset
    exact: Tensor
    calibration: Sequence[dict[str, Tensor]]
    epochs: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        self._calibrated: dict[tuple[str, str], tuple[Calibration, float]] = {}

    def student(self, sizes: Sizes) -> nn.Module:
        """A smaller copy of the model that has learned from the soft labels for an epoch."""
        student = copy.deepcopy(self.model)
        structured_(student, sizes.heads, sizes.neurons, example_inputs=dict(self.calibration[0]))
        one = replace(self, epochs=1)
        one._train(student, Way("student", lr=STUDENT_LR))
        return student.eval()

    def make(self, way: Way) -> Result:
        """Calibrates, trains and converts as a way says."""
        model, seconds = copy.deepcopy(self.model), 0.0
        history: list[dict[str, float]] = []
        best: int | None = None
        weights: Any = None
        if way.start in ("gptq", "ternary"):
            weights, seconds = self._weights(way)
        begun = time.perf_counter()
        if way.lr is not None:
            if way.scheme is not None:
                start = {"ternary": way.ternary, "weights": weights}
                prepare_qat_(model, way.scheme, keep=[HEAD], clip=way.clip, **start)
                weights = None  # the layers have them
            history, best = self._train(model, way)
        seconds += time.perf_counter() - begun
        if way.scheme is not None:
            model = convert_(model, way.scheme, keep=[HEAD], weights=weights).model
        return Result(model.eval(), seconds, history, best)

    def _weights(self, way: Way) -> tuple[Calibration, float]:
        """The integer weights that a way starts from, and how long they took when they were found."""
        assert way.scheme is not None and way.start is not None
        key = way.scheme, way.start
        if key not in self._calibrated:
            begun = time.perf_counter()
            method = Ternary(step="channel") if way.ternary else "gptq"
            found = calibrate_(self.model, way.scheme, self.calibration, method=method, keep=[HEAD])
            self._calibrated[key] = found, time.perf_counter() - begun
        return self._calibrated[key]

    def _train(self, model: nn.Module, way: Way) -> tuple[list[dict[str, float]], int | None]:
        assert way.lr is not None
        config = TrainConfig(
            self.epochs, way.lr, seed=self.seed, device="cpu", select_by=("kl", "min"), early_stopping=1
        )
        batches: Any = Batches(self.data, BATCH, shuffle=True, seed=self.seed)
        loss = DistillationLoss(TEMPERATURE, soft_weight=1.0, hard_weight=HARD)
        validation = Fidelity(Batches(self.validation, BATCH), self.exact)
        scheme = way.scheme or "w8a8"
        with native_forward(model, scheme, keep=[HEAD]) if way.native else nullcontext():
            history = train(model, batches, loss, config, teachers=[self.soft_labels], validation=validation)
        return history.epochs, history.best
