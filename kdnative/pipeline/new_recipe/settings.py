"""Settings of a recipe from the sizes of its data, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kdnative.pipeline.new_recipe.teacher import LookedAt

__all__ = ["Chosen", "Facts", "Settings", "choose"]

_SHORTEST, _ROUND = 16, 8  # tokens
_LONG = 256  # tokens from which a batch of 32 takes much memory and time
_TEACHER_STEPS, _STUDENT_STEPS = 500, 1200  # optimizer steps that small data should be given, in repeated epochs
_MOST_TEACHER_EPOCHS, _MOST_STUDENT_EPOCHS = 10, 20
_WIDE = 768  # hidden size from which fine-tuning wants a lower rate
_IMBALANCED = 3.0  # examples of the largest class for one of the smallest
_RAREST = 5  # examples that may get the weight of a whole class
_GRID = (16, 32, 128)  # tokens; the default of benchmark.grid_tokens


@dataclass(frozen=True)
class Facts:
    """What settings depend on.

    Attributes:
        train, labelled: training examples, and those of them with a label.
        counts: training examples of each class; empty for numbers.
        tokens: of each of some examples, uncut.
        deviation: the standard deviation of the numbers; 0 for classes.
    """

    train: int
    labelled: int
    counts: Sequence[int]
    tokens: Sequence[int]
    deviation: float


@dataclass(frozen=True)
class Chosen:
    """The value of a key, and why: a phrase or a sentence."""

    value: object
    why: str


Settings = dict[str, Chosen]
"""{section.key: value}, the sections and keys of a recipe."""


def choose(facts: Facts, teacher: LookedAt, unsure: list[str]) -> Settings:
    """The settings; `unsure` gets sentences about doubtful ones."""
    found: Settings = {"data.max_length": _max_length(facts, teacher)}
    length = found["data.max_length"].value
    batch = _batch_size(facts.labelled, "labelled examples", length)
    student_batch = _batch_size(facts.train, "training texts", length)
    weights = _class_weights(facts, unsure)
    teacher_epochs = _epochs(facts.labelled, batch.value, _TEACHER_STEPS, _MOST_TEACHER_EPOCHS)
    baseline_epochs = _epochs(facts.labelled, batch.value, _STUDENT_STEPS, _MOST_STUDENT_EPOCHS)
    student_epochs = _epochs(facts.train, student_batch.value, _STUDENT_STEPS, _MOST_STUDENT_EPOCHS)
    wide = teacher.width is None or teacher.width >= _WIDE
    rate = (
        Chosen(3e-5, "peak learning rate, usual for this width")
        if wide
        else Chosen(1e-4, "peak learning rate, high for a narrow model")
    )
    for section, epochs in (
        ("train_teacher", teacher_epochs),
        ("train_baseline", baseline_epochs),
        ("distil", student_epochs),
    ):
        found[f"{section}.epochs"] = epochs
        found[f"{section}.lr"] = (
            rate
            if section == "train_teacher"
            else Chosen(1e-4, "peak learning rate; a student's weights change more than in fine-tuning")
        )
        found[f"{section}.batch_size"] = student_batch if section == "distil" else batch
        if weights is not None:
            found[f"{section}.class_weights"] = weights
    found |= _benchmark(facts, teacher)
    if facts.labelled < 200:
        unsure.append(
            f"{facts.labelled:,} labelled training examples are few: expect wide intervals, and label more "
            "examples if you can"
        )
    if facts.deviation and not 0.2 <= facts.deviation <= 5:
        unsure.append(
            f"the numbers have a standard deviation of {facts.deviation:.3g}: scale them to about 1, which "
            "makes training more stable"
        )
    return found


def _max_length(facts: Facts, teacher: LookedAt) -> Chosen:
    ordered = sorted(facts.tokens)
    covered = ordered[math.ceil(0.95 * len(ordered)) - 1]
    length = min(max(_SHORTEST, math.ceil(covered / _ROUND) * _ROUND), teacher.positions)
    cut = sum(count > length for count in ordered) / len(ordered)
    how = "counted by the teacher's tokenizer" if teacher.tokenizer is not None else "estimated from the words"
    why = f"95 of 100 texts have at most {covered:,} tokens ({how}); {100 * cut:.0f} % are longer and will be cut"
    return Chosen(length, f"{why}; the teacher reads at most {teacher.positions:,}" if length < covered else why)


def _batch_size(examples: int, what: str, length: object) -> Chosen:
    if examples < 300:
        return Chosen(8, f"{examples:,} {what} would give too few steps with larger batches")
    if length > _LONG:
        return Chosen(16, "smaller than usual, because the texts are long")
    return Chosen(32, "the usual size")


def _epochs(examples: int, batch: object, steps: int, most: int) -> Chosen:
    each = math.ceil(examples / batch)
    epochs = min(max(2, round(steps / each)), most)
    return Chosen(epochs, f"{each:,} steps an epoch, {epochs * each:,} in all")


def _class_weights(facts: Facts, unsure: list[str]) -> Chosen | None:
    if not facts.counts:
        return None
    weigh, why = _balance(facts.counts)
    if weigh:
        return Chosen("balanced", why)
    if why:
        unsure.append(f"class_weights is not set: {why}")
    return None


def _benchmark(facts: Facts, teacher: LookedAt) -> Settings:
    middle = sorted(facts.tokens)[len(facts.tokens) // 2]
    tokens = min(max(_SHORTEST, math.ceil(middle / _ROUND) * _ROUND), teacher.positions)
    found = {"benchmark.tokens": Chosen(tokens, "the median length of the texts, in tokens")}
    if teacher.positions < max(_GRID):
        grid = sorted({min(tokens, teacher.positions) for tokens in _GRID})
        found["benchmark.grid_tokens"] = Chosen(grid, f"the teacher reads at most {teacher.positions:,}")
    return found


def _balance(counts: Sequence[int]) -> tuple[bool, str]:
    """Whether labels should be weighed by the rarity of their class, and why."""
    least, most = min(counts), max(counts)
    if most < _IMBALANCED * least or least == most:
        return False, ""
    found = f"the largest class has {most:,} training examples, the smallest {least:,}"
    if least < _RAREST:
        return False, f"{found}: too few for balanced class weights"
    return True, found
