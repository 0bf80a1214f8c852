"""How an ``nn.MultiheadAttention`` becomes native: three linears from its one weight, beside its output projection."""

from __future__ import annotations

from torch import nn

from kdnative.convert.layers import LinearConverter, unsupported
from kdnative.convert.plan import Decision
from kdnative.convert.refusals import Refusal
from kdnative.convert.registry import Native, converts
from kdnative.convert.sizes import packed_tensors
from kdnative.convert.sparse_crossover import dense_or_sparse
from kdnative.convert.surroundings import Site
from kdnative.convert.weights import Weights
from kdnative.formats.scheme import Scheme
from kdnative.models import torch_attention
from kdnative.nn import Linear, MultiheadAttention

__all__ = ["AttentionConverter"]


def _has_one_weight(module: nn.Module) -> bool:
    return type(module) is nn.MultiheadAttention and module.in_proj_weight is not None


@converts(nn.MultiheadAttention, when=_has_one_weight)
class AttentionConverter(LinearConverter):
    """``nn.MultiheadAttention``: its linear is that of queries, keys and values."""

    known = (nn.MultiheadAttention,)

    def layer(self, module: nn.Module) -> nn.Module:
        assert isinstance(module, nn.MultiheadAttention)
        linear = torch_attention.input_projection(module)
        assert linear is not None  # as `_has_one_weight` says
        return linear

    def decide(self, site: Site, scheme: Scheme) -> Scheme | Refusal:
        if why := self.plain(site):
            return why
        assert isinstance(site.module, nn.MultiheadAttention)
        if words := torch_attention.why_not(site.module):
            return Refusal(words)
        scheme = site.with_given(scheme)
        return unsupported(site, scheme, self.layer(site.module)) or scheme

    def build(self, module: nn.Module, decision: Decision, weights: Weights) -> Native:
        weight = weights.of(decision.name, self.layer(module), decision.planned)
        scheme, reason = dense_or_sparse(
            decision.name, weight.qweight, decision.planned, weights.rows, decision.explicit
        )
        size, bias, linears = module.embed_dim, module.in_proj_bias, []
        for start in range(0, 3 * size, size):
            rows = slice(start, start + size)
            part_bias = None if bias is None else bias.detach()[rows]
            dtype = module.in_proj_weight.dtype
            linears.append(Linear.from_quantized(weight.outputs(rows), part_bias, scheme, dtype=dtype))
        own = tuple(tensor for linear in linears for tensor in packed_tensors(linear))
        native = MultiheadAttention.from_parts([*linears, module.out_proj], module.num_heads, module.batch_first)
        return Native(native, str(scheme), reason, own)
