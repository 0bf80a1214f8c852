"""A family of somebody else's: registered in some ten lines, it is fused, pruned and distilled."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kdnative import convert_, load, models, save
from kdnative.distill import HiddenStateLoss, uniform_layer_map
from kdnative.distill.outputs import run
from kdnative.models import Family, hidden_size, hidden_states, layers_of
from kdnative.models.families import BERT, TABLE
from kdnative.nn import EncoderLayer
from kdnative.prune import structured_, student_from
from tests.nn.encoder_models import randomized


class Attention(nn.Module):
    """With queries, keys and values in one linear."""

    def __init__(self, width, count):
        super().__init__()
        self.count, self.size = count, width // count
        self.joined, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.joined(x).unflatten(-1, (3, self.count, self.size)).permute(2, 0, 3, 1, 4)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm, with a gate in the first half of ``first``."""

    def __init__(self, width, count, inner):
        super().__init__()
        self.norm_a, self.norm_b = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.act = Attention(width, count), nn.SiLU()
        self.first, self.second = nn.Linear(width, 2 * inner), nn.Linear(inner, width)

    def forward(self, hidden_states):
        x = hidden_states + self.attention(self.norm_a(hidden_states))
        gate, up = self.first(self.norm_b(x)).chunk(2, -1)
        return x + self.second(self.act(gate) * up)


class Stranger(nn.Module):
    """A classifier of nobody's family."""

    def __init__(self, width=64, count=4, inner=96, layers=3):
        super().__init__()
        self.words = nn.Embedding(50, width)
        self.blocks = nn.ModuleList(Block(width, count, inner) for _ in range(layers))
        self.head = nn.Linear(width, 2)

    def forward(self, ids):
        x = self.words(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


STRANGER = Family(
    name="Stranger",
    origin=__name__,
    layers=("Block",),
    attention="attention", qkv=("joined",), output="attention.out",
    up="first", gated=True, down="second", activation="act",
    norm="pre", attention_norm="norm_a", ffn_norm="norm_b",
    head_dim="size", heads=("count",), scaling=None,
)  # fmt: skip


@pytest.fixture
def known():
    yield models.register(STRANGER)
    models.unregister("Stranger")


def stranger(**sizes):
    torch.manual_seed(0)
    return randomized(Stranger(**sizes)), torch.randint(0, 50, (3, 7))


def test_it_is_nobodys_before(tmp_path):
    model, ids = stranger()
    with pytest.raises(ValueError, match=r"Stranger has no layers of a known family: kdnative.models.register\("):
        layers_of(model)
    with pytest.raises(ValueError, match="Stranger has nothing that heads could prune"):
        structured_(model, heads=0.5, example_inputs=ids)
    convert_(model)
    assert not any(isinstance(module, EncoderLayer) for module in model.modules())


def test_it_is_fused_and_saved(known, tmp_path):
    model, ids = stranger()
    other = copy.deepcopy(model)
    with torch.no_grad():
        expected = model(ids)
        report = convert_(model)
        assert sum(type(module) is EncoderLayer for module in model.modules()) == 3, str(report)
        found = model(ids)
        assert (found - expected).norm() < 0.06 * expected.norm()
        save(model, tmp_path / "m")
        assert load(tmp_path / "m", into=other) is other and torch.equal(other(ids), found)


def test_it_is_pruned(known):
    model, ids = stranger()
    block = model.blocks[0]
    with torch.no_grad():  # the second head, and every other neuron, are the ones to go
        for run in range(3):
            block.attention.joined.weight[run * 64 + 16 : run * 64 + 32] *= 1e-3
            block.attention.joined.bias[run * 64 + 16 : run * 64 + 32] *= 1e-3
        block.attention.out.weight[:, 16:32] = 0
        for half in (slice(0, 96, 2), slice(96, 192, 2)):
            block.first.weight[half] *= 1e-3
            block.first.bias[half] *= 1e-3
        block.second.weight[:, ::2] = 0
        x = torch.randn(2, 5, 64)
        expected = block(x)
        structured_(model, heads=0.25, ffn=0.5, layers=2, example_inputs=ids, multiple_of=16)
        assert torch.allclose(block(x), expected, atol=1e-4)
    assert block.attention.count == 3 and block.attention.joined.weight.shape == (144, 64)
    assert block.first.weight.shape == (96, 64) and block.second.weight.shape == (64, 48)
    assert len(model.blocks) == 2
    model(ids).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        floats = model(ids)
        convert_(model)
        assert sum(type(module) is EncoderLayer for module in model.modules()) == 2
        assert (model(ids) - floats).norm() < 0.06 * floats.norm()


def _projections(attention):
    return [("joined", attention.joined)], ()


@pytest.mark.parametrize("qkv", [(), _projections])
@pytest.mark.parametrize("by_parts", [False, True])
def test_heads_stay_where_no_paths_lead_to_them(qkv, by_parts):
    layers, width = ("Nobody",) if by_parts else ("Block",), ("size",)
    family = models.register(replace(STRANGER, layers=layers, qkv=qkv, by_parts=by_parts, width=width))
    try:
        model, ids = stranger()
        assert len(layers_of(model)) == 3 and len(layers_of(student_from(model, 2))) == 2
        structured_(model, ffn=0.5, example_inputs=ids, multiple_of=16)
        assert model.blocks[0].second.in_features == 48
        with pytest.raises(ValueError, match="heads of Stranger stay: its queries, keys and values are no linears"):
            structured_(model, heads=0.5, example_inputs=ids)
    finally:
        models.unregister(family.name)


def test_it_is_distilled(known):
    """By its hidden states, though it has no option to return them."""
    teacher, ids = stranger(layers=4)
    student = randomized(student_from(teacher, 2))
    assert len(layers_of(student)) == 2 and hidden_size(student) == hidden_size(teacher) == 64
    term = HiddenStateLoss(uniform_layer_map(2, 4), hidden_size(student), hidden_size(teacher))
    optimizer, values = torch.optim.Adam(student.parameters(), lr=3e-3), []
    batch = SimpleNamespace(inputs={"ids": ids})
    for _ in range(20):
        with torch.no_grad():
            theirs = run(teacher, batch.inputs, term.teacher_needs)
        ours = run(student, batch.inputs, term.needs)
        assert len(ours.hidden_states) == 3 and len(theirs.hidden_states) == 5
        values.append(term(batch, ours, [theirs]))
        optimizer.zero_grad()
        values[-1].backward()
        optimizer.step()
    assert values[-1] < 0.5 * values[0]
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers_of(student))


def test_hidden_states_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=48, num_attention_heads=3, intermediate_size=64, num_hidden_layers=2, vocab_size=60
    )
    model, ids = transformers.BertModel(config).eval(), torch.randint(0, 60, (2, 5))
    with torch.no_grad(), hidden_states(model) as found:
        expected = model(ids, output_hidden_states=True).hidden_states
    assert len(found) == 3 and all(map(torch.equal, found, expected))


def test_models_with_several_stacks_name_one():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 64}
    text = {**sizes, "num_hidden_layers": 2, "vocab_size": 60}
    vision = {**sizes, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8}
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision))
    with pytest.raises(ValueError, match="2 stacks of layers: name one of text_model.encoder.layers, vision_model"):
        layers_of(model)
    assert len(layers_of(model, "vision_model.encoder.layers")) == 3
    with pytest.raises(ValueError, match="and no stack 'text': name one of"):
        hidden_size(model, "text")


# -- what is wrong with a family ---------------------------------------------------------------------------------------


def changed(**fields):
    return Family(**{**{name: getattr(STRANGER, name) for name in STRANGER.__dataclass_fields__}, **fields})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": ""}, "needs a name"),
        ({"layers": ()}, "the classes of its layers"),
        ({"layers": "Block"}, "layers='Block' of family 'Stranger': a tuple of names"),
        ({"norm": "both"}, "norm='both' of family 'Stranger': allowed are 'pre' and 'post'"),
        ({"qkv": ("q", "k")}, r"qkv=\('q', 'k'\) of family 'Stranger': a tuple of three paths"),
        ({"up": "mlp..fc1"}, "up='mlp..fc1' of 'Stranger' is no path: names with dots"),
        ({"down": None}, "down=None of 'Stranger' is no path"),
        ({"models": {"StrangerModel": "BaseModelOutput"}}, "models= and base= of family 'Stranger' go together"),
    ],
)
def test_a_wrong_field(fields, words):
    with pytest.raises(ValueError, match=words):
        changed(**fields)


def test_an_unknown_field():
    with pytest.raises(TypeError, match="unexpected keyword argument 'downn'"):
        Family(**{"name": "x", "downn": "y"})


def test_what_is_registered(known):
    with pytest.raises(TypeError, match="takes a kdnative.models.Family, not dict"):
        models.register({})
    with pytest.raises(ValueError, match="'Stranger' is known already under this name"):
        models.register(changed(layers=("Other",)))
    with pytest.raises(ValueError, match=r"'Mine' is known already as Block of .*\(Stranger\): unregister that first"):
        models.register(changed(name="Mine"))
    with pytest.raises(ValueError, match="known already as BertLayer of transformers.models"):
        models.register(changed(name="Mine", origin="transformers.models.bert", layers=("BertLayer",)))
    with pytest.raises(ValueError, match="family 'BERT' was not registered; these were: Stranger"):
        models.unregister("BERT")


def test_names_of_the_table_are_unique():
    assert len({row.name for row in TABLE}) == len(TABLE)
    classes = [(row.origin, name) for row in TABLE for name in (*row.layers, *row.models)]
    assert len(set(classes)) == len(classes)
    assert BERT in TABLE


def test_a_missing_part_is_named_at_first_use():
    models.register(changed(up="mlp.first|first_of_all"))
    try:
        model, ids = stranger()
        report = convert_(copy.deepcopy(model))
        row = next(row for row in report.rows if row.name == "blocks.0")
        missing = "mlp.first: Block has no mlp, nor first_of_all: Block has no first_of_all"
        assert f"its structure differs from that of the supported Block: {missing}" in row.reason
        with pytest.raises(ValueError, match=f"blocks holds Block, which lacks parts of Stranger: {missing}"):
            structured_(model, ffn=0.5, example_inputs=ids)
    finally:
        models.unregister("Stranger")


def test_attributes_that_a_family_does_not_name():
    """Its attention still splits into four heads: an error in words, and the model is as it was."""
    models.register(changed(heads=("number",)))
    try:
        model, ids = stranger()
        before = model(ids)
        with pytest.raises(ValueError, match=r"Stranger can't run with fewer heads, neurons or layers, .* restored"):
            structured_(model, heads=0.5, example_inputs=ids, multiple_of=16)
        assert torch.equal(model(ids), before)
    finally:
        models.unregister("Stranger")
