"""Accelerate around a training: it leaves nothing behind, and asks for itself where it is missing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

from kdnative.data import Batches
from kdnative.distill import HardLabelLoss, TrainConfig, train
from kdnative.distill.runtime import accelerator
from tests.distill.tiny import model, tokens

STATES = (PartialState, AcceleratorState, GradientState)
CPU = torch.device("cpu")


def fit(precision="fp32", callbacks=(), **options):
    student = model(0)
    config = TrainConfig(1, 1e-2, device="cpu", precision=precision, **options)
    train(student, Batches(tokens(16), 8), HardLabelLoss(), config, callbacks=callbacks)
    return student


@pytest.fixture
def fresh():
    """A process in which nobody has used Accelerate."""
    before = [dict(state._shared_state) for state in STATES]
    for state in STATES:
        state._shared_state.clear()
    yield
    for state, content in zip(STATES, before, strict=True):
        state._shared_state.clear()
        state._shared_state.update(content)


def test_precisions_may_change_within_a_process(fresh):
    """Accelerate alone refuses the second one."""
    first, second, third = fit("fp32"), fit("bf16"), fit("fp32")
    assert torch.equal(first.hidden.weight, third.hidden.weight)
    assert not torch.equal(first.hidden.weight, second.hidden.weight)


@pytest.mark.parametrize("error", [False, True])
def test_nothing_is_left_behind(fresh, error):
    environment, threads = dict(os.environ), torch.get_num_threads()

    class Failing:
        def on_step(self, progress):
            assert AcceleratorState().mixed_precision == "bf16"
            if error:
                raise KeyError

    try:
        student = fit("bf16", [Failing()])
        assert "forward" not in vars(student)
    except KeyError:
        assert error
    assert [dict(state._shared_state) for state in STATES] == [{}, {}, {}]
    assert dict(os.environ) == environment and torch.get_num_threads() == threads


def test_an_accelerator_of_the_caller_keeps_its_state(fresh):
    own = Accelerator(mixed_precision="bf16", cpu=True, gradient_accumulation_steps=3)
    fit("fp32")
    assert own.mixed_precision == "bf16" and own.gradient_accumulation_steps == 3
    assert AcceleratorState().mixed_precision == "bf16"
    with own.autocast():
        assert torch.is_autocast_enabled("cpu")


def test_a_training_within_a_training(fresh):
    class Nested:
        def on_step(self, progress):
            fit("bf16")
            assert AcceleratorState().mixed_precision == "no"

    torch.manual_seed(1)
    assert torch.isfinite(fit("fp32", [Nested()]).hidden.weight).all()


def test_the_settings_decide_and_not_the_environment(fresh, monkeypatch):
    plain = fit("fp32")
    for name, value in {
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "7",
        "ACCELERATE_TORCH_DEVICE": "meta",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
    }.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    assert torch.equal(fit("fp32").hidden.weight, plain.hidden.weight)
    assert dict(os.environ) == before


def test_device_is_the_one_asked_for(fresh):
    with accelerator(torch.device("meta"), False) as runtime:
        assert runtime.device == torch.device("meta")
    with accelerator(CPU, True) as runtime:
        assert runtime.device == CPU and runtime.mixed_precision == "bf16" and runtime.num_processes == 1


def test_several_ranks_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="one of 2 ranks"):
        fit()


def test_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(
        ImportError, match=r"'accelerate', which is not installed: pip install \"kdnative\[pipeline\]\""
    ):
        fit()


def test_importing_distillation_is_light():
    code = "import sys, kdnative.distill; print({'accelerate', 'transformers'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
