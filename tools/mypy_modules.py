"""A plugin of mypy: what a module of torch holds under a name that its class doesn't declare may be anything.

torch says ``Tensor | Module`` of it, which is right for parameters and children only, and would have every line that
looks into somebody else's model (``model.config``, ``layer.attention.self.query.weight``) checked against both.
"""

from __future__ import annotations

from collections.abc import Callable

from mypy.plugin import AttributeContext, Plugin
from mypy.types import AnyType, Type, TypeOfAny

_MODULE = "torch.nn.modules.module.Module."


class _Modules(Plugin):
    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        return _anything if fullname.startswith(_MODULE) else None


def _anything(context: AttributeContext) -> Type:
    if str(context.default_attr_type) == "torch._tensor.Tensor | torch.nn.modules.module.Module":
        return AnyType(TypeOfAny.explicit)
    return context.default_attr_type


def plugin(version: str) -> type[Plugin]:
    """mypy's entry point."""
    return _Modules
