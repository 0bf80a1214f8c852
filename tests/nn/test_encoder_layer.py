"""Layers of vision, speech and text-image models as one operator: against the oracle, transformers, and in models."""

from __future__ import annotations

import copy
import importlib
import pickle
import sys

import pytest
import torch
from torch import nn

from kdnative import convert_, inspect, load, save
from kdnative.models.families import TABLE
from kdnative.models.known_layers import is_layer
from kdnative.nn import EncoderLayer, Linear
from kdnative.quantize import FakeQuantLinear, prepare_qat_
from tests.nn import encoder_oracle
from tests.nn.encoder_models import check_close, layer_from, randomized
from tests.nn.layer_configs import IDS, IMAGES, LAYERS, ROTARY, SEQ2SEQ, SIZES, WHISPER, WITHOUT_MASK, WORDS
from tests.small_models import rows

transformers = pytest.importorskip("transformers", "5.0")


def test_every_known_layer_is_tested():
    rows = [row for row in TABLE if row.alone and row.origin.startswith("transformers.")]
    assert set(LAYERS) == {name for row in rows for name in row.layers}


def layer(kind="ViTLayer", **changes):
    config, settings = LAYERS[kind]
    config = getattr(transformers, config)(**{**settings, **changes})
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    module = importlib.import_module(type(config).__module__.replace(".configuration_", ".modeling_"))
    return randomized(getattr(module, kind)(config))


def native(module, scheme="w8a8"):
    found = layer_from(module, scheme)
    assert isinstance(found, EncoderLayer), found
    return found


def batch(size, length, width=48):
    """Hidden states, and keys with holes."""
    g = torch.Generator().manual_seed(1)
    keep = torch.rand(size, length, generator=g) < 0.8
    keep[:, 0] = True
    return torch.randn(size, length, width, generator=g), keep


def turning(kind, size, length):
    """Angles ``[B, T, D / 2]`` as the oracle takes them, and what the model gives to its layers."""
    if kind not in ROTARY:
        return None, {}
    first = min(ROTARY[kind], length - 1)
    rows = 1 if first else size
    angles = torch.randn(rows, length - first, 8, generator=torch.Generator().manual_seed(2))
    whole = torch.cat([torch.zeros(rows, first, 8), angles], 1).expand(size, -1, -1)
    twice = torch.cat([angles, angles], -1)
    twice = twice[0] if kind == "DINOv3ViTLayer" and rows == 1 else twice
    return whole.numpy(), {"position_embeddings": (twice.cos(), twice.sin())}


def pairs(keep, causal=False, dtype=torch.bool):
    """The mask that transformers makes of keys."""
    allowed = keep[:, None, None, :].expand(-1, 1, keep.shape[1], -1)
    allowed = allowed.tril() if causal else allowed
    return allowed if dtype is torch.bool else torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(dtype).min)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("size", "length"), [(1, 1), (2, 17), (3, 130)])
@pytest.mark.parametrize("causal", [False, True])
def test_matches_the_oracle_and_transformers(kind, size, length, causal):
    theirs, (x, keep) = layer(kind), batch(size, length)
    ours, everything = native(theirs), torch.ones_like(keep)
    angles, positions = turning(kind, size, length)
    for kept in (everything,) if kind in WITHOUT_MASK else (everything, keep):
        mask = {} if kind in WITHOUT_MASK else {"attention_mask": pairs(kept, causal)}
        actual = ours(x, None if kept.all() else pairs(kept, causal), is_causal=causal, **positions)
        check_close(actual, encoder_oracle.encode_states(ours.spec, ours.state_dict(), x, kept, causal, angles), kept)
        with torch.no_grad():
            expected = theirs(x, **mask, **positions)
        if causal and not mask:
            continue
        assert torch.cosine_similarity(actual[kept], expected[kept], dim=-1).min() > 0.99
        assert (actual - expected)[kept].norm() < 0.06 * expected[kept].norm()


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [("CLIPEncoderLayer", "w8a8"), ("Dinov2WithRegistersLayer", "w4a8-g32-asym"), ("EsmLayer", "w8a8")],
)
def test_every_instruction_set(isa, kind, scheme):
    theirs, (x, keep) = layer(kind, hidden_size=96, num_attention_heads=6, intermediate_size=128), batch(2, 40, 96)
    ours, (angles, positions) = native(theirs, scheme), turning(kind, 2, 40)
    expected = encoder_oracle.encode_states(ours.spec, ours.state_dict(), x, keep, angles=angles)
    check_close(ours(x, pairs(keep), **positions), expected, keep)


def test_rotary_positions():
    ours, (x, _) = native(layer("EsmLayer")), batch(3, 9)
    _, given = turning("EsmLayer", 3, 9)
    cosine, sine = given["position_embeddings"]
    expected = ours(x, **given)
    assert torch.equal(
        ours(x, position_embeddings=(cosine.bfloat16().float(), sine)),
        ours(x, position_embeddings=(cosine.bfloat16(), sine)),
    )
    for i in range(3):
        alone = ours(x[i : i + 1], position_embeddings=(cosine[i], sine[i]))
        assert torch.equal(alone, expected[i : i + 1])
    with pytest.raises(AssertionError):
        check_close(expected, encoder_oracle.encode_states(ours.spec, ours.state_dict(), x), torch.ones(3, 9))
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, **given), expected)
    table = torch.stack([cosine[..., :8], sine[..., :8]], 2)
    torch.library.opcheck(torch.ops.kdnative.encoder_layers.default, (ours.packed, x, None, 0, table))
    with pytest.raises(RuntimeError, match="has rotary positions and needs position_embeddings"):
        ours(x)
    for wrong, words in (
        ((cosine[:2], sine[:2]), r"\[1 or 3, 9, 2, half a head\] \(got float32 of shape \[2, 9, 2, 8\]\)"),
        ((cosine[:, :, :12], sine[:, :, :12]), "rotary turns heads of 12, but those of the packed encoder are 16 wide"),
        ((cosine.expand(3, 9, 16)[:, [0] * 10], sine[:, [0] * 10]), r"got float32 of shape \[3, 10, 2, 8\]"),
    ):
        with pytest.raises(RuntimeError, match=words):
            ours(x, position_embeddings=wrong)


def test_factors_are_in_the_weights():
    """Int8 codes have a scale for each output: they stay the same, and the scales take the factors."""
    theirs = layer("Dinov2Layer")
    ours = native(theirs).state_dict()
    with torch.no_grad():
        theirs.layer_scale1.lambda1.mul_(-3)
        theirs.layer_scale2.lambda1.mul_(0.25)
    changed = native(theirs).state_dict()
    assert torch.allclose(changed["layers.0.output.bias"], -3 * ours["layers.0.output.bias"])
    assert torch.equal(changed["layers.0.ffn_out.qweight"], ours["layers.0.ffn_out.qweight"])
    assert torch.allclose(changed["layers.0.ffn_out.scale"], 0.25 * ours["layers.0.ffn_out.scale"])
    assert torch.equal(changed["layers.0.qkv.scale"], ours["layers.0.qkv.scale"])


# -- inputs ------------------------------------------------------------------------------------------------------------


def test_masks():
    ours, (x, keep) = native(layer()), batch(3, 9)
    expected = ours(x, pairs(keep))
    assert not expected[~keep].any()
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.equal(ours(x, pairs(keep, dtype=dtype)), expected)
    one = keep[:1].expand(3, -1)
    assert torch.equal(ours(x, pairs(keep[:1])), ours(x, pairs(one)))
    assert torch.equal(ours(x, pairs(keep)[:, :, :1]), expected)  # the same for every query
    assert torch.equal(ours(x, pairs(keep, True), is_causal=True)[:, 0], ours(x, is_causal=True)[:, 0])
    for mask, causal in ((pairs(keep, True), False), (pairs(keep), True), (pairs(keep).flip(-1).triu(), False)):
        with pytest.raises(RuntimeError, match=r"masks of keys that hold for every query.*fuse=False"):
            ours(x, mask, is_causal=causal)
    for mask in (keep, keep[:, None], pairs(keep).expand(-1, 3, -1, -1), pairs(keep)[..., 1:]):
        with pytest.raises(RuntimeError, match=r"of shape \[batch, 1, 9, 9\], got \[3, "):
            ours(x, mask)


def test_shapes_strides_and_dtypes():
    ours, (x, _) = native(layer()), batch(2, 9)
    expected = ours(x)
    wide = torch.zeros(2, 18, 96)
    wide[:, ::2, ::2] = x
    assert torch.equal(ours(wide[:, ::2, ::2]), expected)
    assert ours(torch.zeros(0, 5, 48)).shape == (0, 5, 48) and ours(torch.zeros(2, 0, 48)).shape == (2, 0, 48)
    for dtype in (torch.bfloat16, torch.float16):
        rounded = x.to(dtype)
        assert torch.equal(ours(rounded), ours(rounded.float()).to(dtype))
    with pytest.raises(RuntimeError, match="48"):
        ours(torch.zeros(2, 5, 47))
    with pytest.raises(RuntimeError, match=r"for inference.*\.eval\(\)"):
        ours.train()(x)
    with pytest.raises(RuntimeError, match=r"nn\.EncoderLayer is for inference and its input requires grad.*no_grad"):
        ours.eval()(x.requires_grad_())
    with torch.no_grad():
        assert torch.equal(ours(x), expected)


# -- in models ---------------------------------------------------------------------------------------------------------

MODELS = {
    "ViTForImageClassification": (IMAGES, "pixel_values"),
    "CLIPVisionModel": (IMAGES, "pixel_values"),
    "CLIPTextModel": (WORDS, "input_ids"),
    "SiglipVisionModel": (IMAGES, "pixel_values"),
    "Dinov2Model": (IMAGES, "pixel_values"),
    "BlipVisionModel": (IMAGES, "pixel_values"),
    "DPTModel": ({**IMAGES, "backbone_out_indices": [0, 1], "neck_hidden_sizes": [8, 8]}, "pixel_values"),
    "DINOv3ViTModel": ({**IMAGES, "num_register_tokens": 2}, "pixel_values"),
    "BertModel": (WORDS, "input_ids"),
    "DistilBertModel": ({**IDS, "dim": 48, "n_heads": 3, "n_layers": 2, "hidden_dim": 100}, "input_ids"),
    "ErnieModel": (WORDS, "input_ids"),
    "EsmModel": ({**WORDS, "position_embedding_type": "rotary", "mask_token_id": 98}, "input_ids"),
    "LayoutLMModel": (WORDS, "input_ids"),
    "AlbertModel": ({**WORDS, "embedding_size": 32, "num_hidden_groups": 2}, "input_ids"),
    "ElectraModel": ({**WORDS, "embedding_size": 32}, "input_ids"),
    "Wav2Vec2Model": (SIZES, "input_values"),
    "MarianMTModel": ({**SEQ2SEQ, "max_position_embeddings": 40}, "input_ids"),
    "BartModel": ({**SEQ2SEQ, "max_position_embeddings": 40}, "input_ids"),
    "WhisperForConditionalGeneration": ({**WHISPER, "max_source_positions": 32}, "input_features"),
}


def model(kind="ViTForImageClassification"):
    cls = getattr(transformers, kind)
    torch.manual_seed(0)
    return randomized(cls(cls.config_class(**MODELS[kind][0])))


def inputs(kind="ViTForImageClassification"):
    g, name = torch.Generator().manual_seed(2), MODELS[kind][1]
    shapes = {"pixel_values": (2, 3, 32, 32), "input_values": (2, 4000), "input_features": (2, 16, 64)}
    if name == "input_ids":
        ids = torch.randint(2, 99, (2, 11), generator=g)
        mask = torch.ones_like(ids)
        mask[1, 6:] = 0
        decoder = {"decoder_input_ids": ids[:, :3]} if "d_model" in MODELS[kind][0] else {}
        return {"input_ids": ids, "attention_mask": mask, **decoder}
    found = {name: torch.randn(shapes[name], generator=g)}
    if "Whisper" in kind:
        found["decoder_input_ids"] = torch.tensor([[1, 5], [1, 7]])
    return found


def kept(kind, name, hidden):
    """What is not padding: decoders get none."""
    ids = MODELS[kind][1] == "input_ids" and name != "decoder_hidden_states"
    return hidden[inputs(kind)["attention_mask"].bool()] if ids else hidden


@pytest.mark.parametrize("kind", MODELS)
def test_models(kind, tmp_path):
    ours, given = model(kind), inputs(kind)
    original = copy.deepcopy(ours)
    with torch.no_grad():
        expected = ours(**given, output_hidden_states=True)
        fused_as_a_whole = kind in ("BertModel", "DistilBertModel")  # unless embeddings stay outside
        report = convert_(ours, "w8a8", embeddings=None if fused_as_a_whole else 8)
        actual = ours(**given, output_hidden_states=True)
    assert sum(isinstance(module, EncoderLayer) for module in ours.modules()) == 2
    assert not any(is_layer(module) for module in ours.modules())
    for name in (name for name in expected if "hidden_states" in name):
        states, found = ([kept(kind, name, hidden) for hidden in output[name]] for output in (expected, actual))
        assert len(states) == len(found) == 3
        assert all(torch.cosine_similarity(a, b, dim=-1).mean() > 0.99 for a, b in zip(states, found, strict=True))
    tensors = {**dict(ours.named_parameters()), **dict(ours.named_buffers())}
    sizes = {name: t.numel() * t.element_size() for name, t in tensors.items()}
    without_row = ("position_ids", "token_type_ids", "final_logits_bias", "inv_freq")
    apart = sum(size for name, size in sizes.items() if name.endswith(without_row))
    assert 0 <= sum(sizes.values()) - report.totals["bytes_after"] <= apart  # modules without parameters have no row
    with torch.no_grad():
        want = ours(**given)[0]
        save(ours, tmp_path / "m")
        assert torch.equal(load(tmp_path / "m")(**given)[0], want)
        assert load(tmp_path / "m", into=original) is original and torch.equal(original(**given)[0], want)
    parts = [row for row in inspect(tmp_path / "m")["modules"] if "EncoderLayer" in row["kind"]]
    assert {row["scheme"] for row in parts if row["name"].endswith((".qkv", ".ffn_out"))} == {"w8a8"}


def test_copies():
    ours = convert_(model()).model
    with torch.no_grad():
        for same in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
            assert torch.equal(same(**inputs()).logits, ours(**inputs()).logits)


def test_attention_weights_are_refused():
    ours = convert_(model()).model
    ours.set_attn_implementation("eager")
    with (
        torch.no_grad(),
        pytest.raises(RuntimeError, match=r"output_attentions=True: .* convert_\(\.\.\., fuse=False\)"),
    ):
        ours(**inputs(), output_attentions=True)
    apart = convert_(model(), fuse=False).model
    apart.set_attn_implementation("eager")
    with torch.no_grad():
        assert len(apart(**inputs(), output_attentions=True).attentions) == 2


def test_some_hidden_states_are_recorded_and_others_not():
    ours = convert_(model()).model
    with torch.no_grad():
        every = ours(**inputs(), output_hidden_states=True).hidden_states
        last = ours(**inputs(), output_hidden_states=[-1]).hidden_states
    assert [state is None for state in last] == [True, True, False] and torch.equal(last[2], every[2])


def test_compiles_to_one_graph_and_exports():
    ours, given = convert_(model()).model, inputs()
    with torch.inference_mode():
        want = ours(**given).logits
        compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(**given).logits, want)
    with torch.no_grad():
        program = torch.export.export(ours, (), given)
        assert torch.equal(program.module()(**given).logits, want)
    block, (x, keep) = native(layer()), batch(2, 9)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, pairs(keep)), block(x, pairs(keep)))


def test_a_bare_layer(tmp_path):
    wide = {"hidden_size": 96, "intermediate_size": 128}
    ours, other, (x, _) = layer(**wide), layer(**wide), batch(2, 5, width=96)
    report = convert_(ours, "w4a8-g32")
    assert type(ours) is EncoderLayer and rows(report)["mlp.fc2"].scheme == "w4a8-g32"
    save(ours, tmp_path / "m")
    assert load(tmp_path / "m", into=other) is other and torch.equal(other(x), ours(x))
    assert torch.equal(load(tmp_path / "m")(x), ours(x))


# -- what is not fused -------------------------------------------------------------------------------------------------


def test_a_layer_with_a_part_in_float_is_converted_linear_by_linear():
    ours = model()
    report = convert_(ours, "w8a8", keep=["vit.layers.1.mlp.fc1"])
    found = rows(report)
    assert type(ours.vit.layers[0]) is EncoderLayer and type(ours.vit.layers[1].mlp.fc2) is Linear
    assert "not fused: vit.layers.1.mlp.fc1 stays in float" in found["vit.layers.1"].reason
    with torch.no_grad():
        assert ours(**inputs()).logits.isfinite().all()
    half = convert_(model(), {"vit.layers.0": "w8a16", "*": "w8a8"}).model
    assert type(half.vit.layers[0].mlp.fc1) is Linear and type(half.vit.layers[1]) is EncoderLayer


def test_older_transformers(monkeypatch):
    theirs = layer()
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "4.57.1")
    reason = layer_from(theirs, "w8a8")
    assert reason == "layers of ViTLayer are fused with transformers 5 on, and this is 4.57.1"


def test_other_parts_than_known():
    theirs = layer()
    theirs.attention.q_norm = nn.LayerNorm(16)
    reason = layer_from(theirs, "w8a8")
    assert reason == "it has parameters that are not known of ViTLayer: attention.q_norm.weight, attention.q_norm.bias"
    theirs = layer()
    del theirs.mlp.fc2
    assert "its structure differs from that of the supported ViTLayer" in layer_from(theirs, "w8a8")


def test_quantization_aware_training():
    ours, given = model(), inputs()
    prepare_qat_(ours, {"vit.layers*": "w8a8"})
    with torch.no_grad():
        expected = ours.eval()(**given).logits
        report = convert_(ours)
        assert (ours(**given).logits - expected).abs().max() < 0.05 * expected.abs().max()
    assert rows(report)["vit.layers.0.mlp.fc1"].action == "fused"
    theirs = layer("Dinov2Layer")
    prepare_qat_(theirs, "w8a8")
    assert type(theirs.mlp.fc2) is FakeQuantLinear
    reason = layer_from(theirs, "w8a8")
    assert reason == "attention.o_proj is followed by a factor, which can't be merged into a FakeQuantLinear"


def test_subclasses_are_left_alone():
    class Own(type(layer())):
        pass

    theirs = layer()
    theirs.__class__ = Own
    assert not is_layer(theirs) and not is_layer(nn.Linear(2, 2))
