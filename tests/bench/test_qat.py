"""The suite of training beside calibration, in miniature."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdnative.bench import qat
from kdnative.bench.qat_ways import FLOAT_TRAINED, WAYS, Material, Sizes
from kdnative.data import Batches, Dataset, DataSplits, Example
from kdnative.distill import SoftLabels
from kdnative.evaluate import predict
from kdnative.formats.weight import unpack_bits
from kdnative.nn import Encoder
from tests.bench.test_gate_suite import Words
from tests.distill.tiny import tokens
from tests.small_models import bert


def material(**options):
    model, data, validation = bert(num_labels=2), tokens(48), tokens(24, seed=1)
    calibration = [batch.inputs for batch in Batches(data, 16)]
    exact = predict(model, validation).logits
    return Material(model, data, SoftLabels.compute(model, data), validation, exact, calibration, **options)


def test_every_way_makes_a_model_of_its_scheme_and_leaves_the_classifier_alone():
    given, lines = material(), []
    before = copy.deepcopy(given.model.state_dict())
    measured = tokens(40, seed=2)
    rows = qat._rows(given, WAYS, measured, predict(given.model, measured, batch_size=qat.BATCH), lines.append)
    assert [row["name"] for row in rows] == [way.name for way in WAYS] and len(lines) == len(rows)
    assert all(torch.equal(value, before[name]) for name, value in given.model.state_dict().items())
    by_name = {row["name"]: row for row in rows}
    assert by_name["fp32"]["figures"]["kl"] == [0, 0, 0] and by_name["fp32"]["against"] is None
    assert by_name[FLOAT_TRAINED]["against"]["kl"] == [0, 0, 0]
    assert by_name["w4 GPTQ"]["figures"]["kl"][0] < by_name["w2 GPTQ"]["figures"]["kl"][0]
    assert all(len(row["epochs"]) == (1 if row["trained"] else 0) for row in rows)
    made = given.make(next(way for way in WAYS if way.native))
    assert type(made.model.bert) is Encoder and "w2a8-g32" in repr(made.model.bert)
    assert type(made.model.classifier) is torch.nn.Linear
    ternary = given.make(next(way for way in WAYS if way.start == "ternary" and way.lr)).model.state_dict()
    codes = unpack_bits(ternary["bert.layers.1.ffn_in.qweight"], 2, 64)
    assert set(codes.unique().tolist()) == {-1, 0, 1}


def test_a_student_is_compared_with_the_classifier():
    given = material()
    small = replace(given, model=given.student(Sizes([4, 2], [64, 128])))
    first, second = small.model.bert.encoder.layer
    assert first.intermediate.dense.out_features == 64 and second.attention.self.num_attention_heads == 2
    measured = tokens(40, seed=2)
    before = predict(given.model, measured, batch_size=qat.BATCH)
    (own,) = qat._rows(small, WAYS[:1], measured, before, lambda line: None)
    (classifier,) = qat._rows(given, WAYS[:1], measured, before, lambda line: None)
    assert own["figures"]["kl"][0] > 0 == classifier["figures"]["kl"][0]
    assert given.model.bert.encoder.layer[0].intermediate.dense.out_features == 128


def test_training_is_stopped_by_divergence():
    made = material(epochs=4).make(next(way for way in WAYS if way.name == FLOAT_TRAINED))
    divergences = [epoch["val_kl"] for epoch in made.history]
    assert made.best == divergences.index(min(divergences)) and made.seconds > 0


def test_the_forward_of_training_is_compared_bit_for_bit(monkeypatch):
    model = bert(num_labels=2)
    assert qat.same_bits(model, tokens(70), 64) == {"texts": 64, "equal": 64}
    real = qat.convert_

    def other(model, *arguments, **options):
        model.bert.embeddings.LayerNorm.weight.data.mul_(1.01)
        return real(model, *arguments, **options)

    monkeypatch.setattr(qat, "convert_", other)
    assert qat.same_bits(model, tokens(70), 64)["equal"] == 0


def test_texts_that_stop_a_training_measure_nothing(monkeypatch):
    """The suite's own split: ids of the texts are told apart by their first token."""
    seen = []

    def rows(material, ways, measured, before, show):
        seen.extend((material.validation, measured))
        return []

    def part(first, count):
        return Dataset(
            [Example({"text": str(first + i), "label": i % 2}, str(first + i)) for i in range(count)], ("a", "b")
        )

    monkeypatch.setattr(qat, "splits", lambda: DataSplits(part(10, 40), part(100, 20), part(150, 9)))
    monkeypatch.setattr(qat, "load_tokenizer", lambda source: Words())
    monkeypatch.setattr(qat, "load_for_task", lambda *_, **__: bert(num_labels=2))
    monkeypatch.setattr(qat, "_rows", rows)
    result = qat.run(Path("nowhere"), threads=1)
    stopping, measuring = ({int(b) for batch in Batches(d, 8) for b in batch.inputs["input_ids"][:, 0]} for d in seen)
    assert stopping | measuring == {*range(100, 120), *range(150, 159)} and not stopping & measuring
    assert result["texts"] == 19 and result["stopping_texts"] == 10


def row(name, scheme, kl, points, trained=True):
    figures = {"kl": [kl, kl, kl]}
    return {"name": name, "scheme": scheme, "trained": trained, "figures": figures,
            "against": {"kl": [kl - 0.02] * 3, "accuracy": [points] * 3}}  # fmt: skip


def test_goals_are_computed():
    rows = [
        row("fp32, trained as long", None, 0.02, 0.0),
        row("w2 QAT from GPTQ", "w2a8-g32", 0.034, -0.009),
        row("ternary QAT from GPTQ", "w2a8-g32", 0.041, -0.011),
        row("w4 GPTQ", "w4a8-g64", 0.01, 0.0, trained=False),
        row("w4 QAT from GPTQ", "w4a8-g64", 0.02, 0.0),
    ]
    found = {goal["goal"]: goal["met"] for goal in qat.goals(rows)}
    assert list(found.values()) == [True, True, False, False, False]


def test_options(capsys):
    with pytest.raises(SystemExit):
        qat.main(["--ways", "w3 QAT"])
    assert "'w3 QAT' is none of fp32, fp32 trained as long, w2 GPTQ" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        qat.main(["--heads", "6,4"])
    assert "--heads and --neurons are given together" in capsys.readouterr().err
