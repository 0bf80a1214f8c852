"""How networks train in recipes: their precision, and whom they learn from where pictures change or stay."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import kdnative
from kdnative.pipeline import trial
from kdnative.pipeline.kinds import pictures
from kdnative.pipeline.kinds.pictures import PICTURES
from kdnative.pipeline.stages import student
from tests.pipeline.images.conftest import write


def test_a_trial_tells_which_precision_is_quicker_and_changes_nothing(monkeypatch):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before = {name: v.clone() for name, v in model.state_dict().items()}

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return self.inner(x)

    drawn = torch.get_rng_state()
    assert trial.faster_in_bf16(Named(), {"x": torch.randn(40, 3, 8, 8)}) in (True, False)
    assert all(torch.equal(v, before[name]) for name, v in model.state_dict().items())
    torch.set_rng_state(drawn)
    for seconds in ({False: 2.0, True: 1.0}, {False: 1.0, True: 2.0}):
        monkeypatch.setattr(trial, "_seconds", lambda model, inputs, bf16, told=seconds: told[bf16])
        assert trial.faster_in_bf16(Named(), {"x": torch.randn(2, 3, 8, 8)}) == (seconds[True] < seconds[False])


def test_a_resumed_stage_keeps_the_precision_of_its_trial(tmp_path, monkeypatch):
    """Another outcome would make the saved state one of another training."""
    monkeypatch.setattr(pictures, "fast_bf16", lambda device: True)
    context = SimpleNamespace(
        device="cpu", settings=SimpleNamespace(epochs=1), folder=tmp_path, log=logging.getLogger(), section="distil"
    )
    batches = SimpleNamespace(epoch=lambda number: iter([SimpleNamespace(inputs={})]))
    monkeypatch.setattr(pictures, "faster_in_bf16", lambda model, inputs: True)
    assert PICTURES.precision(context, None, batches, []) == "bf16"
    monkeypatch.setattr(pictures, "faster_in_bf16", lambda model, inputs: pytest.fail("tried again"))
    assert PICTURES.precision(context, None, batches, []) == "bf16"
    context.section = "recover"  # whose integer kernels give fp32
    assert PICTURES.precision(context, None, batches, []) == "fp32"


@pytest.mark.parametrize("augment", [None, {"crop": 0.5}])
def test_a_teacher_answers_for_what_pictures_become(shapes, tmp_path, monkeypatch, augment):
    """Where they stay as they are, its labels are those that it gave once; unlabelled pictures are learned from."""
    ran = []
    whole = student._running_teacher
    monkeypatch.setattr(student, "_running_teacher", lambda context: ran.append(context.stage) or whole(context))
    recipe = json.loads(json.dumps(shapes))
    recipe["data"] |= {"labelled": 9}
    recipe["data"]["images"]["augment"] = augment
    recipe["train_teacher"] |= {"epochs": 1, "max_steps": 1}
    recipe["train_baseline"] = None
    run = kdnative.run(
        write(tmp_path / "r.yaml", recipe), runs=tmp_path / "runs", progress=False, quiet=True, until="distil"
    )
    assert ran == ([] if augment is None else ["distil"])
    log = (run / "log.txt").read_text()
    assert "9 training pictures with a label and 27 without" in log
    assert "distil: 36 examples" in log and "train_teacher: 9 examples" in log
