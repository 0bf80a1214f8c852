"""Which of some classes a picture belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.data import DataSplits
from kdnative.data.images import load_images
from kdnative.distill.terms.mixed import MixedLabelLoss
from kdnative.tasks.base import Trained
from kdnative.tasks.classification import Classification

__all__ = ["ImageClassification"]

_TEXTS = "it is for texts, and the task reads pictures"
_LAYERS = "it is for text encoders, and the task uses convolutional networks"


class ImageClassification(Classification):
    """One class of several for a picture. A soft label is the teacher's logits; accuracy decides."""

    pictures = True
    lacks = {
        "mask_tokens": _TEXTS,
        "hidden_weight": _LAYERS,
        "layer_map": _LAYERS,
        "heads": _LAYERS,
        "ffn": _LAYERS,
        "layers": _LAYERS,
    }

    def load(self, source: str, **options: Any) -> DataSplits:
        """The pictures; the options are those of `kdnative.data.images.load_images`."""
        return load_images(source, **options)

    def hard_loss(self, weight: float, settings: Trained, class_weights: Sequence[float] | None) -> nn.Module:
        return MixedLabelLoss(weight=weight, class_weights=class_weights, label_smoothing=settings.label_smoothing)

    def example_inputs(self, model: nn.Module, batch: int, size: int) -> dict[str, Tensor]:
        """Noise of the model's own type, fp32 or bf16 [batch, 3, size, size], the channels last in memory."""
        if batch < 1 or size < 1:
            raise ValueError(f"batch and size must be at least 1, got {batch} and {size}")
        found = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
        x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
        return {"x": x.to(found.dtype).contiguous(memory_format=torch.channels_last)}
