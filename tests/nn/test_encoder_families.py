"""Encoders other than BERT: relative and rotary positions, windows, gates, LayerNorm before each part."""

from __future__ import annotations

import json

import pytest
import torch

from kdnative.convert import convert_
from kdnative.nn import Encoder
from kdnative.nn.encoder_format import relative_bias
from tests.nn import encoder_oracle
from tests.nn.encoder_models import (
    batch,
    check_close,
    electra,
    encoder_from_hf,
    gte,
    jina,
    modernbert,
    mpnet,
    native,
    nomic,
    small,
    transformers,
)

FAMILIES = [electra, mpnet, modernbert, nomic, gte, jina]


@pytest.fixture(autouse=True)
def _two_threads(_threads):
    torch.set_num_threads(2)


def inputs_of(model, size, length):
    """Ids, mask and the token types, if the model takes them."""
    ids, mask, types = batch(model, size, length)
    return ids, mask, types if getattr(model.config, "type_vocab_size", 0) > 1 else None


def oracle_of(encoder, ids, mask=None, types=None, positions=None):
    types = types if encoder.spec["token_types"] else None
    return encoder_oracle.encode(encoder.spec, encoder.state_dict(), ids, mask, types, positions)


def float_output(model, ids, mask, types):
    options = {} if types is None else {"token_type_ids": types}
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, **options)


@pytest.mark.parametrize("make", FAMILIES, ids=lambda make: make.__name__)
@pytest.mark.parametrize(("size", "length"), [(1, 1), (3, 7), (2, 17), (3, 33), (1, 40)])
def test_matches_the_oracle_and_the_float_model(make, size, length):
    check_model(make(), size, length)


@pytest.mark.parametrize("kind", ["AlignText", "ChineseCLIPText", "ClapText", "Data2VecText", "Splinter"])
def test_models_that_are_like_bert(kind):
    check_model(small(kind, pad_token_id=0, max_position_embeddings=40), 3, 17)


def check_model(model, size, length):
    encoder = native(model)
    ids, mask, types = inputs_of(model, size, length)
    expected = float_output(model, ids, mask, types)
    actual = encoder(ids, attention_mask=mask, token_type_ids=types)
    assert type(actual) is type(expected) and len(actual) == len(expected)
    check_close(actual[0], oracle_of(encoder, ids, mask, types), mask)
    kept = mask.bool()
    kept[mask.sum(1) == 0] = False
    assert torch.cosine_similarity(actual[0][kept], expected[0][kept], dim=-1).min() > 0.98


@pytest.mark.parametrize("make", FAMILIES, ids=lambda make: make.__name__)
def test_every_instruction_set(isa, make):
    model = make()
    encoder, (ids, mask, types) = native(model), inputs_of(model, 3, 37)
    check_close(encoder(ids, mask, types)[0], oracle_of(encoder, ids, mask, types), mask)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (mpnet, ["relative_bias.weight"]),
        (modernbert, ["layers.1.attention_norm.weight", "layers.2.ffn_norm.weight", "final_norm.weight"]),
        (nomic, ["layers.1.ffn_in.scale", "embeddings.token_type.scale"]),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_the_oracle_tells_formulas_apart(make, names):
    """The tolerance of check_close is below what each part contributes."""
    model = make()
    encoder, (ids, mask, types) = native(model), inputs_of(model, 3, 20)
    actual, state = encoder(ids, mask, types)[0], encoder.state_dict()
    for name in names:
        with pytest.raises(AssertionError):
            wrong = encoder_oracle.encode(encoder.spec, state | {name: state[name] * 0}, ids, mask, types)
            check_close(actual, wrong, mask)


@pytest.mark.parametrize("change", [{"window": None}, {"window": 2}, {"rope_theta": 100.0}])
def test_the_oracle_tells_settings_apart(change):
    model = modernbert()
    encoder, (ids, mask, _) = native(model), batch(model, 3, 30)
    actual, config = encoder(ids, mask)[0], encoder.spec
    config["layers"][1] |= change
    with pytest.raises(AssertionError):
        check_close(actual, encoder_oracle.encode(config, encoder.state_dict(), ids, mask), mask)


@pytest.mark.parametrize("window", [0, 1, 7, 15, 16, 17, 40, 64, 1000])
@pytest.mark.parametrize("length", [5, 33, 130])
def test_windows_of_any_size(window, length):
    model = modernbert(local_attention=2 * window)
    encoder, (ids, mask, _) = native(model), batch(model, 3, length)
    check_close(encoder(ids, mask)[0], oracle_of(encoder, ids, mask), mask)


def test_relative_biases_are_those_of_the_model():
    model = mpnet(tokens=300)
    weight = model.encoder.relative_attention_bias.weight.detach()
    own = relative_bias(weight, 128, 302)
    expected = model.encoder.compute_position_bias(torch.zeros(1, 300, 1))[0]
    for query in (0, 1, 150, 299):
        row = own[:, 301 - query : 301 - query + 300]
        assert torch.equal(row, expected[:, query])


def test_sequences_longer_than_relative_positions_are_refused():
    encoder = native(mpnet(tokens=40))
    ids, positions = torch.full((1, 43), 5), torch.zeros(1, 43, dtype=torch.long)
    with pytest.raises(RuntimeError, match="43 columns, but the model's relative positions reach over 42; shorten"):
        encoder(ids, position_ids=positions)


def test_other_parts_than_known():
    model = mpnet()
    del model.encoder.layer[1].attention.attn.o
    assert "its structure differs from that of the supported MPNetModel" in encoder_from_hf(model, "w8a8")


def test_rotary_positions_end():
    encoder = native(modernbert(max_position_embeddings=20))
    with pytest.raises(RuntimeError, match=r"\[0, 20\] has position 20, but the model has positions 0 to 19"):
        encoder(torch.full((1, 21), 5))


def test_rotary_positions_are_relative():
    """Moving every position by the same amount changes only roundings."""
    model = modernbert()
    encoder, (ids, mask, _) = native(model), batch(model, 3, 20)
    moved = torch.arange(20)[None] + 100
    actual = encoder(ids, mask, position_ids=moved)[0]
    check_close(actual, oracle_of(encoder, ids, mask, positions=moved), mask)
    check_close(actual, encoder(ids, mask)[0].double().numpy(), mask)


@pytest.mark.parametrize("make", FAMILIES, ids=lambda make: make.__name__)
def test_state_config_and_threads(make):
    model = make()
    encoder = native(model)
    fresh = Encoder.from_spec(json.loads(json.dumps(encoder.spec)))
    fresh.load_state_dict(encoder.state_dict())
    assert torch.equal(fresh.packed, encoder.packed)
    ids, mask, types = inputs_of(model, 5, 39)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(fresh(ids, mask, types)[0].clone())
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    kept = mask[0].bool()
    assert torch.equal(
        encoder(ids[:1], mask[:1], None if types is None else types[:1])[0][0, kept], results[0][0, kept]
    )


@pytest.mark.parametrize("make", FAMILIES, ids=lambda make: make.__name__)
def test_convert_fuses_them(make):
    model = make()
    ids, mask, types = inputs_of(model, 2, 9)
    expected = native(make())(ids, mask, types)[0]
    report = convert_(model, "w8a8")
    assert report.model is model and type(model) is Encoder
    assert {row.action for row in report.rows} == {"fused"}
    assert torch.equal(model(ids, mask, types)[0], expected)


def test_the_report_says_what_stays_in_float():
    report = convert_(mpnet(), "w8a8")
    row = next(row for row in report.rows if row.name == "encoder.relative_attention_bias")
    assert (row.action, row.scheme, row.bytes_before, row.bytes_after) == ("fused", None, 32 * 3 * 4, 32 * 3 * 4)


@pytest.mark.parametrize("make", [mpnet, modernbert], ids=lambda make: make.__name__)
def test_inside_a_classifier(make):
    name = {"mpnet": "MPNet", "modernbert": "ModernBert"}[make.__name__]
    config = make().config
    config.num_labels = 2
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForSequenceClassification")(config).eval()
    ids = torch.randint(3, 100, (2, 9))
    with torch.no_grad():
        expected = model(ids).logits
        actual = convert_(model, "w8a8").model(ids).logits
    assert any(isinstance(module, Encoder) for module in model.modules())
    assert (actual - expected).abs().max() < 0.1


def test_other_rotary_types_are_refused():
    model = modernbert()
    model.config.rope_parameters["full_attention"]["rope_type"] = "yarn"
    reason = encoder_from_hf(model, "w8a8")
    assert "rotary positions are of type 'yarn'; only the default type" in reason


def test_electra_with_narrow_embeddings_is_refused():
    assert "embeddings_project" in encoder_from_hf(electra(embedding_size=24), "w8a8")


def test_relative_positions_of_pruned_heads_are_refused():
    model = mpnet()
    own = model.encoder.layer[0].attention.attn
    for name in "qkv":
        linear = torch.nn.Linear(48, 32)
        setattr(own, name, linear)
    own.o = torch.nn.Linear(32, 48)
    reason = encoder_from_hf(model, "w8a8")
    assert reason == "its relative positions are for 3 heads, but its layers have 2, 3"
