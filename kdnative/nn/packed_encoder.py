"""What native encoders have in common: one packed buffer, and a state dict of plain tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdnative import ops
from kdnative.nn import encoder_format, encoder_spec
from kdnative.nn.config_checks import Kind, check_config
from kdnative.nn.emptiness import empty, stays_empty, target_of
from kdnative.nn.encoder_parts import EncoderParts
from kdnative.nn.encoder_spec import LINEARS
from kdnative.ops.backends import backend_for

__all__ = ["PackedEncoder"]

_ASSIGN = {"assign_to_params_buffers": True}  # what torch tells modules in load_state_dict(assign=True)


class PackedEncoder(nn.Module):
    """Layers, and whatever comes before them, in one uint8 buffer ``packed``; ``spec`` says what is in it.

    ``state_dict()`` gives plain tensors instead of the buffer, and ``load_state_dict()`` packs them. Modules that are
    not part of the buffer are ordinary children: a class lists them in :meth:`_empty_children`.
    """

    packed: Tensor
    own_kinds: Mapping[str, Kind] = {}
    """What a spec of the class says besides :data:`kdnative.nn.encoder_spec.KINDS`."""

    def __init__(self, spec: dict[str, Any]) -> None:
        """An empty encoder: its weights come with ``load_state_dict`` or :meth:`fill`, and its forward is an error.

        Raises:
            ValueError: an entry of the spec is missing, unknown, or of another kind than it must be.
        """
        super().__init__()
        spec = self.checked(spec)
        with torch.device("cpu"):  # children have weights that are loaded, so not on torch's default device
            self._set(spec, self._empty_children(spec), torch.empty(0, dtype=torch.uint8, device="meta"))

    def _set(self, spec: dict[str, Any], children: dict[str, nn.Module | None], packed: Tensor) -> None:
        self._spec = dict(spec)
        self._plain_names: tuple[str, ...] = ()  # known when somebody asks
        self.register_buffer("packed", packed, persistent=False)
        for name, child in children.items():
            self.register_module(name, child)

    @classmethod
    def checked(cls, spec: dict[str, Any]) -> dict[str, Any]:
        """The complete form of a spec.

        Raises:
            ValueError: an entry is missing, unknown, or of another kind than it must be.
        """
        spec = encoder_spec.complete(spec)
        check_config("encoder spec", spec, {**encoder_spec.KINDS, **cls.own_kinds})
        return spec

    @classmethod
    def plain_shapes(cls, spec: dict[str, Any]) -> encoder_spec.Shapes:
        """Name, shape and dtype (None: any float) of each tensor in ``state_dict()``, by arithmetic alone.

        Raises:
            ValueError: as :meth:`checked`.
        """
        yield from encoder_spec.plain_shapes(cls.checked(spec))

    @classmethod
    def derived_bytes(cls, spec: dict[str, Any]) -> int:
        """Bytes that the packed form has besides them."""
        return encoder_spec.derived_bytes(cls.checked(spec))

    @staticmethod
    def _empty_children(spec: dict[str, Any]) -> dict[str, nn.Module | None]:
        """The children that belong to a spec, without values; None where it has none of that name."""
        raise NotImplementedError

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> PackedEncoder:
        """An empty encoder for inference.

        Raises:
            ValueError: a size is not positive, or a scheme or the activation is unknown.
        """
        return cls(spec).eval()

    @classmethod
    def from_parts(cls, parts: EncoderParts, **children: nn.Module | None) -> PackedEncoder:
        """An encoder from its plain form, and its children as ``parts.spec`` describes them."""
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        module._set(parts.spec, children, encoder_format.pack(parts))
        return module.eval()

    def __getattr__(self, name: str) -> Any:
        # Only asked for what isn't there. Packed weights go by _buffers in forward, which is faster than this anyway.
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            raise AttributeError(
                f"{error}: the parts of a fused encoder are gone; convert_(..., fuse=False) or keep=[...] leaves them",
                name=name,
                obj=self,
            ) from None

    @property
    def spec(self) -> dict[str, Any]:
        """A copy of the sizes, schemes and names this was built from, as JSON can hold them."""
        return {**self._spec, "layers": [dict(layer) for layer in self._spec["layers"]]}

    @property
    def device(self) -> torch.device:
        """Where the weights are: the CPU, if they are anywhere."""
        return self._buffers["packed"].device

    @property
    def is_empty(self) -> bool:
        """Whether it has no weights: a new one, or one that was moved to the meta device."""
        return self._buffers["packed"].is_meta

    def parts(self) -> EncoderParts:
        """A copy of every weight in plain form, without children; RuntimeError when it is empty."""
        if self.is_empty:
            raise RuntimeError(empty(f"kdnative.nn.{type(self).__name__}"))
        with torch.device("cpu"):
            return encoder_format.unpack(self.packed, self.spec)

    def _layers(
        self,
        hidden: Tensor,
        keep: Tensor | None,
        causal: int,
        rotary: Tensor | None = None,
        padding: Tensor | None = None,
    ) -> Tensor:
        """Hidden states ``[B, T, H]`` of any float type and strides after all layers, in that type.

        ``keep`` is 0 for padding, ``padding`` is not; at most one of the two is given.

        Raises:
            RuntimeError: they require grad, which would end here without a word.
        """
        if hidden.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                f"kdnative.nn.{type(self).__name__} is for inference and its input requires grad: call the model under "
                "torch.inference_mode() or torch.no_grad(); to train what comes before it, keep the float model"
            )
        dtype = hidden.dtype
        if dtype != torch.float32:  # asking is faster than a conversion to what it is already
            hidden = hidden.float()
        if hidden.stride(-1) != 1:
            hidden = hidden.contiguous()
        out = ops.encoder_layers(self._buffers["packed"], hidden, keep, causal, rotary, padding)
        return out if dtype == torch.float32 else out.to(dtype)

    def _apply(self, fn, recurse=True):
        if self.is_empty and stays_empty(fn, f"kdnative.nn.{type(self).__name__}"):
            for child in self.children():
                child._apply(fn)
            return self
        target = target_of(fn, self.packed)
        if target.type not in ("meta", "cpu"):
            backend = backend_for(target)
            if not backend.fused:
                raise RuntimeError(
                    f"kdnative.nn.{type(self).__name__} can't move to {target}: kdnative has no fused kernels for it. "
                    "Leave the model on the CPU, or convert it with convert_(..., fuse=False). "
                    "Call .cpu() on the model to bring back what has moved"
                )
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        parts = EncoderParts(self.spec, "meta") if self.is_empty else self.parts()
        destination.update(parts.state_dict(prefix=prefix))

    def fill(self, read: Callable[[str, Tensor | None], Tensor]) -> list[str]:
        """Give an encoder its weights one part after the other, so that they are never all in memory twice.

        Args:
            read: returns the plain tensor of a name of :meth:`plain_names`. Its second argument is None, or memory of
                the packed weights where this tensor belongs as it is: what is put there need not be copied. The tensor
                may have another shape or dtype than the memory; then it is returned elsewhere, and is an error.

        Returns:
            What is wrong with the tensors, in words; if anything is, the encoder is as it was.
        """
        errors: list[str] = []
        parts = EncoderParts(self.spec, "meta")
        names = {module: name for name, module in parts.named_modules()}
        keys: dict[str, list[str]] = {}
        for key in parts.state_dict():
            keys.setdefault(key.rpartition(".")[0], []).append(key)

        def fill(module: nn.Module, places: Mapping[str, Tensor]) -> None:
            name = names[module]
            state = {key: read(key, places.get(key.rpartition(".")[2])) for key in keys[name]}
            module._load_from_state_dict(state, f"{name}.", _ASSIGN, True, [], [], errors)
            if isinstance(module, (nn.LayerNorm, nn.Embedding)):
                errors.extend(f"{name}: {problem}" for problem in _not_finite(module))

        with torch.device("cpu"):
            packed = encoder_format.pack(parts, fill)
        if not errors:
            self.packed = packed if self.packed.is_meta else packed.to(self.packed.device)
        return errors

    def plain_names(self) -> list[str]:
        """Names of the tensors in ``state_dict()``, without those of children."""
        if not self._plain_names:
            self._plain_names = tuple(name for name, _, _ in encoder_spec.plain_shapes(self._spec))
        return list(self._plain_names)

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ):
        super()._load_from_state_dict(state_dict, prefix, local_metadata, False, [], [], [])  # runs pre-hooks
        own, children = self.plain_names(), tuple(f"{prefix}{name}." for name, _ in self.named_children())
        known = {prefix + name: name for name in own}
        given = [key for key in state_dict if key.startswith(prefix)]
        unexpected_keys += [key for key in given if key not in known and not key.startswith(children)]
        missing = [key for key in known if key not in state_dict]
        if not missing:
            error_msgs += self.fill(lambda name, place: state_dict[prefix + name])
        elif len(missing) < len(known):
            self._load_some(state_dict, prefix, strict, missing_keys, error_msgs)
        else:
            missing_keys += missing

    def _load_some(self, state_dict, prefix, strict, missing_keys, error_msgs):
        """Loads what is there; like in torch the rest stays as it is."""
        if self.is_empty:
            missing = [name for name in self.plain_names() if prefix + name not in state_dict]
            missing_keys += [prefix + name for name in missing]
            what = prefix.rstrip(".") or type(self).__name__
            error_msgs.append(f"{what}: it is empty, so all of its tensors are needed; missing: {', '.join(missing)}")
            return
        parts = self.parts()
        before = len(error_msgs)
        for name, module in parts.named_modules(prefix=prefix.rstrip(".")):
            # Torch calls this for each module of a tree; the parts are one, if only for the moment.
            own = f"{name}." if name else ""
            module._load_from_state_dict(state_dict, own, {}, strict, missing_keys, [], error_msgs)
        if len(error_msgs) == before:
            packed = encoder_format.pack(parts)
            self.packed = packed if self.packed.is_meta else packed.to(self.packed.device)

    def extra_repr(self) -> str:
        spec = self._spec
        schemes = sorted({layer[name] for layer in spec["layers"] for name in LINEARS})
        sizes = [f"layers={len(spec['layers'])}", f"hidden_size={spec['hidden_size']}"]
        sizes += [f"vocab_size={spec['vocab_size']}"] if spec["vocab_size"] else []
        return f"{', '.join(sizes)}, schemes={', '.join(schemes)}"


def _not_finite(module: nn.Module) -> Iterator[str]:
    """What is wrong with the values of a module of which every value must be finite."""
    for name, tensor in module.named_parameters(recurse=False):
        if not tensor.is_meta and not bool(torch.isfinite(tensor).all()):
            yield f"{name} holds NaN or infinite values"
