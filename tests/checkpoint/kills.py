"""Processes that are killed while they save; ``python -m tests.checkpoint.kills 100`` kills a hundred."""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from kdnative.checkpoint import load, save
from tests.checkpoint.values import Tokenizer, model_of, value_of

NOTES = {"NOTES.md": "mine", "results/eval.json": "{}", ".env": "secret"}
TOKENIZERS = [Tokenizer(vocab_txt="a"), Tokenizer(vocab_txt="b", more_json="{}")]


def write_notes(folder):
    for name, text in NOTES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def lost_notes(folder):
    return [
        name for name, text in NOTES.items() if not (folder / name).is_file() or (folder / name).read_text() != text
    ]


def kill_often(folder, kills, seed=0):
    """How often the checkpoint was broken or mixed, a note lost, and a save after the kill refused."""
    draw = random.Random(seed)
    models = [model_of(1.0), model_of(2.0)]
    save(models[0], folder, tokenizer=TOKENIZERS[0])
    write_notes(folder)
    wrong = []
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            count = 0
            while True:
                count += 1
                save(models[count % 2], folder, tokenizer=TOKENIZERS[count % 2])
        time.sleep(draw.uniform(0.001, 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        wrong += [f"lost {name}" for name in lost_notes(folder)]
        try:
            if value_of(load(folder)) not in (1.0, 2.0):
                wrong.append("mixed")
        except Exception as error:
            wrong.append(f"broken: {error}")
    try:
        save(models[0], folder, tokenizer=TOKENIZERS[0])
    except Exception as error:
        wrong.append(f"not saved again: {error}")
    left = [p.name for p in folder.iterdir() if p.name.startswith(".kdnative-")]
    return wrong + [f"left {name}" for name in left]


def main(kills):
    folder = Path(tempfile.mkdtemp())
    try:
        wrong = kill_often(folder / "m", kills)
        files = sorted(p.name for p in (folder / "m").iterdir())
    finally:
        shutil.rmtree(folder)
    print(f"{kills} kills while saving: {wrong or 'every checkpoint whole, no file lost'}; files at the end: {files}")
    return 1 if wrong else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))
