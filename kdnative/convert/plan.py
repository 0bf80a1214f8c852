"""From plain to packed: replaces the modules of a model by native ones.

Everything is decided and built before the model is touched, so a failure leaves it as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from kdnative.convert.fuse import Rebuilder, has_known_layers, rebuilder, refusal
from kdnative.convert.last_parameter import linears_to_keep
from kdnative.convert.refusals import (
    NOT_FINITE,
    Verdict,
    bypassed,
    check_parameters,
    held_elsewhere,
    in_words,
    native_in_another_scheme,
    owners_of,
    schemes_of,
    storage,
    too_small,
    unusual,
    without_values,
)
from kdnative.convert.report import ConversionReport, ConversionRow
from kdnative.convert.sizes import bytes_of, fused_bytes, native_shape, own_tensors, packed_tensors
from kdnative.convert.sparse_crossover import dense_or_sparse
from kdnative.formats.scheme import Scheme
from kdnative.models import hf, torch_attention, torch_encoder
from kdnative.models.layer_conversion import Unsupported
from kdnative.nn import Embedding, Linear
from kdnative.nn.saving import forbid_save_pretrained
from kdnative.nn.tree import NATIVE, become, walk
from kdnative.patterns import Choice, Selection, within
from kdnative.quantize import FakeQuantLinear, QuantizedWeight, quantize_weight

__all__ = ["ConversionReport", "ConversionRow", "convert_"]

_NATIVE = tuple(NATIVE.values())
_LAYERS = (nn.Linear, nn.Embedding)


def convert_(
    model: nn.Module,
    schemes: str | Scheme | Mapping[str, str | Scheme | None] = "w8a8",
    *,
    keep: Iterable[str] = (),
    embeddings: int | None = 8,
    fuse: bool = True,
    clip_search: bool = False,
    rows: int = 32,
) -> ConversionReport:
    """Replace what can run on the integer kernels, in place, and put the model into eval mode.

    Encoders of Hugging Face transformers that the library knows (BERT, MiniLM and others, pruned or not) become one
    :class:`kdnative.nn.Encoder`, ``nn.TransformerEncoder`` or its layers a :class:`kdnative.nn.TransformerEncoder`, and
    layers of vision, speech and sequence-to-sequence encoders that it knows (of transformers, timm, torchvision and
    OpenCLIP) a :class:`kdnative.nn.EncoderLayer` each. Everywhere else ``nn.Linear``, ``nn.MultiheadAttention``,
    ``kdnative.quantize.FakeQuantLinear``, ``nn.Embedding`` and the ``Conv1D`` of GPT-2 are replaced one by one. What
    remains stays, and the report says why. A FakeQuantLinear keeps the integer weights it was trained with. Layers that
    share a weight, as a language model's head does with its embedding, each get their own; only embeddings go on
    sharing one table.

    With a sparse scheme such as ``w8a8+4x1`` a layer with too few zeros gets the dense form of the scheme, which
    computes the same and is faster then (:mod:`kdnative.convert.sparse_crossover`); fused encoders are dense too
    (``fuse=False`` converts their layers one by one). The report says so.

    A FakeQuantLinear that stays in float becomes an ``nn.Linear`` with the values of its integer weights.

    Models of transformers read their device and dtype from a parameter: where none would be left, the last linear stays
    in float, unless a pattern other than ``*`` asks for it.

    Args:
        model: float32, bfloat16 or float16, on the CPU.
        schemes: a scheme for all linears, or ``{pattern: scheme or None}``; the first pattern that matches a module's
            name, or the name of a module that contains it, wins. Patterns are globs, or regular expressions after
            ``re:``. Linears that no pattern matches stay in float.
        keep: patterns of modules that stay in float.
        embeddings: 8 for int8 tables, None to leave embeddings in float (a fused encoder needs 8).
        fuse: False converts known encoders and layers linear by linear too (those of torch stay, it reads their weights
            itself), so that they can still return attention weights.
            So does a scheme with float activations (``a16``): fused encoders compute with int8 activations only.
        clip_search: search the clipping range of weights (better at 4 and 2 bits, slower to convert).
        rows: rows of activations (batch * tokens) of a typical call, on which the gain of sparse kernels depends.

    Returns:
        The report; ``report.model is model``. A ``model`` that is itself an encoder or a single layer, such as a bare
        ``BertModel``, becomes the native module: it stays the same object and changes its class, so whatever holds it
        runs natively too. Keep a ``copy.deepcopy`` of a float model to compare with.

    Raises:
        ValueError: a weight is NaN or infinite; a pattern matches nothing; a pattern other than ``*`` asks for what
            can't be done (the text lists every case); the model is not on the CPU. The model is unchanged then.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert_ takes a torch.nn.Module, not {type(model).__name__}")
    check_parameters(model)
    if embeddings not in (None, 8):
        raise ValueError(f"embeddings must be 8 or None, got {embeddings!r}")
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    plan = _Plan(model, Selection(schemes, keep), embeddings, fuse, clip_search, rows)
    if fuse:
        plan.fuse_encoders()
    plan.replace_layers()
    plan.keep_parameters()
    return plan.apply()


class _Plan:
    """Decides and builds every replacement; only `apply` touches the model."""

    def __init__(
        self,
        model: nn.Module,
        selection: Selection,
        embeddings: int | None,
        fuse: bool,
        clip_search: bool,
        rows: int,
    ) -> None:
        self.model, self.selection, self.embeddings, self.clip_search = model, selection, embeddings, clip_search
        self.sparse_rows = rows
        self.modules = dict(walk(model))
        self.names = {id(m): name for name, m in self.modules.items()}
        self.replacements: dict[int, nn.Module] = {}
        self.rows: dict[str, ConversionRow] = {}
        self.counted: set[int] = set()  # tensors whose bytes are in a row already
        self.owners, self.held = owners_of(self.modules), held_elsewhere(self.modules)
        self.tables: dict[tuple, Embedding] = {}  # by the float table
        # Where torch's own encoders are to be fused, layers that these read without calling them can be converted too.
        self.torch_encoders = {n for n, m in self.modules.items() if fuse and torch_encoder.is_encoder(m)}
        layers = [n for n, m in self.modules.items() if self._layer(n) is not None or isinstance(m, _NATIVE)]
        selection.check_used(layers)
        self.verdicts = self._judge(self.modules)

    # -- deciding ------------------------------------------------------------------------------------------------------

    def _layer(self, name: str) -> nn.Linear | nn.Embedding | None:
        """The linear or embedding that a module is, or amounts to; None for other modules."""
        module = self.modules[name]
        if type(module) is nn.MultiheadAttention:
            return torch_attention.input_projection(module)
        if hf.is_conv1d(module):
            return hf.linear_of_conv1d(module)
        return module if isinstance(module, _LAYERS) else None

    def _in_torch_encoder(self, name: str) -> bool:
        return any(within(name, encoder) for encoder in self.torch_encoders)

    def _judge(self, names: Iterable[str]) -> dict[str, Verdict]:
        verdicts, errors = {}, []
        for name in names:
            module, choice = self._layer(name), self.selection.choose(name)
            if other := native_in_another_scheme(self.modules[name], choice):
                errors.append(f"  {name or '(model)'}: {other}")
            if module is None:
                continue
            if isinstance(module, nn.Embedding):
                choice = self._choice_of_embedding(choice)
            if choice.scheme is None:
                verdicts[name] = Verdict(None, choice.reason)
                continue
            obstacle = self._obstacle(name, module, choice)
            if obstacle is None:
                verdicts[name] = Verdict(self._scheme_of(module, choice), "")
            elif choice.explicit or obstacle.startswith(NOT_FINITE):
                errors.append(f"  {name or '(model)'}: {obstacle}")
            else:
                verdicts[name] = Verdict(None, obstacle)
        if errors:
            raise ValueError(
                "nothing was converted; these modules can't be converted as asked (keep=[...] leaves them in float):\n"
                + "\n".join(errors)
            )
        return verdicts

    def _choice_of_embedding(self, choice: Choice) -> Choice:
        """Schemes are for linears; an embedding follows ``embeddings=`` unless a pattern keeps it in float."""
        if choice.scheme is None and choice.reason != Selection.UNMATCHED:
            return choice
        return Choice(Scheme.parse("w8a8")) if self.embeddings else Choice(None, "asked for by embeddings=None")

    def _scheme_of(self, module: nn.Module, choice: Choice) -> Scheme:
        if type(module) is not FakeQuantLinear:
            return choice.scheme
        if choice.scheme.dense != module.scheme.dense:
            return module.scheme
        return module.scheme.with_sparsity(choice.scheme.sparsity or module.scheme.sparsity)

    def _obstacle(self, name: str, module: nn.Module, choice: Choice) -> str | None:
        """Why a layer can't become native; None when it can."""
        own = self.modules[name]
        known = (nn.Linear, nn.Embedding, FakeQuantLinear, nn.MultiheadAttention)
        if self._attention_of(name) is not None:  # which has a class of its own for a linear
            known += (NonDynamicallyQuantizableLinear,)
        general = unusual(own, known + ((type(own),) if hf.is_conv1d(own) else ()))
        general = general or self._read_by_parent(name) or without_values(module)
        if general:
            return general
        if type(own) is nn.MultiheadAttention and (general := torch_attention.why_not(own)):
            return general
        if isinstance(module, nn.Embedding):
            return "max_norm rewrites the table at every call" if module.max_norm is not None else None
        if type(module) is FakeQuantLinear:
            if choice.explicit and choice.scheme.dense != module.scheme.dense:
                return f"it was trained for {module.scheme}, but {choice.scheme} is asked for"
            return None
        try:
            choice.scheme.groups(module.in_features)
        except ValueError as error:
            return str(error)
        return None

    def _attention_of(self, name: str) -> nn.MultiheadAttention | None:
        """The attention of torch that a module is the output projection of."""
        parent, _, own = name.rpartition(".")
        attention = self.modules.get(parent)
        return attention if own == "out_proj" and type(attention) is nn.MultiheadAttention else None

    def _read_by_parent(self, name: str) -> str | None:
        """A module around this one reads its weight without calling it, or would not call a native one."""
        outer, _, own = name.rpartition(".")
        parent = self.modules[outer] if name else None
        if why := bypassed(own, self.modules[name], parent, self.held):
            return why
        if isinstance(parent, nn.TransformerEncoderLayer) and not self._in_torch_encoder(name):
            if parent.activation_relu_or_gelu or isinstance(self.modules[name], nn.MultiheadAttention):
                return "nn.TransformerEncoderLayer reads this weight itself in its fast path"
        if self._attention_of(name) is not None and (why := self._why_in_float(outer)):
            return f"nn.MultiheadAttention reads this weight itself, and stays in float ({why})"
        return None

    def _why_in_float(self, name: str) -> str | None:
        """Why an attention of torch stays as it is; None when it does not."""
        layer, choice = self._layer(name), self.selection.choose(name)
        if layer is None:
            return torch_attention.why_not(self.modules[name])
        return choice.reason if choice.scheme is None else self._obstacle(name, layer, choice)

    def _notes(self, name: str, layer: nn.Linear | nn.Embedding) -> str:
        """What the reason of a layer says of the scheme it was trained for, and of others with the same weight."""
        notes, asked = "", self.selection.choose(name).scheme
        if type(layer) is FakeQuantLinear and asked is not None and asked.dense != layer.scheme.dense:
            notes = f"; it keeps the {layer.scheme} that it was trained for, {asked} is not applied"
        others = [o for o in self.owners.get(storage(layer.weight), ()) if o != name]
        return notes + (f"; its weight was also that of {', '.join(others)}" if others else "")

    # -- building ------------------------------------------------------------------------------------------------------

    def fuse_encoders(self) -> None:
        """Build a native encoder for every encoder of transformers or torch that is known, outermost first."""
        done: list[str] = []
        for name, module in self.modules.items():
            rebuild = rebuilder(module)
            if any(within(name, outer) for outer in done) or rebuild is None:
                continue
            result = refusal(name, self.modules, self.verdicts, self.held) or self._fused(name, module, rebuild)
            if isinstance(result, str):
                self._row(name, module, "kept", None, f"not fused: {result}; converted layer by layer instead")
                self._judge_apart(name)
                if has_known_layers(name, self.modules):  # which may do better on their own
                    continue
            done.append(name)

    def _judge_apart(self, name: str) -> None:
        """The layers of an encoder that could not be fused will be on their own."""
        inside = {inner for inner in self.modules if within(inner, name)}
        if self.torch_encoders & inside:
            self.torch_encoders -= inside
            self.verdicts = {n: v for n, v in self.verdicts.items() if n not in inside} | self._judge(sorted(inside))

    def _fused(self, name: str, module: nn.Module, rebuild: Rebuilder) -> str | None:
        used: dict[str, QuantizedWeight] = {}

        def quantize(inner: str, linear: nn.Linear) -> QuantizedWeight | None:
            full = self.names.get(id(linear), f"{name}.{inner}".strip("."))
            used[full] = self._quantized(full, linear)
            return used[full]

        encoder = rebuild(module, quantize)
        if isinstance(encoder, str):
            return encoder
        self.replacements[id(module)] = encoder
        remaining = sum(t.numel() * t.element_size() for t in (*encoder.parameters(), *encoder.buffers()))
        own = name or "(model)"
        for inner, part in self.modules.items():
            if not within(inner, name) or inner == name or not own_tensors(part, buffers=False):
                continue
            size = fused_bytes(inner, self._layer(inner) or part, used.get(inner))
            remaining -= size
            scheme, reason = self._scheme_text(inner, part, dense=True), f"runs inside the fused encoder {own}"
            if scheme != self._scheme_text(inner, part):
                apart = "" if torch_encoder.is_encoder(module) else ": fuse=False converts layer by layer"
                reason += f", where weights are dense{apart}"
            if (layer := self._layer(inner)) is not None:
                reason += self._notes(inner, layer)
            self._row(inner, part, "fused", scheme, reason, size)
        self._row(name, module, "fused", None, "the whole encoder is one native operator", max(remaining, 0))
        return None

    def replace_layers(self) -> None:
        """Build a native module for every layer that is not in a fused encoder, and a row for everything left."""
        for name, module in self.modules.items():
            if name in self.rows:
                continue
            if isinstance(module, _NATIVE):
                schemes = in_words(schemes_of(module))
                self._row(name, module, "kept", None, f"already native{schemes and f', in {schemes}'}")
            elif (layer := self._layer(name)) is not None:
                self._replace(name, module, layer)
            elif own_tensors(module, buffers=False):
                self._row(name, module, "kept", None, f"there is no native {type(module).__name__}: it runs in torch")

    def keep_parameters(self) -> None:
        """Leave a linear in float where a model of transformers would have no parameter, and no device and dtype."""

        def free(name: str) -> bool:
            return not self.selection.choose(name).explicit

        for name in linears_to_keep(self.modules, self.replacements, free):
            self._stay_in_float(name)
            reason = "transformers reads device and dtype of a model from a parameter, and this has the last one"
            after = bytes_of(own_tensors(self.modules[name]))
            self.rows[name] = replace(self.rows[name], action="kept", scheme=None, reason=reason, bytes_after=after)

    def _replace(self, name: str, module: nn.Module, layer: nn.Linear | nn.Embedding) -> None:
        """Build the native form of ``layer``, which ``module`` amounts to, unless it stays as it is."""
        scheme, reason = self.verdicts[name].scheme, self.verdicts[name].reason
        if scheme and isinstance(layer, nn.Linear):
            reason = self._slower_natively(name, layer)
        if scheme is None or reason:
            self._stay_in_float(name)
            self._row(name, module, "kept", None, reason)
            return
        if isinstance(layer, nn.Embedding):
            native, text = self._table(layer), self._scheme_text(name, layer)
            reason = "int8 table, one scale per row"
        else:
            weight = self._quantized(name, layer)
            explicit = self.selection.choose(name).explicit
            scheme, reason = dense_or_sparse(name, weight.qweight, scheme, self.sparse_rows, explicit)
            if type(module) is nn.MultiheadAttention:
                native = torch_attention.attention_from_torch(module, weight, scheme)
            else:
                native = Linear.from_quantized(weight, layer.bias, scheme, dtype=layer.weight.dtype)
            text = str(scheme)
        self.replacements[id(module)] = native
        after = [t for t in packed_tensors(native) if id(t) not in self.counted]
        self.counted.update(map(id, after))
        self._row(name, module, "converted", text, reason + self._notes(name, layer), bytes_of(after))

    def _stay_in_float(self, name: str) -> None:
        """Plan no native module; what simulates one stops doing so."""
        module = self.modules[name]
        self.replacements.pop(id(module), None)
        odd = unusual(module, (FakeQuantLinear,)) or id(module) in self.held
        if type(module) is FakeQuantLinear and not odd and not without_values(module):
            self.replacements[id(module)] = module.plain()

    def _table(self, embedding: nn.Embedding) -> Embedding:
        """An int8 table; embeddings of one float table have one int8 table too."""
        native, weight = Embedding.from_float(embedding), embedding.weight
        first = self.tables.setdefault((storage(weight), weight.shape, weight.stride()), native)
        native.qweight, native.scale = first.qweight, first.scale
        return native

    def _slower_natively(self, name: str, module: nn.Linear) -> str:
        """Why the float layer is faster for its shape; empty when it is not, or when the user wants it regardless."""
        if type(module) is FakeQuantLinear or self.selection.choose(name).explicit:
            return ""
        return too_small(*module.weight.shape)

    def _quantized(self, name: str, linear: nn.Linear) -> QuantizedWeight:
        if not isinstance(linear, nn.Linear):
            raise Unsupported(f"{name} is a {type(linear).__name__}, not a plain nn.Linear")
        if name not in self.verdicts:
            raise Unsupported(f"{name} is a module that the model has under another name too")
        if type(linear) is FakeQuantLinear:
            return linear.quantized()
        scheme = self.verdicts[name].scheme
        return quantize_weight(linear.weight.detach(), scheme, clip_search=self.clip_search)

    def _scheme_text(self, name: str, module: nn.Module, dense: bool = False) -> str | None:
        """The scheme of a part of a fused encoder."""
        if isinstance(module, nn.Embedding):
            return None if hf.stays_in_float(name) else "int8"
        if name not in self.verdicts:
            return None
        scheme = self.verdicts[name].scheme
        return str(scheme.dense if dense else scheme)

    def _row(
        self, name: str, module: nn.Module, action: str, scheme: str | None, reason: str, after: int | None = None
    ) -> None:
        own = [t for t in own_tensors(module) if id(t) not in self.counted]
        self.counted.update(map(id, own))
        before = bytes_of(own)
        weight = (self._layer(name) or module)._parameters.get("weight")  # of a native module `weight` is lazy
        shape = native_shape(module) if weight is None else list(weight.shape)
        after = before if after is None else after
        self.rows[name] = ConversionRow(name, type(module).__name__, action, scheme, reason, shape, before, after)

    # -- applying ------------------------------------------------------------------------------------------------------

    def apply(self) -> ConversionReport:
        for parent in (*self.modules.values(), *self.replacements.values()):
            for attribute, child in list(parent._modules.items()):
                if id(child) in self.replacements:
                    setattr(parent, attribute, self.replacements[id(child)])
        if id(self.model) in self.replacements:
            become(self.model, self.replacements[id(self.model)])
        self.model.eval()
        forbid_save_pretrained(self.model, _NATIVE)
        return ConversionReport(self.model, [self.rows[name] for name in self.modules if name in self.rows])
