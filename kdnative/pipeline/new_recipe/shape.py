"""The shape of a student: every layer of its teacher, narrower, and the later ones narrower still."""

from __future__ import annotations

from kdnative.pipeline.new_recipe.settings import Chosen, Settings
from kdnative.pipeline.new_recipe.teacher import LookedAt

__all__ = ["shapes"]

# The shares of heads and neurons that the first and the last layer keep (docs/student_shape.md).
_HEADS, _NEURONS = (1 / 2, 1 / 6), (1 / 3, 1 / 12)
_TILE = 64  # columns; kept widths fill whole tiles


def shapes(teacher: LookedAt, unsure: list[str]) -> list[Settings]:
    """Sections `student`, the best first; which of them a kind of model can have is up to the check of the recipe.

    `unsure` gets a sentence where the teacher's sizes are unknown.
    """
    whole = {
        "student.layers": Chosen(None, "every layer, as wide as in the teacher: models of this kind can't be pruned")
    }
    if not (teacher.layers and teacher.width and teacher.heads and teacher.neurons):
        unsure.append(
            f"the sizes of the teacher {teacher.source} are unknown, so the student is as large as its "
            "teacher, and train_teacher.lr is set for a wide model: give student.heads and student.ffn, or "
            "run kdnative new again when the teacher is on this machine"
        )
        return [{"student.layers": Chosen(None, "every layer; the sizes of the teacher are unknown")}]
    same = {
        "student.heads": Chosen(0.5, "the share of the attention heads to remove from each layer"),
        "student.ffn": Chosen(0.75, "the share of the feed-forward neurons to remove from each layer"),
    }
    size = teacher.width // teacher.heads
    heads = _tapered(teacher.layers, teacher.heads, _HEADS, max(1, _TILE // size))
    neurons = _tapered(teacher.layers, teacher.neurons, _NEURONS, _TILE)
    more = "narrowing the later layers usually loses less accuracy than removing layers"
    tapered = {
        "student.heads": Chosen(heads, f"number of attention heads that each layer keeps, of {teacher.heads}; {more}"),
        "student.ffn": Chosen(neurons, f"number of feed-forward neurons that each layer keeps, of {teacher.neurons:,}"),
    }
    return [tapered, same, whole]


def _tapered(layers: int, total: int, shares: tuple[float, float], step: int) -> list[int]:
    """From the first share to the last one in equal steps, in multiples of `step`."""
    first, last = shares
    exact = [total * (first + (last - first) * i / max(1, layers - 1)) for i in range(layers)]
    return [min(total, max(step, round(n / step) * step)) for n in exact]
