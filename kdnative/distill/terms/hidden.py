"""Intermediate distillation: chosen student layers imitate chosen teacher layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.distill.outputs import Outputs
from kdnative.distill.terms.base import LossTerm

__all__ = ["HiddenStateLoss", "uniform_layer_map"]


def uniform_layer_map(student_layers: int, teacher_layers: int) -> dict[int, int]:
    """Spreads the student's layers evenly over the teacher's; the last imitates the last.

    ``uniform_layer_map(3, 6) == {1: 2, 2: 4, 3: 6}``: positions in ``hidden_states``, where 0 is the embeddings.
    """
    if not 1 <= student_layers <= teacher_layers:
        raise ValueError(f"{student_layers} student layers cannot be spread over {teacher_layers} teacher layers")
    return {i: round(i * teacher_layers / student_layers) for i in range(1, student_layers + 1)}


class HiddenStateLoss(LossTerm):
    """Mean distance of mapped hidden states over the tokens that are not padding.

    ``MSE(P_l h_s[l], h_t[m(l)])``, averaged over tokens, features and pairs (Jiao et al., "TinyBERT", 2020), or
    ``1 - cos`` of the two vectors, averaged over tokens and pairs (as in DistilBERT, Sanh et al., 2019). It learns from
    one teacher; several take a term each.

    Args:
        layer_map: {student position: teacher position} in ``hidden_states`` (0 is the embeddings).
        student_width, teacher_width: widths of the hidden states. Where they differ, every pair gets a learned
            projection without bias (parameters of this module: give them to the optimizer; `train` does).
        metric: "mse" or "cosine".
        weight, name: as in `LossTerm`.
        teacher: position of its teacher in ``train(teachers=...)``.
    """

    default_name = "hidden"
    needs = teacher_needs = frozenset({"hidden_states"})

    def __init__(
        self,
        layer_map: Mapping[int, int],
        student_width: int,
        teacher_width: int,
        metric: str = "mse",
        *,
        weight: float = 1.0,
        teacher: int = 0,
        name: str | None = None,
    ):
        super().__init__(weight, name)
        if not layer_map or min(*layer_map, *layer_map.values()) < 0:
            raise ValueError(f"layer_map={dict(layer_map)}: at least one pair of positions >= 0 is needed")
        if metric not in ("mse", "cosine"):
            raise ValueError(f'metric={metric!r}: allowed are "mse" and "cosine"')
        if teacher < 0:
            raise ValueError(f"teacher={teacher}: positions count from 0")
        self.layer_map, self.metric, self.teacher = dict(layer_map), metric, teacher
        self.student_width, self.teacher_width = student_width, teacher_width
        self.projections = nn.ModuleList()
        if student_width != teacher_width:
            for _ in self.layer_map:
                projection = nn.Linear(student_width, teacher_width, bias=False)
                nn.init.orthogonal_(projection.weight)  # keeps lengths and angles: the losses start at a sane size
                self.projections.append(projection)

    def settings(self) -> dict[str, Any]:
        own = {"layer_map": self.layer_map, "metric": self.metric, "teacher": self.teacher}
        return {**super().settings(), **own}

    def asks(self, teacher: int) -> bool:
        return teacher == self.teacher

    def count(self, batch: Any) -> float:
        """The tokens that count: those of the mask, without one all of ``input_ids``."""
        mask, ids = batch.inputs.get("attention_mask"), batch.inputs.get("input_ids")
        if mask is not None:
            return float((mask != 0).sum())
        return super().count(batch) if ids is None else float(ids.numel())

    def forward(self, batch: Any, student: Outputs, teachers: Sequence[Outputs]) -> Tensor:
        """The distance, over the tokens that ``batch.inputs["attention_mask"]`` counts; without one over all.

        Raises:
            ValueError: no such teacher, or what `distance` says.
        """
        if self.teacher >= len(teachers):
            raise ValueError(f"the loss term {self.name!r} learns from teachers[{self.teacher}], of {len(teachers)}")
        mask = batch.inputs.get("attention_mask")
        return self.distance(student.hidden_states, teachers[self.teacher].hidden_states, mask)

    def distance(
        self, student_hidden: tuple[Tensor, ...], teacher_hidden: tuple[Tensor, ...], mask: Tensor | None = None
    ) -> Tensor:
        """Scalar, fp32 (fp64 for fp64 states).

        Args:
            student_hidden, teacher_hidden: tuples of [B, T, width], as ``output_hidden_states=True`` gives them.
            mask: [B, T], non-zero for tokens that count; None: all.

        Raises:
            ValueError: a position or width that the states do not have.
        """
        total = None
        for i, (s, t) in enumerate(self.layer_map.items()):
            ours = self._at(student_hidden, s, self.student_width, "student")
            theirs = self._at(teacher_hidden, t, self.teacher_width, "teacher").detach()
            if ours.shape[:-1] != theirs.shape[:-1]:
                raise ValueError(f"hidden states of {list(ours.shape)} and {list(theirs.shape)} are of different texts")
            if len(self.projections):
                ours = self.projections[i](ours)
            if ours.dtype != torch.float64:
                ours = ours.float()
            distance = self._distance(ours, theirs.to(ours.dtype))
            total = distance if total is None else total + distance
        total = total / len(self.layer_map)
        if mask is None:
            return total.sum() / max(total.numel(), 1)
        counted = mask.expand(total.shape) != 0
        return torch.where(counted, total, 0.0).sum() / counted.sum().clamp(min=1)

    def _distance(self, ours: Tensor, theirs: Tensor) -> Tensor:
        if self.metric == "mse":
            return (ours - theirs).square().mean(-1)
        return 1.0 - torch.cosine_similarity(ours, theirs, dim=-1)

    @staticmethod
    def _at(hidden: tuple[Tensor, ...], position: int, width: int, who: str) -> Tensor:
        if position >= len(hidden):
            raise ValueError(f"layer_map names {who} position {position}; there are only 0 to {len(hidden) - 1}")
        if hidden[position].shape[-1] != width:
            raise ValueError(
                f"the {who}'s hidden states are {hidden[position].shape[-1]} wide, not {who}_width={width}"
            )
        return hidden[position]
