"""What each layer loses: against a change made by hand, with the int8 activations of the formula."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import nn

from kdnative.evaluate import predict
from kdnative.evaluate.metrics import accuracy
from kdnative.precision import sensitivity
from kdnative.quantize import calibrate_, finish_qat_, prepare_qat_, quantize_weight
from tests.distill.tiny import model, tokens
from tests.small_models import bert


def int8(x):
    """The formula of dynamic activations, in float64."""
    scale = x.double().abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
    return ((x.double() / scale).round().clamp(-127, 127) * scale).to(x.dtype)


def divergence(p, q):
    p, q = p.logits.double().softmax(-1), q.logits.double().softmax(-1)
    return float((p * (p / q).log()).sum(-1).mean())


def by_hand(student, name, scheme, weight=None):
    """A copy with one changed layer: its weight, and a hook on its inputs."""
    changed = copy.deepcopy(student)
    layer = changed.get_submodule(name)
    with torch.no_grad():
        quantized = quantize_weight(layer.weight if weight is None else weight, scheme)
        layer.weight.copy_(quantized.dequantize())
    if "a8" in scheme:
        layer.register_forward_pre_hook(lambda _, args: (int8(args[0]),))
    return changed


@pytest.mark.parametrize("scheme", ["w4a8-g32", "w2a16-g32", "w8a8"])
def test_rows_are_what_the_change_by_hand_gives(scheme):
    data, student = tokens(60), model(0, width=32).eval()
    before = copy.deepcopy(student.state_dict())
    rows = sensitivity(student, data, [scheme], include_all=True, score=accuracy, device="cpu")
    assert [row.layer for row in rows] == ["hidden", "classifier", "(all)"]
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    original = predict(student, data, device="cpu")
    for row in rows[:2]:
        now = predict(by_hand(student, row.layer, scheme), data, device="cpu")
        assert row.loss == pytest.approx(divergence(original, now), rel=1e-5, abs=1e-12)
        assert row.score == accuracy(now) and row.score_change == accuracy(now) - accuracy(original)
    assert rows[0].weights == 1024 and rows[0].names == ("hidden",)
    assert rows[0].bytes == quantize_weight(student.hidden.weight, scheme).bytes()
    assert rows[2].weights == 1024 + 64 and rows[2].names == ("hidden", "classifier")


def test_calibrated_weights_and_their_input_scales_are_used():
    """Of a layer with input scales the inputs are rounded after the multiplication by them."""
    data, student = tokens(60), model(0, width=32).eval()
    factor = torch.linspace(0.25, 4, 32)
    weight = student.hidden.weight.detach()
    quantized = quantize_weight(weight / factor, "w4a8-g32").changed(input_scale=factor)
    (row,) = sensitivity(student, data, ["w4a8-g32"], weights={"w4a8-g32": {"hidden": quantized}}, layers="hidden")
    changed = copy.deepcopy(student)
    with torch.no_grad():
        changed.hidden.weight.copy_(quantize_weight(weight / factor, "w4a8-g32").dequantize())
    changed.hidden.register_forward_pre_hook(lambda _, args: (int8(args[0] * factor),))
    expected = divergence(predict(student, data, device="cpu"), predict(changed, data, device="cpu"))
    assert row.loss == pytest.approx(expected, rel=1e-5)
    (plain,) = sensitivity(student, data, ["w4a8-g32"], layers="hidden")
    assert plain.loss != pytest.approx(row.loss, rel=1e-3)


def test_gptq_of_calibrate_loses_less_than_rounding():
    data, student = tokens(200), model(0, width=32).eval()
    batches = [
        {"input_ids": torch.randint(1, 32, (16, 6)), "attention_mask": torch.ones(16, 6).long()} for _ in range(8)
    ]
    found = {"w2a8-g32": calibrate_(student, "w2a8-g32", batches, method="gptq")}
    gptq, rounded = (sensitivity(student, data, ["w2a8-g32"], weights=w, layers="hidden")[0] for w in (found, None))
    assert gptq.loss < rounded.loss


def test_queries_keys_and_values_move_together():
    inputs = [{"input_ids": torch.randint(5, 200, (4, 9)), "attention_mask": torch.ones(4, 9).long()}]
    rows = sensitivity(bert(), inputs, ["w8a8"], layers="*layer.0*")
    names = [row.layer.removeprefix("bert.encoder.layer.0.") for row in rows]
    assert names == ["attention.self.{query,key,value}", "attention.output.dense", "intermediate.dense", "output.dense"]


def test_attention_of_torch_and_regressions():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    net = nn.Sequential(nn.TransformerEncoder(layer, 1), nn.Flatten(1), nn.Linear(32 * 5, 1)).eval()
    before = copy.deepcopy(net.state_dict())
    x = [torch.randn(8, 5, 32)]
    with torch.no_grad():
        exact = net(x[0])
    rows = {row.layer: row.loss for row in sensitivity(net, x, ["w2a8-g32"])}
    assert len(rows) == 5 and all(loss > 0 for loss in rows.values())
    changed = copy.deepcopy(net)
    attention = changed[0].layers[0].self_attn
    with torch.no_grad():
        attention.in_proj_weight.copy_(quantize_weight(attention.in_proj_weight, "w2a8-g32").dequantize())
        attention.register_forward_pre_hook(lambda _, args: tuple(map(int8, args[:3])))
        expected = (changed(x[0]) - exact).square().mean()
    assert rows["0.layers.0.self_attn"] == pytest.approx(float(expected), rel=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_tied_weights_are_not_written_to():
    """A language model's head shares its weight with the embedding, which must not move with it."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=64, n_positions=16)
    net = transformers.GPT2LMHeadModel(config).eval()
    inputs = [{"input_ids": torch.randint(1, 64, (6, 10)), "attention_mask": torch.ones(6, 10).long()}]
    inputs[0]["attention_mask"][0, 7:] = 0
    rows = {row.layer: row for row in sensitivity(net, inputs, ["w4a8-g32"])}
    assert {"transformer.h.0.attn.c_attn", "transformer.h.0.mlp.c_proj", "lm_head"} <= rows.keys()
    with torch.no_grad():
        exact = net(**inputs[0]).logits
        head = int8(net.transformer(**inputs[0]).last_hidden_state)
        now = head @ quantize_weight(net.lm_head.weight, "w4a8-g32").dequantize().t()
    p, q = exact.double().log_softmax(-1), now.double().log_softmax(-1)
    mask = inputs[0]["attention_mask"].double()
    each = ((p.exp() * (p - q)).sum(-1) * mask).sum(1) / mask.sum(1)
    assert rows["lm_head"].loss == pytest.approx(float(each.mean()), rel=1e-4)


def test_embeddings_are_means_over_tokens_and_compared_by_cosine():
    net = bert(kind="BertModel", add_pooling_layer=False)
    ids, mask = torch.randint(5, 200, (6, 9)), torch.ones(6, 9).long()
    mask[:3, 5:] = 0
    data = [{"input_ids": ids, "attention_mask": mask}]
    name = "encoder.layer.1.output.dense"
    (row,) = sensitivity(net, data, ["w2a8-g32"], layers=name)

    def embed(net):
        with torch.no_grad():
            hidden = net(**data[0]).last_hidden_state.double()
        return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    exact, now = embed(net), embed(by_hand(net, name, "w2a8-g32"))
    assert row.loss == pytest.approx(float((1 - torch.cosine_similarity(exact, now)).mean()), rel=1e-4)


def test_sparsity_removes_the_smallest():
    data, student = tokens(20), model(0)
    seen = []
    student.hidden.register_forward_pre_hook(lambda m, _: seen.append(m.weight.detach().clone()))
    (row,) = sensitivity(student, data, [], sparsities=[0.25], layers="hidden", device="cpu")
    weight = student.hidden.weight.detach()
    assert int((seen[-1] == 0).sum()) == 16 and row.weights == 64 and row.change == "sparsity 0.25"
    assert weight.abs()[seen[-1] == 0].max() <= weight.abs()[seen[-1] != 0].min()


def test_groups_that_do_not_fit_are_left_out():
    rows = sensitivity(model(0, width=32), tokens(8), ["w4a8-g64", "w8a8"], device="cpu")
    assert [r.change for r in rows] == ["w8a8", "w8a8"]


def test_without_labels_there_is_no_score():
    (row,) = sensitivity(model(0, width=32), tokens(8, labelled=False), ["w4a8-g32"], layers=["hid*"], score=accuracy)
    assert row.score is None and row.score_change is None and row.loss > 0


def test_weights_come_back_after_an_error():
    student = model(0, width=32)
    before, calls = student.hidden.weight, []

    def fail_later(module, args):
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("out of memory")

    student.register_forward_pre_hook(fail_later)
    with pytest.raises(RuntimeError, match="out of memory"):
        sensitivity(student, tokens(8), ["w2a8-g32"], device="cpu")
    assert student.hidden.weight is before and not student.hidden._forward_pre_hooks


def test_the_model_goes_back_to_its_device_even_after_an_error(monkeypatch):
    """Asked for another device, with moves that are recorded and not made."""
    monkeypatch.setattr(sys.modules["kdnative.precision.sensitivity"], "select_device", torch.device)
    student, seen = model(0, width=32), []
    student.to = lambda device: seen.append(torch.device(device).type) or student
    sensitivity(student, tokens(8), ["w2a8-g32"], device="cuda")
    assert seen == ["cuda", "cpu"]
    with pytest.raises(ValueError, match="does not fit a model that gives classes"):
        sensitivity(student, tokens(8), ["w2a8-g32"], device="cuda", metric="cosine")
    assert seen == ["cuda", "cpu"] * 2


def test_bad_arguments():
    with pytest.raises(ValueError, match="no linear layer"):
        sensitivity(model(0), tokens(8), layers="decoder*", device="cpu")
    with pytest.raises(ValueError, match="sparsity 1.0"):
        sensitivity(model(0), tokens(8), [], sparsities=[1.0], device="cpu")
    with pytest.raises(ValueError, match="holds texts: give the model's tokenizer"):
        sensitivity(model(0), ["a text"])
    with pytest.raises(ValueError, match="has no examples"):
        sensitivity(model(0), [])
    with pytest.raises(TypeError, match="a list of texts or of batches"):
        sensitivity(model(0), "a text")
    with pytest.raises(TypeError, match=r"data\[0\] is a list"):
        sensitivity(model(0), [[1, 2]])
    with pytest.raises(ValueError, match="metric='cosine' does not fit a model that gives classes: use agreement"):
        sensitivity(model(0), tokens(8), metric="cosine")
    with pytest.raises(ValueError, match="metric='accuracy' needs labels"):
        sensitivity(model(0), tokens(8, labelled=False), metric="accuracy")
    with pytest.raises(ValueError, match="8 examples, but 3 labels are given"):
        sensitivity(model(0), tokens(8), labels=[0, 1, 0])
    broken = model(0)
    with torch.no_grad():
        broken.classifier.bias[0] = torch.nan
    with pytest.raises(ValueError, match="the model gives NaN"):
        sensitivity(broken, tokens(8))


def recovered(clip):
    """A student whose hidden layer runs in 4 bits, with outliers that make a search clip."""
    student = model(0, width=64).eval()
    with torch.no_grad():
        student.hidden.weight[:, ::32] *= 4
    prepare_qat_(student, {"hidden": "w4a8-g32"}, clip=clip)
    return student


@pytest.mark.parametrize("clip", [None, "search", "learn"])
def test_in_its_own_scheme_a_layer_keeps_its_weight_and_its_inputs_are_rounded(clip):
    student = recovered(clip)
    if clip is not None:
        again = quantize_weight(student.hidden.quantized().dequantize(), "w4a8-g32").dequantize()
        assert not torch.equal(again, student.hidden.quantized().dequantize())  # rounded twice, it would lose
    before = copy.deepcopy(student.state_dict())
    found = sensitivity(student, tokens(40), ["w4a8-g32", "w8a8"], include_all=True, device="cpu")
    rows = {(r.layer, r.change): r for r in found}
    now = copy.deepcopy(student)
    finish_qat_(now)
    exact = predict(now, tokens(40), device="cpu")
    now.hidden.register_forward_pre_hook(lambda _, args: (int8(args[0]),))
    own = rows["hidden", "w4a8-g32"]
    expected = divergence(exact, predict(now, tokens(40), device="cpu"))
    assert own.loss == pytest.approx(expected, rel=1e-3)  # torch adds in another order on another processor
    assert 0 < own.loss < rows["hidden", "w8a8"].loss and own.bytes == student.hidden.quantized().bytes()
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert list(rows) == [(n, s) for s in ("w4a8-g32", "w8a8") for n in ("hidden", "classifier", "(all)")]


def test_other_schemes_round_the_float_weights_and_are_compared_with_the_integer_student():
    student = recovered("search")
    floats = student.hidden.weight.detach().clone()
    rows = sensitivity(student, tokens(40), ["w2a8-g32"], device="cpu")
    exact = copy.deepcopy(student)
    finish_qat_(exact)
    now = by_hand(exact, "hidden", "w2a8-g32", floats)
    expected = divergence(predict(exact, tokens(40), device="cpu"), predict(now, tokens(40), device="cpu"))
    (row,) = [r for r in rows if r.layer == "hidden"]
    assert row.loss == pytest.approx(expected, rel=1e-5) and row.loss


def test_bfloat16_and_weights_that_are_not_contiguous():
    data, student = tokens(40), model(0, width=32).eval()
    exact = {row.layer: row.loss for row in sensitivity(student, data, ["w2a8-g32"])}
    with torch.no_grad():
        student.hidden.weight = nn.Parameter(student.hidden.weight.t().contiguous().t())
    assert {row.layer: row.loss for row in sensitivity(student, data, ["w2a8-g32"])} == pytest.approx(exact, rel=1e-4)
    found = {row.layer: row.loss for row in sensitivity(student.bfloat16(), data, ["w2a8-g32"])}
    assert found == pytest.approx(exact, rel=0.3)
