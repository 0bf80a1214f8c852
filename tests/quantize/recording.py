"""A method of calibration that rounds to the nearest, and remembers what it was given."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from kdnative.quantize import quantize_weight
from kdnative.quantize.inputs import InputBatches
from kdnative.quantize.methods import Method


@dataclass(frozen=True)
class Recording(Method):
    name: ClassVar[str] = "recording"
    needs: ClassVar[frozenset] = frozenset({"second_moment", "mean_square", "largest", "sample"})
    seen: list = field(default_factory=list, repr=False)

    def quantize(self, weights, scheme, statistics=None):
        self.seen.append(([weight.clone() for weight in weights], scheme, statistics))
        return super().quantize(weights, scheme, statistics)

    def _quantize(self, weight, scheme, statistics):
        return quantize_weight(weight, scheme)

    def statistics_of(self, weight):
        """What the layer of a weight was quantized with."""
        return next(s for weights, _, s in self.seen if any(torch.equal(w, weight.detach()) for w in weights))


def seen_of(batch):
    """Which examples of the only batch of a calibration its methods see, bool [B]; the others are held out."""
    (batch,) = InputBatches([batch]).all
    return ~torch.isin(batch.examples, batch.held)


def assert_same_weights(first, second):
    """Two mappings of names to weights are the same, bit for bit."""
    assert list(first) == list(second)
    for name in first:
        assert vars(first[name]).keys() == vars(second[name]).keys()
        for field_name, value in vars(first[name]).items():
            other = getattr(second[name], field_name)
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, field_name
