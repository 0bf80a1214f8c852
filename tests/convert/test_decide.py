"""What would become of a model, as data: by shapes alone, and without touching the model."""

import copy
import pickle
import re
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from torch import nn

from kdnative.convert import Decision, Refusal, apply, build, convert_, decide, encoders, layers
from kdnative.convert import attention as attention_layers
from kdnative.formats.scheme import Scheme
from kdnative.nn import Encoder, EncoderLayer, Linear
from kdnative.ops.backends import device_refusal
from kdnative.ops.backends.reference import REFERENCE
from kdnative.patterns import Selection
from kdnative.quantize import FakeQuantLinear, prepare_qat_, quantize_weight
from tests.small_models import bert, rows

transformers = pytest.importorskip("transformers")

IDS = torch.arange(2, 24).view(2, 11)


def wanted(schemes="w8a8", keep=()):
    return Selection(schemes, keep, Scheme.parse)


def mlp():
    return nn.Sequential(nn.Embedding(100, 64), nn.Linear(64, 256), nn.GELU(), nn.LayerNorm(256), nn.Linear(256, 3))


def attention():
    return nn.ModuleList([nn.MultiheadAttention(64, 4), nn.MultiheadAttention(64, 4, kdim=32, vdim=32)])


def torch_encoder():
    norm = nn.LayerNorm(64)
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False)


def vit():
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    return transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, image_size=32, patch_size=8))


def clip():
    """Its activation has a factor that goes into its linears."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**sizes, image_size=32, patch_size=8))


def gpt2():
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 200, "bos_token_id": None, "eos_token_id": None}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))


def masked_bert():
    """A decoder tied to its embeddings."""
    return transformers.BertForMaskedLM(bert().config)


def trained():
    model = bert()
    prepare_qat_(model, {"*attention*": "w4a8-g32", "*": "w8a8"})
    return model


MODELS = {each.__name__: each for each in (bert, masked_bert, mlp, attention, torch_encoder, vit, clip, gpt2, trained)}
WISHES = {
    "w8a8": {},
    "w4a8-g32-asym": {},
    "w8a8+4x1": {},
    "w8a16": {},
    "not fused": {"fuse": False},
    "float tables": {"embeddings": None},
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("wish", WISHES)
def test_plans_on_meta_are_those_with_values(kind, wish):
    with torch.device("meta"):
        empty = MODELS[kind]()
    selection = wanted(wish if wish.startswith("w") else "w8a8")
    plan = decide(MODELS[kind](), selection, **WISHES[wish])
    assert plan == decide(empty, selection, **WISHES[wish])
    assert all(parameter.is_meta for parameter in empty.parameters())


@pytest.mark.parametrize("kind", MODELS)
def test_deciding_changes_nothing(kind):
    model = MODELS[kind]().train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = [(name, id(m), dict(vars(m))) for name, m in model.named_modules()]
    tensors = [(name, id(p), p._version) for name, p in model.named_parameters()]
    decide(model, wanted())
    assert before == [(name, id(m), dict(vars(m))) for name, m in model.named_modules()]
    assert tensors == [(name, id(p), p._version) for name, p in model.named_parameters()]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_plan_is_data():
    plan = decide(bert(), wanted())
    assert pickle.loads(pickle.dumps(plan)) == plan == copy.deepcopy(plan)
    with pytest.raises(FrozenInstanceError):
        plan.decisions[0].action = "kept"
    query = plan["bert.encoder.layer.1.attention.self.query"]
    assert (query.action, query.scheme, query.refusal) == ("fused", Scheme.parse("w8a8"), None)
    head = plan["classifier"]
    assert head.action == "kept" and "3 outputs" in head.refusal.reason and head.scheme == Scheme.parse("w8a8")
    (region,) = plan.regions
    assert region.root == region.modules[0] == "bert" and query.name in region.modules
    assert region.spec["hidden_size"] == 64 and region.spec["layers"][1]["qkv"] == "w8a8"


@pytest.mark.parametrize("kind", ["bert", "vit", "torch_encoder", "trained", "gpt2"])
def test_a_plan_made_on_meta_builds_a_model_with_values(kind):
    """What `convert_` does in one go."""
    with torch.device("meta"):
        plan = decide(MODELS[kind](), wanted())
    torch.manual_seed(0)
    model = MODELS[kind]().train()
    expected = copy.deepcopy(model)
    report = convert_(expected)
    built = build(plan, model)
    assert not any(isinstance(m, (Linear, Encoder, EncoderLayer)) for m in model.modules()) and model.training
    apply(model, plan, built)
    assert not model.training
    ours, theirs = model.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [d.name for d in plan.decisions] == [row.name for row in report.rows]
    assert [d.action for d in plan.decisions] == [row.action for row in report.rows]


def test_a_plan_of_another_model():
    plan = decide(mlp(), wanted())
    other = nn.Sequential(nn.Embedding(100, 64), nn.GELU())
    with pytest.raises(ValueError, match="the plan was made for another model, which has a Linear named '1'"):
        build(plan, other)
    model = mlp()
    built = build(plan, model)
    model[1] = nn.Identity()
    with pytest.raises(ValueError, match="'1' is no longer a Linear: make a new plan"):
        apply(model, plan, built)
    assert type(model[0]) is nn.Embedding


def test_what_can_not_be_done_is_in_the_plan():
    model = nn.Sequential(nn.Linear(96, 64), FakeQuantLinear(64, 64, scheme="w8a8"), nn.Linear(64, 64))
    plan = decide(model, wanted({"[01]": "w4a8-g64", "*": "w8a8"}))
    assert [d.name for d in plan.impossible()] == ["0", "1"] and plan["2"].action == "converted"
    assert "in_features divisible by its group size 64" in str(plan["0"].refusal)
    with pytest.raises(
        ValueError, match=r"nothing was converted, because .*\n  0: scheme w4a8-g64 needs.*\n  1: it was trained"
    ):
        plan.check()
    kept = decide(model, wanted("w4a8-g64"))
    assert not kept.impossible() and kept["0"] == Decision("0", "Linear", "kept", refusal=plan["0"].refusal)


def test_meta_weights_are_refused_where_values_are_needed():
    model = nn.Sequential(nn.Linear(64, 64, device="meta"), nn.Linear(64, 64))
    assert decide(model, wanted())["0"].action == "converted"
    assert decide(model, wanted(), values=True)["0"].refusal == Refusal(
        "its weight is on the meta device and has no values"
    )


def test_every_layer_that_is_not_finite_is_listed():
    """In an encoder, beside it, and where the float layer would have been faster."""
    model = bert()
    names = ["bert.embeddings.word_embeddings", "bert.encoder.layer.1.output.dense", "classifier"]
    with torch.no_grad():
        for name in names:
            model.get_submodule(name).weight[0, 1] = torch.nan
        model.bert.encoder.layer[0].intermediate.dense.bias[3] = torch.inf
    before = {name: id(module) for name, module in model.named_modules()}
    with pytest.raises(ValueError) as caught:
        convert_(model)
    assert all(f"\n  {name}: NaN or infinite values: its weight has 1 of them" in str(caught.value) for name in names)
    assert "\n  bert.encoder.layer.0.intermediate.dense: NaN or infinite values: its bias" in str(caught.value)
    assert before == {name: id(module) for name, module in model.named_modules()}
    assert rows(convert_(model, keep=["bert*", "classifier"]))["classifier"].action == "kept"


def test_regions_need_every_part():
    refusal = decide(bert(), wanted(keep=["*layer.1.output.dense"]))["bert"].refusal
    assert refusal.needs is None
    assert refusal.reason.startswith("not fused: bert.encoder.layer.1.output.dense stays in float (asked for by keep=")


@pytest.mark.parametrize("model", [bert, torch_encoder, vit])
def test_backends_without_fused_operators_get_layers(model, monkeypatch):
    assert decide(model(), wanted()).regions
    monkeypatch.setattr(encoders, "backend_for", lambda device: REFERENCE)
    plan = decide(model(), wanted())
    assert not plan.regions and {decision.action for decision in plan.decisions} <= {"converted", "kept"}
    words = "not fused: the backend 'reference' has no fused operators; converted layer by layer instead"
    assert words in [d.refusal.reason for d in plan.decisions if d.refusal is not None]


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_models_on_a_gpu_get_native_layers_there(monkeypatch):
    """Nothing fused, and the same layers as elsewhere: by tensors without memory, as a plan needs no values."""
    from torch._subclasses import FakeTensorMode

    expected = [d.name for d in decide(bert(), wanted(), fuse=False).decisions if d.scheme is not None]
    for each in (layers, attention_layers):
        monkeypatch.setattr(each, "not_quantizable", lambda module, values: None, raising=False)
    model = bert()
    with FakeTensorMode():
        for module in model.modules():
            for name, own in module._parameters.items():
                module._parameters[name] = nn.Parameter(torch.empty(own.shape, device="cuda"))
        plan = decide(model, wanted())
    words = "not fused: the backend 'cuda' has no fused operators; converted layer by layer instead"
    assert not plan.regions and words in [d.refusal.reason for d in plan.decisions if d.refusal is not None]
    assert [d.name for d in plan.decisions if d.scheme is not None] == expected and expected


def test_a_gate_measures_on_the_cpu():
    from torch._subclasses import FakeTensorMode

    from kdnative import Gate

    with FakeTensorMode():
        model = nn.Module()
        model.weight = nn.Parameter(torch.empty(64, 64, device="cuda"))
    gate = Gate.__new__(Gate)
    with pytest.raises(ValueError, match=r"a gate measures on the CPU, the model is on cuda:0: call model\.cpu\(\)"):
        convert_(model, ["w8a8"], gate=gate)


@pytest.mark.parametrize(("device", "words"), [("xpu", "on the CPU and on NVIDIA GPUs"), ("mps", "call model.cpu")])
def test_models_on_other_devices_are_refused(device, words):
    assert words in device_refusal(torch.device(device))
    assert device_refusal(torch.device("cuda:1")) is device_refusal(torch.device("meta")) is None


def test_schemes_without_kernels():
    for text in ("w8au8", "w8a8-is+4x1", "w8a8-ag32", "w4a8-g48"):
        with pytest.raises(ValueError, match=rf"scheme '{re.escape(text)}'.*Allowed: w8a8, "):
            convert_(mlp(), text)
        with pytest.raises(ValueError, match="Allowed: w8a8, "):
            convert_(mlp(), {"1": text, "*": "w8a8"})


def test_schemes_that_need_ranges_first():
    """SmoothQuant finds the vector that inputs are multiplied by from their ranges."""
    plan = decide(bert(), wanted({"*query": "w8a8-is", "*": "w8a8"}))
    queries = [name for name, _ in bert().named_modules() if name.endswith("query")]
    assert {"bert", *queries} <= {d.name for d in plan.needing("ranges")}
    assert plan["bert.encoder.layer.0.output.dense"].refusal is None
    words = (
        "w8a8-is needs the ranges of its inputs, which calibration measures: give the scheme w8a8 and calibration data"
    )
    assert plan[queries[0]].refusal.reason == words
    assert [d.name for d in plan.impossible()] == queries
    for schemes in ("w8a8-is", {"*query": "w8a8-is", "*": "w8a8"}):
        with pytest.raises(ValueError, match=words):
            convert_(bert(), schemes)
    scaled = quantize_weight(torch.randn(64, 64), "w8a8")
    given = {queries[0]: replace(scaled, input_scale=torch.rand(64) + 0.5)}
    plan = decide(bert(), wanted({"*query": "w8a8-is", "*": "w8a8"}), weights=given)
    assert plan[queries[0]].action == "converted" and [d.name for d in plan.impossible()] == queries[1:]
