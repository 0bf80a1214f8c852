"""A float module without its values: what a native one remembers of the module whose place it took."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

__all__ = ["skeleton"]


def skeleton(module: nn.Module) -> nn.Module:
    """A copy whose parameters are on the meta device. Buffers keep their values; configurations are shared."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        if (config := part.__dict__.get("config")) is not None:
            memo[id(config)] = config
        for parameter in part._parameters.values():
            if parameter is not None:
                empty = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
                memo[id(parameter)] = memo.get(id(parameter), empty)
    return copy.deepcopy(module, memo)
