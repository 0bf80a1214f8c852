"""The operator ``encoder_layers`` itself: its masks, and the arguments that it refuses."""

from __future__ import annotations

import pytest
import torch

from kdnative import ops
from tests.nn.encoder_models import bert
from tests.nn.encoder_models import native as native_bert
from tests.nn.test_transformer import batch, encoder, native


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.bfloat16])
def test_a_padding_mask_is_an_attention_mask_the_other_way_round(dtype):
    ours, (x, keep) = native(encoder()), batch(3, 9)
    expected = ops.encoder_layers(ours.packed, x, keep, 0)
    padding = (~keep).to(dtype) if dtype != torch.float32 else torch.zeros(3, 9).masked_fill(~keep, -torch.inf)
    strided = torch.stack([padding, padding], -1)[..., 0]
    for given in (padding, strided):
        assert torch.equal(ops.encoder_layers(ours.packed, x, None, 0, None, given), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda p: (p, torch.zeros(2, 3, 48, dtype=torch.float64), None, 0), r"must be float32 \(got float64\)"),
        (lambda p: (p, torch.zeros(2, 48, 3).transpose(1, 2), None, 0), r"last dimension .* contiguous; call \.contig"),
        (lambda p: (p, torch.zeros(3, 48), None, 0), r"must be \[batch, tokens, width\] \(got shape \[3, 48\]\)"),
        (lambda p: (p[:-64], torch.zeros(2, 3, 48), None, 0), "truncated"),
        (
            lambda p: (native_bert(bert()).packed, torch.zeros(2, 3, 48), None, 0),
            "has embeddings; call encoder with ids",
        ),
        (
            lambda p: (p, torch.zeros(2, 3, 48), torch.ones(2, 3, dtype=torch.int16), 0),
            "attention_mask must be bool, int64",
        ),
        (
            lambda p: (p, torch.zeros(2, 3, 48), None, 0, None, torch.ones(2, 3, dtype=torch.int16)),
            "padding_mask must be bool, int64",
        ),
        (
            lambda p: (p, torch.zeros(2, 3, 48), None, 0, None, torch.ones(2, 4, dtype=torch.bool)),
            r"padding_mask has shape \[2, 4\]; it must be \[2, 3\], one number a token and not 0 for padding",
        ),
        (
            lambda p: (p, torch.zeros(2, 3, 48), torch.ones(2, 3), 0, None, torch.zeros(2, 3)),
            "give attention_mask or padding_mask, not both",
        ),
    ],
)
def test_arguments_of_the_operator(arguments, message):
    with pytest.raises(RuntimeError, match=f"encoder_layers: .*{message}"):
        ops.encoder_layers(*arguments(native(encoder()).packed))


def test_ids_for_layers_alone():
    packed = native(encoder()).packed
    with pytest.raises(RuntimeError, match="has no embeddings; call encoder_layers"):
        ops.encoder(packed, torch.ones(1, 3, dtype=torch.long), None, None, None, 48)
