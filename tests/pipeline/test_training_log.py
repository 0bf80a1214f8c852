"""What log.txt says while a model trains: sizes, steps now and then, and the time that is left."""

from __future__ import annotations

from types import SimpleNamespace

from kdnative.distill import History, TrainConfig
from kdnative.pipeline.training_log import TrainingLog


class Fixture:
    """A log of two epochs of 100 steps, with a clock that the test moves."""

    def __init__(self, **settings) -> None:
        self.now, self.lines, self.steps = 1000.0, [], []
        config = TrainConfig(**{"epochs": 2, "lr": 1e-3, **settings})
        options = {
            "name": "distil",
            "config": config,
            "batches": 100,
            "examples": 3200,
            "measures": ("loss", "accuracy"),
        }
        self.log = TrainingLog(self.lines.append, self.steps.append, clock=lambda: self.now, **options)
        self.log.on_start(None)

    def step(self, step: int, seconds: float) -> None:
        self.now += seconds
        epoch = (step - 1) // 100
        self.log.on_step(SimpleNamespace(step=step, steps=200, epoch=epoch, loss=0.5, lr=1e-3))


def test_the_first_line_has_the_sizes():
    assert Fixture().lines == ["distil: 3,200 examples, 100 steps an epoch, 200 steps in 2 epochs"]
    assert Fixture(epochs=1, accumulation=100).lines == ["distil: 3,200 examples, 1 step an epoch, 1 step in 1 epoch"]
    assert Fixture(max_steps=150).lines[0].endswith("150 steps in 2 epochs at most (max_steps)")


def test_slow_steps_have_a_line_every_tenth_of_an_epoch():
    made = Fixture()
    for step in range(1, 101):
        made.step(step, 60)
    assert [line.split(",")[0] for line in made.steps] == [f"distil: step {n} of 200" for n in range(10, 100, 10)]
    assert made.steps[0] == (
        "distil: step 10 of 200, epoch 1, loss 0.5000, lr 1.00e-03, 10 min 00 s, about 190 min 00 s left"
    )


def test_fast_steps_have_a_line_every_half_minute():
    made = Fixture()
    for step in range(1, 201):
        made.step(step, 1)
    assert [line.split(",")[0] for line in made.steps] == [f"distil: step {n} of 200" for n in range(30, 200, 30)]


def test_a_resumed_training_counts_its_own_steps_only():
    made = Fixture()
    made.step(151, 0)
    for step in range(152, 171):
        made.step(step, 2)
    assert made.steps == ["distil: step 166 of 200, epoch 2, loss 0.5000, lr 1.00e-03, 30.0 s, about 1 min 04 s left"]


def test_epochs_show_the_measures_that_matter():
    made = Fixture()
    made.now += 50
    entry = {"epoch": 0, "step": 100, "loss": 0.25, "soft": 0.5, "val_loss": 1.0, "val_accuracy": 0.75, "val_ece": 0.1}
    made.log.on_epoch(entry)
    assert made.lines[1:] == [
        "distil: epoch 1, step 100: loss 0.2500, soft 0.5000, val_loss 1.0000, val_accuracy 0.7500; "
        "50.0 s, about 50.0 s left"
    ]


def test_an_early_end_says_why():
    made = Fixture(early_stopping=1, select_by=("macro_f1", "max"))
    made.log.on_end(History([{}, {}], 100, 0))
    assert made.lines[1:] == [
        "distil: stopped early: validation macro f1 did not improve for 1 epoch; epoch 1 was the best"
    ]
    made.log.on_end(History([{}, {}], 200, 0))
    assert len(made.lines) == 2
