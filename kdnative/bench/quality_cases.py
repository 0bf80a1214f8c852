"""The cases of ``kdnative bench quality``: a scheme, or zeros in one shot, and the ways that are compared in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdnative.bench.quality_peers import peers as peers_of
from kdnative.bench.quality_ways import SPARSE, Way, sparse_ways, ways
from kdnative.formats.scheme import Scheme
from kdnative.ops.backends import accepted

_SPARSE_SCHEME = "w8a8"


@dataclass(frozen=True)
class Case:
    """What is compared.

    Attributes:
        name: of a table.
        scheme: of the native models.
        ways: the first one is the baseline.
        beside: the one of ours that is held against the best peer. It is settled before anything is measured: the best
            of several on the texts that measure would be too good.
    """

    name: str
    scheme: str
    ways: tuple[Way, ...]
    beside: str | None = None


def cases_of(
    task: str,
    wanted: Sequence[str],
    examples: int,
    *,
    methods: Sequence[str] | None = None,
    counts: Sequence[int] = (),
    peers: bool = True,
) -> list[Case]:
    """The cases of a task.

    Args:
        task: of the subject. Zeros in one shot are of classifiers, peers of embedders and classifiers; language models
            have the cases of ``DECODER``.
        wanted: names: schemes, or patterns of zeros.
        examples: texts that calibrate.
        methods, counts: see `kdnative.bench.quality_ways.ways`.
        peers: with other libraries.

    Raises:
        ValueError: an unknown scheme or method.
    """
    if task == "decoder":
        examples = min(examples, WINDOWS)
        return [Case(name, name, tuple(ways(examples, methods or chosen))) for name, chosen in DECODER.items()]
    found = []
    for name in wanted:
        if name in SPARSE:
            if task == "classifier":
                found.append(Case(name, _SPARSE_SCHEME, tuple(sparse_ways(name, examples))))
            continue
        scheme = accepted(name)
        # How the number of texts counts is shown once, at 4 bits.
        more = counts if scheme.weight_bits == 4 and scheme.activation_bits == 8 else ()
        ours = ways(examples, methods or _fitting(scheme.weight_bits, scheme.activation_bits), more)
        others = peers_of(name, examples) if peers else []
        found.append(Case(name, name, (*ours, *others), _beside(scheme)))
    return found


def _beside(scheme: Scheme) -> str:
    """What the documentation advises for a scheme."""
    if scheme.weight_bits == 4:
        return "awq+gptq"
    return "smoothquant" if scheme.weight_bits == 8 and scheme.activation_bits == 8 else "gptq"


WINDOWS = 32  # that calibrate a language model, at most
# A calibration takes a minute or more there. Groups of 128 do not divide the 576 inputs of SmolLM2's layers.
DECODER = {"w4a8-g64": ("clip", "hqq", "gptq", "awq+gptq"), "w2a8-g64": ("gptq",), "w2a8-g32": ("gptq",)}


def _fitting(bits: int, activations: int) -> list[str] | None:
    """The ways that say something of a scheme; None: all."""
    if bits == 8:
        return ["smoothquant", "gptq", "awq", "awq+gptq", "hqq"] if activations == 8 else ["gptq", "hqq"]
    if bits == 4 and activations == 8:
        return None
    return ["clip search", "clip", "hqq", "gptq", "awq", "awq+gptq"]
