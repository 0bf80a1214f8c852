"""The arithmetic of the fused encoder against transformers' float models and a float64 oracle."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from kdnative.nn import Encoder
from tests.nn import encoder_oracle
from tests.nn.encoder_models import batch, bert, check_close, native


@pytest.fixture(autouse=True)
def _two_threads(_threads):
    torch.set_num_threads(2)


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
    oracle = encoder_oracle.encode(encoder.spec, encoder.state_dict(), ids, mask, types)
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
        wrong = encoder_oracle.encode(encoder.spec, state | {name: state[name] * 0}, ids, mask, types)
        with pytest.raises(AssertionError):
            check_close(actual, wrong, mask)


def test_embeddings_are_exact():
    model = bert(layers=0)
    encoder, (ids, mask, types) = native(model), batch(model, 3, 7)
    oracle = encoder_oracle.encode(encoder.spec, encoder.state_dict(), ids, mask, types)
    assert np.abs(encoder(ids, mask, types)[0].numpy() - oracle).max() < 2e-6


@pytest.mark.parametrize("length", [1, 2, 5, 8, 15, 17, 33, 64, 130])
def test_one_layer_is_nearly_exact(length):
    """With a single layer few roundings differ from the oracle's, so most values agree to float32 accuracy."""
    model = bert(48, 3, 100, layers=1)
    encoder, (ids, mask, types) = native(model), batch(model, 2, length)
    oracle = encoder_oracle.encode(encoder.spec, encoder.state_dict(), ids, mask, types)
    error = np.abs(encoder(ids, mask, types)[0].numpy() - oracle)
    assert np.median(error) < 2e-5 and error.max() < 0.05


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu", "tanh"])
def test_activations(activation):
    model = bert(hidden_act=activation)
    encoder, (ids, mask, types) = native(model), batch(model, 3, 9)
    oracle = encoder_oracle.encode(encoder.spec, encoder.state_dict(), ids, mask, types)
    check_close(encoder(ids, mask, types)[0], oracle, mask)


@pytest.mark.parametrize("scheme", ["w4a8-g32", "w4a8-g32-asym", "w2a8-g32", "w2a8-g32-asym", "w4a8-g32-int"])
def test_few_bits_and_mixed_schemes(scheme):
    model = bert(64, 4, 96)
    mixed = lambda name: "w8a8" if "output.dense" in name else scheme  # noqa: E731
    encoder, (ids, mask, types) = native(model, mixed), batch(model, 3, 20)
    assert encoder.spec["layers"][0]["qkv"] == scheme and encoder.spec["layers"][0]["output"] == "w8a8"
    oracle = encoder_oracle.encode(encoder.spec, encoder.state_dict(), ids, mask, types)
    check_close(encoder(ids, mask, types)[0], oracle, mask)


def test_2_bit_codes_survive_the_state_dict():
    model = bert(64, 4, 96)
    encoder = native(model, "w2a8-g32")
    fresh = Encoder.from_spec(json.loads(json.dumps(encoder.spec)))
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
    assert [x["heads"] for x in encoder.spec["layers"]] == [3, 1, 5]
    assert [x["ffn"] for x in encoder.spec["layers"]] == [17, 100, 64]
    actual = encoder(ids, mask, types)[0]
    check_close(actual, encoder_oracle.encode(encoder.spec, encoder.state_dict(), ids, mask, types), mask)
    many = encoder(*(x.repeat(40, 1) for x in (ids, mask, types)))[0]  # both threads have blocks of their own
    assert torch.equal(many, actual.repeat(40, 1, 1))
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


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32,
     torch.float64],
)  # fmt: skip
def test_mask_dtypes(dtype):
    model = bert()
    encoder, (ids, mask, _) = native(model), batch(model, 3, 9)
    want = encoder(ids, mask)[0]
    given = mask.to(dtype)
    for value in (given, -given if dtype.is_floating_point else given):  # -0.0 is padding too
        assert torch.equal(encoder(ids, value)[0], want)
        assert torch.equal(encoder(ids.int(), value.t().contiguous().t())[0], want)


@pytest.mark.parametrize(
    ("size", "length"), [(1, 32), (1, 130), (7, 19), (4, 130), (36, 130), (3, 128), (300, 5), (70, 61), (90, 90)]
)
def test_results_do_not_depend_on_threads(size, length):
    """Small batches share columns, larger ones rows or whole sequences, and very large ones are cut into groups."""
    model = bert(160, 5, 320) if size * length > 1000 else bert(320, 5, 640)
    encoder, (ids, mask, types) = native(model), batch(model, size, length)
    results = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        results.append(encoder(ids, mask, types)[0].clone())
    for other in results[1:]:
        assert torch.equal(other, results[0])
    for one in (slice(1), slice(size // 2, size // 2 + 1), slice(size - 1, size)):
        assert torch.equal(encoder(ids[one], mask[one], types[one])[0], results[0][one])


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
    oracle = encoder_oracle.encode(encoder.spec, encoder.state_dict(), ids, mask, types)
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
    check_close(actual, encoder_oracle.encode(encoder.spec, encoder.state_dict(), ids), torch.ones(1, 5))
