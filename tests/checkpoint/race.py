"""Savers and loaders in one folder at the same time; ``python -m tests.checkpoint.race 60`` races for a minute."""

import collections
import multiprocessing
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch

from kdnative.checkpoint import load, save
from tests.checkpoint.values import float_model, model_of, value_of


def _save_in_turn(folder, values, seconds, errors):
    torch.set_num_threads(1)
    models, end, count = [model_of(value) for value in values], time.monotonic() + seconds, 0
    while time.monotonic() < end:
        try:
            save(models[count % 2], folder)
        except Exception as error:
            errors.put(f"save: {error}")
        count += 1
    errors.put(count)


def race(folder, seconds, savers=2):
    """What loaders found: ``{("build" or "into", value or mixture or error): count}``, saves, and errors of savers."""
    save(model_of(1.0), folder)
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    arguments = (str(folder), (1.0, 2.0), seconds, messages)
    workers = [context.Process(target=_save_in_turn, args=arguments) for _ in range(savers)]
    for worker in workers:
        worker.start()
    found, saves, errors, running = collections.Counter(), 0, [], savers
    while running:
        for into in (None, float_model(5.0)):
            try:
                key = value_of(load(folder, into=into))
            except Exception as error:
                key = f"{type(error).__name__}: {error}"
            found["build" if into is None else "into", str(key)] += 1
        while not messages.empty():
            message = messages.get()
            if isinstance(message, int):
                running, saves = running - 1, saves + message
            else:
                errors.append(message)
    for worker in workers:
        worker.join()
    return found, saves, errors


def main(seconds):
    folder = Path(tempfile.mkdtemp())
    try:
        found, saves, errors = race(folder / "m", seconds)
        left = sorted(p.name for p in (folder / "m").iterdir())
    finally:
        shutil.rmtree(folder)
    wrong = {key: count for key, count in found.items() if key[1] not in ("1.0", "2.0")}
    print(f"{saves} saves, {sum(found.values())} loads in {seconds} s; not one of the two models: {wrong or 'none'}; "
          f"errors of savers: {errors or 'none'}; files at the end: {left}")  # fmt: skip
    return 1 if wrong or errors or len(left) != 2 else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0))
