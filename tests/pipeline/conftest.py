"""A whole pipeline in miniature: a random BERT of 64 wide, its tokenizer, and sentences that a rule labels."""

from __future__ import annotations

import copy
import json
import random
import shutil
from pathlib import Path

import pytest
import torch

import kdnative
from kdnative.pipeline import RunFolder

GOOD = ["good", "great", "lovely", "fine", "superb"]
BAD = ["bad", "awful", "dull", "poor", "dire"]
OTHER = ["the", "film", "plot", "a", "was", "it", "and", "cast", "very", "scene"]


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    """Sentences of 3 to 12 words; the one rated word decides the label."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        positive = rng.random() < 0.5
        words = [rng.choice(OTHER) for _ in range(rng.randint(2, 11))]
        words.insert(rng.randint(0, len(words)), rng.choice(GOOD if positive else BAD))
        rows.append((" ".join(words) + f" {number}", "positive" if positive else "negative"))
    return rows


def write_model(folder: Path, layers: int = 3, width: int = 64, backwards: bool = False) -> Path:
    """A random BERT with a WordPiece tokenizer over the words above, numbered from the first or from the last."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True)
    digits = [str(d) for d in range(10)] + [f"##{d}" for d in range(10)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *OTHER, *digits]
    vocabulary = vocabulary[::-1] if backwards else vocabulary
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        intermediate_size=2 * width,
        max_position_embeddings=64,
        pad_token_id=vocabulary.index("[PAD]"),
    )
    BertModel(config).save_pretrained(folder)
    return folder


def write_data(path: Path, count: int = 160) -> Path:
    path.write_text("text\tlabel\n" + "".join(f"{t}\t{y}\n" for t, y in sentences(count, 1)), encoding="utf-8")
    return path


def tiny_recipe(model: Path, data: Path) -> dict:
    """Every stage of the pipeline, one or two steps each."""
    train = {"epochs": 1, "lr": 2e-3, "batch_size": 16, "max_steps": 2, "save_every": 4, "amp": False}
    return {
        "name": "tiny",
        "seed": 5,
        "device": "cpu",
        "threads": 1,
        "data": {"source": str(data), "max_length": 24},
        "teacher": {"source": str(model)},
        "student": {"source": "teacher", "layers": [0, 2]},
        "train_teacher": {**train, "epochs": 5, "max_steps": None},
        "train_baseline": train,
        "distil": {**train, "epochs": 4, "max_steps": 20, "hidden_weight": 0.5},
        "prune": {**train, "heads": 0.0, "ffn": 0.5, "calibration_batches": 2},
        "recover": {**train, "schemes": {"*.attention.*": "w8a8", "*.dense": "w4a8-g64"}},
        "benchmark": {"repeats": 5, "tokens": 8, "grid_batches": [1], "grid_tokens": [8], "grid_repeats": 2},
        "goals": {"kept": 0.5, "size_ratio": 1000, "speedup_teacher": 0.01, "speedup_bf16": 0.01},
    }


def write_recipe(path: Path, content: dict) -> Path:
    """JSON is YAML, which spares the tests a writer."""
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return path


def changed(recipe: dict, **sections) -> dict:
    """A copy of a recipe with some sections updated (or set to None)."""
    recipe = copy.deepcopy(recipe)
    for name, value in sections.items():
        recipe[name] = {**(recipe.get(name) or {}), **value} if isinstance(value, dict) else value
    return recipe


def copy_of(finished: RunFolder, place: Path) -> RunFolder:
    """A finished run to change."""
    shutil.copytree(finished.path, place / "runs" / "tiny")
    return RunFolder(place / "runs" / "tiny")


@pytest.fixture(autouse=True)
def _own_store(tmp_path, monkeypatch):
    """What one test makes is not there for another one."""
    monkeypatch.setenv("KDNATIVE_STORE", str(tmp_path / "store"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> dict:
    """The miniature's recipe, as a dictionary to change and write."""
    place = tmp_path_factory.mktemp("tiny")
    return tiny_recipe(write_model(place / "model"), write_data(place / "data.tsv"))


@pytest.fixture(scope="session")
def finished(tiny, tmp_path_factory) -> RunFolder:
    """One uninterrupted run; tests read it and change nothing but what they put back."""
    place = tmp_path_factory.mktemp("finished")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KDNATIVE_STORE", str(place / "store"))
            return RunFolder(kdnative.run(write_recipe(place / "tiny.yaml", tiny), runs=place / "runs", progress=False))
    finally:
        torch.set_num_threads(threads)
