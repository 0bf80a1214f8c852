"""Feature maps: chosen modules of the student give maps like those of chosen modules of the teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, normalize

from kdnative.distill.outputs import MAP, Outputs, run
from kdnative.distill.terms.base import LossTerm
from kdnative.nn.modes import evaluating

__all__ = ["FeatureMapLoss"]


class FeatureMapLoss(LossTerm):
    """Mean distance of feature maps over images and pairs of modules.

    "mse": ``mean (P m_s - m_t)^2``, with a learned 1x1 convolution P where the channels differ (Romero et al.,
    "FitNets", 2015). "attention": ``|a_s / |a_s| - a_t / |a_t||^2`` with ``a = sum_c m_c^2`` of each pixel, whatever
    the channels are (Zagoruyko and Komodakis, "Paying More Attention to Attention", 2017). Where heights or widths
    differ, the larger map is averaged down to the smaller. It learns from one teacher; several take a term each.

    Modules are read while they are called: what is fused into a native operator, or trained as a network of integers
    (`kdnative.convert.prepare_networks_`), calls none, which is refused in words.

    Args:
        pairs: {module of the student: module of the teacher}, names as in `named_modules`; each gives one map
            [N, C, H, W].
        channels: of the student's and the teacher's map of each pair; `between` finds them.
        metric: "mse" or "attention".
        weight, name: as in `LossTerm`.
        teacher: position of its teacher in ``train(teachers=...)``.
    """

    default_name = "maps"

    def __init__(
        self,
        pairs: Mapping[str, str],
        channels: Sequence[tuple[int, int]],
        metric: str = "mse",
        *,
        weight: float = 1.0,
        teacher: int = 0,
        name: str | None = None,
    ):
        self.pairs = dict(pairs)
        self.needs = frozenset(MAP + ours for ours in self.pairs)
        self.teacher_needs = frozenset(MAP + theirs for theirs in self.pairs.values())
        super().__init__(weight, name)
        if not self.pairs or len(channels) != len(self.pairs):
            raise ValueError(f"pairs={self.pairs} and channels={list(channels)}: one or more pairs, channels of each")
        if metric not in ("mse", "attention"):
            raise ValueError(f'metric={metric!r}: allowed are "mse" and "attention"')
        if teacher < 0:
            raise ValueError(f"teacher={teacher}: positions count from 0")
        self.channels, self.metric, self.teacher = [tuple(each) for each in channels], metric, teacher
        differ = metric == "mse"
        self.projections = nn.ModuleList(
            nn.Conv2d(ours, theirs, 1, bias=False) if differ and ours != theirs else nn.Identity()
            for ours, theirs in self.channels
        )

    @classmethod
    def between(
        cls, student: nn.Module, teacher: nn.Module, pairs: Mapping[str, str], inputs: Mapping[str, Any], **options: Any
    ) -> FeatureMapLoss:
        """A term for two models, whose channels are read off one call of each.

        Args:
            student, teacher: run in evaluation mode, without gradients.
            inputs: keyword arguments of both, such as ``batch.inputs``.
            options: of the term.

        Raises:
            ValueError: a name is no module's, or such a module gives no map.
        """
        found = []
        for model, names in ((student, list(pairs)), (teacher, list(pairs.values()))):
            with evaluating(model):
                maps = run(model, inputs, {MAP + name for name in names}).maps
            found.append([maps[name].shape[1] for name in names])
        return cls(pairs, list(zip(*found, strict=True)), **options)

    def settings(self) -> dict[str, Any]:
        own = {"pairs": self.pairs, "metric": self.metric, "teacher": self.teacher}
        return {**super().settings(), **own}

    def asks(self, teacher: int) -> bool:
        return teacher == self.teacher

    def forward(self, batch: Any, student: Outputs, teachers: Sequence[Outputs]) -> Tensor:
        """The distance, fp32 (fp64 for fp64 maps).

        Raises:
            ValueError: no such teacher, or maps of other channels or images than those the term was made for.
        """
        if self.teacher >= len(teachers):
            raise ValueError(f"the loss term {self.name!r} learns from teachers[{self.teacher}], of {len(teachers)}")
        total = 0.0
        for (own, other), channels, project in zip(self.pairs.items(), self.channels, self.projections, strict=True):
            ours, theirs = student.maps[own], teachers[self.teacher].maps[other].detach()
            if (ours.shape[1], theirs.shape[1]) != channels or len(ours) != len(theirs):
                given = f"{list(ours.shape)} of {own} and {list(theirs.shape)} of {other}"
                raise ValueError(f"the loss term {self.name!r} was made for {channels} channels, and got {given}")
            ours = project(ours)
            if ours.dtype != torch.float64:
                ours = ours.float()
            total = total + self._distance(*_of_one_size(ours, theirs.to(ours.dtype)))
        return total / len(self.pairs)

    def _distance(self, ours: Tensor, theirs: Tensor) -> Tensor:
        if self.metric == "mse":
            return (ours - theirs).square().sum() / max(ours.numel(), 1)
        a, b = (normalize(m.square().sum(1).flatten(1), dim=1) for m in (ours, theirs))
        return (a - b).square().sum() / max(len(a), 1)


def _of_one_size(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the smaller height and the smaller width."""
    size = [min(pair) for pair in zip(ours.shape[2:], theirs.shape[2:], strict=True)]
    fitted = [m if list(m.shape[2:]) == size else adaptive_avg_pool2d(m, size) for m in (ours, theirs)]
    return fitted[0], fitted[1]
