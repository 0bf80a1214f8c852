"""Conversion of what language models are made of: tied weights, and the Conv1D of GPT-2."""

import pytest
import torch
from torch import nn

import kdnative
from kdnative.convert import convert_
from kdnative.nn import Embedding, Linear
from tests.small_models import rows


class Tied(nn.Module):
    """Two embeddings and a head of one weight."""

    def __init__(self, tie=True):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.body = nn.Embedding(100, 64), nn.Linear(64, 64)
        self.other, self.head = nn.Embedding(100, 64), nn.Linear(64, 100, bias=False)
        with torch.no_grad():
            self.other.weight.copy_(self.embed.weight)
            self.head.weight.copy_(self.embed.weight)
        if tie:
            self.head.weight = self.other.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.body(self.embed(ids)) + self.other(ids))


def test_tied_weights_are_converted_as_if_each_had_its_own():
    model, apart, ids = Tied(), Tied(tie=False), torch.arange(100).view(4, 25)
    report = convert_(model)
    convert_(apart)
    assert torch.equal(model(ids), apart(ids))
    assert (type(model.head), type(model.embed), type(model.other)) == (Linear, Embedding, Embedding)
    assert model.embed.qweight.data_ptr() == model.other.qweight.data_ptr()  # of tables there is one
    found = rows(report)
    assert found["head"].reason == "native linear; its weight was shared with embed, other"
    assert [found[name].bytes_before for name in ("embed", "other", "head")] == [25600, 0, 0]
    assert [found[name].bytes_after for name in ("embed", "other")] == [100 * 64 + 4 * 100, 0]
    assert found["head"].bytes_after == model.head.packed.numel()


def test_one_of_two_tied_layers_can_stay_in_float():
    model, before = Tied(), Tied()
    report = convert_(model, keep=["head"])
    assert type(model.head) is nn.Linear and torch.equal(model.head.weight, before.head.weight)
    assert type(model.embed) is Embedding and rows(report)["head"].bytes_after == 0  # counted where it came first
    model = Tied()
    convert_(model, embeddings=None)
    assert type(model.head) is Linear and model.embed.weight is model.other.weight


def conv1d(outputs=96, inputs=64):
    utils = pytest.importorskip("transformers.pytorch_utils")
    layer = utils.Conv1D(outputs, inputs)
    nn.init.normal_(layer.bias)
    return layer


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8-g64", "w4a16-g32", "w8a8+mask"])
def test_conv1d_of_gpt2_becomes_the_linear_that_it_is(scheme):
    layer = conv1d()
    linear = nn.Linear(64, 96)
    with torch.no_grad():
        linear.weight.copy_(layer.weight.t())
        linear.bias.copy_(layer.bias)
    model = nn.Sequential(layer, linear)
    x = torch.randn(3, 5, 64)
    expected, (row, _) = layer(x), (report := convert_(model, scheme)).rows
    assert type(model[0]) is type(model[1]) is Linear and torch.equal(model[0](x), model[1](x))
    assert (model[0](x) - expected).norm() < (0.2 if "w4" in scheme else 0.02) * expected.norm()
    assert (row.kind, row.action, row.shape) == ("Conv1D", "converted", [96, 64]) and report.totals["converted"] == 2


def test_conv1d_that_does_more_stays():
    hooked, subclass = conv1d(), conv1d()
    hooked.register_forward_hook(lambda *a: None)

    class Conv1D(type(subclass)):
        def forward(self, x):
            return 2 * super().forward(x)

    subclass.__class__ = Conv1D
    report = convert_(nn.Sequential(hooked, subclass, conv1d(8)))
    assert report.totals["converted"] == 0
    assert "it has hooks" in report.rows[0].reason and "no native Conv1D" in report.rows[1].reason
    assert "it has 8 outputs, fewer" in report.rows[2].reason


def test_a_bare_conv1d_becomes_a_linear(tmp_path):
    layer, x = conv1d(), torch.randn(3, 64)
    other = conv1d()
    convert_(layer)
    assert type(layer) is Linear
    kdnative.save(layer, tmp_path / "m")
    assert kdnative.load(tmp_path / "m", into=other) is other and torch.equal(other(x), layer(x))
    with pytest.raises(kdnative.CheckpointError, match="can't take the place of this Conv1D"):
        kdnative.load(tmp_path / "m", into=conv1d(64, 96))


SIZES = {"vocab_size": 200, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
LAYERS = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
GATED = {**SIZES, **LAYERS, "intermediate_size": 128, "num_key_value_heads": 2}
MODELS = {
    "GPT2LMHeadModel": {**SIZES, "n_embd": 64, "n_layer": 2, "n_head": 4},
    "LlamaForCausalLM": GATED,
    "Qwen2ForCausalLM": {**GATED, "tie_word_embeddings": True},
    "OPTForCausalLM": {**SIZES, **LAYERS, "ffn_dim": 128, "word_embed_proj_dim": 64, "max_position_embeddings": 64},
    "T5ForConditionalGeneration": {
        "vocab_size": 200, "d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4,
        "decoder_start_token_id": 0, "eos_token_id": None, "pad_token_id": 0,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("scheme", ["w8a8", "w4a16-g64"])
def test_language_models_generate(kind, scheme, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    cls = getattr(transformers, kind)
    model = cls(cls.config_class(**MODELS[kind])).eval()
    ids = torch.randint(1, 200, (2, 7))
    inputs = {"input_ids": ids, "decoder_input_ids": ids} if "T5" in kind else {"input_ids": ids}
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    with torch.no_grad():
        expected = model(**inputs).logits
        report = convert_(model, scheme)
        actual, tokens = model(**inputs).logits, model.generate(ids, **settings)
        assert (actual - expected).norm() < (0.35 if "w4" in scheme else 0.03) * expected.norm()
        left = {row.kind for row in report.rows if row.action == "kept"}
        assert not left & {"Linear", "Conv1D", "Embedding"}, str(report)
        kdnative.save(model, tmp_path / "m")
        # Transformers 4 has modules used twice, and tensors outside of state dicts: a model made anew is filled there.
        anew = None if int(transformers.__version__[0]) >= 5 else cls(model.config).eval()
        loaded = kdnative.load(tmp_path / "m", into=anew)
        assert torch.equal(loaded(**inputs).logits, actual) and torch.equal(loaded.generate(ids, **settings), tokens)
        cached = tokens[:, -6:] if "T5" in kind else tokens
        again = {**inputs, "decoder_input_ids": tokens[:, :-1]} if "T5" in kind else {"input_ids": tokens[:, :-1]}
        assert torch.equal(model(**again).logits.argmax(-1)[:, -6:], cached[:, -6:])  # with a cache and without
