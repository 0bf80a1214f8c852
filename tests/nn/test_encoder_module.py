"""Encoder as a torch module: state, copies, dtypes, devices, compile, export."""

from __future__ import annotations

import copy
import json
import pickle
import sys

import pytest
import torch

from kdnative.nn import Encoder
from tests.nn.encoder_models import bert, native


def test_state_dict_round_trip():
    model = bert(64, 4, 96)
    encoder = native(model, lambda name: "w4a8-g32-asym" if "intermediate" in name else "w8a8")
    state = encoder.state_dict()
    assert {name.rsplit(".", 1)[0] for name in state if name.startswith("layers.1.")} == {
        f"layers.1.{part}" for part in ("qkv", "output", "attention_norm", "ffn_in", "ffn_out", "output_norm")
    }
    assert state["embeddings.word.qweight"].shape == (101, 64) and state["layers.0.qkv.qweight"].shape == (192, 64)
    assert not any("packed" in name for name in state)
    fresh = Encoder.from_spec(json.loads(json.dumps(encoder.spec)))
    assert fresh.is_empty and not encoder.is_empty
    fresh.load_state_dict(state)
    assert torch.equal(fresh.packed, encoder.packed)
    ids = torch.randint(0, 100, (2, 9))
    assert torch.equal(fresh(ids)[0], encoder(ids)[0]) and torch.equal(fresh(ids)[1], encoder(ids)[1])


def test_weights_without_zeros_are_refused():
    config = json.loads(json.dumps(native(bert()).spec))
    config["layers"][0]["ffn_out"] = "w8a8+mask"
    with pytest.raises(ValueError, match=r"w8a8\+mask of ffn_out has no zeros, but a fused encoder takes w8a8$"):
        Encoder.from_spec(config)


def test_float_activations_are_refused():
    config = json.loads(json.dumps(native(bert()).spec))
    config["layers"][1]["ffn_in"] = "w8a16"
    with pytest.raises(ValueError, match="w8a16 of ffn_in keeps float activations.*use an a8 scheme"):
        Encoder.from_spec(config)


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
        assert other.spec == encoder.spec


def test_dtype_follows_to():
    encoder, ids = native(bert()), torch.randint(0, 100, (2, 9))
    expected, packed = encoder(ids), encoder.packed.clone()
    half = encoder.to(torch.bfloat16)
    assert torch.equal(half.packed, packed) and half.spec["dtype"] == "bfloat16"
    out = half(ids)
    assert torch.equal(out[0], expected[0].bfloat16()) and out[1].dtype == torch.bfloat16
    with pytest.raises(TypeError, match="float64"):
        encoder.double()


def test_moves_whatever_the_default_device_is():
    encoder = native(bert())
    packed = encoder.packed.clone()
    with torch.device("meta"):
        assert encoder.to("cpu").bfloat16().dtype == torch.bfloat16
    assert torch.equal(encoder.packed, packed)


def test_meta_device_builds_and_loads():
    encoder = native(bert())
    with torch.device("meta"):
        empty = Encoder.from_spec(encoder.spec)
    empty.to("meta").load_state_dict(encoder.state_dict())
    assert torch.equal(empty.packed, encoder.packed)


def test_from_config_refuses_nonsense():
    config = native(bert()).spec
    with pytest.raises(ValueError, match="vocab_size must be at least 1, got 0"):
        Encoder.from_spec({**config, "vocab_size": 0})
    for change in ({"norm": "pre"}, {"relative_buckets": 32, "relative_distance": 128}):
        with pytest.raises(ValueError, match=f"{next(iter(change))}.* needs at least one layer"):
            Encoder.from_spec({**config, **change, "layers": []})
    with pytest.raises(ValueError, match="activation is 'swish2'; it must be 'none' or 'relu'"):
        Encoder.from_spec({**config, "activation": "swish2"})


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


def test_fill_takes_one_part_after_the_other():
    encoder = native(bert(64, 4, 96), lambda name: "w4a8-g32-asym" if "intermediate" in name else "w8a8")
    state, read = encoder.state_dict(), []
    fresh = Encoder.from_spec(json.loads(json.dumps(encoder.spec)))
    assert fresh.packed.is_meta and fresh.packed.numel() == 0
    assert set(fresh.plain_names()) == {name for name in state if not name.startswith("pooler.")}

    def of_state(name, place):
        read.append(name)
        assert (place is None) == (name.split(".")[1] not in ("word", "position", "token_type"))
        if place is None or name.endswith("scale"):
            return state[name]
        assert place.shape == state[name].shape and place.dtype == torch.int8
        return place.copy_(state[name])

    assert fresh.fill(of_state) == []
    assert torch.equal(fresh.packed, encoder.packed)
    assert sorted(read) == sorted(fresh.plain_names())  # each once
    parts = [name.rpartition(".")[0] for name in read]
    assert len(set(parts)) == sum(a != b for a, b in zip(parts, [None, *parts], strict=False))  # one after the other


def test_fill_says_what_is_wrong_and_changes_nothing():
    encoder = native(bert())
    state, before = encoder.state_dict(), encoder.packed.clone()
    state["layers.1.qkv.qweight"] = state["layers.1.qkv.qweight"][:5]
    state["embeddings.word.qweight"] = state["embeddings.word.qweight"].float()
    errors = encoder.fill(lambda name, place: state[name])
    assert len(errors) == 2 and "embeddings.word.qweight" in errors[0] and "size mismatch" in errors[1]
    assert torch.equal(encoder.packed, before)
    fresh = Encoder.from_spec(encoder.spec)
    assert fresh.fill(lambda name, place: state[name]) == errors and fresh.packed.is_meta
