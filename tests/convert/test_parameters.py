"""Models of transformers keep a parameter, from which they read their device and dtype."""

import pytest
import torch
from torch import nn

from kdnative.convert import convert_
from kdnative.nn import Encoder, Linear
from tests.pipeline.conftest import write_model
from tests.small_models import bert, rows

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("around", [False, True])
def test_a_classifier_of_many_labels(fuse, around):
    model = bert(num_labels=20)
    whole = nn.Sequential(model) if around else model
    report = convert_(whole, fuse=fuse)
    assert model.device == torch.device("cpu") and model.dtype == torch.float32
    row = rows(report)["0.classifier" if around else "classifier"]
    memory = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    if fuse:
        assert type(model.bert) is Encoder and type(model.classifier) is nn.Linear
        assert (row.action, row.scheme, row.bytes_after) == ("kept", None, row.bytes_before) and row.bytes_before > 5000
        assert (
            row.reason == "transformers reads the model's device and dtype from a parameter, and this is the last one"
        )
        assert report.totals["bytes_after"] == memory and report.totals["converted"] == 0
    else:  # where LayerNorms are left
        assert type(model.classifier) is Linear and row.action == "converted"


def test_what_was_asked_for_by_name_is_converted():
    model = bert(num_labels=20)
    convert_(model, {"classifier": "w8a8", "*": "w8a8"})
    assert type(model.classifier) is Linear and not list(model.parameters())


def test_the_last_of_two_linears_stays():
    model = bert(num_labels=20)
    model.classifier = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 20))
    convert_(model)
    assert type(model.classifier[0]) is Linear and type(model.classifier[2]) is nn.Linear


def test_one_linear_is_enough_for_models_in_one_another():
    outer = bert(num_labels=20)
    outer.bert = bert(num_labels=20)
    outer.other = nn.Linear(64, 64)
    convert_(outer)
    assert type(outer.bert.classifier) is nn.Linear
    assert type(outer.classifier) is Linear and type(outer.other) is Linear


def test_other_models_need_no_parameter():
    model = nn.Sequential(nn.Linear(64, 64))
    assert type(convert_(model).model[0]) is Linear
    bare = bert().bert
    assert type(convert_(bare).model) is Encoder and not list(bare.parameters())


def test_pipelines_and_cross_encoders(tmp_path):
    library = pytest.importorskip("sentence_transformers")
    folder = str(write_model(tmp_path / "bert"))
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=16)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    convert_(model)
    run = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)
    assert run("the film was great")[0]["score"] > 0
    ranker = library.CrossEncoder(folder, num_labels=16, device="cpu")
    convert_(ranker)
    assert any(isinstance(module, Encoder) for module in ranker.modules())
    assert ranker.predict([("fine", "a very dull plot")]).shape == (1, 16)
