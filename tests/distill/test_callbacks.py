"""What is called while a model trains, when, and with what."""

from __future__ import annotations

import pytest
import torch

from kdnative.data import Batches
from kdnative.distill import Callback, EpochLog, HardLabelLoss, ProgressBar, TrainConfig, train
from kdnative.distill.callbacks import Callbacks
from kdnative.prune import MaskSchedule, finalize_masks_, sparsity_report
from tests.distill.tiny import model, tokens


def fit(student, callbacks, state_path=None, **options):
    config = TrainConfig(**{"epochs": 2, "lr": 1e-2, "device": "cpu", "precision": "fp32", **options})
    batches = Batches(tokens(20), 8, shuffle=True)
    validation = Batches(tokens(20, seed=1), 8)
    return train(
        student,
        batches,
        HardLabelLoss(),
        config,
        validation=validation,
        callbacks=callbacks,
        state_path=state_path,
        resume=True,
        save_every=1,
    )


class Diary(Callback):
    def __init__(self):
        self.lines = []

    def on_start(self, model):
        self.lines.append("start")

    def on_step(self, progress):
        self.lines.append(("step", progress.step, progress.steps, progress.epoch))

    def on_epoch(self, entry):
        self.lines.append(("epoch", entry["epoch"], "val_accuracy" in entry))

    def on_end(self, history):
        self.lines.append(("end", history.steps))


def test_order():
    first, second = Diary(), Diary()
    fit(model(0), [first, second])
    assert (
        first.lines
        == second.lines
        == [
            "start",
            *(("step", i, 6, 0) for i in (1, 2, 3)),
            ("epoch", 0, True),
            *(("step", i, 6, 1) for i in (4, 5, 6)),
            ("epoch", 1, True),
            ("end", 6),
        ]
    )


def test_accumulated_batches_are_one_step():
    diary = Diary()
    fit(model(0), [diary], accumulation=2)
    assert [line for line in diary.lines if line[0] == "step"] == [("step", i, 4, (i - 1) // 2) for i in (1, 2, 3, 4)]


def test_loss_and_rate_are_those_of_the_step():
    seen = []

    class Figures:
        def on_step(self, progress):
            seen.append((progress.loss, progress.lr))

    history = fit(model(0), [Figures()], epochs=1)
    assert [lr for _, lr in seen] == pytest.approx([1e-2, 1e-2 * 2 / 3, 1e-2 / 3])
    assert sum(loss for loss, _ in seen) / 3 == pytest.approx(history.epochs[0]["loss"], rel=1e-12)


def test_log_has_the_entries_of_the_history():
    logged = []
    assert fit(model(0), [EpochLog(logged.append)]).epochs == logged


def test_progress_bar(capsys):
    fit(model(0), [ProgressBar()])
    assert "6/6" in capsys.readouterr().err


class Counter:
    """Has a state, and nothing to do at the end."""

    def __init__(self):
        self.count = 0

    def on_step(self, progress):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class Stopped(Exception):
    pass


class Stopping:
    def __init__(self, step):
        self.step = step

    def on_step(self, progress):
        if progress.step == self.step:
            raise Stopped


def test_states_of_several_callbacks_come_back(tmp_path):
    counters = Counter(), Counter()
    counters[1].count = 100
    with pytest.raises(Stopped):
        fit(model(0), [*counters, Stopping(5)], tmp_path / "s")
    again = Counter(), Counter()
    fit(model(0), [Diary(), *again], tmp_path / "s")
    assert [c.count for c in again] == [6, 106]


def test_what_is_no_callback():
    for wrong in (print, Diary, object()):
        with pytest.raises(TypeError, match=r"callbacks\[1\] is .* without any of on_start, on_step"):
            Callbacks([Diary(), wrong])


def masks():
    return MaskSchedule(1, 4, 0.75, frequency=1, modules="hidden")


def test_masks_grow_while_a_model_trains():
    shares, schedule = [], masks()

    class Shares:
        def on_step(self, progress):
            weight = progress.model.hidden
            shares.append(float((weight.weight_mask == 0).double().mean()))

    student = model(0)
    fit(student, [schedule, Shares()])
    blocks = [int(schedule.sparsity(step) * 64 + 0.5) / 64 for step in range(6)]
    assert shares == pytest.approx(blocks) and shares[-1] == 0.75
    assert finalize_masks_(student) == ["hidden"]
    assert int(student.hidden.weight.count_nonzero()) == 16


@pytest.mark.parametrize("stop", [1, 3, 4, 6])
@pytest.mark.parametrize("select_by", [None, ("loss", "min")])
def test_masks_go_on_bit_for_bit(tmp_path, stop, select_by):
    whole, halves = model(0), model(0)
    fit(whole, [masks()], select_by=select_by)
    with pytest.raises(Stopped):
        fit(halves, [masks(), Stopping(stop)], tmp_path / "s", select_by=select_by)
    halves = model(0)
    fit(halves, [masks()], tmp_path / "s", select_by=select_by)
    assert whole.state_dict().keys() == halves.state_dict().keys()
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), halves.state_dict().values(), strict=True)
    )
    assert str(sparsity_report(whole)) == str(sparsity_report(halves))
