"""Logits of a model over a dataset, whatever the model's output looks like."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.data.batches import Batches, EncodedDataset
from kdnative.nn.modes import evaluating

__all__ = ["Predictions", "autocast", "fast_bf16", "logits_of", "predict", "select_device"]


@dataclass(frozen=True)
class Predictions:
    """Logits fp32 [N, C] in the order of the dataset, labels as in a `Batch`, and the names of the classes.

    A regression model has one logit, its prediction, and no names of classes.
    """

    logits: Tensor
    labels: Tensor | None
    label_names: tuple[str, ...] = ()

    @property
    def classes(self) -> Tensor:
        """int64 [N], the predicted class of every example."""
        return self.logits.argmax(-1)

    @property
    def probabilities(self) -> Tensor:
        """fp32 [N, C]."""
        return self.logits.softmax(-1)


def logits_of(output: Any) -> Tensor:
    """The logits in a model's output: a tensor, ``output.logits``, ``output["logits"]``, or a tuple's first item."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    if isinstance(getattr(output, "logits", None), Tensor):
        return output.logits
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    raise TypeError(f"no logits in a {type(output).__name__}: return a tensor, a tuple, or an object with .logits")


def select_device(device: str | torch.device = "auto") -> torch.device:
    """ "auto" is CUDA where there is a device, else the CPU."""
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f'device={str(device)!r}: torch finds no CUDA device here; use "cpu" or "auto"')
    return chosen


def fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware (CPU: AMX or AVX-512 BF16)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    probes = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(probe() for probe in probes if probe is not None)


def autocast(device: torch.device, amp: bool | str = "auto"):
    """A bf16 autocast context: on, off, or "auto": on where `fast_bf16`."""
    if amp not in (True, False, "auto"):
        raise ValueError(f'amp={amp!r}: allowed are True, False and "auto"')
    if amp is False or (amp == "auto" and not fast_bf16(device)):
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def predict(
    model: nn.Module,
    data: EncodedDataset | Batches,
    *,
    batch_size: int = 64,
    device: str | torch.device = "auto",
    amp: bool | str = False,
) -> Predictions:
    """Runs a classifier, or a regression model, over a dataset.

    Args:
        model: called with a batch's inputs as keywords; moved to `device`.
        data: an encoded dataset (batched by length) or `Batches` that cover theirs once.
        batch_size: for an encoded dataset.
        device: "auto", "cpu", "cuda" ...
        amp: bf16 autocast: True, False or "auto".

    Returns:
        `Predictions` in the order of the dataset, on the CPU.
    """
    batches = Batches(data, batch_size) if isinstance(data, EncodedDataset) else data
    device = select_device(device)
    model.to(device)
    found, index, labels = [], [], []
    with evaluating(model), autocast(device, amp):
        for batch in batches:
            logits = logits_of(model(**batch.to(device).inputs))
            if logits.dim() != 2 or len(logits) != len(batch):
                raise ValueError(
                    f"the model returned logits {list(logits.shape)} for {len(batch)} examples, not one row each"
                )
            found.append(logits.float().cpu())
            index.append(batch.index)
            labels += [] if batch.labels is None else [batch.labels]
    if not found:
        raise ValueError("the dataset is empty: there is nothing to predict")
    order = torch.cat(index).argsort()
    kept = torch.cat(labels)[order] if labels else None
    names = getattr(getattr(batches, "data", None), "label_names", ())
    return Predictions(torch.cat(found)[order], kept, names)
