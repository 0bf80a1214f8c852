"""Hidden states of fused encoders: what the first layer is given, and what each layer gives."""

from __future__ import annotations

import pytest
import torch

from kdnative import convert_, load, ops, save
from kdnative.nn import Encoder
from tests.nn.encoder_models import batch, bert, electra, gte, jina, modernbert, mpnet, native, nomic, transformers

FAMILIES = [bert, electra, mpnet, modernbert, nomic, gte, jina]


def cut(encoder, layers):
    """The same encoder without its last layers: an own packed buffer, and no state but the last."""
    spec = encoder.spec
    short = Encoder.from_spec({**spec, "layers": spec["layers"][:layers], "pooler": None})
    gone = tuple(f"layers.{n}." for n in range(layers, len(spec["layers"])))
    kept = {name: t for name, t in encoder.state_dict().items() if not name.startswith((*gone, "pooler."))}
    short.load_state_dict(kept)
    return short


def check_every_state(encoder, ids, mask=None, types=None):
    """Each state, bit for bit, is what an encoder of so many layers gives, up to the norm that ends it."""
    output = encoder(ids, mask, types, output_hidden_states=True)
    plain = encoder(ids, mask, types)
    assert output.hidden_states[-1] is output.last_hidden_state
    assert torch.equal(output.last_hidden_state, plain.last_hidden_state) and plain.hidden_states is None
    spec = encoder.spec
    layers, post = len(spec["layers"]), spec["norm"] == "post"
    assert len(output.hidden_states) == layers + 1
    for number in range(0 if post and not spec["relative_buckets"] else 1, layers):  # these can't be without layers
        state, short = output.hidden_states[number], cut(encoder, number)
        expected = short(ids, mask, types)[0]
        if post:
            assert torch.equal(state, expected)
        else:
            norm = short.parts().final_norm
            kept = torch.ones_like(ids).bool() if mask is None else mask.bool()
            actual = torch.nn.functional.layer_norm(state, state.shape[-1:], norm.weight, norm.bias, norm.eps)
            torch.testing.assert_close(actual[kept], expected[kept], rtol=1e-4, atol=1e-4)
            assert not state[~kept].any()


@pytest.mark.parametrize("make", FAMILIES, ids=lambda make: make.__name__)
def test_states_are_those_of_the_float_model(make):
    model = make()
    ids, mask, types = batch(model, 3, 17)
    given = {"input_ids": ids, "attention_mask": mask, "output_hidden_states": True}
    if getattr(model.config, "type_vocab_size", 0) > 1:
        given["token_type_ids"] = types
    with torch.no_grad():
        expected, actual = model(**given), native(model)(**given)
    assert type(actual) is type(expected) and list(actual) == list(expected)
    assert len(actual.hidden_states) == len(expected.hidden_states)
    kept = mask.bool()
    for ours, theirs in zip(actual.hidden_states, expected.hidden_states, strict=True):
        assert torch.cosine_similarity(ours[kept], theirs[kept], dim=-1).min() > 0.98
        assert not ours[~kept].any()


@pytest.mark.parametrize("make", [bert, mpnet, modernbert], ids=lambda make: make.__name__)
def test_every_instruction_set(isa, make):
    model = make()
    check_every_state(native(model), *batch(model, 3, 29)[:2])


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(
    ("size", "length"), [(1, 1), (1, 32), (1, 130), (7, 19), (36, 130), (3, 128), (300, 5), (70, 61)]
)
@pytest.mark.parametrize("padded", [True, False])
def test_every_way_to_share_the_work(size, length, padded, threads):
    """Columns, rows and whole sequences, one group and several, rows in place and packed."""
    torch.set_num_threads(threads)
    model = bert(160, 5, 320)
    ids, mask, types = batch(model, size, length)
    check_every_state(native(model), ids, mask if padded else None, types)


def test_chosen_states():
    encoder, ids = native(bert(layers=3)), torch.arange(3, 13).view(2, 5)
    every = encoder(ids, output_hidden_states=True).hidden_states
    for wanted, places in ((1, {1}), (-1, {3}), ([0, -2], {0, 2}), ([1, 7, -5], {1}), ((), None), (False, None)):
        found = encoder(ids, output_hidden_states=wanted).hidden_states
        if places is None:
            assert found is None
            continue
        assert {n for n, state in enumerate(found) if state is not None} == places and len(found) == 4
        assert all(torch.equal(found[n], every[n]) for n in places)


def test_transformers_chooses_the_same_states():
    model, ids = bert(layers=3), torch.arange(3, 13).view(2, 5)
    encoder = native(model)
    for wanted in (2, -1, [0, -2], [1, 7, -5]):
        with torch.no_grad():
            theirs = model(ids, output_hidden_states=wanted).hidden_states
        if any(state is None for state in theirs):  # transformers before 5.24 took every number for True
            ours = encoder(ids, output_hidden_states=wanted).hidden_states
            assert [state is None for state in ours] == [state is None for state in theirs]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_states_have_the_dtype_of_the_output(dtype):
    encoder, ids = native(bert()), torch.arange(3, 13).view(2, 5)
    expected = encoder(ids, output_hidden_states=True).hidden_states
    hidden, pooled, states = encoder.to(dtype)(ids, output_hidden_states=True, return_dict=False)
    assert hidden.dtype == pooled.dtype == dtype and states[-1] is hidden
    assert all(torch.equal(state, want.to(dtype)) for state, want in zip(states, expected, strict=True))


def test_models_around_the_encoder_and_checkpoints(tmp_path):
    cls = transformers.BertForSequenceClassification
    options = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 100}
    config = transformers.BertConfig(**options, vocab_size=101, output_hidden_states=True)
    model, ids = cls(config).eval(), torch.arange(3, 13).view(2, 5)
    assert convert_(model).totals["fused"] and type(model.bert) is Encoder
    with torch.inference_mode():
        states = model(ids).hidden_states
        assert len(states) == 3 and model(ids, output_hidden_states=False).hidden_states is None
        save(model, tmp_path / "m")
        again = load(tmp_path / "m")(ids).hidden_states
        assert all(torch.equal(a, b) for a, b in zip(states, again, strict=True))
        model.config.output_hidden_states = False
        assert len(load(tmp_path / "m", into=model)(ids).hidden_states) == 3


@pytest.mark.parametrize(("size", "length"), [(0, 5), (3, 0)])
def test_empty_batches(size, length):
    encoder = native(bert())
    encoder.pooler = None
    states = encoder(torch.zeros(size, length, dtype=torch.long), output_hidden_states=True).hidden_states
    assert [state.shape for state in states] == 3 * [(size, length, 48)]


def test_no_token_kept_at_all():
    ids, none = torch.ones(2, 5, dtype=torch.long), torch.zeros(2, 5, dtype=torch.long)
    states = native(bert())(ids, none, output_hidden_states=True).hidden_states
    assert len(states) == 3 and not any(state.any() for state in states)


def test_operator():
    model = bert()
    encoder, (ids, mask, types) = native(model), batch(model, 3, 9)
    operator = torch.ops.kdnative.encoder_hidden_states.default
    torch.library.opcheck(operator, (encoder.packed, ids, mask, types, None, 48, 2))
    torch.library.opcheck(operator, (encoder.packed, ids.t().contiguous().t().int(), None, None, None, 48, 2))


def test_compiles_to_one_graph():
    model = bert()
    encoder, (ids, mask, types) = native(model), batch(model, 3, 9)
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        expected = encoder(ids, mask, types, output_hidden_states=True)
        actual = compiled(ids, mask, types, output_hidden_states=True)
    assert list(actual) == list(expected)
    assert all(torch.equal(a, b) for a, b in zip(actual.hidden_states, expected.hidden_states, strict=True))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (3, "encoder_hidden_states: layers is 3, but the packed encoder has 2"),
        (0, "encoder_hidden_states: layers is 0, but the packed encoder has 2"),
        (-1, r"encoder_hidden_states: layers must not be negative \(got -1\)"),
    ],
)
def test_a_wrong_number_of_layers(layers, message):
    encoder, ids = native(bert()), torch.ones(1, 3, dtype=torch.long)
    with pytest.raises(RuntimeError, match=message):
        ops.encoder_hidden_states(encoder.packed, ids, None, None, None, 48, layers)


def test_errors_name_the_operator():
    encoder = native(bert())
    with pytest.raises(RuntimeError, match=r"encoder_hidden_states: input_ids must be int64 or int32 \(got float32\)"):
        encoder(torch.ones(1, 3), output_hidden_states=True)


@pytest.mark.parametrize("layers", [-1, 2**31, 2**63 - 1])
def test_numbers_of_layers_that_no_encoder_has_are_refused_while_tracing(layers):
    ids = torch.zeros(1, 4, dtype=torch.int64, device="meta")
    packed = torch.zeros(64, dtype=torch.uint8, device="meta")
    with pytest.raises(ValueError, match=f"layers is {layers}"):
        ops.encoder_hidden_states(packed, ids, None, None, None, 48, layers)
