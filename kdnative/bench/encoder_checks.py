"""What each candidate of the encoder suite has to return: the float model, or the model with rounded linear layers."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

from torch import Tensor, nn

from kdnative.bench.encoder_candidates import COARSE
from kdnative.bench.encoder_cases import EncoderCase
from kdnative.bench.encoder_models import apart
from kdnative.bench.peers import Candidate, Check, relative_error
from kdnative.bench.round_trip import MOST, brain, round_outputs_, round_trip_, rounded, rounded_input, rounded_weight
from kdnative.formats.scheme import Scheme

_LEAST = 1e-3  # what is allowed where a format costs nothing
_MOST_COARSE = 0.9
"""Engines with one range for a whole tensor may be this far off (zeros are off by 1). What they lose on inputs with
outliers has no bound, and leaving the fastest of them out would flatter ours: their error stands beside their time."""
_OURS = 0.35  # the most for ours: trained encoders amplify codes on the edge of two, by 0.17 at most with 2 bits

_Rounding = Callable[[Tensor], Tensor]


def _eight_bits(values: Tensor) -> Tensor:
    return rounded(values, 8)


# What the formats of peers do to weights, to the inputs of linear layers, and to what every part of the model returns.
_PEERS_ROUND: dict[str, tuple[_Rounding, _Rounding, _Rounding]] = {
    "float": (brain, brain, brain),
    "int8": (_eight_bits, _eight_bits, brain),
}


def checks(case: EncoderCase) -> Callable[[Candidate[EncoderCase]], Check]:
    """The check of each candidate for a case; forwards of rounded models run when they are first needed.

    The scheme of one of ours may be several, as ``"w8a8, w4a8-g64"``: a model with layers of each.
    """

    def result(model: nn.Module) -> Tensor:
        with apart():  # its fused kernel would pass rounded layers by
            return case.result_of(model)

    @functools.cache
    def of_ours(name: str) -> Check:
        schemes = [Scheme.parse(part) for part in name.split(", ")]
        scheme = min(schemes, key=lambda s: (s.weight_bits, s.activation_bits))  # of several, what costs most

        def make():
            return round_trip_(
                copy.deepcopy(case.encoder.model),
                lambda weight: rounded_weight(weight, scheme),
                lambda x: rounded_input(x, scheme),
                embeddings=lambda table: rounded(table, 8),
            )

        found = result(case.encoder.build(f"rounded to {name}", make))
        cost = relative_error(found, case.reference)
        # Attention in bf16 is no part of the format, and all of the cost where weights lie on its grid already (QAT).
        limit = min(max(2 * cost, of_peers("float").limit), _OURS)
        # Which layer has which of several schemes isn't known here: the float model is what they all come near.
        return Check(found if len(schemes) == 1 else case.reference, limit)

    @functools.cache
    def of_peers(kind: str) -> Check:
        if kind == COARSE:
            return Check(case.reference, _MOST_COARSE, rows=False)

        def make():
            weight, x, outputs = _PEERS_ROUND[kind]
            return round_outputs_(round_trip_(copy.deepcopy(case.encoder.model), weight, x), outputs)

        found = result(case.encoder.build(f"rounded as {kind}", make))
        factor = 4 if kind == "float" else 2  # attention in bf16 rounds much that is no product of a linear layer
        return Check(case.reference, min(max(factor * relative_error(found, case.reference), _LEAST), MOST))

    return lambda candidate: of_ours(candidate.scheme) if candidate.ours else of_peers(candidate.kind)
