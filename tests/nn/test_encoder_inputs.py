"""What the fused encoder refuses: ids, arguments, and buffers that were tampered with."""

from __future__ import annotations

import pytest
import torch

from kdnative import ops
from tests.nn.encoder_models import bert, modernbert, mpnet, native


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": [[1, 2, 101]]}, r"input_ids\[0, 2\] is 101, but the vocabulary has ids 0 to 100"),
        ({"input_ids": [[1, -1, 3]]}, r"input_ids\[0, 1\] is -1"),
        ({"input_ids": [[1, 2]], "token_type_ids": [[0, 2]]}, r"token_type_ids\[0, 1\] is 2, .* types 0 to 1"),
        ({"input_ids": [[1, 2]], "position_ids": [[0, 160]]}, r"at \[0, 1\] has position 160, .* 0 to 159"),
        ({"input_ids": [[1] * 161]}, r"at \[0, 160\] has position 160, .* 0 to 159; shorten"),
        ({"input_ids": [[1, 2**40]]}, "is 1099511627776"),
    ],
    ids=["vocabulary", "negative", "type", "position", "length", "huge"],
)
def test_bad_ids(arguments, message):
    encoder = native(bert())
    with pytest.raises(RuntimeError, match=message):
        encoder(**{name: torch.tensor(value) for name, value in arguments.items()})


def test_ids_of_padding_do_not_matter():
    encoder = native(bert())
    mask = torch.tensor([[1, 0, 1]])
    assert torch.equal(encoder(torch.tensor([[4, -100, 6]]), mask)[0], encoder(torch.tensor([[4, 0, 6]]), mask)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"inputs_embeds": torch.zeros(1, 3, 48), "input_ids": None},
            r"inputs_embeds.* convert_\(\.\.\., embeddings=None",
        ),
        ({"input_ids": None}, "needs input_ids"),
        ({"output_attentions": True}, r"does not support output_attentions.* fuse=False"),
        ({"past_key_values": ((),)}, "does not support past_key_values"),
    ],
    ids=["embeds", "nothing", "attentions", "past"],
)
def test_unsupported_arguments(arguments, message):
    encoder = native(bert())
    with pytest.raises(ValueError, match=message):
        encoder(**({"input_ids": torch.ones(1, 3, dtype=torch.long)} | arguments))


def test_arguments_that_ask_for_nothing_are_taken():
    encoder, ids = native(bert()), torch.ones(1, 3, dtype=torch.long)
    out = encoder(ids, output_attentions=False, output_hidden_states=None, use_cache=True, encoder_hidden_states=None)
    assert torch.equal(out.last_hidden_state, encoder(ids, return_dict=False)[0])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("attention_mask", torch.ones(2, 4), r"has shape \[2, 4\]; it must be \[2, 3\], one number a token"),
        ("attention_mask", torch.ones(1, 3), r"has shape \[1, 3\]; it must be \[2, 3\]"),
        ("attention_mask", torch.ones(2, 1, 3, 3), r"has shape \[2, 1, 3, 3\].*keep the encoder in float.*keep="),
        ("attention_mask", torch.ones(2, 3, dtype=torch.int16), r"must be bool, int64, .*convert with \.bool\(\)"),
        ("input_ids", torch.ones(3, dtype=torch.long), r"input_ids must be \[batch, tokens\] \(got shape \[3\]\)"),
        ("input_ids", torch.ones(2, 3), r"input_ids must be int64 or int32 \(got float32\); convert with \.long\(\)"),
        ("token_type_ids", torch.ones(2, 4, dtype=torch.long), r"has shape \[2, 4\] but input_ids has \[2, 3\]"),
        ("position_ids", torch.ones(3, 3, dtype=torch.long), r"has shape \[3, 3\] but input_ids has \[2, 3\]"),
        ("position_ids", torch.ones(1, 2, 3, dtype=torch.long), r"has shape \[1, 2, 3\] but input_ids"),
        ("position_ids", torch.tensor(1), r"has shape \[\] but input_ids"),
    ],
)
def test_shapes_and_dtypes_that_are_refused(name, value, message):
    encoder = native(bert())
    with pytest.raises(RuntimeError, match=f"{name}.*{message}" if name not in message else message):
        encoder(**({"input_ids": torch.ones(2, 3, dtype=torch.long)} | {name: value}))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_ids_of_any_width_and_strides(dtype):
    encoder = native(bert())
    ids, types = torch.randint(0, 100, (3, 5)), torch.randint(0, 2, (3, 5))
    positions = torch.randperm(100)[:5]
    want = encoder(ids, None, types, positions.expand(3, 5).contiguous())[0]
    wide = torch.zeros(5, 6, dtype=dtype)
    wide[:, ::2] = ids.t().to(dtype)
    strided = wide.t()[::2]
    assert not strided.is_contiguous() and torch.equal(strided, ids.to(dtype))
    for given in (positions, positions[None], positions.expand(3, 5)):
        assert torch.equal(encoder(strided, None, types.t().contiguous().t(), given.to(dtype))[0], want)
    one = torch.ones(1, 1, dtype=dtype)  # the same for every token
    assert torch.equal(encoder(ids, token_type_ids=one)[0], encoder(ids, token_type_ids=torch.ones_like(ids))[0])


def test_training_mode_is_refused():
    encoder, ids = native(bert()).train(), torch.ones(1, 3, dtype=torch.long)
    with pytest.raises(RuntimeError, match="for inference"):
        encoder(ids)
    with torch.no_grad():
        assert not encoder(ids)[0].requires_grad


def run(packed):
    return ops.encoder(packed, torch.ones(1, 4, dtype=torch.long), None, None, None, 48)


def test_damaged_buffers_are_refused():
    packed = native(bert()).packed
    run(packed)
    for size in (0, 64, 127, 128, 300, packed.numel() // 2, packed.numel() - 64):
        with pytest.raises(RuntimeError, match="packed encoder"):
            run(packed[:size].clone())
    for offset, message in ((0, "magic"), (4, "version"), (8, "truncated"), (24, "activation")):
        broken = packed.clone()
        broken[offset] = 99
        with pytest.raises(RuntimeError, match=message):
            run(broken)
    with pytest.raises(RuntimeError, match="hidden_size is 64, but the packed encoder is 48 wide"):
        ops.encoder(packed, torch.ones(1, 4, dtype=torch.long), None, None, None, 64)


@pytest.mark.parametrize("make", [bert, mpnet, modernbert], ids=lambda make: make.__name__)
def test_no_number_in_the_tables_can_crash(make):
    """Every integer of the header and the layer records, and of each weight's header, set to extreme values."""
    packed = native(make(num_hidden_layers=2) if make is not bert else bert()).packed
    size = 192
    records = packed[size : 3 * size].view(torch.int64).view(2, size // 8)
    weights = [int(record[4 + 2 * i]) for record in records for i in range(4)]
    refused = 0
    for start, stop in ((0, 3 * size), *((w, w + 128) for w in weights[:4])):
        for width, dtype in ((4, torch.int32), (8, torch.int64)):
            for offset in range(start, stop, width):
                for value in (-1, 0, 1, 64, 2 ** (8 * width - 2), 2 ** (8 * width - 1) - 1, -(2 ** (8 * width - 1))):
                    broken = packed.clone()
                    broken[offset : offset + width].view(dtype)[0] = value
                    try:
                        run(broken)
                    except RuntimeError:
                        refused += 1
    assert refused > 500
