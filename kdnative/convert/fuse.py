"""What in and around a module speaks against making one native operator of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from kdnative.convert.refusals import Refusal, hooked
from kdnative.convert.surroundings import Site
from kdnative.formats.scheme import Scheme
from kdnative.nn import MultiheadAttention
from kdnative.nn.tree import NATIVE
from kdnative.patterns import within

__all__ = ["refusal"]

_NATIVE = (*NATIVE.values(), MultiheadAttention)

_LIBRARIES = ("transformers", "timm", "torchvision", "open_clip", "torch")

_INSIDES = (
    ("GroundingDinoModel", "text_backbone", "", "passes it attention masks over pairs of tokens"),
    ("MMGroundingDinoModel", "text_backbone", "", "passes it attention masks over pairs of tokens"),
    ("ModernVBertModel", "text_model", "", "passes it embeddings (inputs_embeds), some of them of images"),
    ("PeftModel", "base_model", "prompt_encoder", "passes it learned prompts, as embeddings or as keys"),
    ("TextTransformer", "transformer", "cls_emb", "passes it attention masks over pairs of tokens"),  # OpenCLIP: CoCa
    ("TextTransformer", "transformer", "use_pad_mask", "passes it attention masks over pairs of tokens"),
)
"""Models that need more of an encoder or of layers than their usual call: name of the class, where they are, the
attribute that is something only in those of its objects that do (empty: all of them), and what they do."""


def refusal(
    site: Site, parts: Iterable[str], answers: Mapping[str, Scheme | Refusal], any_class: bool = False
) -> Refusal | None:
    """Why a module and some parts can't become one operator, whatever its converter makes of them; None if they may.

    A fused operator has no room for float layers, runs no hooks, and knows nothing of what somebody else's class does,
    or of what others hold parts of it (see :func:`kdnative.convert.refusals.held_elsewhere`).

    Args:
        site: of the module.
        parts: names of what goes into the operator.
        answers: the scheme of every layer of the model that can be native by itself, or why it can't.
        any_class: whether parts may be of anybody's classes.
    """
    modules, held = site.around.modules, site.around.held
    inside = {inner: modules[inner] for inner in parts}
    if why := _read_by_a_parent(site.name, modules):
        return Refusal(why)
    for inner, module in inside.items():
        if hooks := hooked(module):
            return Refusal(f"{inner} {hooks}")
        if others := [holder for holder in held.get(id(module), ()) if not within(holder, site.name)]:
            who = others[0] or "the model"
            return Refusal(f"{who} also holds {inner} outside its child modules, and may call it from there")
    for inner, module in inside.items():
        if why := None if any_class else _foreign(module, site.module):
            return Refusal(f"{inner} {why}")
    for inner in inside:
        found = answers.get(inner)
        if isinstance(found, Refusal):
            return Refusal(f"{inner} stays in float ({found})", found.needs)
        if found is not None and found.activation_bits != 8:
            return Refusal(
                f"{inner} has a scheme with float activations ({found}), but the fused encoder has int8 "
                "activations only"
            )
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
        f"is a {kind.__name__} of {kind.__module__}, which may compute something else: only parts of {own}, "
        "torch.nn and kdnative are fused"
    )


def _home(cls: type) -> str:
    """The package that a class belongs to: in transformers that of one model, elsewhere the library."""
    path = cls.__module__.split(".")
    return ".".join(path[:3] if path[:2] == ["transformers", "models"] else path[:1])
