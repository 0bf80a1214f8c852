"""Structured pruning: attention heads, feed-forward neurons and layers go away, and tensors really shrink."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.nn.modes import evaluating
from kdnative.prune.edits import Edits
from kdnative.prune.graph import FeedForward, Graph, Layers, find_graph, linears_of
from kdnative.prune.importance import Scores, call, key_of, magnitude_scores, taylor_scores
from kdnative.prune.mask import masked_modules
from kdnative.prune.report import PruneReport, PruneRow
from kdnative.prune.sizes import Amount, check_amounts, kept_counts, kept_layers, kept_units

__all__ = ["shrink_shapes_", "structured_", "student_from"]


def structured_(
    model: nn.Module,
    heads: Amount = 0.0,
    ffn: Amount = 0.0,
    layers: int | Sequence[int] | None = None,
    *,
    example_inputs: Any,
    calibration: Iterable[Any] | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    importance: str | None = None,
    multiple_of: int = 64,
) -> PruneReport:
    """Removes layers, then heads and neurons, in place, and checks that the model still runs.

    Known are the layers of every family that is fused (docs/models.md, :mod:`kdnative.models.families`), those of
    families that you register, and layers with the module names of BERT, MPNet or DistilBERT, with `nn.Linear` or
    `FakeQuantLinear` inside; for `ffn` also chains of linears with elementwise functions between them in an
    `nn.Sequential`. With shares, every layer of a stack keeps the same number of heads and of neurons; lists give each
    layer its own. The gate of a gated feed-forward network goes with its neuron. Heads stay in stacks whose attention
    has no room for fewer (``heads_stay`` of a family). Parameters that shrink become new objects: make the optimizer
    afterwards.

    Args:
        model: the model; its own output width never changes.
        heads: share of attention heads to remove from each layer, 0 <= heads < 1; or how many heads to keep, a list of
            one whole number for each (kept) layer, such as ``[6, 4, 4, 2, 2, 2]``.
        ffn: share of feed-forward neurons to remove from each layer, 0 <= ffn < 1; or how many to keep, a list.
        layers: which layers to keep: a count (see `evenly_spaced`) or indices in ascending order. None keeps all.
        example_inputs: a mapping (keyword arguments), tuple (positional) or tensor that the model can run on.
        calibration: batches for Taylor importance (`taylor_scores`); with them heads and neurons are ranked by it.
        loss: ``loss(model, batch)`` for calibration; None takes ``model(**batch).loss``.
        importance: "taylor" or "magnitude"; None means "taylor" when there is calibration, else "magnitude".
        multiple_of: kernel tile. The kept widths of attention (heads x head size) and of the feed-forward part are
            rounded to the nearest multiple, up at a tie, at least one; where the full width is not larger than one
            tile, to the nearest head or neuron. At least one head and one neuron stay. Numbers in lists have to give
            such widths; they are not rounded.

    Returns:
        A row for every linear that shrank and every layer that went.

    Raises:
        ValueError: an argument out of range, a model without known parts, a masked model, or one whose output after
            pruning is not finite or has another shape. Whatever goes wrong, the model is exactly as it was before.
    """
    check_amounts(heads=heads, ffn=ffn)
    if multiple_of < 1:
        raise ValueError(f"multiple_of={multiple_of}; 1 or more is needed")
    method = _method(importance, calibration)
    graph = find_graph(model)
    _check_known(model, graph, heads, ffn, layers)
    before = _first_output(model, example_inputs, "before pruning")
    rows: list[PruneRow] = []
    with Edits() as edits:
        if layers is not None:
            for stack in graph.stacks:
                rows += _drop_layers(edits, stack, kept_layers(layers, len(stack)))
        if heads or ffn:
            scores = taylor_scores(model, graph, calibration, loss) if method == "taylor" else magnitude_scores(graph)
            sizes = _linear_sizes(graph)
            if heads:
                _drop_heads(edits, graph, scores, heads, multiple_of)
            if ffn:
                _drop_neurons(edits, graph, scores, ffn, multiple_of)
            rows += _changed(sizes, graph)
        after = _output_after(model, example_inputs)
        if after.shape != before.shape:
            raise ValueError(
                f"pruning changed the output from shape {list(before.shape)} to {list(after.shape)}, because "
                "the model uses its layers in an unknown way. It has been restored"
            )
    return PruneReport(rows)


def student_from(teacher: nn.Module, layers: int | Sequence[int]) -> nn.Module:
    """A copy of a model that has only some of its encoder layers; embeddings and heads are copied whole.

    Args:
        teacher: a model with known layers (see `structured_`), not changed.
        layers: a count (`evenly_spaced`) or ascending indices of the layers to copy.

    Returns:
        The smaller model, with ``config.num_hidden_layers`` set.
    """
    student = copy.deepcopy(teacher)
    graph = find_graph(student)
    _check_known(student, graph, 0.0, 0.0, layers)
    edits = Edits()
    for stack in graph.stacks:
        edits.keep_layers(stack, kept_layers(layers, len(stack)))
    return student


@torch.no_grad()
def shrink_shapes_(
    model: nn.Module,
    heads: Amount = 0.0,
    ffn: Amount = 0.0,
    layers: int | Sequence[int] | None = None,
    *,
    multiple_of: int = 64,
) -> None:
    """Gives a model, even one on the meta device, the shapes that `structured_` would leave: the first units stay.

    Raises:
        ValueError: what `structured_` refuses before it looks at weights. The model is then as it was.
    """
    check_amounts(heads=heads, ffn=ffn)
    graph = find_graph(model)
    _check_known(model, graph, heads, ffn, layers)
    with Edits() as edits:
        if layers is not None:
            for stack in graph.stacks:
                _drop_layers(edits, stack, kept_layers(layers, len(stack)))
        scores = {attention.name: torch.zeros(attention.heads) for attention in graph.attentions}
        scores |= {key_of(part): torch.zeros(part.width) for part in graph.all_feed_forwards}
        if heads:
            _drop_heads(edits, graph, scores, heads, multiple_of)
        if ffn:
            _drop_neurons(edits, graph, scores, ffn, multiple_of)


def _drop_layers(edits: Edits, layers: Layers, kept: list[int]) -> list[PruneRow]:
    rows = []
    for index, (key, layer) in enumerate(layers.stack.container.named_children()):
        if index not in kept:
            count = sum(p.numel() for p in layer.parameters())
            rows.append(PruneRow(f"{layers.stack.name}.{key}", "layer", None, None, count, 0))
    if rows:
        edits.keep_layers(layers, kept)
    return rows


def _drop_heads(edits: Edits, graph: Graph, scores: Scores, heads: Amount, multiple_of: int) -> None:
    for stack in (each for each in graph.stacks if each.attentions):
        attentions = stack.attentions
        counts = kept_counts(
            "heads", heads, [a.heads for a in attentions], [a.head_size for a in attentions], multiple_of
        )
        total = None
        if stack.shared_bias is not None:
            if len(set(counts)) > 1:
                raise ValueError(
                    f"heads={counts}: the layers of {stack.stack.family.name} share one position bias, with a column "
                    "for each head: give the same number for every layer"
                )
            total = torch.stack([scores[a.name] for a in attentions]).sum(0)
        for attention, count in zip(attentions, counts, strict=True):
            kept = _largest(scores[attention.name] if total is None else total, count)
            if count < attention.heads:
                edits.keep_heads(attention, kept)
        if stack.shared_bias is not None and len(kept) < stack.shared_bias.embedding_dim:
            edits.keep_shared_bias(stack, kept)


def _drop_neurons(edits: Edits, graph: Graph, scores: Scores, ffn: Amount, multiple_of: int) -> None:
    for part, count in _kept_neurons(graph, ffn, multiple_of):
        if count < part.width:
            edits.keep_neurons(part, _largest(scores[key_of(part)], count))
    _set_intermediate_size(edits, graph)


def _kept_neurons(graph: Graph, ffn: Amount, multiple_of: int) -> Iterator[tuple[FeedForward, int]]:
    """Numbers are for the layers of stacks; a share also for the linears outside of them."""
    if not isinstance(ffn, Sequence):
        for part in graph.all_feed_forwards:
            yield part, kept_units(part.width, ffn, 1, multiple_of)
        return
    for stack in graph.stacks:
        parts = stack.feed_forwards
        counts = kept_counts("ffn", ffn, [part.width for part in parts], [1] * len(parts), multiple_of)
        yield from zip(parts, counts, strict=True)


def _set_intermediate_size(edits: Edits, graph: Graph) -> None:
    """The configuration follows when all layers of an encoder agree."""
    for stack in graph.stacks:
        widths = {ffn.width for ffn in stack.feed_forwards}
        config, names = stack.stack.config, stack.stack.family.ffn_size
        for name in names:
            if len(widths) == 1 and isinstance(getattr(config, name, None), int):
                edits.set(config, name, widths.copy().pop())


def _largest(scores: Tensor, count: int) -> Tensor:
    """Indices of the largest scores, ascending; of equal ones the first."""
    return scores.sort(descending=True, stable=True).indices[:count].sort().values


def _linear_sizes(graph: Graph) -> dict[str, tuple[str, nn.Linear, list[int], int]]:
    """What, module, weight shape and parameters of every linear in the graph, by name."""
    return {n: (what, m, list(m.weight.shape), _count(m)) for n, m, what in linears_of(graph)}


def _changed(sizes: dict[str, tuple[str, nn.Linear, list[int], int]], graph: Graph) -> list[PruneRow]:
    return [
        PruneRow(name, what, shape, list(linear.weight.shape), count, _count(linear))
        for name, (what, linear, shape, count) in sizes.items()
        if list(linear.weight.shape) != shape
    ]


def _count(linear: nn.Linear) -> int:
    return linear.weight.numel() + (0 if linear.bias is None else linear.bias.numel())


def _method(importance: str | None, calibration: Iterable[Any] | None) -> str:
    if importance not in (None, "taylor", "magnitude"):
        raise ValueError(f"importance={importance!r}; allowed are 'taylor', 'magnitude' and None")
    if importance == "taylor" and calibration is None:
        raise ValueError("importance='taylor' needs calibration=, an iterable of batches")
    return importance or ("magnitude" if calibration is None else "taylor")


def _check_known(
    model: nn.Module, graph: Graph, heads: Amount, ffn: Amount, layers: int | Sequence[int] | None
) -> None:
    found = {"heads": graph.attentions, "ffn": graph.all_feed_forwards, "layers": graph.stacks}
    if isinstance(ffn, Sequence) and not graph.stacks:
        raise ValueError(f"ffn={list(ffn)}: {type(model).__name__} has no stack of layers: give a share to remove")
    asked = {"heads": heads, "ffn": ffn, "layers": layers is not None}
    missing = [name for name, parts in found.items() if asked[name] and not parts]
    if missing:
        stay = [f"heads of {s.stack.family.name} stay: {s.stack.family.heads_obstacle}" for s in graph.stacks if heads]
        why = "; ".join((*graph.obstacles, *dict.fromkeys(stay)))
        raise ValueError(
            f"{type(model).__name__} has nothing that {', '.join(missing)} could prune"
            + (f" ({why})" if why else "")
            + ". Supported are the layers listed in docs/models.md, families registered with "
            "kdnative.models.register, and for ffn also linear layers in an nn.Sequential"
        )
    for stack in (each.stack for each in graph.stacks if layers is not None):
        if stack.family.layers_stay:
            raise ValueError(f"layers in {stack.name} of {stack.family.name} can't go: {stack.family.layers_stay}")
    if masked := masked_modules(model):
        raise ValueError(
            f"{next(iter(masked))} has a mask, which would no longer fit: prune the structure first and mask "
            "afterwards, or call finalize_masks_ before pruning"
        )


def _output_after(model: nn.Module, inputs: Any) -> Tensor:
    try:
        return _first_output(model, inputs, "after pruning")
    except (RuntimeError, AttributeError, LookupError) as error:
        raise ValueError(
            f"{type(model).__name__} can't run with fewer heads, neurons or layers, because its code uses "
            f"fixed sizes. It has been restored. Its error: {error}"
        ) from error


@torch.no_grad()
def _first_output(model: nn.Module, inputs: Any, when: str) -> Tensor:
    with evaluating(model):
        output = call(model, inputs)
    first = _first_tensor(output)
    if first is None:
        raise ValueError(
            f"the model returned no tensor with dimensions for example_inputs {when}, but a {type(output).__name__}"
        )
    if not bool(torch.isfinite(first).all()):
        raise ValueError(f"the model's output for example_inputs holds NaN or infinite values {when}")
    return first


def _first_tensor(value: Any) -> Tensor | None:
    """The first tensor that is not a scalar: a Hugging Face output may begin with a loss."""
    if isinstance(value, Tensor):
        return value if value.dim() else None
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return next((t for t in map(_first_tensor, value) if t is not None), None)
    return None
