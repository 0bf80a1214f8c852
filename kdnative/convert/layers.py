"""How single layers become native: linears of all kinds, and embeddings."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from kdnative.convert.plan import Decision
from kdnative.convert.refusals import Refusal, not_finite, not_quantizable, too_small, unusual
from kdnative.convert.registry import Converter, Native, answer, converter_of, converts
from kdnative.convert.sizes import packed_tensors
from kdnative.convert.sparse_crossover import dense_or_sparse
from kdnative.convert.surroundings import Site
from kdnative.convert.weights import Weights
from kdnative.formats.scheme import Scheme
from kdnative.models import hf, torch_attention
from kdnative.nn import Linear
from kdnative.ops.backends import backend_for
from kdnative.patterns import Choice, Selection
from kdnative.quantize import FakeQuantLinear

__all__ = ["EmbeddingConverter", "FakeQuantConverter", "LinearConverter", "needs_ranges", "unsupported"]


@converts(nn.Linear)
class LinearConverter(Converter):
    """``nn.Linear``, and what amounts to one."""

    known: tuple[type, ...] = (nn.Linear,)
    """Exact classes; a subclass may compute something else."""

    def decide(self, site: Site, scheme: Scheme) -> Scheme | Refusal:
        scheme = site.with_given(scheme)
        return self.plain(site) or unsupported(site, scheme, self.layer(site.module)) or scheme

    def plain(self, site: Site) -> Refusal | None:
        """Why a layer is no plain one, or its weight can't be had, whatever the scheme is."""
        elsewhere = unusual(site.module, self.known_at(site)) or site.bypassed() or _read_by_attention(site)
        return elsewhere or not_quantizable(self.layer(site.module), site.around.values)

    def known_at(self, site: Site) -> tuple[type, ...]:
        """The classes that are plain at a place: torch's attention has one of its own for its output projection."""
        return self.known if _attention_around(site) is None else (*self.known, NonDynamicallyQuantizableLinear)

    def apart(self, site: Site) -> Refusal | None:
        return None if site.choice.explicit else too_small(*self.layer(site.module).weight.shape)

    def build(self, module: nn.Module, decision: Decision, weights: Weights) -> Native:
        layer = self.layer(module)
        weight = weights.of(decision.name, layer, decision.planned)
        scheme, reason = dense_or_sparse(
            decision.name, weight.qweight, decision.planned, weights.rows, decision.explicit
        )
        native = Linear.from_quantized(weight, layer.bias, scheme, dtype=layer.weight.dtype)
        return Native(native, str(scheme), reason, tuple(packed_tensors(native)))

    def note(self, site: Site) -> str:
        others = site.others_with(self.layer(site.module))
        return f"; its weight was shared with {', '.join(others)}" if others else ""


def _attention_around(site: Site) -> nn.MultiheadAttention | None:
    """The attention of torch that a linear is the output projection of."""
    parent = site.parent
    return parent if site.name.rpartition(".")[2] == "out_proj" and type(parent) is nn.MultiheadAttention else None


def _read_by_attention(site: Site) -> Refusal | None:
    """Torch's attention reads its output projection without calling it, unless it becomes native itself."""
    attention = _attention_around(site)
    if attention is None:
        return None
    converter = converter_of(attention)
    if converter is None:
        why = torch_attention.why_not(attention)
    else:
        found = answer(converter, site.around.site(site.name.rpartition(".")[0]))
        why = found.reason if isinstance(found, Refusal) else None
    if why is None:
        return None
    return Refusal(f"nn.MultiheadAttention reads this weight itself, and stays in float ({why})")


def unsupported(site: Site, scheme: Scheme, layer: nn.Module) -> Refusal | None:
    """Why there is no kernel for a layer in a scheme, or what has to be known before there can be one."""
    outputs, inputs = layer.weight.shape
    if why := backend_for(layer.weight.device).refusal(scheme, (outputs, inputs)):
        return Refusal(why)
    brought = site.name in site.around.given or getattr(site.module, "input_scale", None) is not None
    if scheme.activation.kind == "static" or (scheme.input_scales and not brought):
        return needs_ranges(scheme)
    return None


def needs_ranges(scheme: Scheme) -> Refusal:
    """Why there is no layer of a scheme before calibration."""
    words = f"{scheme} needs the ranges of its inputs, which calibration measures"
    return Refusal(f"{words}: give the scheme {scheme.plain} and calibration data", needs="ranges")


@converts(when=hf.is_conv1d)
class Conv1DConverter(LinearConverter):
    """The ``Conv1D`` of GPT-2, whose weight is the other way round."""

    def layer(self, module: nn.Module) -> nn.Linear:
        return hf.linear_of_conv1d(module)

    def known_at(self, site: Site) -> tuple[type, ...]:
        return (type(site.module),)


@converts(FakeQuantLinear)
class FakeQuantConverter(LinearConverter):
    """Layers trained for a scheme: they keep the integer weights that they were trained with."""

    known = (nn.Linear, FakeQuantLinear)

    def decide(self, site: Site, scheme: Scheme) -> Scheme | Refusal:
        if why := self.plain(site):
            return why
        own: Scheme = site.module.scheme
        if scheme.plain == own.plain:
            own = own.with_sparsity(scheme.sparsity or own.sparsity)
        elif site.choice.explicit:
            words = f"it was trained for {own}, but {scheme} is given"
            return Refusal(
                f"{words}: give the scheme it was trained for, leave its scheme out, or train it for the given scheme"
            )
        own = site.with_given(own)
        return unsupported(site, own, site.module) or own

    def apart(self, site: Site) -> Refusal | None:
        return None

    def in_float(self, module: nn.Module) -> nn.Module | None:
        odd = unusual(module, self.known) or not_quantizable(module, values=True) or not_finite(module)
        return None if odd else module.plain()

    def note(self, site: Site) -> str:
        own, asked = site.module.scheme, site.choice.value
        other = asked is not None and asked.plain != own.plain
        kept = f"; it keeps {own}, for which it was trained, and {asked} is ignored" if other else ""
        return kept + super().note(site)


@converts(nn.Embedding)
class EmbeddingConverter(Converter):
    """``nn.Embedding``: an int8 table."""

    def asked(self, site: Site) -> Choice[Scheme]:
        """Schemes are for linears; an embedding follows ``embeddings=`` unless a pattern keeps it in float."""
        if site.choice.value is None and site.choice.reason != Selection.UNMATCHED:
            return site.choice
        return Choice(Scheme.parse("w8a8")) if site.around.embeddings else Choice(None, "set by embeddings=None")

    def decide(self, site: Site, scheme: Scheme) -> Scheme | Refusal:
        plain = unusual(site.module, (nn.Embedding,)) or site.bypassed()
        if why := plain or not_quantizable(site.module, site.around.values):
            return why
        if site.module.max_norm is not None:
            return Refusal("max_norm changes the table at every call")
        return scheme

    def build(self, module: nn.Module, decision: Decision, weights: Weights) -> Native:
        assert isinstance(module, nn.Embedding)
        table = weights.table(module)
        return Native(
            table, self.label(decision.planned), "int8 table, one scale per row", tuple(packed_tensors(table))
        )

    def note(self, site: Site) -> str:
        others = site.others_with(site.module)
        return f"; its weight was shared with {', '.join(others)}" if others else ""

    def label(self, scheme: Scheme) -> str:
        return "int8"
