"""Why a module can't be replaced by a native one: what is unusual about it, or runs around it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["hooked", "owners_of", "storage", "unusual"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def storage(tensor: Tensor) -> tuple[str, int]:
    """Equal for tensors that start at the same memory."""
    return ("address", tensor.data_ptr()) if tensor.numel() and not tensor.is_meta else ("object", id(tensor))


def owners_of(modules: dict[str, nn.Module]) -> dict[tuple[str, int], list[str]]:
    """The modules that hold each parameter."""
    owners: dict[tuple[str, int], list[str]] = {}
    for name, module in modules.items():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(storage(parameter), []).append(name)
    return owners


def hooked(module: nn.Module) -> str | None:
    """Why replacing a module would lose something that runs around its forward."""
    hooks = [hook for name in _HOOKS for hook in getattr(module, name).values()]
    # Transformers leaves hooks behind that record outputs when a caller asks for hidden states, and do nothing else.
    if any(getattr(hook, "__module__", None) != "transformers.utils.output_capturing" for hook in hooks):
        return "has hooks, which a native module would not run: remove them first"
    if "forward" in vars(module):
        return "has a forward of its own, set on the instance"
    return None


def unusual(module: nn.Module, known: tuple[type, ...]) -> str | None:
    """Why a layer is not plain: not exactly of one of the classes ``known``, or changed from outside."""
    if parametrize.is_parametrized(module):
        return (
            f"it is parametrized ({', '.join(module.parametrizations)}): make that permanent first, with "
            "torch.nn.utils.parametrize.remove_parametrizations"
        )
    if "weight_mask" in module._buffers:
        return "it has a pruning mask: make that permanent first, with kdnative.prune.finalize_masks_"
    if type(module) not in known:
        base = "nn.Linear" if isinstance(module, nn.Linear) else "nn.Embedding"
        return f"{type(module).__name__} is a subclass of {base} and may behave in its own way"
    hooks = hooked(module)
    return hooks and f"it {hooks}"
