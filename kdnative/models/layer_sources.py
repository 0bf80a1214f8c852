"""A layer as a model keeps it, with what surrounds its parts: what the readers of all libraries give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from kdnative.models.layer_conversion import Layer

__all__ = ["Source", "pre_norms"]


@dataclass(frozen=True)
class Source:
    """``attention_scale`` and ``ffn_scale``: factors of what either part adds to the hidden states, ``[H]`` or None.

    ``rotary``: whether queries and keys are turned by positions that the model gives its layers in every call.
    ``inside``: parameters that some of the linears were put together from.
    """

    layer: Layer
    norm: str = "pre"
    gated: bool = False
    rotary: bool = False
    attention_scale: Tensor | None = None
    ffn_scale: Tensor | None = None
    inside: tuple[nn.Parameter, ...] = ()

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every parameter that the native layer is made of."""
        yield from self.layer.parameters()
        yield from (scale for scale in (self.attention_scale, self.ffn_scale) if scale is not None)
        yield from self.inside


def pre_norms(attention: nn.LayerNorm, ffn: nn.LayerNorm) -> dict[str, nn.LayerNorm]:
    """The norms of a layer that normalises what its parts read."""
    return {"attention_norm": attention, "ffn_norm": ffn}
