"""A whole transformer encoder as one native operator."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from kdnative import ops
from kdnative.nn import hf_config, saving
from kdnative.nn.config_checks import DTYPE, SCHEME
from kdnative.nn.encoder_spec import Shapes
from kdnative.nn.lazy_weight import FLOAT_TYPES, asked_dtype
from kdnative.nn.linear import Linear
from kdnative.nn.packed_encoder import PackedEncoder

__all__ = ["Encoder", "EncoderOutput"]

_encoder, _encoder_hidden_states = ops.encoder, ops.encoder_hidden_states
_FLOAT32 = torch.float32  # a name of this module is found faster than one of torch


class EncoderOutput(NamedTuple):
    """What an encoder returns where transformers is not installed."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None


class Encoder(saving.NativeSaving, PackedEncoder):
    """Embeddings and every layer of a transformer encoder (Vaswani et al. 2017; Devlin et al. 2019).

    LayerNorm comes after each part, as in BERT, or before it, as in ModernBERT; positions are learned, biased by
    distance (MPNet) or rotary; the feed-forward network may be gated, and attention limited to a window.

    Takes the place of the base model of a transformers model (``model.bert`` and the like): same call, same class of
    output. Linears run on the integer kernels with dynamic per-token int8 activations; embedding tables are int8 with
    one scale per row; the rest is float32. On ``avx512bf16`` and ``amx`` the factors of attention (Q, K, V and the
    softmax's weights) are rounded to bfloat16, and summed in float32.

    Padding is skipped: tokens whose ``attention_mask`` is 0 cost nothing, no token attends to them, and their rows of
    the output are 0. Outputs never require grad.

    The module holds one uint8 buffer, ``packed``, and the pooler. ``state_dict()`` gives plain tensors instead, and
    ``load_state_dict()`` packs them: ``embeddings.{word, position, token_type}.{qweight, scale}``,
    ``embeddings.norm.{weight, bias}``, ``layers.N.{qkv, output, ffn_in, ffn_out}.{qweight, scale, zero, bias}`` as in
    :class:`kdnative.nn.Linear`, ``layers.N.{attention_norm, output_norm | ffn_norm}.{weight, bias}`` and, where the
    model has them, ``relative_bias.weight``, ``final_norm.{weight, bias}`` and ``pooler.*``.

    ``config`` is the transformers configuration of the model whose place this took, and ``device`` where it runs, for
    libraries that read them from that model (transformers' pipelines, sentence-transformers).

    ``spec`` is a dict that JSON can hold: ``hidden_size``, ``vocab_size``, ``max_positions``, ``position_table``
    (whether positions are learned), ``token_types`` (0: none), ``norm`` ("post" or "pre"), ``gated`` (whether the
    feed-forward network is), ``activation`` (its own, see :data:`kdnative.ops.ACTIVATIONS`), ``eps`` (of LayerNorm),
    ``relative_buckets`` and ``relative_distance`` (biases by distance; 0: none), ``padding_id`` (None: a token's
    position is its column; otherwise RoBERTa's counting), ``pooler`` (scheme or None), ``output`` (name of the output's
    class in ``transformers.modeling_outputs``), ``dtype`` (of the output), ``transformers`` (``config`` in plain form,
    or None), and ``layers``: for each ``heads``,
    ``head_dim``, ``ffn``, ``scaling`` (of attention scores), ``window`` (columns that attention reaches to either side,
    None: all), ``rope_theta`` (base of rotary positions, or None), ``attention_norm`` (False: a "pre" layer without
    one) and the schemes of ``qkv``, ``output``, ``ffn_in``, ``ffn_out``. Layers may differ from one another.
    """

    _model_config: Any  # a configuration, or its plain form until somebody asks for it; None: there is none

    own_kinds = {
        "pooler": (lambda v: v is None or SCHEME[0](v), "null or the name of a scheme"),
        "output": (lambda v: isinstance(v, str) and v.startswith("BaseModelOutput"), "a class of BaseModelOutputs"),
        "dtype": DTYPE,
    }
    main_input_name = "input_ids"  # transformers' name for the argument that comes first

    def _set(self, spec: dict[str, Any], children: dict[str, nn.Module | None], packed: Tensor) -> None:
        super()._set(spec, children, packed)
        self.config = self._spec.pop("transformers")  # plain until somebody asks for it
        self._dtype = FLOAT_TYPES[self._spec["dtype"]]
        self._hidden_size = self._spec["hidden_size"]
        self._output = self._spec["output"]

    @staticmethod
    def _empty_children(spec: dict[str, Any]) -> dict[str, nn.Module | None]:
        width, scheme = spec["hidden_size"], spec["pooler"]
        return {"pooler": Linear(width, width, scheme, activation="tanh") if scheme else None}

    @classmethod
    def plain_shapes(cls, spec: dict[str, Any]) -> Shapes:
        """As in :class:`PackedEncoder`, and those of the pooler."""
        yield from super().plain_shapes(spec)
        if spec["pooler"]:
            width = spec["hidden_size"]
            pooler = {"in_features": width, "out_features": width, "scheme": spec["pooler"]}
            for name, shape, dtype in Linear.plain_shapes(pooler):
                yield f"pooler.{name}", shape, dtype

    @property
    def spec(self) -> dict[str, Any]:
        """A copy of the sizes, schemes and names this was built from, as JSON can hold them."""
        plain = self._model_config
        return {
            **super().spec,
            "dtype": str(self._dtype).removeprefix("torch."),
            "transformers": copy.deepcopy(plain)
            if plain is None or isinstance(plain, dict)
            else hf_config.to_plain(plain),
        }

    @property
    def config(self) -> Any:
        """The transformers configuration of the model whose place this took.

        Raises:
            AttributeError: it took no model's place. ImportError: transformers is not installed.
        """
        if self._model_config is None:
            raise AttributeError("config")
        if isinstance(self._model_config, dict):
            self._model_config = hf_config.from_plain(self._model_config)
        return self._model_config

    @config.setter
    def config(self, config: Any) -> None:
        self._model_config = config
        # Looked up here, because a call has no time for it.
        plain = isinstance(config, dict)
        wanted = config.get("output_hidden_states") if plain else getattr(config, "output_hidden_states", None)
        self._wanted_states = wanted or False

    def adopt(self, config: Any) -> None:
        """Take another configuration, of a model around this encoder; calls give the hidden states that they gave."""
        wanted = self._wanted_states
        self.config, self._wanted_states = config, wanted

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the output."""
        return self._dtype

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: None = None,
        return_dict: bool | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        **unsupported: Any,
    ) -> Any:
        """Encode a batch.

        Args:
            input_ids: int64 or int32 ``[B, T]``, any strides; B or T may be 0.
            attention_mask: bool, integer or float ``[B, T]``, 0 for padding; None keeps every token. Padding may be
                anywhere.
            token_type_ids: int64 or int32 ``[B, T]``, ``[1, T]`` or ``[T]``; None means 0. Ignored by models without
                token types.
            position_ids: the same; None means the model's own counting.
            inputs_embeds: not supported.
            return_dict: False returns a tuple.
            output_hidden_states: True: every hidden state as well; numbers: these, and None for the others. None: what
                ``config`` said when this was converted or loaded.
            unsupported: further arguments of the transformers model, accepted only when they ask for nothing.

        Returns:
            ``last_hidden_state`` ``[B, T, H]``, if there is a pooler ``pooler_output`` ``[B, H]``
            (``tanh(dense(first token))``), and if asked for ``hidden_states``: of the embeddings and of each layer, the
            last one being ``last_hidden_state``. In ``self.dtype``, in the class of output that the replaced model
            returned.

        Raises:
            ValueError: an argument that the native encoder can't honour.
            RuntimeError: an id outside its table; a shape or dtype other than these; a module on another device;
                training mode with grad enabled.
        """
        if inputs_embeds is not None or input_ids is None or unsupported:
            _refuse_unsupported(input_ids, inputs_embeds, unsupported)
        if self.training and torch.is_grad_enabled():
            raise RuntimeError(
                "kdnative.nn.Encoder is for inference: it has no gradients. Call .eval() on it (or run under "
                "torch.no_grad()); to train, use the float model with kdnative.quantize.prepare_qat_ and convert after"
            )
        wanted = self._wanted_states if output_hidden_states is None else output_hidden_states
        if wanted:
            return self._every_state((input_ids, attention_mask, token_type_ids, position_ids), wanted, return_dict)
        hidden = _encoder(
            self._buffers["packed"],  # not self.packed: that goes through Module.__getattr__
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            self._hidden_size,
        )
        pooler = self._modules["pooler"]
        pooled = None if pooler is None else pooler(hidden[:, 0])
        if self._dtype is not _FLOAT32:
            hidden, pooled = hidden.to(self._dtype), None if pooled is None else pooled.to(self._dtype)
        if return_dict is False:
            return (hidden,) if pooler is None else (hidden, pooled)
        return _output(self._output, hidden, pooled)

    def _every_state(
        self, tokens: tuple[Tensor | None, ...], wanted: bool | int | Sequence[int], return_dict: bool | None
    ) -> Any:
        """The outputs of a call that asks for hidden states; apart, so that others do not pay for it."""
        layers = len(self._spec["layers"])
        states = _encoder_hidden_states(self._buffers["packed"], *tokens, self._hidden_size, layers).unbind(0)
        pooled = None if self.pooler is None else self.pooler(states[-1][:, 0]).to(self._dtype)
        hidden = states[-1].to(self._dtype)
        chosen = _chosen(states[:-1], hidden, wanted)
        if return_dict is False:
            return tuple(part for part in (hidden, pooled, chosen) if part is not None)
        return _output(self._output, hidden, pooled, chosen)

    def can_generate(self) -> bool:
        """What transformers' pipelines ask: no, an encoder does not."""
        return False

    def _apply(self, fn, recurse=True):
        # Module.to(dtype) leaves packed (uint8) alone; what it asks for is the dtype of the output.
        dtype = asked_dtype(fn, self._dtype)
        if dtype not in FLOAT_TYPES.values():
            raise TypeError(f"kdnative.nn.Encoder can't give {dtype}: allowed are {', '.join(FLOAT_TYPES)}")
        super()._apply(fn, recurse)
        self._dtype = dtype
        return self


_OUTPUTS: dict[str, type] = {}


def _output_class(name: str) -> type:
    """The class of that name in transformers.modeling_outputs, imported at its first use."""
    try:
        from transformers import modeling_outputs
    except ImportError:
        _OUTPUTS[name] = EncoderOutput
    else:
        kind = getattr(modeling_outputs, name, None)
        if not (isinstance(kind, type) and issubclass(kind, modeling_outputs.ModelOutput)):
            raise ValueError(f"{name!r} is not a class of outputs of transformers; the encoder's spec names it")
        _OUTPUTS[name] = kind
    return _OUTPUTS[name]


def _chosen(earlier: Sequence[Tensor], last: Tensor, wanted: bool | int | Sequence[int]) -> tuple[Tensor | None, ...]:
    """The hidden states that a call asks for, in the dtype of the last one, and None in the place of others."""
    count = len(earlier) + 1
    numbers = range(count) if wanted is True else [wanted] if isinstance(wanted, int) else wanted
    places = {number % count for number in numbers if -count <= number < count}
    return tuple(
        (last if place == count - 1 else earlier[place].to(last.dtype)) if place in places else None
        for place in range(count)
    )


def _output(name: str, hidden: Tensor, pooled: Tensor | None, states: tuple[Tensor | None, ...] | None = None) -> Any:
    kind = _OUTPUTS.get(name) or _output_class(name)
    if kind is EncoderOutput:
        return EncoderOutput(hidden, pooled, states)
    if is_compiling():
        fields = {"last_hidden_state": hidden, "pooler_output": pooled, "hidden_states": states}
        return kind(**{name: value for name, value in fields.items() if value is not None})
    # The constructor of transformers' outputs inspects its fields for many microseconds; this sets what it would set.
    output = kind.__new__(kind)
    _set_item(output, "last_hidden_state", hidden)
    fields = output.__dict__
    fields["last_hidden_state"] = hidden
    if pooled is not None:
        _set_item(output, "pooler_output", pooled)
        fields["pooler_output"] = pooled
    if states is not None:
        _set_item(output, "hidden_states", states)
        fields["hidden_states"] = states
    return output


_set_item = OrderedDict.__setitem__


# Arguments that reach an encoder on their way through a model and change nothing in it: a cache is for decoders,
# Trainer counts the items of a batch for the loss, and ModernBERT of transformers 4 says the shape of input_ids again.
_WITHOUT_EFFECT = ("batch_size", "num_items_in_batch", "seq_len", "use_cache")


def _refuse_unsupported(input_ids: Tensor | None, inputs_embeds: Any, others: dict[str, Any]) -> None:
    if inputs_embeds is not None:
        raise ValueError(
            "kdnative.nn.Encoder does not take inputs_embeds: it has its own embeddings; pass input_ids, or leave the "
            "embeddings outside: convert_(..., embeddings=None) makes one operator of each layer"
        )
    if input_ids is None:
        raise ValueError("kdnative.nn.Encoder needs input_ids, an integer tensor [batch, tokens]")
    for name, value in others.items():
        if value is None or value is False or name in _WITHOUT_EFFECT:
            continue
        way = "keep the encoder in float: convert_(..., keep=[...])"
        if name == "output_attentions":
            way = "leave attention to the model: convert_(..., fuse=False)"
        raise ValueError(f"kdnative.nn.Encoder does not support {name}: leave it out, or {way}")
