"""The folder of one run: each stage's output appears whole or not at all, and says what it was made from.

Layout::

    runs/NAME/
      recipe.yaml                the recipe with every default filled in
      run.json                   machine, versions, order of the stages
      log.txt                    everything that was logged, appended by each run
      summary.json, summary.txt  the final table and the goals (written by the report stage)
      report.html, report.json   (written by the report stage)
      student/                   the final student with its tokenizer and model card (written by the report stage)
      peers.json                 the student in other engines (written by `kdnative bench model --peers`)
      stages/STAGE/stage.json    how long the stage took and digests of what it made; its presence means finished
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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdnative.files import is_leftover, remove_leftovers, replace_text, sha256_of, sync
from kdnative.report.peers import FILE as PEERS
from kdnative.shown import shown

RECORD = "stage.json"
METRICS = "metrics.json"
ORIGIN = "origin.json"
STATE = "training.state"  # of a stage under way
KEY = "store.key"  # of a stage under way: what the store would call it
_ABOUT = (RECORD, ORIGIN, STATE, KEY)  # they say of a stage's output how it came about and are no part of it
# What the report stage puts beside the stages: it describes all of them.
SUMMARY = ("summary.json", "summary.txt")
RESULTS = (*SUMMARY, "report.html", "report.json")
STUDENT = "student"  # a folder of results
# How the temporary files begin that a kill leaves behind of what is replaced beside the stages.
_OURS = tuple(f".{name}." for name in (*RESULTS, "recipe.yaml", "run.json"))
# What later code relies on in the files that describe a stage.
_RECORD_KEYS = {"stage": str, "seconds": int | float, "digest": str, "files": dict}
_ORIGIN_KEYS = {"settings": dict, "inputs": dict}


class PipelineError(RuntimeError):
    """The pipeline can't go on; the text says why and what to do."""


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON in one step. Not-a-number is refused: no reader could parse it."""
    replace_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, keys: Mapping[str, Any] | None = None) -> dict:
    """Reads a file that holds a JSON object.

    Args:
        keys: those that it must have, and the types of their values.

    Raises:
        PipelineError: the file is missing or damaged.
    """
    advice = f"remove the folder {path.parent} and run with --resume"
    if not path.is_file():
        raise PipelineError(f"{path} is missing; {advice}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PipelineError(f"can't read {path}: {error}; {advice}") from error
    if not isinstance(value, dict):
        raise PipelineError(f"{path} is damaged: it holds no JSON object; {advice}")
    for key, kind in (keys or {}).items():
        if not isinstance(value.get(key), kind):
            found = shown(value[key]) if key in value else "missing"
            raise PipelineError(f"{path} is damaged: {key!r} is {found}; {advice}")
    return value


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of a stage's output: models with their tokenizers, soft labels and figures.

    What a killed process left half-written is no part of it.
    """
    names = (file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file())
    found = [n for n in names if str(n) not in _ABOUT and not any(is_leftover(Path(part)) for part in n.parts)]
    return {name.as_posix(): sha256_of(folder / name) for name in found}


def stage_digest(files: Mapping[str, str]) -> str:
    """One SHA-256 for what a stage made: over its files and their names; over its figures where it made nothing else.

    A model is more than its weights: schemes, configuration and tokenizer lie beside them.
    """
    counted = {name: digest for name, digest in files.items() if name != METRICS} or files
    lines = (f"{name}\n{digest}\n" for name, digest in sorted(counted.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class RunFolder:
    """One run's folder. Only one process at a time may hold it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.stages = self.path / "stages"
        self._lock: int | None = None
        self._verified: set[str] = set()

    def exists(self) -> bool:
        """Whether there is anything in the folder."""
        return self.path.is_dir() and any(self.path.iterdir())

    def open(self) -> None:
        """Creates the folder, takes its lock and clears what an interrupted removal left.

        Raises:
            PipelineError: another process holds the run, or the place can't be written.
        """
        if self._lock is not None:
            return
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
                f"another process uses {self.path}: wait until it ends, or start a run with another name "
                "(--set name=...)"
            ) from None
        for entry in self.path.iterdir():
            if is_leftover(entry) and entry.name.startswith(_OURS) and entry.is_file():
                entry.unlink()
        leftover = self.path / f".{STUDENT}.tmp"
        for rest in (leftover, *self.path.glob("*.discarded"), *self.stages.glob("*.discarded")):
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
            raise PipelineError(
                f"{self.path} is not a run folder (it has no recipe.yaml), so it was not changed: give another "
                "name, or move the folder"
            )
        for name in (*RESULTS, PEERS, "run.json", "log.txt"):
            (self.path / name).unlink(missing_ok=True)
        _remove(self.path / STUDENT)
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
        return read_json(path, _RECORD_KEYS) if path.is_file() else None

    def verify(self, stage: str) -> None:
        """Whether the files of a finished stage are those that it wrote; each stage is read once.

        Raises:
            PipelineError: one is missing or has changed; the text says how to make it again.
        """
        record = self.record(stage)
        if stage in self._verified or record is None:
            return
        for name, digest in record["files"].items():
            path = self.output(stage) / name
            if not path.is_file() or sha256_of(path) != digest:
                problem = "has changed since the stage finished" if path.is_file() else "is missing"
                raise PipelineError(
                    f"{path} {problem}: run the stage again with --only {stage} --overwrite, then continue "
                    "with --resume"
                )
        self._verified.add(stage)

    def metrics(self, stage: str) -> dict:
        """The figures of a finished stage."""
        return read_json(self.output(stage) / METRICS)

    def origin(self, stage: str) -> dict | None:
        """What the stage's finished or half-finished output was made from, or None when there is none."""
        for place in (self.output(stage), self.partial(stage)):
            if (place / ORIGIN).is_file():
                return read_json(place / ORIGIN, _ORIGIN_KEYS)
        return None

    def discard(self, stage: str) -> None:
        """Removes a stage's output and the results that showed it; renamed first, so an interruption does no harm.

        The figures of other engines go with a model: they are of the student and the teacher that were there.
        """
        for name in RESULTS if not (self.output(stage) / "model").is_dir() else (*RESULTS, PEERS):
            (self.path / name).unlink(missing_ok=True)
        _remove(self.path / STUDENT)
        self._verified.discard(stage)
        for place in (self.output(stage), self.partial(stage)):
            _remove(place)

    def replace_student(self, model: Path, fill: Callable[[Path], None]) -> None:
        """Puts a copy of a saved model into `student/`; `fill` adds to it. Weights are linked where possible."""
        place = self.path / f".{STUDENT}.tmp"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(model, place, copy_function=_link)
        fill(place)
        _remove(self.path / STUDENT)
        os.rename(place, self.path / STUDENT)
        sync(self.path)

    def begin(self, stage: str, origin: dict, key: str | None = None) -> Path:
        """The folder to work in: what an interrupted attempt of the same origin finished is kept, and nothing else.

        Args:
            key: of a new attempt in the store; see `began_as`.
        """
        place = self.partial(stage)
        self._make_way(stage)
        if place.exists() and self.origin(stage) != origin:
            self.discard(stage)
        place.mkdir(exist_ok=True)
        remove_leftovers(place)
        if not (place / ORIGIN).is_file():
            if key is not None:
                replace_text(place / KEY, key)
            write_json(place / ORIGIN, origin)
        return place

    def began_as(self, stage: str) -> str | None:
        """The key that a stage under way began with, which it then has no more.

        Another device or version may have gone on with it: then it is no output of that one's key.
        """
        file = self.partial(stage) / KEY
        key = file.read_text(encoding="utf-8") if file.is_file() else None
        file.unlink(missing_ok=True)
        return key

    def _make_way(self, stage: str) -> None:
        """Removes what lost its record: it can't be completed, and would be in the way when the stage is finished."""
        output = self.output(stage)
        if not output.exists():
            return
        if not (output / ORIGIN).is_file():
            raise PipelineError(f"{output} is not the output of a stage, but {stage} writes to that path: move it")
        _remove(output)

    def adopt(self, stage: str, fill: Callable[[Path], None]) -> dict:
        """Makes a stage visible that was made elsewhere: `fill` puts its files, record and all, into a new folder."""
        place = self.partial(stage)
        self._make_way(stage)
        _remove(place)
        place.mkdir()
        try:
            fill(place)
        except OSError:
            _remove(place)
            raise
        os.rename(place, self.output(stage))
        sync(self.stages)
        self._verified.add(stage)  # whoever fills it has looked at every file
        return self.record(stage)

    def finish(self, stage: str, metrics: dict, seconds: float, complete: Callable[[], Any] = lambda: None) -> dict:
        """Makes a complete stage visible: writes its figures and record, then renames its folder.

        Args:
            complete: called before the renaming, when all of the files are there.
        """
        place = self.partial(stage)
        write_json(place / METRICS, metrics)
        files = file_digests(place)
        record = {"stage": stage, "seconds": round(seconds, 3), "digest": stage_digest(files), "files": files}
        write_json(place / RECORD, record)
        complete()
        os.rename(place, self.output(stage))
        sync(self.stages)
        self._verified.add(stage)
        # Not a moment earlier: until here, a failure can still be made good from the state.
        (self.output(stage) / STATE).unlink(missing_ok=True)
        return record


def _link(source: str, target: str) -> None:
    """A hard link of weights, which are never written in place; a copy of all else."""
    if source.endswith(".safetensors"):
        try:
            os.link(source, target)
            return
        except OSError:  # another file system
            pass
    shutil.copy2(source, target)


def _remove(place: Path) -> None:
    """Deletes a folder under another name: what an interruption leaves of it can't be taken for a finished stage."""
    if not place.exists():
        return
    rest = place.with_name(f"{place.name}.discarded")
    shutil.rmtree(rest, ignore_errors=True)
    os.rename(place, rest)
    shutil.rmtree(rest, ignore_errors=True)
