"""What every method of quantization after training is: plain integer weights for the linears that read one input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight
from kdnative.quantize.rtn import checked_matrix
from kdnative.quantize.statistics import Statistics

__all__ = ["Method"]

_FIELDS = ("mean_square", "largest", "second_moment", "sample")


class Method(ABC):
    """One way to choose codes and scales. Its instances are frozen dataclasses, whose fields are the options.

    Attributes:
        input_scales: whether its weights may have input scales.
    """

    input_scales: ClassVar[bool] = False

    @property
    @abstractmethod
    def name(self) -> str:
        """What users call it."""

    @property
    def needs(self) -> frozenset[str]:
        """The fields of `Statistics` that it reads; none: it works without data."""
        return frozenset()

    def quantize(
        self, weights: Sequence[Tensor], scheme: Scheme | str, statistics: Statistics | None = None
    ) -> list[QuantizedWeight]:
        """Quantizes all linears that read one input, such as queries, keys and values.

        Args:
            weights: [N_i, K] each, floating point (computed in fp32), finite, on one device. They are not changed.
            scheme: a `Scheme` or its text. Whether it names input scales makes no difference: the method decides.
            statistics: of that input, with the fields that `needs` names. None where it names none.

        Returns:
            A weight for each, on their device. Where they have input scales, all have the same vector.

        Raises:
            ValueError: weights that can't be quantized, a scheme that the method can't make, statistics that are
                missing, not finite or of another input.
        """
        scheme = Scheme.parse(scheme)
        matrices = [checked_matrix(weight, "weight") for weight in weights]
        inputs = {matrix.shape[1] for matrix in matrices}
        if len(inputs) != 1:
            raise ValueError(f"linears that read one input have the same in_features; these have {sorted(inputs)}")
        if self.input_scales and scheme.sparsity is not None:
            raise ValueError(
                f"method {self.name!r} makes input scales, but {scheme} has no kernel for them: use "
                f"{scheme.dense}, or method 'gptq', which keeps zeros"
            )
        joined = torch.cat(matrices)
        scheme.groups(joined.shape[1])
        statistics = self._checked(statistics, joined)
        whole = self._quantize(joined, scheme, statistics)
        ends = torch.tensor([len(matrix) for matrix in matrices]).cumsum(0).tolist()
        parts = [slice(end - len(matrix), end) for matrix, end in zip(matrices, ends, strict=True)]
        return [_of_its_own(whole.outputs(part)) for part in parts] if len(parts) > 1 else [whole]

    def settled(self, input_scale: Tensor | None) -> Method:
        """The same method, with input scales that were found for other linears of the same input; None: they have none.

        Linears that run as one product need the same vector, also where their schemes differ in zero points.
        """
        return self

    @abstractmethod
    def _quantize(self, weight: Tensor, scheme: Scheme, statistics: Statistics | None) -> QuantizedWeight:
        """All the linears' weights below each other, fp32 [N, K], and the statistics that the method needs."""

    def _checked(self, statistics: Statistics | None, weight: Tensor) -> Statistics | None:
        """The statistics with only what the method reads, on the device of the weight."""
        if not self.needs:
            return None
        missing = [name for name in _FIELDS if name in self.needs and getattr(statistics, name, None) is None]
        if missing:
            raise ValueError(
                f"method {self.name!r} needs {', '.join(missing)} of the layer's inputs: give calibration data, or use "
                "a method without data ('rtn', 'hqq')"
            )
        assert statistics is not None
        if not statistics.rows:
            raise ValueError(
                f"method {self.name!r} has no inputs of the layer, because the calibration data did not reach it"
            )
        found = {name: getattr(statistics, name).to(weight) if name in self.needs else None for name in _FIELDS}
        for name, values in found.items():
            if values is None:
                continue
            if values.shape[-1] != weight.shape[1]:
                raise ValueError(
                    f"{name} has shape {list(values.shape)}, but the layer has {weight.shape[1]} inputs: "
                    "these statistics belong to another layer"
                )
            if not bool(torch.isfinite(values).all()):
                raise ValueError(
                    f"{name} of the layer's inputs holds NaN or infinite values: on the calibration data, the "
                    "model's activations are not finite or above 1e19, whose squares overflow float32. Find "
                    "the first layer with such activations"
                )
        return Statistics(rows=statistics.rows, **found)


def _of_its_own(weight: QuantizedWeight) -> QuantizedWeight:
    """The rows of a larger weight in memory of their own, so that a layer doesn't keep its neighbours alive."""
    names = ("qweight", "scale", "zero", "group_scale")
    return weight.changed(**{name: t.clone() for name in names if (t := getattr(weight, name)) is not None})
