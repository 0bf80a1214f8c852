"""The folder of one run: each stage's output appears whole or not at all, and says what it was made from.

Layout::

    runs/NAME/
      recipe.yaml                the recipe with every default filled in
      run.json                   machine, versions, order of the stages
      log.txt                    everything that was logged, appended by each run
      summary.json, summary.txt  the final table and the goals (written by the report stage)
      report.html, report.json   (written by the report stage)
      stages/STAGE/stage.json    how long the stage took and a digest of what it made; its presence means finished
      stages/STAGE/origin.json   what the stage was made from: settings, data, digests of the stages before it
      stages/STAGE/metrics.json  its figures
      stages/STAGE/...           its output: model/, soft_labels/, predictions
      stages/STAGE.partial/      a stage under way; renamed to STAGE once it is complete
      *.discarded                being deleted
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from kdnative.files import is_leftover, remove_leftovers, replace_text, sha256_of

RECORD = "stage.json"
METRICS = "metrics.json"
ORIGIN = "origin.json"
STATE = "training.state"  # of a stage under way
# What the report stage puts beside the stages: it describes all of them.
SUMMARY = ("summary.json", "summary.txt")
RESULTS = (*SUMMARY, "report.html", "report.json")


class PipelineError(RuntimeError):
    """The pipeline can't go on; the text says why and what to do."""


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON in one step. Not-a-number is refused: no reader could parse it."""
    replace_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        PipelineError: the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PipelineError(f"{path} is missing; run the stage that makes it") from None
    except (OSError, ValueError) as error:
        raise PipelineError(f"can't read {path}: {error}; remove that stage's folder and run with --resume") from error


def weights_digest(folder: Path) -> str:
    """One SHA-256 over the safetensors files below a folder and their names (or over metrics.json without any).

    What a killed process left half-written is no part of it.
    """
    found = sorted(folder.rglob("*.safetensors"))
    files = [f for f in found if not any(is_leftover(Path(part)) for part in f.relative_to(folder).parts)]
    files = files or [folder / METRICS]
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(folder).as_posix()}\n{sha256_of(file)}\n".encode())
    return total.hexdigest()


class RunFolder:
    """One run's folder. Only one process at a time may hold it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.stages = self.path / "stages"
        self._lock: int | None = None

    def exists(self) -> bool:
        """Whether there is anything in the folder."""
        return self.path.is_dir() and any(self.path.iterdir())

    def open(self) -> None:
        """Creates the folder, takes its lock and clears what an interrupted removal left.

        Raises:
            PipelineError: another process holds the run, or the place can't be written.
        """
        try:
            self.stages.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise PipelineError(f"can't make the run folder {self.path}: {error}") from error
        try:
            import fcntl

            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no advisory locks on this system
            pass
        except OSError:
            os.close(self._lock)
            self._lock = None
            raise PipelineError(
                f"another process is running in {self.path}; wait for it, or start another run (--set name=...)"
            ) from None
        for rest in (*self.path.glob("*.discarded"), *self.stages.glob("*.discarded")):
            shutil.rmtree(rest, ignore_errors=True)
        for state in self.stages.glob(f"*/{STATE}"):
            if (self.output(state.parent.name) / RECORD).is_file() and state.parent.suffix != ".partial":
                state.unlink()

    def close(self) -> None:
        """Gives the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def clear(self) -> None:
        """Removes an earlier run, and nothing that a run did not write; interrupted, it leaves no half stage behind.

        Raises:
            PipelineError: the folder holds something else than a run.
        """
        if not (self.path / "recipe.yaml").is_file():
            raise PipelineError(f"{self.path} is not the folder of a run (no recipe.yaml): it is left alone")
        for name in (*RESULTS, "run.json", "log.txt"):
            (self.path / name).unlink(missing_ok=True)
        _remove(self.stages)
        (self.path / "recipe.yaml").unlink()

    def output(self, stage: str) -> Path:
        """Where a finished stage's files lie."""
        return self.stages / stage

    def partial(self, stage: str) -> Path:
        """Where a stage under way works."""
        return self.stages / f"{stage}.partial"

    def record(self, stage: str) -> dict | None:
        """What a finished stage wrote about itself, or None when it is not finished."""
        path = self.output(stage) / RECORD
        return read_json(path) if path.is_file() else None

    def metrics(self, stage: str) -> dict:
        """The figures of a finished stage."""
        return read_json(self.output(stage) / METRICS)

    def origin(self, stage: str) -> dict | None:
        """What the stage's finished or half-finished output was made from, or None when there is none."""
        for place in (self.output(stage), self.partial(stage)):
            if (place / ORIGIN).is_file():
                return read_json(place / ORIGIN)
        return None

    def discard(self, stage: str) -> None:
        """Removes a stage's output and the results that showed it; renamed first, so an interruption does no harm."""
        for name in RESULTS:
            (self.path / name).unlink(missing_ok=True)
        for place in (self.output(stage), self.partial(stage)):
            _remove(place)

    def begin(self, stage: str, origin: dict) -> Path:
        """The folder to work in: what an interrupted attempt of the same origin finished is kept, and nothing else."""
        place = self.partial(stage)
        if place.exists() and self.origin(stage) != origin:
            self.discard(stage)
        place.mkdir(exist_ok=True)
        remove_leftovers(place)
        if not (place / ORIGIN).is_file():
            write_json(place / ORIGIN, origin)
        return place

    def finish(self, stage: str, metrics: dict, seconds: float) -> dict:
        """Makes a complete stage visible: writes its figures and record, then renames its folder."""
        place = self.partial(stage)
        write_json(place / METRICS, metrics)
        record = {"stage": stage, "seconds": round(seconds, 3), "digest": weights_digest(place)}
        write_json(place / RECORD, record)
        os.rename(place, self.output(stage))
        _sync_folder(self.stages)
        # Not a moment earlier: until here, a failure can still be made good from the state.
        (self.output(stage) / STATE).unlink(missing_ok=True)
        return record


def _remove(place: Path) -> None:
    """Deletes a folder under another name: what an interruption leaves of it can't be taken for a finished stage."""
    if not place.exists():
        return
    rest = place.with_name(f"{place.name}.discarded")
    shutil.rmtree(rest, ignore_errors=True)
    os.rename(place, rest)
    shutil.rmtree(rest, ignore_errors=True)


def _sync_folder(path: Path) -> None:
    """Makes a rename survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
