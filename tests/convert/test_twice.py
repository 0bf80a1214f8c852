"""Models that are native already: converted again, or prepared for training."""

import pytest
import torch
from torch import nn

from kdnative import convert_
from kdnative.nn import Encoder, Linear
from kdnative.quantize import FakeQuantLinear, prepare_qat_
from tests.checkpoints import ids
from tests.small_models import bert, rows


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model, before):
    now = model.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    "fuse, schemes", [(True, "w8a8"), (False, "w8a8"), (False, {"*attention*": "w8a8", "*": "w4a8-g32"})]
)
def test_the_same_conversion_again_changes_nothing(fuse, schemes):
    model = convert_(bert(), schemes, fuse=fuse).model
    before = state(model)
    report = convert_(model, schemes, fuse=fuse)
    assert unchanged(model, before)
    assert not report.totals["converted"] and not report.totals["fused"]
    name = "bert" if fuse else "bert.encoder.layer.0.intermediate.dense"
    assert rows(report)[name].reason.startswith("already native, in w")


@pytest.mark.parametrize("fuse", [True, False])
def test_another_scheme_for_a_native_module(fuse):
    """A pattern of its own is refused; a scheme for everything converts the rest, and the report says what stays."""
    model = convert_(bert(), fuse=fuse).model
    before = state(model)
    name = "bert" if fuse else "bert.encoder.layer.0.intermediate.dense"
    with pytest.raises(ValueError, match=f"{name}: it is native already, in w8a8, and has no float weights"):
        convert_(model, {"bert*": "w4a8-g32"}, fuse=fuse)
    assert unchanged(model, before)
    assert rows(convert_(model, "w4a8-g32", fuse=fuse))[name].reason == "already native, in w8a8"
    assert unchanged(model, before)


def test_what_is_still_float_can_be_converted_later():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    convert_(model, {"0": "w8a8"})
    first = model[0]
    convert_(model, {"1": "w4a8-g32"})
    assert model[0] is first and str(model[1].scheme) == "w4a8-g32" and type(model[1]) is Linear


def test_native_modules_can_not_be_prepared_for_training():
    for model, name in ((convert_(bert()).model, "bert"), (convert_(nn.Sequential(nn.Linear(64, 64))).model, "0")):
        before = state(model)
        with pytest.raises(ValueError, match=f"{name} is native already and can't be trained: prepare the float model"):
            prepare_qat_(model)
        assert unchanged(model, before)


def test_a_float_head_behind_a_native_encoder_can_be_trained():
    model = convert_(bert()).model
    assert prepare_qat_(model, {"classifier": "w8a8"}) == ["classifier"]
    assert prepare_qat_(convert_(bert()).model, "w8a8", keep=["bert"]) == ["classifier"]
    assert type(model.bert) is Encoder and type(model.classifier) is FakeQuantLinear
    model.train()
    with torch.no_grad():
        hidden = model.bert(ids()).pooler_output
    model.classifier(hidden).sum().backward()
    assert model.classifier.weight.grad.abs().sum() > 0
