"""Which folder holds a student, and what it reads."""

from __future__ import annotations

import json
from pathlib import Path

from kdnative import inspect
from kdnative.checkpoint.manifest import MANIFEST

__all__ = ["folder_of", "is_native", "what_it_reads"]

_KINDS = (
    "predictions are made with classifiers of texts or pictures (...ForSequenceClassification, "
    "...ForImageClassification, networks with a `preprocess`) and with encoders, which embed texts"
)


def folder_of(student: str) -> Path:
    """The folder of a student; ValueError where there is no model."""
    if student.startswith(("hub:", "package:")):
        from kdnative.data import model_path

        return Path(model_path(student))
    folder = Path(student)
    if not folder.is_dir():
        raise ValueError(f"{student}: there is no such folder; give one that kdnative or transformers saved")
    if not any((folder / name).is_file() for name in (MANIFEST, "config.json", "modules.json")):
        inside = folder / "student"  # as in folders of runs
        run = f"; {inside} has one" if (inside / MANIFEST).is_file() else ""
        raise ValueError(
            f"{student}: there is no model in it, neither {MANIFEST} (of kdnative run, kdnative convert and "
            f"kdnative.save) nor config.json (of transformers){run}"
        )
    return folder


def is_native(folder: Path) -> bool:
    """Whether a folder is a checkpoint with integer weights."""
    return (folder / MANIFEST).is_file() and any(row["scheme"] for row in inspect(folder)["modules"])


def what_it_reads(folder: Path) -> str:
    """ "texts" that it classifies, "pictures", or "embeddings", for texts that it embeds.

    Raises:
        ValueError, CheckpointError: it is a model of another kind, or its description is damaged.
    """
    name = ""
    if (folder / MANIFEST).is_file():
        found = inspect(folder)
        if found["image_input"] is not None:
            return "pictures"
        name = found["model"].rpartition(".")[2]
    if (folder / "config.json").is_file():
        try:
            name = (json.loads((folder / "config.json").read_text("utf-8")).get("architectures") or [name])[0]
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{folder / 'config.json'}: damaged ({error}): save or copy the model again") from error
    if name.endswith("ForSequenceClassification"):
        return "texts"
    if name.endswith("ForImageClassification"):
        return "pictures"
    if (folder / "modules.json").is_file() or name in ("", "Encoder") or name.endswith("Model"):
        return "embeddings"
    raise ValueError(f"{folder}: this is a {name}; {_KINDS}")
