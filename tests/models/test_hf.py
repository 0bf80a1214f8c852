"""Encoders of transformers that become native ones, what comes out of them, and why others do not."""

from __future__ import annotations

import pickle

import pytest
import torch

from kdnative.models.hf import is_encoder
from tests.nn import encoder_oracle
from tests.nn.encoder_models import batch, bert, check_close, encoder_from_hf, jitter, native, roberta, transformers


def test_roberta_counts_positions_from_padding():
    model = roberta()
    encoder = native(model)
    ids = torch.randint(3, 100, (3, 12))
    ids[1, 9:] = 1
    ids[2, :4] = 1
    mask = (ids != 1).long()
    with torch.no_grad():
        expected = model(ids, attention_mask=mask)[0]
    actual = encoder(ids, attention_mask=mask)[0]
    check_close(actual, encoder_oracle.encode(encoder.spec, encoder.state_dict(), ids, mask), mask)
    kept = mask.bool()
    assert torch.cosine_similarity(actual[kept], expected[kept], dim=-1).min() > 0.99
    unmasked = encoder(ids)[0]  # padding that nobody masked has the padding's own position
    check_close(unmasked, encoder_oracle.encode(encoder.spec, encoder.state_dict(), ids), torch.ones(3, 12))


def test_distilbert():
    torch.manual_seed(0)
    config = transformers.DistilBertConfig(
        dim=48,
        n_heads=3,
        hidden_dim=100,
        n_layers=2,
        vocab_size=101,
        max_position_embeddings=40,
        initializer_range=0.15,
    )
    model = jitter(transformers.DistilBertModel(config).eval())
    encoder = native(model)
    ids, mask = torch.randint(1, 100, (3, 12)), torch.ones(3, 12, dtype=torch.long)
    mask[1, 5:] = 0
    with torch.no_grad():
        expected = model(ids, attention_mask=mask)
    actual = encoder(ids, attention_mask=mask)
    assert type(actual) is type(expected) and len(actual) == 1
    check_close(actual[0], encoder_oracle.encode(encoder.spec, encoder.state_dict(), ids, mask), mask)
    assert torch.cosine_similarity(actual[0][mask.bool()], expected[0][mask.bool()], dim=-1).min() > 0.99


def test_position_ids():
    model = bert()
    encoder, (ids, mask, types) = native(model), batch(model, 3, 9)
    positions = torch.randint(0, 160, (1, 9))
    actual = encoder(ids, mask, types, positions)[0]
    oracle = encoder_oracle.encode(encoder.spec, encoder.state_dict(), ids, mask, types, positions)
    check_close(actual, oracle, mask)
    assert torch.equal(encoder(ids, mask, types, positions.expand(3, 9))[0], actual)


def test_output_behaves_like_the_original_class():
    model = bert()
    ids = torch.randint(3, 100, (2, 5))
    with torch.no_grad():
        expected, actual = model(ids), native(model)(ids)
    assert type(actual) is type(expected)
    assert list(actual.keys()) == list(expected.keys()) == ["last_hidden_state", "pooler_output"]
    assert actual["pooler_output"] is actual.pooler_output is actual[1] is actual.to_tuple()[1]
    assert actual.hidden_states is None and actual.attentions is None and len(actual) == len(expected)
    again = pickle.loads(pickle.dumps(actual))
    assert torch.equal(again[0], actual[0]) and list(again) == list(actual)
    assert torch.utils._pytree.tree_map(torch.sum, actual).pooler_output == actual.pooler_output.sum()


def test_inside_a_classifier():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=48, num_attention_heads=3, intermediate_size=100, num_hidden_layers=2, vocab_size=101
    )
    model = transformers.BertForSequenceClassification(config).eval()
    ids, mask, types = batch(model, 3, 9)
    with torch.no_grad():
        expected = model(ids, attention_mask=mask, token_type_ids=types).logits
        model.bert = native(model.bert)
        actual = model(ids, attention_mask=mask, token_type_ids=types).logits
    rows = mask[:, 0].bool()
    assert (actual - expected)[rows].abs().max() < 0.05


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: bert(is_decoder=True), "decoder"),
        (lambda: bert(hidden_act="quick_gelu"), "activation QuickGELUActivation"),
        (
            lambda: transformers.LayoutLMModel(
                transformers.LayoutLMConfig(
                    hidden_size=48, num_attention_heads=3, intermediate_size=64, num_hidden_layers=1, vocab_size=50
                )
            ),
            "LayoutLMModel is not one of BertModel, .*, NomicBertModel, .* of transformers",
        ),
    ],
    ids=["decoder", "activation", "unknown"],
)
def test_reasons_against_fusing(build, reason):
    model = build()
    assert is_encoder(model)
    with pytest.raises(AssertionError, match=reason):
        native(model)


def test_more_reasons_against_fusing():
    model = bert()
    only_ffn = lambda name: "w8a8" if "dense" in name else None  # noqa: E731
    assert encoder_from_hf(model, only_ffn) == "encoder.layer.0.attention.self.query stays in float"
    differ = lambda name: "w4a8-g32" if "key" in name else "w8a8"  # noqa: E731
    assert "different schemes" in encoder_from_hf(bert(64, 4), differ)
    model.encoder.layer[1].output.LayerNorm.eps = 1e-3
    assert "differ in LayerNorm eps" in encoder_from_hf(model, "w8a8")
    model = bert()
    model.encoder.layer[1].output.dense = torch.nn.Linear(99, 48)
    assert "encoder.layer.1.output.dense has shape [48, 99]" in encoder_from_hf(model, "w8a8")
    assert not is_encoder(torch.nn.Linear(2, 2))
    assert "Linear is not one of" in encoder_from_hf(torch.nn.Linear(2, 2), "w8a8")
