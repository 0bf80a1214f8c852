import copy

import pytest
import torch
from torch import nn

from kdnative.prune import mask_, structured_, student_from
from kdnative.quantize import FakeQuantLinear, prepare_qat_

transformers = pytest.importorskip("transformers")

HEADS, HEAD, FFN, LAYERS = 4, 32, 256, 4
SIZES = {
    "vocab_size": 60,
    "hidden_size": HEADS * HEAD,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": FFN,
    "max_position_embeddings": 40,
}
DISTIL = {
    "vocab_size": 60,
    "dim": 128,
    "n_layers": LAYERS,
    "n_heads": HEADS,
    "hidden_dim": FFN,
    "max_position_embeddings": 40,
}
FAMILIES = {
    "Bert": SIZES,
    "Roberta": SIZES,
    "MPNet": SIZES,
    "DistilBert": DISTIL,
    "Electra": SIZES | {"embedding_size": 64},
}
IDS = torch.randint(5, 60, (3, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[1, 5:] = 0
INPUTS = {"input_ids": IDS, "attention_mask": MASK}
BATCH = INPUTS | {"labels": torch.tensor([0, 1, 1])}


def build(family):
    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(**FAMILIES[family])
    return getattr(transformers, f"{family}ForSequenceClassification")(config).eval()


@pytest.fixture(params=FAMILIES)
def model(request):
    return build(request.param)


@torch.no_grad()
def logits(model):
    return model(**INPUTS).logits


def parts(model):
    """(module of the attention, q, k, v, out, up, down) of every layer, spelled out here independently."""
    stack = next(m for m in model.modules() if isinstance(getattr(m, "layer", None), nn.ModuleList))
    for layer in stack.layer:
        attention = layer.attention
        if hasattr(attention, "q_lin"):
            yield (
                attention,
                attention.q_lin,
                attention.k_lin,
                attention.v_lin,
                attention.out_lin,
                layer.ffn.lin1,
                layer.ffn.lin2,
            )
        elif hasattr(attention, "attn"):
            a = attention.attn
            yield a, a.q, a.k, a.v, a.o, layer.intermediate.dense, layer.output.dense
        else:
            a = attention.self
            yield a, a.query, a.key, a.value, attention.output.dense, layer.intermediate.dense, layer.output.dense


def snapshot(model):
    tensors = {name: (id(t), t.detach().clone()) for name, t in model.named_parameters()}
    return tensors, {name: id(m) for name, m in model.named_modules()}, copy.deepcopy(model.config.to_dict())


def assert_same(model, before):
    tensors, modules, config = before
    assert {n: id(m) for n, m in model.named_modules()} == modules and model.config.to_dict() == config
    now = dict(model.named_parameters())
    assert {n: id(t) for n, t in now.items()} == {n: i for n, (i, _) in tensors.items()}
    assert all(torch.equal(now[n], value) for n, (_, value) in tensors.items())
    assert all(m.weight.shape == (m.out_features, m.in_features) for m in model.modules() if isinstance(m, nn.Linear))


def test_shapes_shrink_and_the_model_runs(model):
    before = sum(p.numel() for p in model.parameters())
    report = structured_(model, heads=0.5, ffn=0.75, layers=2, example_inputs=INPUTS)
    for attention, q, k, v, out, up, down in parts(model):
        assert q.weight.shape == k.weight.shape == v.weight.shape == (64, 128) and q.bias.shape == (64,)
        assert out.weight.shape == (128, 64) and out.bias.shape == (128,)
        assert up.weight.shape == (64, 128) and up.bias.shape == (64,) and down.weight.shape == (128, 64)
        assert (q.out_features, out.in_features, up.out_features, down.in_features) == (64, 64, 64, 64)
        assert attention.attention_head_size == HEAD
        assert getattr(attention, "num_attention_heads", getattr(attention, "n_heads", None)) == 2
    assert len(list(parts(model))) == 2 and model.config.num_hidden_layers == 2
    assert getattr(model.config, "intermediate_size", getattr(model.config, "hidden_dim", None)) == 64
    bias = next((m.relative_attention_bias for m in model.modules() if hasattr(m, "relative_attention_bias")), None)
    table = 0 if bias is None else bias.num_embeddings * 2
    after = sum(p.numel() for p in model.parameters())
    assert report.parameters_before - report.parameters_after == before - after - table
    assert sum(row.what == "layer" for row in report) == 2
    assert logits(model).shape == (3, 2)
    model(**BATCH).loss.backward()  # and it trains
    assert all(p.grad is None or p.grad.shape == p.shape for p in model.parameters())


def test_removing_silent_heads_and_neurons_changes_nothing(model):
    # Heads and neurons that nobody listens to are the ones to go; what remains must compute the same.
    with torch.no_grad():
        for _, q, k, v, out, up, down in parts(model):
            for linear in (q, k, v):
                linear.weight[32:96] = 0
                linear.bias[32:96] = 0
            out.weight[:, 32:96] = 0
            up.weight[::2] = 0
            up.bias[::2] = 0
            down.weight[:, ::2] = 0
    expected = logits(model)
    structured_(model, heads=0.5, ffn=0.5, example_inputs=INPUTS)
    assert torch.allclose(logits(model), expected, atol=1e-5)
    assert next(parts(model))[1].weight.shape[0] == 64


def test_keeping_layers_is_running_only_those(model):
    reference = copy.deepcopy(model)
    stack = next(m for m in reference.modules() if isinstance(getattr(m, "layer", None), nn.ModuleList))
    stack.layer = nn.ModuleList([stack.layer[0], stack.layer[3]])
    expected = logits(reference)
    before = snapshot(model)
    student = student_from(model, [0, 3])
    assert torch.equal(logits(student), expected) and student.config.num_hidden_layers == 2
    assert_same(model, before)
    structured_(model, layers=[0, 3], example_inputs=INPUTS)
    assert torch.equal(logits(model), expected)


def test_taylor_equals_the_gradient_of_a_gate(model):
    from kdnative.prune.graph import find_graph
    from kdnative.prune.importance import taylor_scores

    graph = find_graph(model)
    scores = taylor_scores(model, graph, [BATCH])
    # Gates on the inputs of the out and down linears, by finite differences in float64.
    double = copy.deepcopy(model).double()
    for index, unit in ((0, 1), (3, 2)):
        for which, name, width in (
            (4, graph.attentions[index].name, HEAD),
            (6, graph.all_feed_forwards[index].inputs[0].name, 1),
        ):
            linear = list(parts(double))[index][which]
            columns = slice(unit * width, (unit + 1) * width)
            original, losses = linear.weight.detach().clone(), []
            for gate in (1 + 1e-4, 1 - 1e-4):
                with torch.no_grad():
                    linear.weight[:, columns] = original[:, columns] * gate
                    losses.append(double(**BATCH).loss.item())
                    linear.weight.copy_(original)
            slope = abs(losses[0] - losses[1]) / 2e-4
            assert slope > 1e-9 and scores[name][unit].item() == pytest.approx(slope, rel=2e-2)
    assert all(p.grad is None for p in model.parameters())


def test_taylor_keeps_what_the_loss_needs():
    model = build("Bert")
    attention, *_ = parts(model).__next__()
    with torch.no_grad():  # head 0: large weights, but its output does not reach the loss
        for _, _, _, v, out, _, _ in parts(model):
            v.weight[:32] *= 50
            out.weight[:, :32] = 0
    kept = [copy.deepcopy(model), copy.deepcopy(model)]
    structured_(kept[0], heads=0.5, example_inputs=INPUTS)
    structured_(kept[1], heads=0.5, example_inputs=INPUTS, calibration=[BATCH, BATCH])
    original = attention.value.weight[:32]
    by_norm, by_taylor = (next(parts(m))[3].weight[:32] for m in kept)
    assert torch.equal(by_norm, original) and not torch.equal(by_taylor, original)


def test_fake_quant_layers_shrink_too(model):
    prepare_qat_(model, {"*.layer.*": "w4a8-g32"}, clip="learn")
    structured_(model, heads=0.5, ffn=0.5, example_inputs=INPUTS, calibration=[BATCH])
    linears = [m for _, *linears in parts(model) for m in linears]
    assert all(
        isinstance(m, FakeQuantLinear) and m.scale.shape == (m.out_features, m.in_features // 32) for m in linears
    )
    assert linears[0].quantized().qweight.shape == (64, 128)


def test_groups_that_do_not_fit_restore_the_model(model):
    prepare_qat_(model, {"*.layer.*": "w4a8-g128"})
    before = snapshot(model)
    with pytest.raises(ValueError, match="128"):
        structured_(model, ffn=0.75, layers=3, example_inputs=INPUTS)
    assert_same(model, before)


@pytest.mark.parametrize("when", ["nan", "shape", "raise"])
def test_a_failed_check_restores_everything(model, when):
    before = snapshot(model)
    expected = logits(model)
    normal, calls = type(model).forward, []

    class Spoiled(type(model)):
        def forward(self, *args, **kwargs):
            output = normal(self, *args, **kwargs)
            calls.append(1)
            if len(calls) > 1:
                if when == "raise":
                    raise KeyboardInterrupt
                output.logits = output.logits[:1] if when == "shape" else output.logits * torch.nan
            return output

    plain = type(model)
    model.__class__ = Spoiled
    model.train()
    with pytest.raises((ValueError, KeyboardInterrupt)):
        structured_(model, heads=0.5, ffn=0.5, layers=[1, 2], example_inputs=INPUTS)
    model.__class__ = plain
    assert len(calls) == 2 and all(m.training for m in model.modules())
    assert_same(model.eval(), before)
    assert torch.equal(logits(model), expected)


def test_uneven_widths_in_a_wrapped_encoder():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = build("DistilBert").distilbert
            self.head = nn.Linear(128, 3)

        def forward(self, input_ids):
            return self.head(self.encoder(input_ids).last_hidden_state[:, 0])

    model = Wrapper()
    structured_(model, heads=0.5, ffn=0.5, layers=1, example_inputs=(IDS,))
    assert model.encoder.config.n_layers == 1 and model(IDS).shape == (3, 3)
    assert structured_(model, example_inputs=IDS).rows == []


def test_sequential_chains():
    model = nn.Sequential(
        nn.Linear(10, 256), nn.ReLU(), nn.Linear(256, 192), nn.GELU(), nn.Dropout(0.5), nn.Linear(192, 4)
    )
    with torch.no_grad():
        model[0].weight[:128], model[0].bias[:128], model[2].weight[:, :128] = 0, 0, 0
        model[2].weight[:64], model[2].bias[:64], model[5].weight[:, :64] = 0, 0, 0
    x = torch.randn(5, 10)
    expected = model.eval()(x)
    report = structured_(model, ffn=0.45, example_inputs=x)
    assert [list(m.weight.shape) for m in (model[0], model[2], model[5])] == [[128, 10], [128, 128], [4, 128]]
    assert torch.allclose(model(x), expected, atol=1e-6)
    assert [row.name for row in report] == ["0", "2", "5"]
    blocked = nn.Sequential(nn.Linear(8, 128), nn.LayerNorm(128), nn.Linear(128, 2))
    with pytest.raises(ValueError, match="nothing that ffn"):
        structured_(blocked, ffn=0.5, example_inputs=torch.randn(2, 8))


def test_shared_weights_are_refused():
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    model[4].weight = model[0].weight
    with pytest.raises(ValueError, match="4 and 0 share one weight"):
        structured_(model, ffn=0.5, example_inputs=torch.randn(2, 64), multiple_of=8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"heads": 1.0}, "heads=1.0"),
        ({"ffn": -0.1}, "ffn=-0.1"),
        ({"layers": 0}, "layers=0"),
        ({"layers": [2, 1]}, "ascending"),
        ({"layers": [0, 4]}, "from 0 to 3"),
        ({"heads": 0.5, "importance": "taylor"}, "needs calibration"),
        ({"heads": 0.5, "importance": "guess"}, "'taylor', 'magnitude'"),
        ({"heads": 0.5, "calibration": []}, "no batches"),
        ({"heads": 0.5, "calibration": [INPUTS]}, "labels"),
        ({"heads": 0.5, "multiple_of": 0}, "multiple_of=0"),
    ],
)
def test_bad_arguments_change_nothing(arguments, words):
    model = build("Bert")
    before = snapshot(model)
    with pytest.raises(ValueError, match=words):
        structured_(model, **arguments, example_inputs=INPUTS)
    assert_same(model, before)


def test_unknown_and_masked_models_are_refused():
    with pytest.raises(ValueError, match="LSTM has nothing that heads"):
        structured_(nn.LSTM(4, 4), heads=0.5, example_inputs=torch.randn(2, 3, 4))
    model = build("Bert")
    mask_(model, 0.5)
    with pytest.raises(ValueError, match="has a mask"):
        structured_(model, heads=0.5, example_inputs=INPUTS)
