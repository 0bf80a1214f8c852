"""The gate: what it returns keeps the budget, what it can't show it says, and the model changes on success only."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import kdnative as kd
from kdnative.precision import Gate, GateError, sensitivity
from kdnative.precision.bounds import share_high
from tests.distill.tiny import tokens
from tests.small_models import bert

LADDER = ["w2a8-g32", "w4a8-g32", "w8a8"]


def network(seed=0, classes=20):
    """A classifier of vectors whose first layer bears fewer bits than its last one."""
    torch.manual_seed(seed)
    layers = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, classes)]
    net = nn.Sequential(*layers).eval()
    with torch.no_grad():
        net[0].weight.copy_(net[0].weight.sign() * 0.1)  # on the grid of 2 bits
        net[2].weight.mul_(3)
    return net


def vectors(n=1200, seed=1, batch=100):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 64, generator=generator) for _ in range(n // batch)]


def classes(net, data):
    with torch.no_grad():
        return torch.cat([net(x).argmax(-1) for x in data])


def changed_share(a, b, data):
    return float((classes(a, data) != classes(b, data)).double().mean())


def test_the_returned_model_keeps_the_budget_on_texts_that_nobody_saw():
    net, data = network(), vectors()
    float_net = copy.deepcopy(net)
    gate = Gate("agreement", max_drop=0.1, data=data)
    report = kd.convert_(net, LADDER, gate=gate, method="rtn")
    assert report.model is net and isinstance(net[0], kd.nn.Linear)
    found = report.gate
    assert found.accepted.passed and found.accepted.bound <= 0.1
    assert changed_share(float_net, net, vectors(5000, seed=9)) <= 0.1
    # Fewer bits where they cost nothing, and not everywhere.
    assert found.assignment["0"] == "w2a8-g32" and len(set(found.assignment.values())) > 1
    assert {row.name: row.scheme for row in report.rows if row.scheme} == dict(found.assignment)
    assert (found.chosen_on, found.certified_on) == (300, 900)


def test_trials_go_from_the_safest_down_and_end_at_the_first_failure():
    report = kd.convert_(network(), LADDER, gate=Gate(max_drop=0.1, data=vectors()), method="rtn")
    trials = report.gate.trials
    assert [trial.passed for trial in trials[:-1]] == [True] * (len(trials) - 1) and not trials[-1].passed
    sizes = [trial.bytes for trial in trials]
    assert sizes == sorted(sizes, reverse=True) and trials[0].shares["w8a8"] > 0.5
    assert report.gate.accepted == trials[-2]
    for trial in trials:  # the exact bound of the share that was seen
        assert trial.bound == share_high(round(trial.drop * 900), 900, 0.95)
        assert trial.passed == (trial.bound <= 0.1)


def test_the_drop_is_that_of_the_returned_model_on_the_certifying_part():
    net, data = network(), vectors()
    exact, gate = copy.deepcopy(net), Gate(max_drop=0.1, data=data, seed=5)
    report = kd.convert_(net, LADDER, gate=gate, method="rtn")
    different = (classes(exact, data) != classes(net, data)).numpy()
    _, certifying = gate._split(1200)
    assert report.gate.accepted.drop == pytest.approx(different[certifying].mean())


def test_a_wide_budget_takes_the_fewest_bits_everywhere():
    report = kd.convert_(network(), LADDER, gate=Gate(max_drop=0.9, data=vectors()), method="rtn")
    assert set(report.gate.assignment.values()) == {"w2a8-g32"} and all(t.passed for t in report.gate.trials)


def test_no_assignment_within_the_budget_is_an_error_and_the_model_is_as_it_was():
    net, data = network(), vectors()
    before = copy.deepcopy(net.state_dict())
    gate = Gate("kl", max_drop=1e-7, data=data)
    with pytest.raises(
        GateError, match=r"the budget of 1e-07 is exceeded: .* no other conversion was tested.*The model is unch"
    ):
        kd.convert_(net, ["w2a8-g32"], gate=gate, keep=["2"], method="rtn")
    assert type(net[0]) is nn.Linear and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_too_few_examples_are_refused_before_anything_is_converted(monkeypatch):
    monkeypatch.setattr("kdnative.precision.conversions.convert_", None)
    assert Gate(max_drop=0.01, data=[]).least_examples == 399
    with pytest.raises(
        GateError, match=r"with 100 examples, 75 of which test the result: .* needs about 399"
    ) as refused:
        kd.convert_(network(), LADDER, gate=Gate(max_drop=0.01, data=vectors(100)))
    assert refused.value.examples_needed == 299
    with pytest.raises(GateError, match="even a model without any difference needs about 400"):
        kd.convert_(network(), LADDER, gate=Gate("kl", max_drop=0.1, data=vectors(50, batch=10)))


def test_what_more_examples_would_show_is_said_with_their_number():
    """The drop is within budget and its bound is not: then, and only then, more examples help."""
    net = network()
    options = {"keep": ["0", "2"], "method": "rtn"}  # one layer alone: in float it would be no conversion
    probe = kd.convert_(copy.deepcopy(net), ["w2a8-g32"], gate=Gate(max_drop=0.9, data=vectors(1200)), **options)
    budget = probe.gate.accepted.drop * 1.05
    with pytest.raises(GateError, match=r"can't be shown with 1200 examples: .* it needs about \d+\.") as refused:
        kd.convert_(net, ["w2a8-g32"], gate=Gate(max_drop=budget, data=vectors(1200)), **options)
    needed = refused.value.examples_needed
    seen = refused.value.report.trials[0]
    assert (
        share_high(np.ceil(seen.drop * needed), needed, 0.95)
        <= budget
        < share_high(np.ceil(seen.drop * 900), 900, 0.95)
    )


def test_layers_stay_in_float_where_8_bits_lose_too_much():
    """The last layer has outliers that 8 bits per channel can't hold: alone it spoils the budget."""
    net, data = network(), vectors()
    with torch.no_grad():
        net[4].weight[:, 0] = 300 * torch.randn(20)
        net[2].bias[0], net[2].weight[0] = -100.0, 0.0  # whose input is always 0
    exact = copy.deepcopy(net)
    report = kd.convert_(net, ["w4a8-g64", "w8a8"], gate=Gate(max_drop=0.02, data=data), method="rtn")
    assert report.gate.assignment["4"] == "float" and type(net[4]) is nn.Linear
    assert isinstance(net[0], kd.nn.Linear) and changed_share(exact, net, vectors(3000, seed=4)) <= 0.02


def test_accuracy_and_slices_and_classes():
    net, data = network(), vectors()
    labels = classes(net, data).clone()
    labels[::7] = (labels[::7] + 1) % 20  # the float model is wrong in one of seven
    batches = [{"input": x, "labels": y} for x, y in zip(data, labels.split(100), strict=True)]
    slices = {"even": [i % 2 == 0 for i in range(1200)], "none": [False] * 1200}
    gate = Gate("accuracy", max_drop=0.1, data=batches, slices=slices)
    report = kd.convert_(net, LADDER, gate=gate, method="rtn").gate
    before, after = (labels != classes(m, data) for m in (network(), net))
    lost = (after.double() - before.double()).numpy()
    _, certifying = gate._split(1200)
    assert report.accepted.drop == pytest.approx(lost[certifying].mean())
    even = certifying[certifying % 2 == 0]
    assert report.per_slice["even"].value == pytest.approx(lost[even].mean()) and set(report.per_slice) == {"even"}
    assert report.per_slice["even"].low <= report.per_slice["even"].value <= report.per_slice["even"].high
    assert sum(found.n for found in report.per_class.values()) == 900
    three = certifying[labels.numpy()[certifying] == 3]
    assert report.per_class["of class 3"].value == pytest.approx(lost[three].mean())
    assert "of class 3" in str(report) and report.to_dict()["per_slice"]["even"]["n"] == len(even)


@pytest.mark.parametrize("whole", [False, True])
def test_a_function_of_the_users(whole):
    """Of each example, or one score for all of them."""
    net, data = network(), vectors()
    reference = classes(net, data)
    labels = reference.numpy()

    def score(outputs, labels):
        right = (outputs.argmax(-1) == labels).double()
        return float(right.mean()) if whole else right

    report = kd.convert_(net, LADDER, gate=Gate(score, max_drop=0.1, data=data, labels=labels), method="rtn").gate
    assert report.accepted.bound <= 0.1 and report.metric == "own" and 0 < report.accepted.drop < report.accepted.bound


def test_embedders_and_regressions_have_their_metrics():
    data = [
        {"input_ids": torch.randint(5, 200, (25, 8)), "attention_mask": torch.ones(25, 8).long()} for _ in range(16)
    ]
    report = kd.convert_(
        bert(kind="BertModel", add_pooling_layer=False),
        ["w4a8-g32", "w8a8"],
        gate=Gate("cosine", max_drop=0.05, data=data),
    )
    assert report.gate.accepted.bound <= 0.05 and "95% confidence (approximate)" in str(report.gate)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    assert kd.convert_(net, LADDER, gate=Gate("mse", max_drop=0.01, data=vectors(400))).gate.metric == "mse"
    with pytest.raises(ValueError, match="does not fit a model that gives values: use cosine or mse"):
        lines = []  # nothing was done before
        kd.convert_(network(classes=1), LADDER, gate=Gate(max_drop=0.1, data=vectors(200), show=lines.append))
    assert not lines


@pytest.mark.parametrize("metric", ["kl", "agreement"])
def test_language_models_are_compared_token_by_token(metric):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=64, vocab_size=96, n_positions=16)
    net = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        net.transformer.wte.weight.mul_(20)
    exact = copy.deepcopy(net)
    ids, mask = torch.randint(1, 96, (400, 10)), torch.ones(400, 10).long()
    mask[::2, 6:] = 0
    data = [{"input_ids": i, "attention_mask": m} for i, m in zip(ids.split(20), mask.split(20), strict=True)]
    gate = Gate(metric, max_drop=0.3, data=data)
    found = kd.convert_(net, ["w4a8-g32", "w8a8"], gate=gate, method="rtn").gate
    _, certifying = gate._split(400)
    with torch.no_grad():
        p, q = (m(input_ids=ids, attention_mask=mask).logits.double().log_softmax(-1)[certifying] for m in (exact, net))
    each = (p.exp() * (p - q)).sum(-1) if metric == "kl" else (p.argmax(-1) != q.argmax(-1)).double()
    kept = mask[certifying].double()
    assert found.accepted.drop == pytest.approx(float(((each * kept).sum(1) / kept.sum(1)).mean()), rel=1e-3)
    assert found.accepted.drop < found.accepted.bound <= 0.3 and not found.per_class


def test_a_mapping_of_patterns_and_layers_that_lack_a_scheme():
    """Groups of 64 don't divide 96 inputs: such a layer has 8 bits. None stays float, and is not measured."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 20))
    gate = Gate(max_drop=0.5, data=vectors(400))
    report = kd.convert_(net, {"4": None, "*": ["w4a8-g64", "w8a8"]}, gate=gate, method="rtn")
    assert dict(report.gate.assignment) == {"0": "w4a8-g64", "2": "w8a8"} and type(net[4]) is nn.Linear


def test_sensitivities_can_be_given_and_calibrations_too():
    net, data = network(), vectors()
    schemes = ["w4a8-g32", "w8a8"]
    made = {scheme: kd.calibrate_(net, scheme, data[:2], method="gptq") for scheme in schemes}
    rows = sensitivity(net, torch.cat(data[:2]).split(100), schemes, weights=made)
    gate = Gate(max_drop=0.2, data=data, sensitivities=rows)
    report = kd.convert_(net, schemes, gate=gate, calibration=made)
    assert list(report.gate.sensitivities) == rows
    assert {row.method for row in report.rows if row.scheme} == {"gptq"}
    other = Gate(max_drop=0.2, data=data, sensitivities=[row for row in rows if row.names == ("9",)])
    with pytest.raises(ValueError, match="no row for a layer and scheme"):
        kd.convert_(network(), schemes, gate=other, calibration=made)
    with pytest.raises(ValueError, match=r"lacks w8a8"):
        kd.convert_(network(), schemes, gate=gate, calibration={"w4a8-g32": made["w4a8-g32"]})
    with pytest.raises(ValueError, match="a Calibration holds weights for one"):
        kd.convert_(network(), schemes, gate=gate, calibration=made["w8a8"])


def test_milliseconds_as_the_cost():
    """Of two schemes the one of more bits is made the faster one: the budget allows both, and time decides."""
    schemes = ["w4a8-g32", "w8a8"]
    rows = sensitivity(network(), vectors(200), schemes)
    rows = [replace(row, ms=1.0 if row.change == "w8a8" else 2.0) for row in rows]
    options = {"max_drop": 0.9, "data": vectors(400), "sensitivities": rows}
    for minimise, expected in (("ms", "w8a8"), ("bytes", "w4a8-g32")):
        gate = Gate(**options, minimise=minimise)
        found = kd.convert_(network(), schemes, gate=gate, method="rtn").gate
        assert set(found.assignment.values()) == {expected}
    measured = Gate(max_drop=0.5, data=vectors(400), minimise="ms")
    assert all(row.ms > 0 for row in kd.convert_(network(), schemes, gate=measured, method="rtn").gate.sensitivities)


def test_an_error_in_a_part_leaves_the_model_as_it_was():
    """Scores of a class or slice may fail where the score of all examples does not."""
    labels = classes(network(), vectors())

    def score(outputs, labels):
        if len(outputs) < 250:
            raise ZeroDivisionError("too few")
        return float((outputs.argmax(-1) == labels).double().mean())

    slices = {"few": [i < 30 for i in range(1200)]}
    gate = Gate(score, max_drop=0.2, data=vectors(), labels=labels, slices=slices)
    found = kd.convert_(network(), ["w8a8"], gate=gate, method="rtn").gate
    assert found.accepted.passed and not found.per_slice and list(found.per_class) == ["of class 3"]  # of 367 examples
    net = network()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdnative.precision.judging.Judge.intervals", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            kd.convert_(net, ["w8a8"], gate=gate, method="rtn")
    assert type(net[0]) is nn.Linear and not hasattr(net, "gate")


def test_labels_are_classes_of_the_model():
    labels = classes(network(), vectors())
    labels[1000] = 20
    with pytest.raises(ValueError, match="the label 20 is not a class of the model: allowed are 0 to 19"):
        kd.convert_(network(), gate=Gate("accuracy", max_drop=0.1, data=vectors(), labels=labels))
    found = kd.convert_(network(), ["w8a8"], gate=Gate(max_drop=0.2, data=vectors(), labels=labels), method="rtn").gate
    assert all(name.startswith("said to be") for name in found.per_class)


def test_data_that_can_be_read_once_serves_every_conversion():
    gate = Gate(max_drop=0.3, data=iter(vectors(400)))
    for _ in range(2):
        calibration = iter(vectors(100))
        found = kd.convert_(network(), ["w4a8-g32", "w8a8"], gate=gate, calibration=calibration, method="gptq").gate
        assert (found.chosen_on, found.certified_on) == (100, 300)


def test_language_models_keep_classes_for_agreement_and_refuse_logits_without_end(monkeypatch):
    from kdnative.precision import metrics

    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=64, vocab_size=96, n_positions=16)
    net = transformers.GPT2LMHeadModel(config).eval()
    data = [{"input_ids": torch.randint(1, 96, (400, 8))}]
    examples = metrics.Examples.of(data)
    found = metrics.answers(net, examples, np.arange(400), classes=True)
    assert found.outputs[0].dtype == torch.int64 and found.outputs[0].shape == (3200,) and found.finite
    monkeypatch.setattr(metrics, "MOST_BYTES", 400 * 8 * 96)
    gate = Gate("kl", max_drop=0.3, data=data)
    with pytest.raises(ValueError, match="logits of all tokens of 300 examples take more than .* metric='agreement'"):
        kd.convert_(net, ["w8a8"], gate=gate, method="rtn", calibration=data)
    with pytest.raises(kd.GateError, match="even a model without any difference needs about 400"):
        kd.convert_(net, gate=Gate(max_drop=0.3, data=[{"input_ids": data[0]["input_ids"][:200]}]))


def test_tokenized_data_and_what_the_run_says():
    said = []
    from tests.distill.tiny import model

    student = model(0, width=64, classes=2)
    gate = Gate(max_drop=0.5, data=tokens(200), show=said.append)
    report = kd.convert_(student, ["w4a8-g32", "w8a8"], gate=gate, method="rtn")
    assert {"of class low", "of class high"} == set(report.gate.per_class)
    assert said[0] == "calibrating w4a8-g32" and any(line.startswith("measuring 1 groups") for line in said)
    assert report.to_dict()["gate"]["layers"][0]["layer"] == "hidden"


def test_bad_arguments():
    data = vectors(100)
    for wrong, text in (
        ({"max_drop": 0}, "max_drop=0: a budget is above 0 and below 1; for 99 % agreement give max_drop=0.01"),
        ({"max_drop": 99}, "max_drop=99"),
        ({"max_drop": float("nan")}, "max_drop=nan"),
        ({"max_drop": 0.1, "confidence": 95}, "confidence=95: within 0.5 and 1"),
        ({"max_drop": 0.1, "choosing": 0}, "choosing=0"),
        ({"max_drop": 0.1, "minimise": "flops"}, "minimise='flops'"),
        ({"max_drop": 0.1, "metric": "f1"}, "metric='f1': allowed are 'agreement'"),
    ):
        with pytest.raises(ValueError, match=text):
            Gate(**{"data": data, **wrong})
    with pytest.raises(TypeError, match="metric is a int"):
        Gate(3, max_drop=0.1, data=data)

    def convert(schemes=LADDER, net=None, options=None, **given):
        return kd.convert_(
            net or network(), schemes, gate=Gate(**{"max_drop": 0.1, "data": data, **given}), **(options or {})
        )

    for schemes, text in (
        ([], "at least one"),
        (["w8a8", "w8a8"], "each once"),
        (["w8a8", "w4a8-g32"], "in ascending order of bits, got w8a8, w4a8-g32"),
        (["w5a8"], "unknown scheme 'w5a8'"),
        ({"*": None}, "nothing to choose"),
        ({"nowhere": ["w4a8-g32"]}, "pattern 'nowhere' matches no module"),
    ):
        with pytest.raises(ValueError, match=text):
            convert(schemes)
    with pytest.raises(ValueError, match="data of the gate has no examples"):
        convert(data=[])
    with pytest.raises(ValueError, match="metric='accuracy' needs labels"):
        convert(metric="accuracy")
    with pytest.raises(ValueError, match="slice 'a' has 3 values for 100 examples"):
        convert(slices={"a": [True] * 3})
    with pytest.raises(ValueError, match="clip_search=True does not work with a gate"):
        convert(options={"clip_search": True})
    broken = network()
    with torch.no_grad():
        broken[4].bias[0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        convert(net=broken)


def test_layers_that_were_trained_for_a_scheme_keep_it():
    net = network()
    kd.quantize.prepare_qat_(net, {"2": "w4a8-g32"})
    trained = net[2].quantized().qweight
    report = kd.convert_(net, LADDER, gate=Gate(max_drop=0.3, data=vectors(400)), method="rtn")
    assert set(report.gate.assignment) == {"0", "4"}
    assert str(net[2].scheme) == "w4a8-g32" and torch.equal(net[2].quantized().qweight, trained)


def test_weights_that_are_given_are_no_part_of_the_choice():
    net = network()
    given = {"0": kd.quantize.quantize_weight(net[0].weight, "w8a8")}
    report = kd.convert_(net, LADDER, gate=Gate(max_drop=0.9, data=vectors(400)), weights=given, method="rtn")
    assert set(report.gate.assignment) == {"2", "4"} and str(net[0].scheme) == "w8a8"
