"""A drop-in replacement of ``torch.nn.Linear`` with integer weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from kdnative import ops
from kdnative.formats.scheme import Scheme
from kdnative.nn import plain_tensors
from kdnative.nn.config_checks import ACTIVATION, DTYPE, FLAG, SCHEME, SIZE, check_config
from kdnative.nn.emptiness import empty
from kdnative.nn.laid_out import LaidOut
from kdnative.nn.lazy_weight import FLOAT_TYPES, given_as, lazy_weight
from kdnative.ops.backends import backend_for
from kdnative.ops.schemas import LINEARS
from kdnative.ops.weights import linear_weight
from kdnative.quantize import QuantizedWeight, quantize_weight

__all__ = ["Linear"]

_KERNELS = {name: getattr(torch.ops.kdnative, name).default for name in (*LINEARS, "linear_sparse")}


class Linear(LaidOut):
    """``y = activation(x @ W.T + bias)`` with packed 8-, 4- or 2-bit weights.

    Activations are quantized per token to int8 while running (schemes with ``a8``), or stay in floating point and are
    summed in float32 (``a16``). The weights of both are the same.

    The module holds one uint8 buffer, ``packed``, in the kernels' layout. ``state_dict()`` gives plain tensors instead,
    and ``load_state_dict()`` packs them, so a checkpoint does not depend on the machine:

    ===============  ==========================================================================================
    ``qweight``      int8 ``[N, K]`` for 8 bits; uint8 ``[N, K * bits / 8]`` for 4 and 2 bits, see
                     :func:`kdnative.quantize.pack_bits`
    ``scale``        float32 ``[N]``, or ``[N, K / group_size]`` for schemes with groups but not ``-int``
    ``zero``         int8 ``[N, K / group_size]``, schemes ``-asym`` and ``-int`` only
    ``group_scale``  uint8 ``[N, K / group_size]``, schemes ``-int`` only
    ``input_scale``  float32 ``[K]``, schemes ``-is`` only: what inputs are multiplied by
    ``bias``         float32 ``[N]``, if there is a bias
    ===============  ==========================================================================================

    Sparse schemes such as ``w8a8+4x1`` have the tensors of the dense one, zeros included, and give its results, bit for
    bit: what they leave out is a matter of the packed form, whose zeros are those that the weight has.

    ``load_state_dict`` also takes the ``weight`` and ``bias`` of the float layer this one replaces, and quantizes.
    ``.to(dtype)``, ``.half()`` and the like do not touch the packed weights: the output has the dtype of the input.
    They change ``dtype``, in which :attr:`weight` and :attr:`bias` are given to models that look at them: bfloat16,
    float16, or float32 for all others, as kernels have no float64.
    Outputs are not differentiable: training uses :class:`kdnative.quantize.FakeQuantLinear`.

    Args:
        in_features: K.
        out_features: N.
        scheme: a name such as ``"w8a8"`` or a :class:`kdnative.Scheme`.
        bias: whether there is a bias.
        activation: fused into the layer: one of :data:`kdnative.ops.ACTIVATIONS`.
        dtype: of :attr:`weight` and :attr:`bias`: torch.float32, torch.bfloat16 or torch.float16, or its name.

    A new module is empty: it has a shape and a scheme, and no weights until :meth:`pack_` or ``load_state_dict()``
    brings them. Its forward is an error; its ``state_dict()`` holds meta tensors.

    Raises:
        ValueError: K or N is not positive, the group size does not divide K, a name or the dtype is unknown, or K is
            above 65536 with ``w8a8+4x1``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        scheme: Scheme | str = "w8a8",
        bias: bool = True,
        activation: str = "none",
        dtype: torch.dtype | str = torch.float32,
    ) -> None:
        super().__init__()
        dtype = FLOAT_TYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype
        if dtype not in FLOAT_TYPES.values():
            raise ValueError(f"dtype {dtype} is not one of {', '.join(FLOAT_TYPES)}")
        self.in_features, self.out_features = in_features, out_features
        self.scheme = scheme = Scheme.parse(scheme)
        self.has_bias = bias
        self.activation = activation
        self.dtype = given_as(dtype)
        self._activation_code = ops.activation_code(activation)
        backend = backend_for("cpu")
        if refusal := backend.refusal(scheme, (out_features, in_features)):
            raise ValueError(refusal)
        self._use(backend.layout(scheme, (out_features, in_features), bias), backend)
        size = self.layout.size(out_features, in_features, scheme, bias)
        self.register_buffer("packed", torch.empty(size, dtype=torch.uint8, device="meta"), persistent=False)

    @classmethod
    def from_quantized(
        cls,
        weight: QuantizedWeight,
        bias: Tensor | None,
        scheme: Scheme | str,
        activation: str = "none",
        dtype: torch.dtype = torch.float32,
    ) -> Linear:
        """A module from integer weights that an algorithm produced.

        Args:
            weight: ``[N, K]``, bits and group size those of ``scheme``.
            bias: float ``[N]`` or None.
            dtype: of the float weight that this one stands for.

        Raises:
            ValueError: the weights are not of this scheme, the bias has another shape, or it is not finite.
        """
        module = cls(weight.in_features, weight.out_features, scheme, bias is not None, activation, given_as(dtype))
        module.pack_(weight, bias)
        return module.eval()

    def pack_(self, weight: QuantizedWeight, bias: Tensor | None = None) -> None:
        """Take integer weights and a bias, in place of those that the module may have.

        Args:
            weight: ``[N, K]``, bits, group size and kind of scales those of :attr:`scheme`.
            bias: float ``[N]``, or None exactly if the module has none.

        Raises:
            ValueError: the weights are not of this shape or scheme, the bias has another shape or is not finite.
        """
        scheme, shape = self.scheme, (self.out_features, self.in_features)
        if tuple(weight.qweight.shape) != shape:
            raise ValueError(f"the weights have shape {list(weight.qweight.shape)}, the layer needs {list(shape)}")
        if (weight.bits, weight.group_size) != (scheme.weight_bits, scheme.group_size):
            raise ValueError(
                f"the weights have {weight.bits} bits and group size {weight.group_size}, which is not scheme {scheme}"
            )
        if (weight.group_scale is not None) != scheme.integer_scales:
            kind = "no integer" if weight.group_scale is None else "integer"
            raise ValueError(f"the weights have {kind} group scales, which is not scheme {scheme}")
        if weight.zero is not None and scheme.symmetric:
            raise ValueError(f"the weights have zero points, but scheme {scheme} is symmetric: use {scheme}-asym")
        if (weight.input_scale is not None) != scheme.input_scales:
            kind = "no input" if weight.input_scale is None else "input"
            raise ValueError(f"the weights have {kind} scales, which is not scheme {scheme}")
        if (bias is not None) != self.has_bias:
            has, given = ("a", "none") if self.has_bias else ("no", "one")
            raise ValueError(f"the layer has {has} bias, and was given {given}")
        self._pack(weight, None if bias is None else plain_tensors.checked_bias(bias, self.out_features))

    @classmethod
    def from_float(
        cls, linear: nn.Linear, scheme: Scheme | str = "w8a8", activation: str = "none", clip_search: bool = False
    ) -> Linear:
        """Quantize the weight of ``linear`` (float32, bfloat16 or float16, not changed) by rounding to nearest.

        The ``dtype`` of the module is that of the weight.

        Raises:
            ValueError: NaN or infinite weights, a group size that does not divide in_features, or for a scheme with
                ``+2:4`` more than two of four consecutive inputs with weights other than zero.
        """
        scheme = Scheme.parse(scheme)
        weight = quantize_weight(linear.weight.detach(), scheme, clip_search=clip_search)
        bias = None if linear.bias is None else linear.bias.detach()
        return cls.from_quantized(weight, bias, scheme, activation, linear.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """float32, bfloat16 or float16 ``[..., K]`` of any strides, where the layer is -> ``[..., N]`` of its dtype."""
        packed = self._buffers["packed"]  # not self.packed: that goes through Module.__getattr__, half a microsecond
        if x.requires_grad or not (x.is_cpu and packed.is_cpu or x.is_cuda and packed.is_cuda):
            self._check_call(x, packed)
        return _KERNELS[self._operator](x, packed, self.out_features, self._activation_code, *self._form)

    def _check_call(self, x: Tensor, packed: Tensor) -> None:
        if packed.is_meta and not x.is_meta:
            raise RuntimeError(empty("kdnative.nn.Linear"))
        if x.device != packed.device:
            raise RuntimeError(
                f"kdnative.nn.Linear has its weights on {packed.device}, but its input is on {x.device}: move both "
                'with .to("cpu")'
            )
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                "kdnative.nn.Linear is for inference and its input requires grad: call it under torch.inference_mode() "
                "or torch.no_grad(), or train with kdnative.quantize.prepare_qat_ (FakeQuantLinear) and convert after"
            )

    def quantized(self) -> QuantizedWeight:
        """The integer weights in plain form, ``[N, K]``."""
        if self.is_empty:
            raise RuntimeError(empty("kdnative.nn.Linear"))
        weight, _ = self.layout.unpack(self.packed)
        if not self.scheme.symmetric and weight.zero is None:  # the packed form drops zero points that are all 0
            zero = torch.zeros(weight.scale.shape, dtype=torch.int8, device=weight.scale.device)
            weight = weight.changed(zero=zero)
        return weight

    @property
    def weight(self) -> Tensor:
        """The dequantized weight, ``[N, K]`` in ``self.dtype``, for code that inspects weights.

        Its dtype, device and shape are free, and ``F.linear(x, layer.weight, bias)``, as some models multiply, runs on
        the kernels (not under torch.compile). Every other use dequantizes: keep ``weight.clone()`` to use it often.
        It is a copy: writing to it raises RuntimeError.
        """
        if is_compiling():
            return linear_weight(self.packed, self.out_features, self.in_features, *self._form).to(self.dtype)
        shape = (self.out_features, self.in_features)
        return lazy_weight(shape, self.dtype, self.packed.device, self._dequantized, self._product)

    @property
    def bias(self) -> Tensor | None:
        """The bias, ``[N]`` in ``self.dtype``, or None; a copy, as :attr:`weight` is."""
        if not self.has_bias or is_compiling():
            return self._bias_values()
        return lazy_weight((self.out_features,), self.dtype, self.packed.device, self._bias_values)

    def _dequantized(self) -> Tensor:
        return self.quantized().dequantize().to(self.dtype)

    def _exact_bias(self) -> Tensor | None:
        """A copy of the bias as it is stored, float32 ``[N]``, or None."""
        if self.is_empty:
            raise RuntimeError(empty("kdnative.nn.Linear"))
        return self.layout.bias(self.packed) if self.has_bias else None

    def _bias_values(self) -> Tensor | None:
        return self._exact_bias().to(self.dtype) if self.has_bias else None

    def _product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """``x @ W.T + bias``: the layer without its activation, and with another bias, if this is another."""
        own = self._exact_bias()
        out = _KERNELS[self._operator](x, self.packed, self.out_features, ops.activation_code("none"), *self._form)
        if own is None or bias is None:
            same = own is bias
        else:
            same = torch.equal(own.to(bias.dtype), bias)  # as it is given, or as a model converts it for its input
        if same:
            return out
        return out - (0 if own is None else own.to(out.dtype)) + (0 if bias is None else bias.to(out.dtype))

    @property
    def spec(self) -> dict:
        """The constructor's arguments, as JSON can hold them: ``Linear(**module.spec)``."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "scheme": str(self.scheme),
            "bias": self.has_bias,
            "activation": self.activation,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def plain_state(self) -> dict[str, Tensor]:
        """The plain tensors that ``state_dict()`` holds for this module, without a prefix."""
        state = plain_tensors.of_weight(self.quantized())
        return {**state, "bias": self._exact_bias()} if self.has_bias else state

    def plain_names(self) -> list[str]:
        """Names of the tensors in :meth:`plain_state`."""
        return list(self._plain_specification())

    def _plain_specification(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        """Shape and dtype of every plain tensor; dtype None: any float is taken, float32 is given."""
        return plain_tensors.specification(self.in_features, self.out_features, self.scheme, self.has_bias)

    @classmethod
    def plain_shapes(cls, config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...], torch.dtype | None]]:
        """Name, shape and dtype (None: any float) of each tensor in ``state_dict()``, by arithmetic alone.

        Args:
            config: as :attr:`spec` gives it.

        Raises:
            ValueError: an entry is missing, unknown, or of another kind than it must be; or the group size does not
                divide in_features.
        """
        optional = {"bias": FLAG, "activation": ACTIVATION, "dtype": DTYPE}
        check_config("linear", config, {"in_features": SIZE, "out_features": SIZE, "scheme": SCHEME}, optional)
        sizes = config["in_features"], config["out_features"]
        wanted = plain_tensors.specification(*sizes, Scheme.parse(config["scheme"]), config.get("bias", True))
        for name, (shape, dtype) in wanted.items():
            yield name, shape, dtype

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.is_empty:  # shapes are all that such a module has
            state = {
                k: torch.empty(s, dtype=d or torch.float32, device="meta")
                for k, (s, d) in self._plain_specification().items()
            }
        else:
            state = self.plain_state()
        destination.update({prefix + name: tensor for name, tensor in state.items()})

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ):
        super()._load_from_state_dict(state_dict, prefix, local_metadata, False, [], [], [])  # runs pre-hooks
        given = {key[len(prefix) :]: state_dict[key] for key in state_dict if key.startswith(prefix)}
        wanted = self._plain_specification()
        from_float = "weight" in given and "qweight" not in given
        if from_float:
            wanted = {name: spec for name, spec in wanted.items() if name == "bias"}
            wanted["weight"] = ((self.out_features, self.in_features), None)
        if strict:  # torch passes True here whatever its caller asked for, and sorts that out later
            unexpected_keys += [prefix + name for name in given if name not in wanted]
        missing = [name for name in wanted if name not in given]
        missing_keys += [prefix + name for name in missing]
        given = {name: given[name] for name in wanted if name in given}
        errors = [plain_tensors.mismatch(prefix + name, given[name], *wanted[name]) for name in given]
        error_msgs += filter(None, errors)
        if any(errors) or not given:
            return
        try:
            if missing and self.is_empty:
                raise ValueError(f"it is empty, so all of its tensors are needed; missing: {', '.join(missing)}")
            if from_float and self.scheme.input_scales:
                raise ValueError(f"scheme {self.scheme} has input scales, which a float weight does not bring")
            if missing and not from_float:  # like torch: what is there is loaded, the rest stays as it is
                given = self.plain_state() | given
            if from_float:
                weight = quantize_weight(given["weight"].detach().cpu(), self.scheme)
                bias = self._exact_bias() if missing else given.get("bias")
            else:
                weight, bias = plain_tensors.to_weight(given, self.scheme, self.in_features), given.get("bias")
            self._pack(weight, None if bias is None else plain_tensors.checked_bias(bias, self.out_features))
        except (TypeError, ValueError) as error:
            error_msgs.append(f"{prefix.rstrip('.') or type(self).__name__}: {error}")

    def extra_repr(self) -> str:
        text = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.has_bias}"
        text += f", scheme={self.scheme}"
        text += "" if self.activation == "none" else f", activation={self.activation}"
        return text if self.dtype == torch.float32 else f"{text}, dtype={self.spec['dtype']}"
