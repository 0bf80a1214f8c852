"""The calibration pass: what methods are given, on models of all kinds, and what is refused."""

import copy
import warnings

import pytest
import torch
from torch import nn

from kdnative.formats.scheme import Scheme
from kdnative.quantize import FakeQuantLinear, calibrate_, gathering, quantize_weight
from kdnative.quantize.calibrating import usual_method
from kdnative.quantize.methods import GPTQ
from kdnative.quantize.output_error import output_error
from tests.quantize.recording import Recording, assert_same_weights, seen_of
from tests.small_models import bert


def network(*sizes, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    layers = [part for a, b in zip(sizes, sizes[1:], strict=False) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers).to(dtype)


def rows(count=40, size=64, seed=1):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def texts(count=20, seed=2):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 9, (count,), generator=generator)
    ids = torch.randint(1, 200, (count, 8), generator=generator)
    mask = (torch.arange(8) < lengths[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def cut(batch, size):
    return [
        dict(zip(batch, parts, strict=True)) for parts in zip(*(t.split(size) for t in batch.values()), strict=True)
    ]


def test_every_method_gets_the_inputs_of_its_layer():
    model, x, method = network(64, 48, 32), rows(), Recording()
    found = calibrate_(model, "w8a8", [x[:7], x[7:]], method=method)
    assert list(found) == ["0", "2"] and found.method == "recording"
    x = x[seen_of(x)]
    for name, inputs in (("0", x), ("2", model[:2](x).detach())):
        statistics = method.statistics_of(model.get_submodule(name).weight)
        exact = inputs.double()
        torch.testing.assert_close(statistics.second_moment, (exact.t() @ exact / len(x)).float(), rtol=1e-5, atol=1e-6)
        assert statistics.rows == len(x) == 38 and statistics.sample.shape == inputs.shape
    expected = {name: quantize_weight(model.get_submodule(name).weight, "w8a8") for name in found}
    assert_same_weights(found, expected)


def test_the_row_of_a_layer():
    model, x = network(64, 48), rows(400)
    x[:, [3, 9]] = 0
    (row,) = calibrate_(model, "w4a8-g32", [x[:9], x[9:]], method="clip").rows
    seen = seen_of(x)
    x, held = x[seen], x[~seen]
    weight = model[0].weight.detach()
    assert (row.name, row.scheme, row.method, row.rows, row.dead) == ("0", "w4a8-g32", "clip", 375, 2) and len(
        held
    ) == 25
    codes = torch.round(held / held.abs().amax(1, keepdim=True) * 127) * (held.abs().amax(1, keepdim=True) / 127)
    exact = held.double() @ weight.double().t()
    for error, made in (
        (row.error_before, quantize_weight(weight, "w4a8-g32")),
        (row.error_after, quantize_weight(weight, "w4a8-g32", True, importance=x.square().mean(0))),
    ):
        difference = codes.double() @ made.dequantize().double().t() - exact
        assert error == pytest.approx(float(difference.square().sum() / exact.square().sum()), rel=1e-4)
    assert row.error_after < row.error_before


def test_what_a_few_rows_say_is_not_believed():
    """In fewer rows than inputs GPTQ finds an error that it has nowhere else."""
    model, x = network(256, 64), torch.randn(2000, 16) @ torch.randn(16, 256) + 0.5 * rows(2000, 256)
    with pytest.warns(UserWarning, match="calibration has fewer rows than inputs for '0', so") as caught:
        (row,) = (found := calibrate_(model, "w2a16-g32", [x[:160]], method=GPTQ(damping=0.01))).rows
    assert caught[0].filename == __file__
    unseen = output_error(model[0].weight.detach(), found["0"], Scheme.parse("w2a16-g32"), x[1000:])
    assert row.error_after == pytest.approx(unseen, rel=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert calibrate_(model, "w2a16-g32", [x], method="gptq").rows[0].error_after < row.error_after


class Halving(Recording):
    def _quantize(self, weight, scheme, statistics):
        return quantize_weight(weight / 2, scheme)


def test_a_method_that_is_worse_than_rounding():
    with pytest.warns(UserWarning, match="rounding to nearest has less error on held-out data for '0'"):
        (row,) = calibrate_(network(64, 16), "w8a8", [rows(200)], method=Halving()).rows
    assert row.error_after == pytest.approx(0.25, rel=0.01) and row.is_worse


def test_all_examples_alike():
    (row,) = calibrate_(network(64, 16), "w8a8", [torch.ones(20, 64)], method="clip").rows
    assert (row.rows, row.error_before, row.error_after) == (20, None, None)


@pytest.mark.parametrize("scheme", ["w8a8", "w8a16"])
def test_input_scales_are_part_of_the_error(scheme):
    weight, x, scale = torch.randn(16, 64), rows(), torch.rand(64) + 0.5
    rounded = quantize_weight(weight / scale, scheme)
    inputs = (x * scale).double()
    if scheme == "w8a8":
        step = inputs.abs().amax(1, keepdim=True) / 127
        inputs = torch.round(inputs / step) * step
    exact = x.double() @ weight.double().t()
    difference = inputs @ rounded.dequantize().double().t() - exact
    found = output_error(weight, rounded.changed(input_scale=scale), Scheme.parse(scheme), x)
    assert found == pytest.approx(float(difference.square().sum() / exact.square().sum()), rel=1e-3)
    assert output_error(weight, rounded, Scheme.parse(scheme), x[:0]) == 0


def test_batches_in_another_order_and_cut_elsewhere_give_the_same():
    model = bert()
    whole, other = Recording(), Recording()
    calibrate_(model, "w8a8", [texts()], method=whole)
    calibrate_(model, "w8a8", cut(texts(), 3)[::-1], method=other)
    assert len(whole.seen) == len(other.seen) == 10  # q, k, v are one
    for weights, _, statistics in whole.seen:
        found = other.statistics_of(weights[0])
        assert found.rows == statistics.rows
        for name in ("second_moment", "mean_square", "largest", "sample"):
            first, second = getattr(statistics, name), getattr(found, name)
            torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5, msg=name)


def test_padding_is_not_counted():
    model, method, batch = bert(kind="BertModel"), Recording(), texts()
    calibrate_(model, "w8a8", [batch], method=method)
    seen = seen_of(batch)
    kept = int(batch["attention_mask"][seen].sum())
    counts = {name: method.statistics_of(m.weight).rows for name, m in model.named_modules() if type(m) is nn.Linear}
    assert counts.pop("pooler.dense") == int(seen.sum()) == 19
    assert set(counts.values()) == {kept}
    batch["input_ids"][batch["attention_mask"] == 0] = 77
    again = Recording()
    calibrate_(model, "w8a8", [batch], method=again)
    for weights, _, statistics in method.seen:
        assert torch.equal(again.statistics_of(weights[0]).largest, statistics.largest)


@pytest.mark.parametrize("additive", [False, True])
def test_padding_of_torch(additive):
    """Its mask is True, or minus infinity, where there is padding."""
    layer, method = nn.TransformerEncoderLayer(64, 4, 96, batch_first=True), Recording()
    padding = torch.arange(6) >= torch.randint(1, 7, (30, 1), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(30, 6).masked_fill(padding, -torch.inf) if additive else padding
    batch = {"src": rows(180).view(30, 6, 64), "src_key_padding_mask": mask}
    model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    calibrate_(model, "w8a8", [batch], method=method)
    assert {statistics.rows for _, _, statistics in method.seen} == {int((~padding)[seen_of(batch)].sum())}


def test_errors_that_no_number_tells(tmp_path):
    """The output is 0, or too large for float32: the calibration is as good, and can be saved."""
    model = network(64, 16)
    nn.init.ones_(model[0].weight)
    x = torch.arange(1.0, 21)[:, None].repeat(1, 64)
    x[:, ::2] *= -1
    found = calibrate_(model, "w8a8", [x], method="rtn")
    assert found.rows[0].error_after == 0
    assert output_error(model[0].weight, quantize_weight(torch.rand(16, 64), "w8a8"), Scheme.parse("w8a8"), x) is None
    nn.init.normal_(model[0].weight, std=20)
    found = calibrate_(model, "w8a8", [rows() * 5e37], method="rtn")
    assert found.rows[0].error_after is None
    found.save(tmp_path / "file")


def test_every_call_of_a_linear_counts():
    method = Recording()
    layer = nn.Linear(64, 64)
    calibrate_(nn.Sequential(layer, nn.ReLU(), layer), "w8a8", [rows()], method=method)
    x = rows()[seen_of(rows())]
    both = torch.cat([x, torch.relu(layer(x)).detach()])
    assert method.seen[0][2].rows == 76 and len(method.seen[0][2].sample) == 76
    torch.testing.assert_close(method.seen[0][2].mean_square, both.square().mean(0))


def test_queries_keys_and_values_are_quantized_together_and_schemes_apart():
    method, start = Recording(), "bert.encoder.layer.0.attention.self."
    calibrate_(bert(), {f"{start}key": "w4a8-g32", "*layer.0*": "w8a8"}, [texts()], method=method)
    assert [(len(weights), str(scheme)) for weights, scheme, _ in method.seen][:2] == [(2, "w8a8"), (1, "w4a8-g32")]
    assert method.seen[0][2] is method.seen[1][2]


def test_layer_by_layer():
    """The second layer is given what the first gives with its quantized weight, and activations in float."""
    model, x, method = network(64, 64, 32), rows(), Recording()
    found = calibrate_(model, "w2a8-g32", [x[:9], x[9:]], method=method, sequential=True)
    x = x[seen_of(x)]
    hidden = torch.relu(nn.functional.linear(x.double(), found["0"].dequantize().double(), model[0].bias.double()))
    statistics = method.statistics_of(model[2].weight)
    exact = (hidden.t() @ hidden / len(x)).float()
    torch.testing.assert_close(statistics.second_moment, exact, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(statistics.largest, model[:2](x).detach().amax(0), rtol=1e-3)


def test_layer_by_layer_of_an_encoder():
    model, method = bert(), Recording()
    own = copy.deepcopy(model.state_dict())
    found = calibrate_(model, "w4a8-g32", cut(texts(), 7), method=method, sequential=True)
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    quantized = copy.deepcopy(model)
    last = "bert.encoder.layer.1.output.dense"
    for name, weight in found.items():
        if name not in (last, "bert.pooler.dense", "classifier"):
            quantized.get_submodule(name).weight.data.copy_(weight.dequantize())
    again = Recording()
    calibrate_(quantized, {last: "w4a8-g32"}, cut(texts(), 7), method=again)
    first = method.statistics_of(model.get_submodule(last).weight)
    torch.testing.assert_close(first.second_moment, again.seen[0][2].second_moment, rtol=1e-4, atol=1e-6)


def test_layers_that_do_not_fit_into_memory_together(monkeypatch):
    """They take several passes, and give the same bits."""
    model, told = bert(), []
    whole = calibrate_(model, "w4a8-g32", [texts()], method="gptq")
    monkeypatch.setattr(gathering, "MOST_BYTES", 600_000)
    parts = calibrate_(model, "w4a8-g32", [texts()], method="gptq", progress=lambda *what: told.append(what))
    assert_same_weights(parts, whole)
    working = 32 * 128**2  # of the factors of the widest layer
    assert parts.statistics_bytes <= 600_000 + working < whole.statistics_bytes
    assert 1 < told.count(("reading the data", 1, 1)) < 10 and told[-1] == ("quantizing", 14, 14)


def test_the_model_keeps_everything():
    model = bert().train()
    own, training = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    calibrate_(model, "w4a8-g32", [texts()], method="gptq")
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_floats(dtype):
    model = network(64, 32, dtype=dtype)
    found = calibrate_(model, "w4a8-g32", [rows(300).to(dtype)], method="gptq")
    assert found["0"].qweight.shape == (32, 64) and 0 < found.rows[0].error_after < found.rows[0].error_before


def test_dead_inputs_and_a_single_row():
    x = rows(1)
    x[:, :32] = 0
    with pytest.warns(UserWarning, match="calibration has 1 example, which says little") as caught:
        found = calibrate_(network(64, 32), "w4a8-g32", [x], method="gptq")
    assert caught[0].filename == __file__
    assert found.rows[0].dead == 32 and bool(torch.isfinite(found["0"].dequantize()).all())


def test_a_method_without_data():
    model = network(64, 32)
    found = calibrate_(model, "w4a8-g32", method="rtn")
    assert_same_weights(found, {"0": quantize_weight(model[0].weight, "w4a8-g32")})
    assert (found.rows[0].rows, found.rows[0].error_before, found.statistics_bytes) == (0, None, 0)
    assert calibrate_(model, "w4a8-g32", [rows()], method="rtn").rows[0].error_after > 0


def test_usual_methods():
    usual = {"w8a8": "smoothquant", "w8a16": "gptq", "w4a8-g64": "gptq", "w2a16-g32": "gptq", "w8a8+4x1": "gptq"}
    assert {scheme: usual_method(Scheme.parse(scheme)) for scheme in usual} == usual


def test_what_is_left_alone():
    model = nn.Sequential(nn.Linear(64, 32), FakeQuantLinear(32, 32), nn.Linear(32, 48), nn.Linear(48, 7))
    found = calibrate_(model, {"0": None, "*": "w4a8-g32"}, [rows()], method="rtn")
    assert list(found) == ["2"], "48 inputs are no groups of 32"
    with pytest.raises(ValueError, match="3: .*48"):
        calibrate_(model, {"3": "w4a8-g32", "*": "w8a8"}, [rows()], method="rtn")
    with pytest.raises(ValueError, match="there is no layer to calibrate; the model has 3 linear layers"):
        calibrate_(model, {"*": None}, [rows()])
    with pytest.raises(ValueError, match="there is no layer to .* in float, and 0 can't be quantized: .*48"):
        calibrate_(network(48, 48), "w4a8-g32", [rows(size=48)])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "method gptq needs calibration data: give calibration="),
        ({"method": "gptk", "calibration": [rows()]}, "'gptq'"),
        ({"schemes": {"9": "w8a8"}, "calibration": [rows()]}, "pattern '9' matches no module"),
        ({"calibration": []}, "holds no data"),
    ],
)
def test_mistakes_in_words(given, words):
    with pytest.raises(ValueError, match=words):
        calibrate_(network(64, 32), **{"schemes": "w4a8-g32", **given})
    with pytest.raises(TypeError, match="takes a torch.nn.Module, not dict"):
        calibrate_({}, "w8a8", [rows()])
    with pytest.raises(TypeError, match="progress is True, False or a function"):
        calibrate_(network(64, 32), "w8a8", [rows()], method="rtn", progress=3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite(value):
    x = rows()
    x[25, 5] = value
    with pytest.raises(ValueError, match="inputs of 0 hold NaN or infinite values in batch 2 of calibration"):
        calibrate_(network(64, 32), "w8a8", list(x.split(10)), method="clip")


def test_weights_that_are_not_finite_and_layers_that_never_run():
    model = network(64, 32, 16)
    model[0].weight.data[3, 4] = model[2].weight.data[5, 6] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite values in the weights of '0', '2'"):
        calibrate_(model, "w8a8", [rows()], method="rtn")
    with pytest.raises(ValueError, match="'0', '2' are on the meta device"):
        calibrate_(model.to("meta"), "w8a8", [rows()], method="rtn")
    model = nn.ModuleDict({"a": nn.Linear(64, 32), "b": nn.Linear(64, 32)})
    model.forward = lambda x: model["a"](x)
    with pytest.raises(ValueError, match="'b' did not run"):
        calibrate_(model, "w8a8", [rows()], method="rtn")
    assert list(calibrate_(model, "w8a8", [rows()], method="rtn", keep="b")) == ["a"]


def test_progress_in_bars(capfd):
    pytest.importorskip("tqdm")
    calibrate_(network(64, 32), "w8a8", [rows()], method="clip", progress=True)
    assert "reading the data: 100%" in (said := capfd.readouterr().err) and "quantizing: 100%" in said


# -- models of transformers --------------------------------------------------------------------------------------------


def sizes(**more):
    return {"vocab_size": 200, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, **more}


def llama():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**sizes(intermediate_size=96, num_key_value_heads=2))
    return transformers.LlamaForCausalLM(config)


def gpt2():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=200, n_embd=64, n_layer=2, n_head=4))


def t5():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=200, d_model=64, d_kv=16, d_ff=96, num_layers=1, num_heads=4)
    return transformers.T5ForConditionalGeneration(config)


@pytest.mark.parametrize("sequential", [False, True])
def test_decoders(sequential):
    model, method = llama(), Recording()
    found = calibrate_(model, "w4a8-g32", cut(texts(), 10), method=method, sequential=sequential)
    assert len(found) == 2 * 7 + 1 and [len(weights) for weights, _, _ in method.seen] == [3, 1, 2, 1] * 2 + [1]
    assert {s.rows for _, _, s in method.seen} == {int(texts()["attention_mask"][seen_of(texts())].sum())}


def test_a_transposed_weight():
    model, method = gpt2(), Recording()
    found = calibrate_(model, {"*mlp*": "w4a8-g32"}, [texts()], method=method)
    layer = model.transformer.h[0].mlp.c_proj
    assert_same_weights(
        {"x": found["transformer.h.0.mlp.c_proj"]}, {"x": quantize_weight(layer.weight.t(), "w4a8-g32")}
    )
    again = calibrate_(model, {"*mlp*": "w4a8-g32"}, [texts()], method=Recording(), sequential=True)
    assert list(again) == list(found)


def test_sequence_to_sequence():
    method, model = Recording(), t5()
    batch = {**texts(), "decoder_input_ids": texts(seed=5)["input_ids"][:, :5]}
    found, seen = calibrate_(model, "w8a8", [batch], method=method), seen_of(batch)
    cross = model.decoder.block[0].layer[1].EncDecAttention
    assert method.statistics_of(cross.k.weight).rows == int(texts()["attention_mask"][seen].sum())
    assert method.statistics_of(cross.q.weight).rows == 19 * 5
    assert [len(weights) for weights, _, _ in method.seen].count(2) == 1, "keys and values of the encoder's output"
    assert len(found) == len([m for m in model.modules() if type(m) is nn.Linear])
