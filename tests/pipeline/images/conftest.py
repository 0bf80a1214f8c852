"""A whole pipeline of pictures in miniature: shapes in colours, and torchvision's smallest network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import kdnative
from kdnative.pipeline import RunFolder
from tests.data.images.folders import write_folder

pytest.importorskip("torchvision")


def image_recipe(source: Path) -> dict:
    """Every stage of a recipe of pictures, a few steps each."""
    train = {"epochs": 1, "lr": 2e-3, "batch_size": 16, "max_steps": 2, "amp": False}
    return {
        "name": "shapes",
        "task": "image-classification",
        "seed": 3,
        "device": "cpu",
        "threads": 1,
        "data": {
            "source": str(source),
            "split": [0.6, 0.2, 0.2],
            "images": {"size": 32, "augment": {"crop": 0.6, "operations": 1, "mixup": 0.2, "erase": 0.1}},
        },
        "teacher": {"source": "torchvision:shufflenet_v2_x0_5"},
        "student": {"source": "torchvision:mobilenet_v2", "width": 0.25},
        "train_teacher": {**train, "epochs": 3, "max_steps": None, "save_every": 1, "fit_temperature": True},
        "compress_teacher": {"scheme": None},
        "train_baseline": train,
        "distil": {**train, "max_steps": 3},
        "evaluate": {"native_schemes": {"*": None}},  # the final student alone is converted, which takes a second
        "benchmark": {"repeats": 5, "grid_batches": [1], "grid_repeats": 2},
        "goals": {"kept": 0.5},
    }


def write(path: Path, content: dict) -> Path:
    """JSON is YAML, which spares the tests a writer."""
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    """What one test makes or decodes is not there for another one."""
    monkeypatch.setenv("KDNATIVE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("KDNATIVE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> dict:
    return image_recipe(write_folder(tmp_path_factory.mktemp("shapes") / "pictures"))


@pytest.fixture(scope="session")
def finished_images(shapes, tmp_path_factory) -> RunFolder:
    """One uninterrupted run; tests read it and change nothing."""
    place = tmp_path_factory.mktemp("finished")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KDNATIVE_STORE", str(place / "store"))
            patch.setenv("KDNATIVE_CACHE", str(place / "cache"))
            run = kdnative.run(write(place / "shapes.yaml", shapes), runs=place / "runs", progress=False, quiet=True)
            return RunFolder(run)
    finally:
        torch.set_num_threads(threads)
