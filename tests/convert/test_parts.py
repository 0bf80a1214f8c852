"""Encoders and layers that are no longer what their class says: they are left apart, and go on as they were."""

import pytest
import torch
from torch import nn

from kdnative.convert import convert_
from kdnative.nn import Encoder, EncoderLayer, Linear, TransformerEncoder
from kdnative.prune import structured_
from kdnative.quantize import prepare_qat_
from tests.small_models import bert, rows

transformers = pytest.importorskip("transformers")

IDS = torch.arange(2, 24).view(2, 11)


def vit():
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    torch.manual_seed(0)
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=3)
    return transformers.ViTForImageClassification(config).eval()


def check_unfused(model, name, reason, *arguments):
    """``name`` stays for this reason, its linears become native, and the model computes what it did."""
    with torch.no_grad():
        expected = model(*arguments).logits
        report = convert_(model)
        actual = model(*arguments).logits
    row = rows(report)[name]
    assert row.action == "kept" and row.reason == f"not fused: {reason}; converted layer by layer instead"
    inside = list(model.get_submodule(name).modules())
    assert sum(type(module) is Linear for module in inside) > 3 or any(type(m) is EncoderLayer for m in inside)
    assert (actual - expected).abs().max() < 0.1 * expected.abs().max()
    return report


# -- parts of another class --------------------------------------------------------------------------------------------


class Adapted(nn.Module):
    """The output of a layer of BERT, with an adapter behind it."""

    def __init__(self, output):
        super().__init__()
        self.dense, self.LayerNorm, self.down, self.up = (
            output.dense,
            output.LayerNorm,
            nn.Linear(64, 8),
            nn.Linear(8, 64),
        )

    def forward(self, hidden_states, input_tensor):
        hidden_states = self.LayerNorm(self.dense(hidden_states) + input_tensor)
        return hidden_states + 5 * self.up(torch.relu(self.down(hidden_states)))


FUSED = "which may compute something else: only parts of transformers.models"


def test_an_adapter_of_another_class():
    model = bert()
    model.bert.encoder.layer[1].output = Adapted(model.bert.encoder.layer[1].output)
    why = f"bert.encoder.layer.1.output is a Adapted of {__name__}, {FUSED}.bert, torch.nn and kdnative are fused"
    check_unfused(model, "bert", why, IDS)


def test_parameters_that_no_part_of_an_encoder_has():
    model = bert()
    model.bert.encoder.layer[0].output.adapter = nn.Linear(64, 64)
    row = rows(convert_(model))["bert"]
    assert "it has parameters that are not known of BertModel: encoder.layer.0.output.adapter.weight" in row.reason


def test_an_attention_of_another_class():
    from transformers.models.vit.modeling_vit import ViTAttention

    class Doubled(ViTAttention):
        def forward(self, *arguments, **options):
            states, weights = super().forward(*arguments, **options)
            return 2 * states, weights

    model = vit()
    model.vit.layers[1].attention.__class__ = Doubled
    own = f"vit.layers.1.attention is a Doubled of {__name__}, {FUSED}.vit, torch.nn and kdnative are fused"
    check_unfused(model, "vit.layers.1", own, torch.randn(2, 3, 32, 32))
    assert type(model.vit.layers[0]) is EncoderLayer


def test_a_norm_of_another_class_in_torchs_encoder():
    class Shifted(nn.LayerNorm):
        def forward(self, x):
            return super().forward(x) + 1

    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True).eval()
    layer.norm1 = Shifted(64)
    assert f"0.norm1 is a Shifted of {__name__}" in rows(convert_(nn.Sequential(layer)))["0"].reason


def test_the_activation_of_a_pooler():
    model = bert()
    model.bert.pooler.activation = nn.GELU()
    check_unfused(model, "bert", "its pooler ends with GELU; only nn.Tanh is supported there", IDS)


def test_trained_and_pruned_parts_are_fused_as_before():
    model = bert()
    prepare_qat_(model, {"bert*": "w8a8"}, clip="learn")
    convert_(model)
    assert type(model.bert) is Encoder
    model = bert()
    structured_(model, heads=0.5, ffn=0.5, example_inputs={"input_ids": IDS})
    convert_(model)
    assert type(model.bert) is Encoder


# -- parts that are no linear any more ---------------------------------------------------------------------------------


class LoraLinear(nn.Module):
    """What PEFT makes of a linear: it answers for the weight of the one that it holds."""

    def __init__(self, base):
        super().__init__()
        self.base_layer, self.down, self.up = base, nn.Linear(64, 8, bias=False), nn.Linear(8, 64, bias=False)
        self.in_features, self.out_features = base.in_features, base.out_features

    weight = property(lambda self: self.base_layer.weight)
    bias = property(lambda self: self.base_layer.bias)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


def test_lora():
    model = bert()
    for layer in model.bert.encoder.layer:
        layer.attention.self.query = LoraLinear(layer.attention.self.query)
    inner = "bert.encoder.layer.0.attention.self.query"
    why = f"{inner} is a LoraLinear of {__name__}, {FUSED}.bert, torch.nn and kdnative are fused"
    check_unfused(model, "bert", why, IDS)
    assert type(model.get_submodule(f"{inner}.base_layer")) is Linear


def test_a_part_that_is_no_linear_of_the_same_library():
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    model = bert()
    model.bert.encoder.layer[0].attention.self.key = conv1d(64, 64)
    check_unfused(model, "bert", "bert.encoder.layer.0.attention.self.key is a Conv1D, not a plain nn.Linear", IDS)


@pytest.mark.parametrize(
    ("first", "native"),
    [
        ({"schemes": {"*.output.dense": "w4a8-g64"}, "embeddings": None}, "encoder.layer.0.attention.output.dense"),
        ({"schemes": "w8a8", "keep": "*.layer.0"}, "embeddings.word_embeddings"),
        ({"fuse": False}, "embeddings.word_embeddings"),
    ],
)
def test_a_second_call_on_an_encoder_that_is_native_in_part(first, native):
    model = bert()
    convert_(model, **first)
    with torch.no_grad():
        expected = model(IDS).logits
        report = convert_(model, "w8a8")
        assert (model(IDS).logits - expected).abs().max() < 0.1 * expected.abs().max()
    assert f"bert.{native} is native already" in rows(report)["bert"].reason
    layers = sum(type(module) is EncoderLayer for module in model.modules())  # those without a native part before
    assert layers == (2 if "keep" in first else 0)
    linears = sum(type(module) is Linear for module in model.modules())
    assert linears == 13 - 6 * layers and type(model.classifier) is nn.Linear


def test_a_second_call_on_layers():
    model, pixels = vit(), torch.randn(2, 3, 32, 32)
    convert_(model, fuse=False)
    with torch.no_grad():
        expected = model(pixels).logits
        report = convert_(model)
        assert torch.equal(model(pixels).logits, expected)
    assert "vit.layers.1.attention.q_proj is native already" in rows(report)["vit.layers.1"].reason


def test_one_layer_of_torch_twice():
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    encoder.layers = nn.ModuleList([layer, layer])
    report = rows(convert_(nn.Sequential(encoder.eval())))
    assert "0.layers.1.self_attn is a module that the model also has under another name" in report["0"].reason


# -- encoders whose insides others use ---------------------------------------------------------------------------------


class Around(nn.Module):
    """Holds an encoder as a model does that has more to say to it than ids."""

    def __init__(self, where, encoder):
        super().__init__()
        self.body = nn.Module()
        self.body.add_module(where, encoder)


@pytest.mark.parametrize(
    ("name", "where", "what"),
    [
        ("GroundingDinoModel", "text_backbone", "passes it attention masks over pairs of tokens"),
        ("MMGroundingDinoModel", "text_backbone", "passes it attention masks over pairs of tokens"),
        ("ModernVBertModel", "text_model", "passes it embeddings (inputs_embeds), some of them of images"),
        ("PeftModel", "base_model", "passes it learned prompts, as embeddings or as keys"),
    ],
)
def test_encoders_inside_models_that_use_their_parts(name, where, what):
    for attribute in (where, "other"):
        model = Around(attribute, bert().bert)
        model.body.__class__ = type("Own", (type(name, (nn.Module,), {}),), {})
        model.body.prompt_encoder = nn.ModuleDict()
        report = rows(convert_(model))
        if attribute == "other":
            assert type(model.body.other) is Encoder
        else:
            assert f"not fused: Own, which contains it, {what}" in report[f"body.{where}"].reason
            assert type(model.body.get_submodule(where).encoder.layer[0].output.dense) is Linear


def test_models_of_peft_without_prompts_are_fused():
    model = Around("base_model", bert().bert)
    model.body.__class__ = type("PeftModel", (nn.Module,), {})
    convert_(model)
    assert type(model.body.base_model) is Encoder


def test_modernvbert_runs_after_conversion():
    config = transformers.ModernVBertConfig(
        text_config={
            "model_type": "modernbert", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 128, "vocab_size": 200, "pad_token_id": 0, "max_position_embeddings": 64,
        },
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
            "intermediate_size": 128, "image_size": 32, "patch_size": 8,
        },
        image_token_id=199,
    )  # fmt: skip
    model = transformers.ModernVBertModel(config).eval()
    with torch.no_grad():
        expected = model(input_ids=IDS)[0]
        report = convert_(model)
        actual = model(input_ids=IDS)[0]
    assert "ModernVBertModel, which contains it" in rows(report)["text_model"].reason
    assert torch.cosine_similarity(actual, expected, dim=-1).min() > 0.99


def test_asking_a_fused_encoder_for_its_parts_names_the_way_out():
    torch_encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 1).eval()
    for module, kind, part in (
        (bert().bert, Encoder, "encoder"),
        (vit().vit.layers[0], EncoderLayer, "attention"),
        (torch_encoder, TransformerEncoder, "layers"),
    ):
        ours = convert_(module).model
        assert type(ours) is kind and not hasattr(ours, part) and getattr(ours, part, None) is None
        words = (
            rf"'{kind.__name__}' object has no attribute '{part}': the parts of a fused encoder are gone; "
            r"convert_\(..., fuse=False\) or keep=\[...\] leaves them"
        )
        with pytest.raises(AttributeError, match=words) as caught:
            getattr(ours, part)
        assert caught.value.name == part and caught.value.obj is ours
