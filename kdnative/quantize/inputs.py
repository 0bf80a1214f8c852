"""Calibration data: batches of a model's inputs, or texts, and which rows of an activation belong to which example."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.shown import shown

__all__ = ["InputBatch", "InputBatches", "bytes_of"]

FEW_EXAMPLES = 16
"""Fewer are worth a warning."""

_ONE_IN = 16
"""One of so many examples is held out."""

_MASKS = ("attention_mask", "decoder_attention_mask")
_PADDING = "key_padding_mask"  # of torch: src_key_padding_mask and others, in which padding is True, or -inf
_HOW = (
    "give calibration=[batch, ...], where a batch is a dict of the model's keyword arguments, a tuple of its arguments "
    "or a tensor; or a list of texts and tokenizer="
)


@dataclass(frozen=True)
class InputBatch:
    """One call of the model.

    Args:
        args, kwargs: of the call. A dict among them, such as sentence-transformers takes, is copied for each call.
        masks: bool [B, T], True where there is a token: the distinct masks of the batch.
        examples: int64 [B], a hash of each example's values without its padding; empty if the batch holds no tensor.
        held: the hashes of examples that no method sees: on these, errors are measured.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    masks: tuple[Tensor, ...] = ()
    examples: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64, device="cpu"))
    held: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64, device="cpu"))

    @classmethod
    def of(cls, given: Any, number: int) -> InputBatch:
        """A batch as a user has it, without the labels of images.

        Raises:
            TypeError: it is none. ValueError: it is empty, or all padding.
        """
        inputs = getattr(given, "inputs", None)  # kdnative.data.Batch
        if isinstance(inputs, Mapping):
            given = inputs
        if isinstance(given, Mapping):
            args, kwargs = (), dict(given)
        elif isinstance(given, tuple | list):
            args, kwargs = tuple(given[:1] if _is_labelled(given) else given), {}
        elif isinstance(given, Tensor):
            args, kwargs = (given,), {}
        else:
            raise TypeError(f"batch {number} of calibration is a {type(given).__name__} ({shown(given)}): {_HOW}")
        tensors = _tensors({**{str(i): value for i, value in enumerate(args)}, **kwargs})
        if not tensors or any(0 in tensor.shape for tensor in tensors.values()):
            raise ValueError(f"batch {number} of calibration holds no values: {_HOW}")
        masks = _distinct(mask for name, tensor in tensors.items() if (mask := _mask(name, tensor)) is not None)
        if any(not bool(mask.any()) for mask in masks):
            raise ValueError(f"batch {number} of calibration holds only padding, according to its mask")
        return cls(args, kwargs, masks, _hashes(tensors, masks))

    def rows_of(self, x: Tensor, call: int) -> tuple[Tensor, Tensor, Tensor]:
        """The inputs ``[K]`` in an activation, without those of padding.

        Args:
            x: [..., K], an input of a linear. Padding is known where it is [B, T, K] and just one of the masks is
                [B, T]; otherwise every row counts.
            call: how often the linear was called before in this forward.

        Returns:
            Rows [M, K], and an int64 key [M] of each, a hash: the same for any order of the batches and wherever they
            are cut, if the first dimension of ``x`` is that of the batch. And which rows are of examples that are held
            out, bool [M]; where nobody knows of which example a row is, about every sixteenth by its key.
        """
        flat, count = x.reshape(-1, x.shape[-1]), len(self.examples)
        mask = self._mask_of(x)
        if mask is not None:
            places = mask.cumsum(1) - 1
            example, place = self.examples[:, None].expand_as(mask)[mask], places[mask]
            flat = x[mask.to(x.device)]
        elif x.dim() > 1 and x.shape[0] == count:
            each = len(flat) // count
            example = self.examples.repeat_interleave(each)
            place = torch.arange(each, device="cpu").repeat(count)
        else:
            place = torch.arange(len(flat), device="cpu")
            keys = self._keys(_mixed(self.examples).sum(), place, call)
            return flat, keys, (keys.remainder(_ONE_IN) == 0) & (place > 0)
        return flat, self._keys(example, place, call), torch.isin(example, self.held)

    @staticmethod
    def _keys(example: Tensor, place: Tensor, call: int) -> Tensor:
        return _mixed(_mixed(example + 0x9E3779B9 * (call + 1)) + place)

    def _mask_of(self, x: Tensor) -> Tensor | None:
        fitting = [mask for mask in self.masks if x.dim() == 3 and x.shape[:2] == mask.shape]
        return fitting[0] if len(fitting) == 1 else None

    def call(self, model: nn.Module, device: torch.device) -> Any:
        """The model's answer, tensors on its device."""
        args = (_on(value, device) for value in self.args)
        kwargs = {name: _on(value, device) for name, value in self.kwargs.items()}
        if kwargs and takes_dictionary(model):
            return model(*args, kwargs)
        return model(*args, **kwargs)


def takes_dictionary(model: nn.Module) -> bool:
    """Whether a model takes its inputs as one dictionary, as a SentenceTransformer does."""
    return any(kind.__name__ == "SentenceTransformer" for kind in type(model).__mro__)


class InputBatches:
    """All batches of a calibration, checked.

    Args:
        given: an iterable of batches, see `InputBatch.of`, or of texts.
        tokenizer: of transformers, for texts.
        max_length: longer texts are cut to this many tokens.
        batch_size: texts in a batch.

    Raises:
        TypeError: neither batches nor texts. ValueError: nothing in them, texts without a tokenizer.
    """

    def __init__(
        self, given: Iterable[Any], tokenizer: Any = None, max_length: int = 128, batch_size: int = 32
    ) -> None:
        if isinstance(given, str | bytes | Mapping | Tensor) or not isinstance(given, Iterable):
            raise TypeError(f"calibration is a {type(given).__name__}, not a list of batches: {_HOW}")
        items = list(given)
        if items and all(isinstance(item, str) for item in items):
            if tokenizer is None:
                raise ValueError("calibration is a list of texts: give tokenizer= as well")
            items = _tokenized(items, tokenizer, max_length, batch_size)
        if not items:
            raise ValueError(f"calibration holds no data (a generator can be read only once): {_HOW}")
        self.all = [InputBatch.of(item, number) for number, item in enumerate(items)]
        held = self._held_out()
        self.all = [replace(batch, held=held) for batch in self.all]

    def _held_out(self) -> Tensor:
        """A sixteenth of the different examples, at least one, chosen by their hashes; none where all are alike."""
        different = torch.cat([batch.examples for batch in self.all]).unique()
        count = 0 if len(different) < 2 else max(len(different) // _ONE_IN, 1)
        return different[_mixed(different + 1).argsort()[:count]]

    def __len__(self) -> int:
        return len(self.all)

    @property
    def examples(self) -> int:
        """How many there are, by the first dimension of each batch."""
        return sum(len(batch.examples) for batch in self.all)

    def warn_if_few(self, stacklevel: int = 3) -> None:
        """UserWarning where there is too little data to say much; ``stacklevel`` as for ``warnings.warn``."""
        if 0 < (count := self.examples) < FEW_EXAMPLES:
            few = f"{count} example{'s'[: count > 1]}, which say{'s'[: count == 1]}"
            warnings.warn(
                f"calibration has {few} little of a layer's inputs: 128 texts are usual", stacklevel=stacklevel
            )

    def digest(self) -> str:
        """SHA-256 of all values in their order, hexadecimal."""
        digest = hashlib.sha256()
        for batch in self.all:
            for name, value in (*enumerate(batch.args), *batch.kwargs.items()):
                held = _tensors({str(name): value})
                for inner, tensor in held.items():
                    digest.update(f"{name} {inner} {tensor.dtype} {list(tensor.shape)}".encode() + bytes_of(tensor))
                if not held:
                    digest.update(f"{name} {value!r}".encode())
        return digest.hexdigest()


def _is_labelled(given: Sequence[Any]) -> bool:
    """Whether it is a batch of images [N, C, H, W] and a label for each, as data sets of pictures have them."""
    if len(given) != 2 or not all(isinstance(each, Tensor) for each in given):
        return False
    images, labels = given
    return images.dim() == 4 and labels.dim() == 1 and len(labels) == len(images) and not labels.is_floating_point()


def _tokenized(texts: Sequence[str], tokenizer: Any, max_length: int, batch_size: int) -> list[dict[str, Tensor]]:
    """Batches of texts of about the same length; texts without tokens are left out."""
    if max_length < 1 or batch_size < 1:
        raise ValueError(f"max_length={max_length} and batch_size={batch_size} must be at least 1")
    lengths = [len(ids) for ids in tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]]
    order = [i for i in sorted(range(len(texts)), key=lambda i: -lengths[i]) if lengths[i]]
    if getattr(tokenizer, "pad_token_id", None) is None:
        batch_size = 1
    options = {"truncation": True, "max_length": max_length, "padding": batch_size > 1, "return_tensors": "pt"}
    cuts = range(0, len(order), batch_size)
    return [dict(tokenizer([texts[i] for i in order[cut : cut + batch_size]], **options)) for cut in cuts]


def _tensors(values: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors among some values, and those in dicts among them."""
    found: dict[str, Tensor] = {}
    for name, value in values.items():
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, Mapping):
            found |= {str(inner): tensor for inner, tensor in value.items() if isinstance(tensor, Tensor)}
    return found


def _mask(name: str, tensor: Tensor) -> Tensor | None:
    """bool [B, T], True where there is a token; None of what is no mask."""
    if tensor.dim() != 2 or not (name in _MASKS or name.endswith(_PADDING)):
        return None
    zero = tensor.detach().cpu() == 0
    return zero if name.endswith(_PADDING) else ~zero


def _distinct(masks: Iterable[Tensor]) -> tuple[Tensor, ...]:
    found: list[Tensor] = []
    for mask in masks:
        if not any(torch.equal(mask, other) for other in found):
            found.append(mask)
    return tuple(found)


def _hashes(tensors: Mapping[str, Tensor], masks: Sequence[Tensor]) -> Tensor:
    """int64 [B]: of each example's own values, where its padding is known without that."""
    first = next((tensor for tensor in tensors.values() if tensor.dim()), None)
    if first is None:
        return torch.empty(0, dtype=torch.int64, device="cpu")
    count, found = first.shape[0], []
    own = [tensor.detach().cpu() for tensor in tensors.values() if tensor.dim() and tensor.shape[0] == count]
    for i in range(count):
        digest = hashlib.blake2b(digest_size=8)
        for tensor in own:
            fitting = [mask for mask in masks if tensor.shape[:2] == mask.shape]
            digest.update(bytes_of(tensor[i][fitting[0][i]] if len(fitting) == 1 else tensor[i]))
        found.append(int.from_bytes(digest.digest(), "little", signed=True))
    return torch.tensor(found, dtype=torch.int64, device="cpu")


def _mixed(keys: Tensor) -> Tensor:
    """A hash of int64 keys (the finalizer of MurmurHash3, with signed shifts)."""
    for factor in (-0x00AE502812AA7333, -0x3B314601E57A13AD):
        keys = (keys ^ (keys >> 33)) * factor
    return keys ^ (keys >> 33)


def bytes_of(tensor: Tensor) -> bytes:
    """A tensor's values, for hashes."""
    values = tensor.detach().cpu().contiguous().view(-1)
    return values.view(torch.uint8).numpy().tobytes() if values.numel() else b""


def _on(value: Any, device: torch.device) -> Any:
    if isinstance(value, Mapping):  # a copy: models may write into it
        return {name: _on(inner, device) for name, inner in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value
