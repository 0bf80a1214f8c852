"""Which modules can become one native operator, by which function, and what in and around them speaks against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from kdnative.convert.refusals import Verdict, hooked
from kdnative.models import hf, known_layers, torch_encoder
from kdnative.models.layer_conversion import Quantize
from kdnative.nn import MultiheadAttention, PackedEncoder
from kdnative.nn.tree import NATIVE
from kdnative.patterns import within

__all__ = ["Rebuilder", "has_known_layers", "rebuilder", "refusal"]

Rebuilder = Callable[[nn.Module, Quantize], PackedEncoder | str]
"""Makes the native form of a module, or says in words why there can be none."""

_NATIVE = (*NATIVE.values(), MultiheadAttention)

_LIBRARIES = ("transformers", "timm", "torchvision", "open_clip", "torch")

_INSIDES = (
    ("GroundingDinoModel", "text_backbone", "", "hands it masks over pairs of tokens"),
    ("MMGroundingDinoModel", "text_backbone", "", "hands it masks over pairs of tokens"),
    ("ModernVBertModel", "text_model", "", "hands it embeddings (inputs_embeds), some of them of images"),
    ("PeftModel", "base_model", "prompt_encoder", "hands it learned prompts, as embeddings or as keys"),
    ("TextTransformer", "transformer", "cls_emb", "hands it masks over pairs of tokens"),  # OpenCLIP: CoCa
    ("TextTransformer", "transformer", "use_pad_mask", "hands it masks over pairs of tokens"),
)
"""Models that need more of an encoder or of layers than their usual call: name of the class, where they are, the
attribute that is something only in those of its objects that do (empty: all of them), and what they do."""


def rebuilder(module: nn.Module) -> Rebuilder | None:
    """What makes the native form of an encoder or a layer, known or refused in words; None for other modules."""
    if hf.is_encoder(module):
        return hf.encoder_from_hf
    if known_layers.is_layer(module):
        return known_layers.layer_from
    return torch_encoder.encoder_from_torch if torch_encoder.is_encoder(module) else None


def has_known_layers(name: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether there are layers in the module ``name`` that can be fused on their own."""
    return any(
        inner != name and within(inner, name) and known_layers.is_layer(module) for inner, module in modules.items()
    )


def refusal(
    name: str, modules: Mapping[str, nn.Module], verdicts: Mapping[str, Verdict], held: Mapping[int, list[str]]
) -> str | None:
    """Why the encoder or layer ``name`` can't be fused, whatever its reader makes of its parts; None if it may be.

    A fused encoder has no room for float layers, runs no hooks, and knows nothing of what somebody else's class does,
    or of what others hold parts of it (``held``, see :func:`kdnative.convert.refusals.held_elsewhere`).
    """
    inside = {inner: module for inner, module in modules.items() if within(inner, name)}
    if why := _read_by_a_parent(name, modules):
        return why
    if known_layers.is_layer(modules[name]) and (why := _wants_attentions(name, modules)):
        return why
    for inner, module in inside.items():
        if hooks := hooked(module):
            return f"{inner} {hooks}"
        if others := [holder for holder in held.get(id(module), ()) if not within(holder, name)]:
            return f"{others[0] or 'the model'} holds {inner} outside of its children too, and may call it from there"
    for inner, module in inside.items():
        if why := _foreign(module, modules[name]):
            return f"{inner} {why}"
    for inner in inside:
        if (verdict := verdicts.get(inner)) is None:
            continue
        if verdict.scheme is None:
            return f"{inner} stays in float ({verdict.reason})"
        if verdict.scheme.activation_bits != 8:
            return f"{inner} is to keep float activations ({verdict.scheme}); the fused encoder has int8 ones only"
    return None


def _read_by_a_parent(name: str, modules: Mapping[str, nn.Module]) -> str | None:
    """Which model around the encoder needs its parts, or more of it than a native one gives."""
    path = name.split(".") if name else []
    for depth, attribute in enumerate(path):
        parent = modules[".".join(path[:depth])]
        classes = {cls.__name__ for cls in type(parent).__mro__}
        for cls, where, mark, what in _INSIDES:
            own = getattr(parent, mark, None) if mark else True
            if cls in classes and attribute == where and own is not None and own is not False:
                return f"{type(parent).__name__}, which contains it, {what}"
    return None


def _wants_attentions(name: str, modules: Mapping[str, nn.Module]) -> str | None:
    """Which model around a layer is configured to return attention weights with every call."""
    path = name.split(".") if name else []
    for depth in range(len(path)):
        parent = modules[".".join(path[:depth])]
        if getattr(getattr(parent, "config", None), "output_attentions", False):
            return f"the config of {type(parent).__name__} sets output_attentions=True"
    return None


def _foreign(part: nn.Module, whole: nn.Module) -> str | None:
    """What is wrong with the class of a part: it is native, or of nobody whose classes the readers know."""
    if isinstance(part, _NATIVE):
        return "is native already"
    own, kind = _home(type(whole)), type(part)
    library = own.partition(".")[0]
    if library not in _LIBRARIES:  # its reader knows nothing of it anyway, and says so
        return None
    if kind.__module__.startswith("torch.nn.") or _home(kind) in (own, library, "kdnative"):
        return None
    return (
        f"is a {kind.__name__} of {kind.__module__}, which may behave in its own way: fused are parts of {own}, "
        "torch.nn and kdnative"
    )


def _home(cls: type) -> str:
    """The package that a class belongs to: in transformers that of one model, elsewhere the library."""
    path = cls.__module__.split(".")
    return ".".join(path[:3] if path[:2] == ["transformers", "models"] else path[:1])
