"""A student in every engine: what is measured, and the factors of its speed-up."""

import copy
import json
import types

import pytest
import torch

from kdnative import cli, convert_
from kdnative.bench import model_peers, table
from kdnative.bench.encoder_candidates import PEERS
from kdnative.quantize import finish_qat_, prepare_qat_
from tests.small_models import bert

pytest.importorskip("transformers", reason='needs pip install "kdnative[pipeline]"')
TORCH = {"torch fp32", "torch bf16", "torch dynamic int8"}


@pytest.fixture
def student(monkeypatch):
    monkeypatch.setattr(model_peers, "PEERS", [c for c in PEERS if not c.packages])
    model, teacher = bert(), bert()
    ids = model_peers.example_inputs(model, 1, 7)["input_ids"]
    native = convert_(bert()).model
    return model_peers.Student("s", model, native, "w8a8", ("teacher", teacher), [{"input_ids": ids}])


def test_all_run_side_by_side_and_the_gain_is_split(student):
    lines = []
    result = model_peers.run(student, [(1, 4), (2, 9)], rounds=3, show=lines.append)
    assert [(case["batch"], case["tokens"]) for case in result["cases"]] == [(1, 4), (2, 9)]
    for case in result["cases"]:
        rows = {row["name"]: row for row in case["rows"]}
        assert set(rows) == {"kdnative w8a8", "teacher, torch fp32", *TORCH}
        assert all(len(row["samples"]) == 3 for row in rows.values())
        assert rows["teacher, torch fp32"]["peer_of"] == [] and rows["teacher, torch fp32"]["teacher"]
        assert case["cores"]["taken"] == 3 * len(rows)
    reasons = {row["name"]: row["reason"] for row in result["not_run"]}
    assert "--compile" in reasons["torch.compile bf16"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    text = table.markdown(result)
    assert text.startswith("`kdnative bench model --peers`, ") and text.count("smaller model: ") == 2
    assert text.count("| 1 x 4 |") == 5 and sum("native kernels: " in line for line in lines) == 2


class _Wrong(torch.nn.Module):
    """What a student with a wrong kernel returns: its logits through `change`."""

    def __init__(self, native, change):
        super().__init__()
        self.native, self.change, self.config = native, change, native.config

    def forward(self, **inputs):
        return types.SimpleNamespace(logits=self.change(self.native(**inputs).logits))


@pytest.mark.parametrize("scheme", ["w8a8", "w8a8, w4a8-g32, float"])
@pytest.mark.parametrize("change", [lambda y: 0.7 * y, lambda y: y + 0.3 * y.abs().mean()], ids=["scale", "bias"])
def test_a_student_of_a_wrong_kernel_is_noticed(student, change, scheme):
    student.scheme = scheme
    right = model_peers.run(student, [(8, 9)], rounds=1)
    assert not [row for row in right["not_run"] if row["name"].startswith("kdnative")]
    student.native = _Wrong(student.native, change)
    found = model_peers.run(student, [(8, 9)], rounds=1)
    (reason,) = (row["reason"] for row in found["not_run"] if row["name"].startswith("kdnative"))
    assert "wrong result" in reason


@pytest.mark.parametrize("scheme", ["w4a8-g32", "w4a16-g32"])
def test_a_student_whose_weights_lie_on_the_grid_is_right(student, scheme):
    """After quantization-aware training rounding the float model costs little, and the ranges may be clipped ones."""
    prepare_qat_(student.float_model, scheme, clip="search")
    student.native, student.scheme = convert_(copy.deepcopy(student.float_model), scheme).model, scheme
    finish_qat_(student.float_model)
    result = model_peers.run(student, [(2, 9)], rounds=1)
    assert f"kdnative {scheme}" in {row["name"] for row in result["cases"][0]["rows"]}


def _row(name, seconds, **more):
    ours = name.startswith("kdnative")
    row = {"name": name, "kind": "int8" if ours else "float", "ours": ours, "partial": False}
    return {**row, "peer_of": [] if ours else ["int8"], "samples": [seconds] * 5, **more}


def test_the_factors_by_hand():
    rows = [
        _row("kdnative w8a8", 1.0),
        _row("torch fp32", 6.0),
        _row("openvino int8", 1.5),
        _row("teacher, torch fp32", 18.0, peer_of=[], teacher=True),
    ]
    smaller, kernels, total = model_peers.gain_lines(rows)
    assert smaller.startswith("smaller model: 3.00x [3.00, 3.00]")
    assert kernels.startswith("native kernels: 1.50x [1.50, 1.50]") and kernels.endswith("openvino int8")
    assert "18.00x" in total and "4.00x" in total  # 18 = 3 x 4 x 1.5
    assert len(model_peers.gain_lines(rows[:3])) == 1 and model_peers.gain_lines(rows[1:2]) == []
    *_, plain = model_peers.gain_lines([rows[0], rows[1], rows[3]])  # no other engine than torch fp32 itself
    assert plain.endswith(" fp32: 18.00x [18.00, 18.00]")


def test_texts_fill_the_inputs_one_after_the_other(student):
    encoder = model_peers.Encoder(student.float_model, samples=model_peers._with_types(student))
    (ids,) = [sample["input_ids"].flatten().tolist() for sample in student.samples]
    found = model_peers._packed(encoder, 2, 5)["input_ids"].flatten().tolist()
    assert found == (ids + ids)[:10]
    assert set(encoder.calibration()[0]) == {"input_ids", "attention_mask", "token_type_ids"}


def test_a_mask_is_made_where_a_sample_has_none(student):
    (sample,) = model_peers._with_types(student)
    assert sample["attention_mask"].tolist() == [[1] * 7] and sample["token_type_ids"].tolist() == [[0] * 7]


def test_wrong_usage_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["bench", "model", "a", "b", "--peers"])
    assert "--peers takes one MODEL" in capsys.readouterr().err
    bert().save_pretrained(tmp_path / "float")
    assert cli.main(["bench", "model", str(tmp_path / "float"), "--peers"]) == 1
    assert "has no tokenizer" in capsys.readouterr().err
