"""Trains the tiny student with everything that has state; the tests kill it.

Arguments: state file, result, pause in seconds, batches in a step.
"""

from __future__ import annotations

import sys
import time

import torch

from kdnative.data import Batches
from kdnative.distill import DistillationLoss, HiddenStateLoss, SoftLabels, Teacher, TrainConfig, train
from kdnative.prune import MaskSchedule
from tests.distill.tiny import model, tokens

SAVE_EVERY = 3


class Halving:
    """Zeroes a growing share of one matrix: a callback with a state of its own."""

    def __init__(self, pause: float):
        self.calls, self.pause = 0, pause

    def on_step(self, progress):
        self.calls += 1
        if self.calls % 5 == 0:
            with torch.no_grad():
                progress.model.hidden.weight[:, self.calls // 5 % 8] *= 0.5
        print(progress.step, flush=True)
        time.sleep(self.pause)

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


def main(state: str, result: str, pause: float, accumulation: int) -> None:
    torch.set_num_threads(1)
    data = tokens(60)
    teacher = model(1, width=12)
    torch.manual_seed(5)
    hidden = HiddenStateLoss({1: 1}, 8, 12, weight=0.5)
    halving, masks = Halving(pause), MaskSchedule(2, 20, 0.6, frequency=3, modules="hidden")
    student = model(2)
    history = train(
        student,
        Batches(data, 8 // accumulation, shuffle=True, seed=3),
        DistillationLoss(hidden=hidden),
        TrainConfig(
            epochs=4,
            lr=1e-2,
            accumulation=accumulation,
            select_by=("accuracy", "max"),
            device="cpu",
            precision="fp32",
        ),
        teachers=[Teacher(teacher, SoftLabels.compute(teacher, data))],
        validation=Batches(tokens(40, seed=9), 16),
        callbacks=[halving, masks],
        state_path=state,
        save_every=SAVE_EVERY,
        resume=True,
    )
    torch.save(
        {"model": student.state_dict(), "loss": hidden.state_dict(), "epochs": history.epochs, "calls": halving.calls},
        result,
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
