"""The fused encoder against transformers' float models and against a float64 oracle of its own arithmetic."""

from __future__ import annotations

import copy
import json
import pickle
import sys

import numpy as np
import pytest
import torch

from kdnative import ops
from kdnative.nn import Encoder
from kdnative.nn.hf import encoder_from_hf, is_encoder
from kdnative.quantize import quantize_weight
from kdnative.scheme import Scheme
from tests.nn import encoder_oracle

transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def _two_threads(_threads):
    torch.set_num_threads(2)


def with_scheme(scheme):
    """A `quantize` argument: one scheme for all, or a function of the linear's name."""
    choose = scheme if callable(scheme) else lambda name: scheme

    def quantize(name, linear):
        chosen = choose(name)
        return None if chosen is None else quantize_weight(linear.weight.detach(), Scheme.parse(chosen))

    return quantize


def bert(hidden=48, heads=3, ffn=100, layers=2, vocab=101, **options):
    """A random BertModel whose attention and feed-forward parts matter as much as the residual."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        vocab_size=vocab,
        max_position_embeddings=160,
        initializer_range=hidden**-0.5,
        **options,
    )
    return jitter(transformers.BertModel(config).eval())


@torch.no_grad()
def jitter(model):
    """Random biases and LayerNorms, which initialisation leaves at 0 and 1."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def native(model, scheme="w8a8"):
    encoder = encoder_from_hf(model, with_scheme(scheme))
    assert isinstance(encoder, Encoder), encoder
    return encoder


def batch(model, size, length, seed=1):
    """Ids, a mask with holes and one sequence without any token, token types."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, model.config.vocab_size, (size, length), generator=g)
    mask = (torch.rand(size, length, generator=g) < 0.8).long()
    mask[0] = 1
    if size > 2:
        mask[1] = 0
    types = torch.randint(0, model.config.type_vocab_size, (size, length), generator=g)
    return ids, mask, types


def check_close(actual, expected, kept):
    """An activation that rounds the other way moves all that follows a little; a wrong formula moves it more."""
    error = np.abs(actual.double().numpy() - expected)[kept.bool().numpy()]
    assert error.max(initial=0) < 0.08
    assert error.size == 0 or error.mean() < 8e-3
    assert not actual[~kept.bool()].any()


SHAPES = [  # hidden, heads, ffn, layers, batch, tokens
    (48, 3, 100, 2, 3, 7),
    (48, 3, 100, 2, 1, 1),
    (312, 12, 600, 1, 3, 33),
    (64, 1, 64, 1, 4, 130),
    (90, 5, 70, 1, 3, 16),
    (384, 12, 1536, 1, 2, 32),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_oracle_and_the_float_model(shape):
    hidden, heads, ffn, layers, size, length = shape
    model = bert(hidden, heads, ffn, layers)
    encoder = native(model)
    ids, mask, types = batch(model, size, length)
    with torch.no_grad():
        expected = model(ids, attention_mask=mask, token_type_ids=types)
    actual = encoder(ids, attention_mask=mask, token_type_ids=types)
    assert type(actual) is type(expected)
    oracle = encoder_oracle.encode(encoder.config, encoder.state_dict(), ids, mask, types)
    check_close(actual[0], oracle, mask)
    kept = mask.bool()
    similarity = torch.cosine_similarity(actual[0][kept], expected[0][kept], dim=-1)
    assert similarity.min() > 0.99
    assert torch.cosine_similarity(actual[1][0], expected[1][0], dim=-1) > 0.98


def test_the_oracle_tells_formulas_apart():
    """The tolerance of check_close is below what each part of the model contributes."""
    model = bert()
    encoder, (ids, mask, types) = native(model), batch(model, 3, 7)
    actual = encoder(ids, mask, types)[0]
    state = encoder.state_dict()
    for name in (
        "layers.1.qkv.bias",
        "layers.0.ffn_out.qweight",
        "embeddings.token_type.scale",
        "layers.1.output_norm.bias",
    ):
        wrong = encoder_oracle.encode(encoder.config, state | {name: state[name] * 0}, ids, mask, types)
        with pytest.raises(AssertionError):
            check_close(actual, wrong, mask)


def test_embeddings_are_exact():
    model = bert(layers=0)
    encoder, (ids, mask, types) = native(model), batch(model, 3, 7)
    oracle = encoder_oracle.encode(encoder.config, encoder.state_dict(), ids, mask, types)
    assert np.abs(encoder(ids, mask, types)[0].numpy() - oracle).max() < 2e-6


@pytest.mark.parametrize("length", [1, 2, 5, 8, 15, 17, 33, 64, 130])
def test_one_layer_is_nearly_exact(length):
    """With a single layer few roundings differ from the oracle's, so most values agree to float32 accuracy."""
    model = bert(48, 3, 100, layers=1)
    encoder, (ids, mask, types) = native(model), batch(model, 2, length)
    oracle = encoder_oracle.encode(encoder.config, encoder.state_dict(), ids, mask, types)
    error = np.abs(encoder(ids, mask, types)[0].numpy() - oracle)
    assert np.median(error) < 2e-5 and error.max() < 0.05


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu", "tanh"])
def test_activations(activation):
    model = bert(hidden_act=activation)
    encoder, (ids, mask, types) = native(model), batch(model, 3, 9)
    oracle = encoder_oracle.encode(encoder.config, encoder.state_dict(), ids, mask, types)
    check_close(encoder(ids, mask, types)[0], oracle, mask)


@pytest.mark.parametrize("scheme", ["w4a8-g32", "w4a8-g32-asym"])
def test_4_bit_and_mixed_schemes(scheme):
    model = bert(64, 4, 96)
    mixed = lambda name: "w8a8" if "output.dense" in name else scheme  # noqa: E731
    encoder, (ids, mask, types) = native(model, mixed), batch(model, 3, 20)
    assert encoder.config["layers"][0]["qkv"] == scheme and encoder.config["layers"][0]["output"] == "w8a8"
    oracle = encoder_oracle.encode(encoder.config, encoder.state_dict(), ids, mask, types)
    check_close(encoder(ids, mask, types)[0], oracle, mask)


def test_2_bit_codes_survive_the_state_dict():
    model = bert(64, 4, 96)
    encoder = native(model, "w2a8-g32")
    fresh = Encoder.from_config(json.loads(json.dumps(encoder.config)))
    state = encoder.state_dict()
    assert state["layers.0.qkv.qweight"].shape == (192, 16)
    fresh.load_state_dict(state)
    assert torch.equal(fresh.packed, encoder.packed)


def prune(linear, rows=None, columns=None):
    """A smaller linear with only those outputs or inputs."""
    weight, bias = linear.weight.detach(), linear.bias.detach()
    if rows is not None:
        weight, bias = weight[rows], bias[rows]
    if columns is not None:
        weight = weight[:, columns]
    out = torch.nn.Linear(weight.shape[1], weight.shape[0])
    out.weight.data, out.bias.data = weight.clone(), bias.clone()
    return out


def test_layers_pruned_to_different_sizes():
    model = bert(60, 5, 100, layers=3)
    for layer, heads, ffn in zip(model.encoder.layer, ([0, 2, 4], [1], [0, 1, 2, 3, 4]), (17, 100, 64), strict=True):
        own = layer.attention.self
        kept = torch.cat([torch.arange(12) + 12 * h for h in heads])
        own.query, own.key, own.value = (prune(x, rows=kept) for x in (own.query, own.key, own.value))
        layer.attention.output.dense = prune(layer.attention.output.dense, columns=kept)
        layer.intermediate.dense = prune(layer.intermediate.dense, rows=torch.arange(ffn))
        layer.output.dense = prune(layer.output.dense, columns=torch.arange(ffn))
    encoder, (ids, mask, types) = native(model), batch(model, 3, 19)
    assert [x["heads"] for x in encoder.config["layers"]] == [3, 1, 5]
    assert [x["ffn"] for x in encoder.config["layers"]] == [17, 100, 64]
    actual = encoder(ids, mask, types)[0]
    check_close(actual, encoder_oracle.encode(encoder.config, encoder.state_dict(), ids, mask, types), mask)
    with torch.no_grad():
        expected = model(ids, mask, types)[0]
    kept = mask.bool()
    assert torch.cosine_similarity(actual[kept], expected[kept], dim=-1).min() > 0.98


@pytest.mark.parametrize(("size", "length"), [(0, 5), (3, 0), (0, 0)])
def test_empty_batches(size, length):
    encoder = native(bert())
    encoder.pooler = None  # it reads the first token, which there may not be
    assert encoder(torch.zeros(size, length, dtype=torch.long))[0].shape == (size, length, 48)


def test_empty_batch_with_a_pooler():
    assert native(bert())(torch.zeros(0, 5, dtype=torch.long))[1].shape == (0, 48)


def test_no_token_kept_at_all():
    encoder = native(bert())
    out = encoder(torch.ones(2, 5, dtype=torch.long), torch.zeros(2, 5, dtype=torch.long))
    assert torch.equal(out[0], torch.zeros(2, 5, 48))


def test_padding_changes_nothing():
    """The same sentence alone, padded on the right, and in a batch: equal to the bit."""
    model = bert(64, 4, 128)
    encoder = native(model)
    ids = torch.randint(3, 100, (1, 11))
    alone = encoder(ids)[0]
    padded = torch.cat([ids, torch.zeros(1, 20, dtype=torch.long)], dim=1)
    mask = (torch.arange(31) < 11).long()[None]
    assert torch.equal(encoder(padded, mask)[0][:, :11], alone)
    crowd = torch.cat([torch.randint(3, 100, (5, 31)), padded])
    masks = torch.cat([torch.ones(5, 31, dtype=torch.long), mask])
    assert torch.equal(encoder(crowd, masks)[0][5:, :11], alone)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.float32, torch.float16])
def test_mask_dtypes(dtype):
    model = bert()
    encoder, (ids, mask, _) = native(model), batch(model, 3, 9)
    assert torch.equal(encoder(ids, mask.to(dtype))[0], encoder(ids, mask)[0])
    assert torch.equal(encoder(ids.int(), mask.t().contiguous().t())[0], encoder(ids, mask)[0])


@pytest.mark.parametrize(("size", "length"), [(1, 32), (1, 130), (7, 19), (4, 130), (36, 130)])
def test_results_do_not_depend_on_threads(size, length):
    """Small batches share columns, large ones rows, and above 4096 tokens the batch is cut into groups."""
    model = bert(160, 5, 320) if size * length > 1000 else bert(320, 5, 640)
    encoder, (ids, mask, types) = native(model), batch(model, size, length)
    results = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        results.append(encoder(ids, mask, types)[0].clone())
    for other in results[1:]:
        assert torch.equal(other, results[0])
    one = encoder(ids[:1], mask[:1], types[:1])[0]
    assert torch.equal(one, results[0][:1])


def test_mixed_widths_with_threads():
    """Column mode with linears of different padded widths: rows of a shared buffer must not overlap."""
    encoder = native(bert(312, 12, 1200, layers=1))
    ids = torch.randint(3, 100, (1, 29))
    torch.set_num_threads(1)
    expected = encoder(ids)[0].clone()
    torch.set_num_threads(2)
    for _ in range(20):
        assert torch.equal(encoder(ids)[0], expected)


@pytest.mark.parametrize("shape", [(90, 5, 70, 2, 3, 19), (64, 2, 96, 1, 2, 33)], ids=str)
def test_every_instruction_set(isa, shape):
    hidden, heads, ffn, layers, size, length = shape
    model = bert(hidden, heads, ffn, layers)
    encoder, (ids, mask, types) = native(model), batch(model, size, length)
    oracle = encoder_oracle.encode(encoder.config, encoder.state_dict(), ids, mask, types)
    check_close(encoder(ids, mask, types)[0], oracle, mask)


def test_extreme_scores_and_constant_rows():
    """Scores far beyond what exp can take, and a hidden state whose variance is 0."""
    model = bert(64, 2, 64, layers=1)
    with torch.no_grad():
        model.encoder.layer[0].attention.self.query.weight *= 200
        model.embeddings.word_embeddings.weight[5] = 0
        model.embeddings.position_embeddings.weight[0] = 0
        model.embeddings.token_type_embeddings.weight[0] = 0
    encoder = native(model)
    ids = torch.tensor([[5, 7, 9, 11, 5]])
    actual = encoder(ids)[0]
    assert torch.isfinite(actual).all()
    check_close(actual, encoder_oracle.encode(encoder.config, encoder.state_dict(), ids), torch.ones(1, 5))


# -- other families ----------------------------------------------------------------------------------------------------


def roberta(**options):
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        hidden_size=48,
        num_attention_heads=3,
        intermediate_size=100,
        num_hidden_layers=2,
        vocab_size=101,
        max_position_embeddings=60,
        type_vocab_size=1,
        pad_token_id=1,
        initializer_range=0.15,
        **options,
    )
    return jitter(transformers.RobertaModel(config).eval())


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
    check_close(actual, encoder_oracle.encode(encoder.config, encoder.state_dict(), ids, mask), mask)
    kept = mask.bool()
    assert torch.cosine_similarity(actual[kept], expected[kept], dim=-1).min() > 0.99
    unmasked = encoder(ids)[0]  # padding that nobody masked has the padding's own position
    check_close(unmasked, encoder_oracle.encode(encoder.config, encoder.state_dict(), ids), torch.ones(3, 12))


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
    check_close(actual[0], encoder_oracle.encode(encoder.config, encoder.state_dict(), ids, mask), mask)
    assert torch.cosine_similarity(actual[0][mask.bool()], expected[0][mask.bool()], dim=-1).min() > 0.99


def test_position_ids():
    model = bert()
    encoder, (ids, mask, types) = native(model), batch(model, 3, 9)
    positions = torch.randint(0, 160, (1, 9))
    actual = encoder(ids, mask, types, positions)[0]
    oracle = encoder_oracle.encode(encoder.config, encoder.state_dict(), ids, mask, types, positions)
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
            lambda: transformers.MPNetModel(
                transformers.MPNetConfig(
                    hidden_size=48, num_attention_heads=3, intermediate_size=64, num_hidden_layers=1, vocab_size=50
                )
            ),
            "MPNetModel is not one of .*relative positions",
        ),
    ],
    ids=["decoder", "activation", "mpnet"],
)
def test_reasons_against_fusing(build, reason):
    model = build()
    assert is_encoder(model)
    with pytest.raises(AssertionError, match=reason):
        native(model)


def test_more_reasons_against_fusing():
    model = bert()
    only_ffn = lambda name: "w8a8" if "dense" in name else None  # noqa: E731
    assert encoder_from_hf(model, with_scheme(only_ffn)) == "encoder.layer.0.attention.self.query stays in float"
    differ = lambda name: "w4a8-g32" if "key" in name else "w8a8"  # noqa: E731
    assert "different schemes" in encoder_from_hf(bert(64, 4), with_scheme(differ))
    model.encoder.layer[1].output.LayerNorm.eps = 1e-3
    assert "differ in LayerNorm eps" in encoder_from_hf(model, with_scheme("w8a8"))
    model = bert()
    model.encoder.layer[1].output.dense = torch.nn.Linear(99, 48)
    assert "encoder.layer.1.output.dense has shape [48, 99]" in encoder_from_hf(model, with_scheme("w8a8"))
    assert not is_encoder(torch.nn.Linear(2, 2))
    assert "Linear is not one of" in encoder_from_hf(torch.nn.Linear(2, 2), with_scheme("w8a8"))


# -- bad input ---------------------------------------------------------------------------------------------------------


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
        ({"inputs_embeds": torch.zeros(1, 3, 48), "input_ids": None}, "inputs_embeds"),
        ({"input_ids": None}, "needs input_ids"),
        ({"output_attentions": True}, "does not support output_attentions"),
        ({"output_hidden_states": True}, "does not support output_hidden_states"),
        ({"past_key_values": ((),)}, "does not support past_key_values"),
        ({"attention_mask": torch.ones(1, 1, 3, 3)}, r"attention_mask has shape \[1, 1, 3, 3\]"),
    ],
    ids=["embeds", "nothing", "attentions", "states", "past", "mask"],
)
def test_unsupported_arguments(arguments, message):
    encoder = native(bert())
    with pytest.raises(ValueError, match=message):
        encoder(**({"input_ids": torch.ones(1, 3, dtype=torch.long)} | arguments))


def test_arguments_that_ask_for_nothing_are_taken():
    encoder, ids = native(bert()), torch.ones(1, 3, dtype=torch.long)
    out = encoder(ids, output_attentions=False, output_hidden_states=None, use_cache=True, encoder_hidden_states=None)
    assert torch.equal(out.last_hidden_state, encoder(ids, return_dict=False)[0])


def test_shapes_that_disagree():
    encoder = native(bert())
    with pytest.raises(RuntimeError, match="attention_mask"):
        encoder(torch.ones(2, 3, dtype=torch.long), torch.ones(2, 4))


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
    moved = torch.zeros(packed.numel() + 64, dtype=torch.uint8)[4 : packed.numel() + 4]
    moved.copy_(packed)
    with pytest.raises(RuntimeError, match="aligned"):
        run(moved)


def test_no_number_in_the_tables_can_crash():
    """Every integer of the header and the layer records, and of each weight's header, set to extreme values."""
    packed = native(bert()).packed
    records = packed[128:384].view(torch.int64).view(2, 16)
    weights = [int(record[2 + 2 * i]) for record in records for i in range(4)]
    refused = 0
    for start, stop in ((0, 384), *((w, w + 128) for w in weights[:4])):
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


# -- module behaviour --------------------------------------------------------------------------------------------------


def test_state_dict_round_trip():
    model = bert(64, 4, 96)
    encoder = native(model, lambda name: "w4a8-g32-asym" if "intermediate" in name else "w8a8")
    state = encoder.state_dict()
    assert {name.rsplit(".", 1)[0] for name in state if name.startswith("layers.1.")} == {
        f"layers.1.{part}" for part in ("qkv", "output", "attention_norm", "ffn_in", "ffn_out", "output_norm")
    }
    assert state["embeddings.word.qweight"].shape == (101, 64) and state["layers.0.qkv.qweight"].shape == (192, 64)
    assert not any("packed" in name for name in state)
    fresh = Encoder.from_config(json.loads(json.dumps(encoder.config)))
    assert not torch.equal(fresh.packed, encoder.packed)
    fresh.load_state_dict(state)
    assert torch.equal(fresh.packed, encoder.packed)
    ids = torch.randint(0, 100, (2, 9))
    assert torch.equal(fresh(ids)[0], encoder(ids)[0]) and torch.equal(fresh(ids)[1], encoder(ids)[1])


def test_only_the_packed_buffer_is_in_memory():
    encoder = native(bert())
    assert [name for name, _ in encoder.named_buffers()] == ["packed", "pooler.packed"]
    assert list(encoder.parameters()) == []


def test_load_state_dict_is_strict():
    encoder = native(bert())
    state, before = encoder.state_dict(), encoder.packed.clone()
    fewer = {name: tensor for name, tensor in state.items() if name != "layers.1.qkv.scale"}
    with pytest.raises(RuntimeError, match='Missing key.*"layers.1.qkv.scale"'):
        encoder.load_state_dict(fewer)
    with pytest.raises(RuntimeError, match='Unexpected key.*"layers.2.qkv.scale"'):
        encoder.load_state_dict(state | {"layers.2.qkv.scale": state["layers.1.qkv.scale"]})
    with pytest.raises(RuntimeError, match="size mismatch for layers.0.ffn_in.qweight"):
        encoder.load_state_dict(state | {"layers.0.ffn_in.qweight": torch.zeros(3, 3, dtype=torch.int8)})
    assert torch.equal(encoder.packed, before)
    result = encoder.load_state_dict(fewer, strict=False)
    assert result.missing_keys == ["layers.1.qkv.scale"] and torch.equal(encoder.packed, before)


def test_state_dict_below_a_parent():
    parent = torch.nn.ModuleDict({"bert": native(bert()), "head": torch.nn.Linear(48, 2)})
    other = copy.deepcopy(parent)
    with torch.no_grad():
        other["bert"].packed[-64:] = 0
    assert not torch.equal(other["bert"].packed, parent["bert"].packed)
    other.load_state_dict(parent.state_dict())
    assert torch.equal(other["bert"].packed, parent["bert"].packed)


def test_copies_and_pickles():
    encoder, ids = native(bert()), torch.randint(0, 100, (2, 9))
    expected = encoder(ids)
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        out = other(ids)
        assert torch.equal(out[0], expected[0]) and torch.equal(out[1], expected[1])
        assert other.config == encoder.config


def test_dtype_follows_to():
    encoder, ids = native(bert()), torch.randint(0, 100, (2, 9))
    expected, packed = encoder(ids), encoder.packed.clone()
    half = encoder.to(torch.bfloat16)
    assert torch.equal(half.packed, packed) and half.config["dtype"] == "bfloat16"
    out = half(ids)
    assert torch.equal(out[0], expected[0].bfloat16()) and out[1].dtype == torch.bfloat16
    with pytest.raises(TypeError, match="float64"):
        encoder.double()


def test_meta_device_builds_and_loads():
    encoder = native(bert())
    with torch.device("meta"):
        empty = Encoder.from_config(encoder.config)
    empty.to("meta").load_state_dict(encoder.state_dict())
    assert torch.equal(empty.packed, encoder.packed)


def test_from_config_refuses_nonsense():
    config = native(bert()).config
    with pytest.raises(ValueError, match="vocab_size must be at least 1, got 0"):
        Encoder.from_config({**config, "vocab_size": 0})
    with pytest.raises(ValueError, match="activation 'swish2'"):
        Encoder.from_config({**config, "activation": "swish2"})


def test_compiles_without_graph_breaks():
    encoder = native(bert())
    compiled = torch.compile(encoder, fullgraph=True, dynamic=True, backend="aot_eager")
    for size, length in ((2, 9), (3, 5)):
        ids, mask = torch.randint(0, 100, (size, length)), torch.ones(size, length, dtype=torch.long)
        with torch.no_grad():
            out, expected = compiled(ids, attention_mask=mask), encoder(ids, attention_mask=mask)
        assert type(out) is type(expected)
        assert torch.equal(out[0], expected[0]) and torch.equal(out[1], expected[1])


def test_exports():
    encoder, ids = native(bert()), torch.randint(0, 100, (2, 9))
    dynamic = {"input_ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}, "return_dict": None}
    program = torch.export.export(encoder, (), {"input_ids": ids, "return_dict": False}, dynamic_shapes=dynamic)
    longer = torch.randint(0, 100, (4, 17))
    out = program.module()(input_ids=longer, return_dict=False)
    assert torch.equal(out[0], encoder(longer)[0])


def test_without_transformers(monkeypatch):
    """The native module itself needs no transformers: a named tuple takes the place of its output class."""
    encoder, ids = native(bert()), torch.randint(0, 100, (2, 9))
    expected = encoder(ids)[0]
    from kdnative.nn import encoder as module

    monkeypatch.setattr(module, "_OUTPUTS", {})
    monkeypatch.setitem(sys.modules, "transformers", None)
    out = encoder(ids)
    assert type(out).__name__ == "EncoderOutput" and torch.equal(out.last_hidden_state, expected)
