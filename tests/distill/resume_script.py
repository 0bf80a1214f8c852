"""Trains the tiny student with everything that has state; the tests kill it. Arguments: state file, result, pause."""

from __future__ import annotations

import sys
import time

import torch

from kdnative.data import Batches
from kdnative.distill import DistillationLoss, HiddenStateLoss, SoftLabels, train
from tests.distill.tiny import model, tokens

SAVE_EVERY = 3


class Halving:
    """Zeroes a growing share of one matrix: an on_step hook with state of its own."""

    def __init__(self, pause: float):
        self.calls, self.pause = 0, pause

    def __call__(self, progress):
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


def main(state: str, result: str, pause: float) -> None:
    torch.set_num_threads(1)
    data = tokens(60)
    teacher = model(1, width=12)
    torch.manual_seed(5)
    hidden = HiddenStateLoss({1: 1}, 8, 12)
    hook = Halving(pause)
    student = model(2)
    history = train(
        student,
        Batches(data, 8, shuffle=True, seed=3),
        DistillationLoss(hidden_weight=0.5, hidden=hidden),
        epochs=4,
        lr=1e-2,
        soft_labels=SoftLabels.compute(teacher, data),
        teacher=teacher,
        validation=Batches(tokens(40, seed=9), 16),
        select_best=True,
        state_path=state,
        save_every=SAVE_EVERY,
        resume=True,
        on_step=hook,
        device="cpu",
        amp=False,
    )
    torch.save(
        {"model": student.state_dict(), "loss": hidden.state_dict(), "epochs": history.epochs, "calls": hook.calls},
        result,
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
