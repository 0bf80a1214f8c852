"""A drop-in replacement of ``torch.nn.Embedding`` that keeps its table in int8."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling

from kdnative.nn.config_checks import COUNT, DTYPE, OPTIONAL_COUNT, check_config, one_of
from kdnative.nn.emptiness import empty, stays_empty
from kdnative.nn.lazy_weight import FLOAT_TYPES, asked_dtype, lazy_weight
from kdnative.quantize import QuantizedWeight, quantize_weight

__all__ = ["Embedding"]


class Embedding(nn.Module):
    """Looks rows up in an int8 table with one float32 scale per row: ``y = qweight[id] * scale[id]``.

    ``state_dict()`` holds ``qweight`` int8 ``[V, D]`` and ``scale`` float32 ``[V]``; ``load_state_dict()`` also takes
    the ``weight`` of the float layer this one replaces, and quantizes. ``.to(dtype)``, ``.half()`` and the like change
    the dtype of the output only; table and scales stay as they are. The output never requires grad.

    Args:
        num_embeddings: V.
        embedding_dim: D.
        padding_idx: kept for code that reads it; the forward treats that row like any other, as torch's does.
        bits: 8, the only width there is.
        dtype: of the output: torch.float32, torch.bfloat16 or torch.float16, or its name.

    A new module is empty: it has no table until ``load_state_dict()`` brings one, and its forward is an error.

    Raises:
        ValueError: another number of bits or dtype, a negative size, or padding_idx outside the table.
    """

    qweight: Tensor
    scale: Tensor
    dtype: torch.dtype

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        bits: int = 8,
        dtype: torch.dtype | str = torch.float32,
    ) -> None:
        super().__init__()
        if num_embeddings < 0 or embedding_dim < 0:
            raise ValueError(
                f"num_embeddings and embedding_dim must not be negative: {num_embeddings}, {embedding_dim}"
            )
        if bits != 8:
            raise ValueError(f"embedding tables have 8 bits, got bits={bits!r}")
        dtype = FLOAT_TYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype
        if dtype not in FLOAT_TYPES.values():
            raise ValueError(f"dtype {dtype} is not one of {', '.join(FLOAT_TYPES)}")
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(f"padding_idx {padding_idx} is outside a table of {num_embeddings} rows")
        self.num_embeddings, self.embedding_dim, self.bits = num_embeddings, embedding_dim, bits
        self.padding_idx = padding_idx + num_embeddings if padding_idx is not None and padding_idx < 0 else padding_idx
        self.dtype = dtype
        self.register_buffer("qweight", torch.empty(num_embeddings, embedding_dim, dtype=torch.int8, device="meta"))
        self.register_buffer("scale", torch.empty(num_embeddings, dtype=torch.float32, device="meta"))

    @classmethod
    def from_float(cls, embedding: nn.Embedding, bits: int = 8) -> Embedding:
        """Quantize the table of ``embedding`` (not changed), one scale per row; the output keeps its dtype.

        Raises:
            ValueError: NaN or infinite values in the table, or ``max_norm``, which changes the table while running.
        """
        if embedding.max_norm is not None:
            raise ValueError("an embedding with max_norm rewrites its table at every call and can't be quantized")
        table = embedding.weight.detach()
        weight = quantize_weight(table, "w8a8")
        module = cls(table.shape[0], table.shape[1], embedding.padding_idx, bits, table.dtype)
        module.qweight, module.scale = weight.qweight, weight.scale
        return module.eval()

    def forward(self, ids: Tensor) -> Tensor:
        """int64 or int32 ids ``[...]`` in [0, V) -> ``[..., D]`` in ``self.dtype``.

        Raises:
            IndexError: an id outside the table. RuntimeError: the module is empty.
        """
        if self.is_empty and not ids.is_meta:
            raise RuntimeError(empty("kdnative.nn.Embedding"))
        rows = F.embedding(ids, self.qweight).to(torch.float32)
        return (rows * self.scale[ids].unsqueeze(-1)).to(self.dtype)

    def quantized(self) -> QuantizedWeight:
        """The table in plain form, ``[V, D]``; RuntimeError when the module is empty."""
        if self.is_empty:
            raise RuntimeError(empty("kdnative.nn.Embedding"))
        return QuantizedWeight.unchecked(self.qweight, self.scale, None, 8, None)

    @property
    def is_empty(self) -> bool:
        """Whether the module has no table: a new one, or one that was moved to the meta device."""
        return self._buffers["qweight"].is_meta

    @property
    def weight(self) -> Tensor:
        """The dequantized table, ``[V, D]`` in ``self.dtype``, for code that inspects weights.

        Its dtype, device and shape are free; every other use dequantizes, so keep ``weight.clone()`` to use it often.
        It is a copy: writing to it raises RuntimeError.
        """
        if is_compiling():
            return (self.qweight.float() * self.scale[:, None]).to(self.dtype)
        shape = (self.num_embeddings, self.embedding_dim)
        return lazy_weight(shape, self.dtype, self.qweight.device, lambda: self.quantized().dequantize().to(self.dtype))

    @property
    def spec(self) -> dict:
        """The constructor's arguments, as JSON can hold them: ``Embedding(**module.spec)``."""
        return {
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "padding_idx": self.padding_idx,
            "bits": self.bits,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    @classmethod
    def plain_shapes(cls, config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
        """Name, shape and dtype of each tensor in ``state_dict()``, by arithmetic alone.

        Args:
            config: as :attr:`spec` gives it.

        Raises:
            ValueError: an entry is missing, unknown, or of another kind than it must be.
        """
        kinds = {"num_embeddings": COUNT, "embedding_dim": COUNT, "padding_idx": OPTIONAL_COUNT}
        check_config("embedding", config, {**kinds, "bits": one_of(8), "dtype": DTYPE})
        rows = config["num_embeddings"]
        yield "qweight", (rows, config["embedding_dim"]), torch.int8
        yield "scale", (rows,), torch.float32

    def _apply(self, fn, recurse=True):
        # Module.to(dtype) would round the scales. What it asks for is the dtype of the output.
        dtype = asked_dtype(fn, self.dtype)
        if dtype not in FLOAT_TYPES.values():
            raise TypeError(f"kdnative.nn.Embedding can't give {dtype}: allowed are {', '.join(FLOAT_TYPES)}")

        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        if not (self.is_empty and stays_empty(fn, "kdnative.nn.Embedding")):
            super()._apply(keep_dtype, recurse)
        self.dtype = dtype
        return self

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ):
        from_float = prefix + "weight" in state_dict and prefix + "qweight" not in state_dict
        if from_float:
            weight = state_dict[prefix + "weight"]
            state_dict = {key: value for key, value in state_dict.items() if key != prefix + "weight"}
            try:
                plain = quantize_weight(weight.detach(), "w8a8")
            except (TypeError, ValueError) as error:
                error_msgs.append(f"{prefix}weight: {error}")
                return
            state_dict |= {prefix + "qweight": plain.qweight, prefix + "scale": plain.scale}
        for name, own in self._buffers.items():
            given = state_dict.get(prefix + name, own)
            if given.dtype != own.dtype:  # copying would round in silence
                error_msgs.append(
                    f"dtype mismatch for {prefix}{name}: the checkpoint has {given.dtype}, the model needs {own.dtype}."
                )
                return
        if {prefix + "qweight", prefix + "scale"} <= state_dict.keys():
            codes, scale = state_dict[prefix + "qweight"], state_dict[prefix + "scale"]
            try:
                if codes.shape == self.qweight.shape and not codes.is_meta and not from_float:
                    QuantizedWeight(codes, scale, None, 8, None)
            except ValueError as error:
                error_msgs.append(f"{prefix.rstrip('.') or type(self).__name__}: {error}")
                return
        if self.is_empty:  # nothing to copy into: the tensors become the module's own
            if not (from_float or local_metadata.get("assign_to_params_buffers")):
                own = {prefix + name for name in self._buffers}
                state_dict = {key: value.clone() if key in own else value for key, value in state_dict.items()}
            local_metadata = {**local_metadata, "assign_to_params_buffers": True}
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        dtype = "" if self.dtype == torch.float32 else f", dtype={self.spec['dtype']}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}, bits={self.bits}{dtype}"
