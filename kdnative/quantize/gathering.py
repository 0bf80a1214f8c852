"""Statistics of the inputs of many layers, in as few passes over the data as memory allows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from torch import Tensor, nn

from kdnative.quantize.inputs import InputBatches
from kdnative.quantize.linears import LinearSite
from kdnative.quantize.progress import Progress
from kdnative.quantize.statistics import Accumulator, Statistics
from kdnative.quantize.watching import Enough, Group, forward, watched

__all__ = ["gather", "in_passes"]

MOST_BYTES = 1 << 30
"""Memory for statistics: where all layers need more, the data is run through the model several times."""


def in_passes(groups: Sequence[Group], bytes_of: Callable[[Group], int]) -> Iterator[list[Group]]:
    """Groups whose statistics fit into memory together, in their order."""
    some: list[Group] = []
    held = 0
    for group in groups:
        size = bytes_of(group)
        if some and held + size > MOST_BYTES:
            yield some
            some, held = [], 0
        some, held = [*some, group], held + size
    if some:
        yield some


def gather(
    model: nn.Module,
    sites: Mapping[str, LinearSite],
    batches: InputBatches,
    needs: Mapping[tuple[str, ...], Collection[str]],
    parameters: Mapping[str, Tensor] | None = None,
    until: Group | None = None,
    progress: Progress | None = None,
) -> dict[tuple[str, ...], Statistics]:
    """Statistics of inputs, in one pass over the batches.

    Args:
        model, sites, batches: the linears by name, and what the model is run on.
        needs: the statistics that are wanted of each group of linears, by the names in it.
        parameters: values that the model has in the place of its own, by the names of its parameters.
        until: the last group that is wanted: a forward ends behind it.
        progress: told of every batch.

    Raises:
        ValueError: NaN or infinite inputs, with the layer and the batch.
    """
    leaders = {names[0]: names for names in needs}
    sums = {names: Accumulator(sites[names[0]].inputs, wanted) for names, wanted in needs.items()}

    def on_input(name: str, _: Tensor, x: Tensor) -> None:
        rows, keys, held = batch.rows_of(x, calls[name])
        calls[name] += 1
        sums_of = sums[leaders[name]]
        if not sums_of.add(rows, keys, held if "held" in sums_of.needs else None):
            raise ValueError(
                f"the inputs of {name or 'the model'} hold NaN or infinite values in batch {number} of "
                "calibration, so the float model fails on it: leave the batch out, or repair the model"
            )
        if until is not None and calls[name] == until.calls[number]:
            raise Enough

    with watched(model, {name: sites[name] for name in leaders}, on_input):
        for number, batch in enumerate(batches.all):
            calls = dict.fromkeys(leaders, 0)
            if until is None or until.calls[number]:
                forward(model, batch, parameters)
            if progress is not None:
                progress("reading the data", number + 1, len(batches))
    return {names: sums.pop(names).result() for names in needs}  # each sum is let go before the next is turned
