"""Latency of whole models over batch sizes and lengths, and the same model in another floating-point type."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.machine.timer import Timing, interleave, torch_threads
from kdnative.nn.modes import evaluating

Inputs = Callable[[nn.Module, int, int], Mapping[str, Tensor]]


def latency(
    model: nn.Module,
    batch: int = 1,
    tokens: int = 32,
    *,
    dtype: torch.dtype | str | None = None,
    repeats: int = 30,
    threads: int | None = None,
    inputs: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Times forwards of an encoder or classifier.

    Args:
        model: takes ``input_ids``, ``attention_mask`` and, if its ``forward`` names it, ``token_type_ids``.
        batch: sequences per forward.
        tokens: tokens per sequence, none of them padding.
        dtype: run a copy of the model in this type (``torch.bfloat16`` or ``"bfloat16"``); None runs it as it is.
        repeats: measured samples.
        threads: torch threads; None leaves them.
        inputs: keyword arguments of the forward, instead of the ones made from ``batch`` and ``tokens``.

    Returns:
        ``batch``, ``tokens``, ``threads``, ``repeats``, ``p20``, ``p50``, ``p80`` in milliseconds, and ``samples`` in
        seconds.
    """
    model = model if dtype is None else as_dtype(model, dtype)
    made = example_inputs if inputs is None else lambda *_: inputs
    (row,) = _grid({"": model}, [(batch, tokens)], repeats=repeats, threads=threads, inputs=made)
    return {"batch": batch, "tokens": tokens, "repeats": repeats, **{k: v for k, v in row.items() if k != "model"}}


def latency_grid(
    models: Mapping[str, nn.Module],
    batches: Sequence[int],
    tokens: Sequence[int],
    *,
    repeats: int = 15,
    threads: int | None = None,
    inputs: Inputs | None = None,
) -> list[dict[str, Any]]:
    """Times several models for every batch size and length, interleaved so that their ratios hold on a busy machine.

    Args:
        models: by the name that the rows carry; see :func:`as_dtype` for the same model in another type.
        batches: sequences per forward.
        tokens: tokens per sequence.
        repeats: measured samples per model and case.
        threads: torch threads; None leaves them.
        inputs: from a model, a batch size and a length to the keyword arguments of its forward; None: `example_inputs`.

    Returns:
        One ``{"model", "batch", "tokens", "threads", "p20", "p50", "p80", "samples"}`` per model and case: percentiles
        in milliseconds, samples in seconds, one a round.
    """
    cases = list(itertools.product(batches, tokens))
    return _grid(models, cases, repeats=repeats, threads=threads, inputs=inputs or example_inputs)


def as_dtype(model: nn.Module, dtype: torch.dtype | str) -> nn.Module:
    """A copy of the model in another floating-point type; the model itself is not touched."""
    return copy.deepcopy(model).to(_dtype(dtype)).eval()


def example_inputs(model: nn.Module, batch: int, tokens: int, seed: int = 0) -> dict[str, Tensor]:
    """Token ids within the model's vocabulary (1000 where it names none), a mask without padding, and type ids.

    Type ids are left out where the model's ``forward`` doesn't name them.

    Raises:
        ValueError: not a positive size, or more tokens than the model has positions for.
    """
    if batch < 1 or tokens < 1:
        raise ValueError(f"batch and tokens must be at least 1, got {batch} and {tokens}")
    config = getattr(model, "config", None)
    positions = _limit(config, "max_position_embeddings")
    if positions is not None and tokens > positions:
        raise ValueError(f"{tokens} tokens, but the model has {positions} positions: measure with fewer tokens")
    vocabulary = _limit(config, "vocab_size") or 1000
    generator = torch.Generator().manual_seed(seed)
    # The first ids of a vocabulary are padding and marks; a padding id would shift RoBERTa's positions.
    ids = torch.randint(min(10, vocabulary - 1), vocabulary, (batch, tokens), generator=generator)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "token_type_ids" in _argument_names(model):
        inputs["token_type_ids"] = torch.zeros_like(ids)
    return inputs


def _limit(config: Any, name: str) -> int | None:
    """A limit that a configuration states; None where it has none, which XLNet and others write as -1."""
    value = getattr(config, name, None)
    return value if isinstance(value, int) and value > 0 else None


def _grid(
    models: Mapping[str, nn.Module],
    cases: Sequence[tuple[int, int]],
    *,
    repeats: int,
    threads: int | None,
    inputs: Inputs,
) -> list[dict[str, Any]]:
    rows = []
    with evaluating(*models.values()), torch_threads(threads) as used, torch.inference_mode():
        for batch, tokens in cases:
            calls = {name: _forward(model, inputs(model, batch, tokens)) for name, model in models.items()}
            timings = interleave(calls, rounds=repeats, round_seconds=0.005)
            rows += [_row(name, batch, tokens, used, timing) for name, timing in timings.items()]
    return rows


def _row(name: str, batch: int, tokens: int, threads: int, timing: Timing) -> dict[str, Any]:
    samples = [float(f"{sample:.5g}") for sample in timing.samples]
    case = {"model": name, "batch": batch, "tokens": tokens, "threads": threads}
    return {**case, **timing.percentiles(1e3), "samples": samples}


def _forward(model: nn.Module, inputs: Mapping[str, Tensor]) -> Callable[[], object]:
    return lambda: model(**inputs)


def _argument_names(model: nn.Module) -> set[str]:
    return set(inspect.signature(model.forward).parameters)


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type such as torch.bfloat16 or 'bfloat16', got {dtype!r}")
    return found
