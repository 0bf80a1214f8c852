"""Every family that is fused is pruned: same values where nothing was lost, and then it trains, converts and loads."""

from __future__ import annotations

import copy

import pytest
import torch

from kdnative import convert_, load, save
from kdnative.models import hidden_size, layers_of
from kdnative.models.families import TABLE
from kdnative.models.hooks import modernbert_taken
from kdnative.nn import Encoder, EncoderLayer
from kdnative.prune import shrink_shapes_, structured_, student_from
from kdnative.prune.graph import find_graph
from tests.models.family_models import KINDS, family_inputs, family_model, transformers

ROWS = {name: row for row in TABLE for name in row.layers}
ONE_EACH = [row.layers[-1] for row in TABLE if row.layers[-1] in KINDS]
HEADS_STAY = {name for name in KINDS if ROWS[name].heads_stay}
OLDER = transformers.__version__ < "5"
# Their attention has one width only in transformers 4.
FIXED_IN_4 = {n for n in KINDS if ROWS[n].name in ("CLIP", "SigLIP")} - {"ChineseCLIPVisionLayer"}
LAYERS_STAY = {name for name in KINDS if ROWS[name].layers_stay}


def first(output):
    """The hidden states of a model with or without a decoder."""
    return output.encoder_last_hidden_state if "encoder_last_hidden_state" in output else output[0]


@torch.no_grad()
def states(model, given):
    return first(model(**given)).double()


def test_which_are_refused():
    """With reasons, which are in the errors."""
    assert HEADS_STAY == {"BlipEncoderLayer", "Blip2EncoderLayer", "InstructBlipEncoderLayer"}
    assert LAYERS_STAY == {"AlbertLayer", "YolosLayer"}
    model = family_model("BlipEncoderLayer")
    given = family_inputs("BlipEncoderLayer", model)
    with pytest.raises(
        ValueError, match=r"nothing that heads could prune \(heads of BLIP stay: its attention takes the"
    ):
        structured_(model, heads=0.3, example_inputs=given)
    for kind, why in (("AlbertLayer", "one layer runs again and again"), ("YolosLayer", "positions are added between")):
        model = family_model(kind)
        with pytest.raises(ValueError, match=f"can't go: {why}"):
            structured_(model, layers=1, example_inputs=family_inputs(kind, model))
        with pytest.raises(ValueError, match=f"can't go: {why}"):
            student_from(model, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_silent_heads_and_neurons_are_not_missed(kind):
    """Heads and neurons that nobody reads go, and the model computes what it did before."""
    model = family_model(kind)
    given, graph = family_inputs(kind, model), find_graph(model)
    with torch.no_grad():
        for attention in graph.attentions:
            size = attention.head_size
            for each in attention.inputs:
                for run in range(each.runs):
                    _quiet(each.linear, slice(run * each.width + size, run * each.width + 2 * size))
            attention.out.weight[:, size : 2 * size] = 0
        for ffn in graph.all_feed_forwards:
            for each in ffn.inputs:
                for run in range(each.runs):
                    _quiet(each.linear, slice(run * each.width, (run + 1) * each.width, 2))
            ffn.down.weight[:, ::2] = 0
    expected = states(model, given)
    heads = 0.0 if kind in HEADS_STAY else 0.3
    if kind in FIXED_IN_4 and OLDER:
        with pytest.raises(
            ValueError, match="can't run with fewer heads, neurons or layers, because its code uses fixed sizes"
        ):
            structured_(model, heads=heads, example_inputs=given, multiple_of=2)
        assert torch.equal(states(model, given), expected)
        heads = 0.0
    before = sum(p.numel() for p in model.parameters())
    report = structured_(model, heads=heads, ffn=0.5, example_inputs=given, multiple_of=2)
    assert torch.allclose(states(model, given), expected, atol=1e-4)
    layers = 1 if kind == "AlbertLayer" else 3
    assert sum(row.what == "ffn" for row in report) == layers * (len(graph.all_feed_forwards[0].inputs) + 1)
    assert sum(row.what == "heads" for row in report) == (
        layers * (len(graph.attentions[0].inputs) + 1) if heads else 0
    )
    relative = 32 if kind == "MPNetLayer" else 0  # buckets, for the head that is gone
    assert (
        before - sum(p.numel() for p in model.parameters())
        == report.parameters_before - report.parameters_after + relative
    )


def _quiet(linear, rows):
    linear.weight[rows] *= 1e-3
    if linear.bias is not None:
        linear.bias[rows] *= 1e-3


@pytest.mark.parametrize("kind", [kind for kind in ONE_EACH if kind not in LAYERS_STAY])
def test_layers_that_stay_are_the_chosen_ones(kind):
    model = family_model(kind)
    given, reference = family_inputs(kind, model), copy.deepcopy(model)
    skipped = layers_of(reference)[1]
    forward = skipped.forward

    def skip(hidden_states, *args, **kwargs):
        output = forward(hidden_states, *args, **kwargs)
        return hidden_states if isinstance(output, torch.Tensor) else (hidden_states, *output[1:])

    skipped.forward = skip
    student = student_from(model, [0, 2])
    assert len(layers_of(student)) == student.config.num_hidden_layers == 2 and len(layers_of(model)) == 3
    assert torch.equal(states(student, given), states(reference, given))


@pytest.mark.parametrize("kind", ONE_EACH)
def test_a_pruned_student_trains_converts_and_loads(kind, tmp_path):
    model = family_model(kind)
    given = family_inputs(kind, model)
    stay = kind in HEADS_STAY or (OLDER and kind in FIXED_IN_4)
    how = {"ffn": 0.5, "heads": 0.0 if stay else 0.3, "layers": None if kind in LAYERS_STAY else 2}
    empty = copy.deepcopy(model).to("meta")
    structured_(model, **how, example_inputs=given, multiple_of=4)
    shrink_shapes_(empty, **how, multiple_of=4)
    assert {n: p.shape for n, p in empty.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    model.train()
    first(model(**given)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layers_of(model)[0].parameters())
    optimizer.step()
    model.eval()
    assert hidden_size(model) == 48
    expected = states(model, given)
    convert_(model)
    native = [module for module in model.modules() if isinstance(module, (Encoder, EncoderLayer))]
    whole = kind in {name for row in TABLE if row.models for name in row.layers}
    assert native or (OLDER and not whole)  # layers of transformers 4 are converted linear by linear
    found = states(model, given)
    assert torch.cosine_similarity(found, expected, dim=-1).min() > 0.97
    save(model, tmp_path / "m")
    assert torch.equal(states(load(tmp_path / "m"), given), found)


# -- ModernBERT: layers with global attention, and layers that see a window -------------------------------------------

MODERNBERT = "ModernBertEncoderLayer"


def modernbert(layers=6):
    return family_model(MODERNBERT, num_hidden_layers=layers)


def kinds(config):
    """Whether each layer is global, in words of either version of transformers."""
    every = getattr(config, "global_attn_every_n_layers", 3)
    own = getattr(config, "layer_types", None)
    return [
        "full" if (own[i] == "full_attention" if own else i % every == 0) else "local"
        for i in range(config.num_hidden_layers)
    ]


@pytest.mark.parametrize("kept", [[0, 3], [0, 1, 3, 4], [0, 2, 5], [0]])
def test_modernbert_keeps_its_windows_and_positions(kept, tmp_path):
    model, reference = modernbert(), modernbert()
    given = family_inputs(MODERNBERT, model)
    before = kinds(model.config)
    assert before == ["full", "local", "local"] * 2
    for index, layer in enumerate(reference.layers):
        if index not in kept:
            layer.forward = lambda hidden_states, *args, **kwargs: (
                hidden_states if not hasattr(reference.config, "global_attn_every_n_layers") else (hidden_states,)
            )
    student = student_from(model, kept)
    assert kinds(student.config) == [before[i] for i in kept]
    expected = states(student, given)
    assert torch.equal(expected, states(reference, given))
    structured_(student, heads=0.3, ffn=0.5, example_inputs=given, multiple_of=4)
    attention, mlp = student.layers[0].attn, student.layers[0].mlp
    assert attention.Wqkv.weight.shape == (3 * 32, 48) and attention.Wo.weight.shape == (48, 32)
    assert mlp.Wi.weight.shape == (2 * 52, 48) and mlp.Wo.weight.shape == (48, 52)
    assert student.config.intermediate_size == 52
    floats = states(student, given)
    assert type(convert_(student).model) is Encoder
    windows = [layer["window"] for layer in student.spec["layers"]]
    assert windows == [None if before[i] == "full" else 3 for i in kept]
    assert torch.cosine_similarity(states(student, given), floats, dim=-1).min() > 0.97
    save(student, tmp_path / "m")
    assert torch.equal(states(load(tmp_path / "m"), given), states(student, given))


def test_modernbert_in_float_is_saved_with_its_pattern(tmp_path):
    model = modernbert()
    given = family_inputs(MODERNBERT, model)
    structured_(model, heads=0.3, ffn=0.5, layers=[0, 1, 3], example_inputs=given, multiple_of=4)
    save(model, tmp_path / "m")
    assert torch.equal(states(load(tmp_path / "m"), given), states(model, given))


def test_modernbert_can_not_do_without_its_first_layer():
    model = modernbert()
    with pytest.raises(ValueError, match="the first layer of ModernBERT has no normalisation, so it must stay"):
        student_from(model, [1, 3])


def test_a_configuration_that_can_only_say_every_n_th():
    """That of transformers 4."""

    class Config:
        global_attn_every_n_layers = 3

    assert modernbert_taken(Config(), [0, 1, 2, 3]) == {"global_attn_every_n_layers": 3}
    assert modernbert_taken(Config(), [0, 3, 6]) == {"global_attn_every_n_layers": 1}
    assert modernbert_taken(Config(), [0, 2, 3, 5]) == {"global_attn_every_n_layers": 2}
    with pytest.raises(ValueError, match="have full, full, sliding attention, and its configuration can only say"):
        modernbert_taken(Config(), [0, 3, 4])


# -- backbones, and other libraries ------------------------------------------------------------------------------------


def test_the_stages_of_a_backbone_follow():
    model = family_model("Dinov2Layer", num_hidden_layers=4, out_indices=[2, 4])
    config = student_from(model, [1, 3]).config
    assert config.stage_names == ["stem", "stage1", "stage2"] and list(config.out_indices) == [1, 2]
    with pytest.raises(ValueError, match=r"layers=\[0, 3\]: stage2 would be gone"):
        student_from(model, [0, 3])


@pytest.mark.parametrize("library", ["timm", "torchvision", "open_clip", "torch"])
def test_models_of_other_libraries(library):
    model, x = other_model(library)
    heads = 0.3 if library == "timm" else 0.0
    with torch.no_grad():
        expected = model(x)
    structured_(model, heads=heads, ffn=0.5, layers=2, example_inputs=x, multiple_of=2)
    layers = layers_of(model)
    assert len(layers) == 2 and hidden_size(model) == 48
    down = [m for m in layers[0].modules() if isinstance(m, torch.nn.Linear)][-1]
    assert down.weight.shape[1] == {"timm": 50, "torchvision": 50, "open_clip": 96, "torch": 50}[library]
    with torch.no_grad():
        assert model(x).shape == expected.shape
    names = {name.split(".")[0] for name in model.state_dict() if "encoder_layer" in name}
    assert library != "torchvision" or names == {"encoder"}
    if heads:
        assert layers[0].attn.qkv.weight.shape == (96, 48)
    else:
        with pytest.raises(ValueError, match="heads of .* stay: nn.MultiheadAttention takes the width of its heads"):
            structured_(model, heads=0.3, example_inputs=x)


def other_model(library):
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    if library == "torch":
        layer = torch.nn.TransformerEncoderLayer(48, 3, 100, batch_first=True)
        return torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False).eval(), torch.randn(2, 9, 48)
    module = pytest.importorskip(library)
    if library == "timm":
        sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 3, "num_classes": 10}
        return module.models.VisionTransformer(**sizes, mlp_ratio=100 / 48).eval(), images
    if library == "torchvision":
        return module.models.VisionTransformer(32, 8, 4, 3, 48, 100, num_classes=10).eval(), images
    return module.transformer.Transformer(48, 4, 3).eval(), torch.randn(2, 9, 48)
