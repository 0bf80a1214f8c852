"""Models with convolutions are prepared for training, trained, and converted to the network that was trained."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kdnative.convert import convert_, finish_networks_, prepare_networks_
from kdnative.distill import Callback, SoftLabelLoss, TrainConfig
from kdnative.distill import train as train_
from kdnative.distill.outputs import run
from kdnative.nn import ConvNet
from kdnative.quantize import FakeQuantLinear, prepare_qat_
from tests.cnn.networks import depthwise, images, residual
from tests.convert.test_convolutions import Framed


class Branching(nn.Module):
    """Modules side by side, behind something that no network can hold."""

    def __init__(self):
        super().__init__()
        trunk = depthwise()
        self.first, self.second = trunk[:3], trunk[3:]
        self.classes = nn.Linear(7, 64)

    def forward(self, x):
        return self.classes(self.second(self.first(x.cos())))


def train(model, x, steps=3):
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return model


def forward(model, x):
    with torch.no_grad():
        return model(x)


@pytest.mark.parametrize("make", [depthwise, residual])
def test_what_was_trained_is_what_is_converted(make):
    model, x = make(), images(32)
    native = convert_(copy.deepcopy(model), calibration=x.split(8)).model
    assert prepare_networks_(model, calibration=x.split(8)) == [""]
    assert torch.equal(forward(model, x), native(x))
    train(model, x)
    new = images(1000, seed=7)
    seen = torch.cat([model(batch).detach() for batch in new.split(125)])
    report = convert_(model)
    assert report.model is model and type(model) is ConvNet and not model.training
    assert torch.equal(model(new), seen) and not torch.equal(model(x), native(x))


@pytest.mark.parametrize("make", [Framed, Branching])
def test_parts_of_a_model(make):
    model, x = make().eval(), images(32)
    parts = prepare_networks_(model, calibration=[x])
    assert parts == (["trunk"] if make is Framed else ["first"])
    train(model, x)
    seen = forward(model, x)
    native = convert_(copy.deepcopy(model), keep=["classes"]).model
    assert type(native.get_submodule(parts[0])) is ConvNet and type(native.classes) is nn.Linear
    assert torch.equal(forward(native, x), seen)
    assert finish_networks_(model) == parts and finish_networks_(model) == []
    assert not any("forward" in vars(module) for module in model.modules())
    floats = make()
    floats.load_state_dict(model.state_dict())
    assert torch.equal(forward(model.eval(), x), forward(floats.eval(), x))


def test_with_linears_that_are_trained_for_their_scheme():
    model, x = Framed().eval(), images(32)
    prepare_networks_(model, calibration=[x])
    assert prepare_qat_(model) == ["classes"], "the linear of the trunk is a part of the network"
    assert type(model.classes) is FakeQuantLinear
    train(model, x)
    seen = forward(model, x)
    native = convert_(model, {"classes": "w8a8", "*": "w8a8"}).model
    assert torch.equal(forward(native, x), seen)


class Pictures:
    """What `train` reads of a data set, in batches of 8."""

    fingerprint = "pictures"

    def __len__(self):
        return 3

    def epoch(self, number, start=0):
        for i in range(start, 3):
            yield Picture(images(8, seed=3 * number + i))


class Picture:
    def __init__(self, x):
        self.inputs, self.labels, self.index = {"input": x}, None, torch.arange(len(x))

    def to(self, device):
        return self


class Interrupted(Callback):
    def on_step(self, progress):
        if progress.step == 4:
            raise KeyboardInterrupt


def test_a_training_with_a_teacher_that_is_resumed(tmp_path):
    teacher, config = depthwise(), TrainConfig(epochs=3, lr=1e-3, device="cpu", precision="fp32")

    def training(**options):
        model = depthwise()
        model[8].weight.data.mul_(0.5)
        prepare_networks_(model, calibration=[images(32)])
        history = train_(model, Pictures(), [SoftLabelLoss()], config, teachers=[teacher], **options)
        return convert_(model).model, [entry["loss"] for entry in history.epochs]

    model, losses = training()
    assert losses[-1] < losses[0]
    state = {"state_path": tmp_path / "state", "save_every": 1, "resume": True}
    with pytest.raises(KeyboardInterrupt):
        training(callbacks=[Interrupted()], **state)
    again, _ = training(**state)
    assert torch.equal(again.packed, model.packed)


def test_maps_inside_are_not_read():
    model = depthwise()
    prepare_networks_(model, calibration=[images(8)])
    with pytest.raises(ValueError, match="reads the feature map of 3, which isn't called in Sequential"):
        run(model, {"input": images(2)}, {"map:3"})


def test_other_inputs_than_images():
    model = depthwise()
    prepare_networks_(model, calibration=[images(8)])
    with pytest.raises(TypeError, match="takes only images, as in calibration; got 2 inputs"):
        model(images(2), images(2))


def test_a_convolution_outside_stays_in_float():
    model, x = nn.Sequential(depthwise()[:3], nn.Softmax2d(), nn.Conv2d(16, 4, 1)).eval(), images(32)
    assert prepare_networks_(model, calibration=[x]) == ["0"]
    rows = {row.name: row for row in convert_(model).rows}
    assert rows["2"].action == "kept" and "not in a part that was trained" in rows["2"].reason


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "gptq"}, "method='gptq': ranges can be found with 'minmax', 'percentile', 'mse'"),
        ({"keep": ["*"]}, "there is no convolution to train"),
        ({"schemes": {"9.*": "w8a8"}}, "9"),
        ({"calibration": []}, "calibration"),
        ({"calibration": [torch.full((2, 3, 17, 17), float("nan"))]}, "NaN"),
    ],
)
def test_errors_of_preparing(options, words):
    model = depthwise()
    with pytest.raises(ValueError, match=words):
        prepare_networks_(model, **{"calibration": [images(8)], **options})
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_model_without_networks():
    with pytest.raises(ValueError, match="there is no convolution to train"):
        prepare_networks_(nn.Linear(64, 64), calibration=[torch.zeros(4, 64)])
    with pytest.raises(ValueError, match="(?s)nothing was prepared.*a single convolution gains less"):
        prepare_networks_(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), calibration=[images(8)])


def test_preparing_twice():
    model = depthwise()
    prepare_networks_(model, calibration=[images(8)])
    with pytest.raises(ValueError, match="the model is already prepared: call finish_networks_"):
        prepare_networks_(model, calibration=[images(8)])


def test_what_was_trained_can_not_be_converted_otherwise():
    model = Framed()
    prepare_networks_(model, calibration=[images(8)])
    with pytest.raises(ValueError, match=r"trunk\.stem\.0 was trained as a part .* and is to stay in float now"):
        convert_(model, keep=["trunk.*"])
    with pytest.raises(ValueError, match=r"was trained as a part .* and is to be w4a8-g32 now"):
        convert_(model, "w4a8-g32")
    with pytest.raises(ValueError, match="(?s)nothing was converted.*trunk"):
        convert_(model, fuse=False)
    model.trunk.stem[0].register_forward_hook(lambda *call: None)
    with pytest.raises(ValueError, match="(?s)nothing was converted.*has hooks"):
        convert_(model)


def test_why_no_convolution_can_be_trained():
    with pytest.raises(ValueError, match=r"there is no convolution to train(?s:.*)stem\.0: .*float64"):
        prepare_networks_(residual().double(), calibration=[images(4).double()])
    with pytest.raises(ValueError, match="there is no convolution to train"):
        prepare_networks_(nn.Sequential(nn.Linear(3, 4)), calibration=[images(4)])
