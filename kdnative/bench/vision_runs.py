"""How the vision suite measures one network: files are made, memory is read, samples are taken in rounds."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kdnative.bench.peers import relative_error
from kdnative.bench.results import rounded
from kdnative.bench.steady import SteadyCores
from kdnative.bench.vision_child import SINGLE, WHOLE
from kdnative.bench.vision_engine import Engine, Shared
from kdnative.bench.vision_processes import Failed, Process
from kdnative.machine.timer import quantile

LIMITS = {"float": 0.4, "int8": 0.8}
"""How far logits may be off, as a share of what differs between pictures: zeros are off by 1, pictures that were mixed
up by 1.4. Random weights lose more than trained ones, and leaving out the fastest engine for what its format costs
would flatter ours: this finds defects, and the error of every engine stands beside its time."""
_LEAST_ROUNDS = 3
_SLOWER = 1.3  # a way of running a batch that takes so many times as long as the other is not measured
_ROUND_SECONDS = 0.02

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Place:
    """A network in its folder, and who runs it.

    Attributes:
        shared: the folder.
        reference: logits of the float model for all pictures, ``[N, classes]``.
        pythons: interpreters by the names of engines.
        variables: that hold engines to an instruction set.
        isa: what they are held to; None: nothing.
    """

    shared: Shared
    reference: Tensor
    pythons: Mapping[str, str]
    variables: Mapping[str, str]
    isa: str | None = None

    def process(self, engine: Engine, do: str, threads: int, batches: Sequence[int] = ()) -> Process:
        """Starts a process of an engine."""
        job = {"engine": engine.name, "folder": str(self.shared.folder), "threads": threads, "do": do}
        return Process(self.pythons[engine.name], {**job, "batches": list(batches)}, self.variables)


def save_files(place: Place, engines: Sequence[Engine], threads: int) -> tuple[list[Engine], Rows]:
    """Lets engines write their files; returns those that have theirs, and rows for the others."""
    problems: dict[str, str] = {}
    ready, failed = [], []
    for engine in engines:
        if engine.save is not None and engine.file not in problems:
            problems[engine.file] = _problem(place, engine, threads)
        problem = problems.get(engine.file, "") if engine.save is not None else ""
        if problem:
            failed.append(not_run(engine, problem))
        else:
            ready.append(engine)
    return ready, failed


def _problem(place: Place, engine: Engine, threads: int) -> str:
    with place.process(engine, "save", threads) as process:
        try:
            process.read()
        except Failed as error:
            return str(error)
    return ""


def memory(place: Place, engines: Sequence[Engine], batches: Sequence[int], threads: int) -> Rows:
    """Peaks of fresh processes that load an engine's file and run one batch, less the imports."""
    rows: Rows = []
    for engine in engines:
        for batch in batches if engine.served else ():
            with place.process(engine, "memory", threads, [batch]) as process:
                try:
                    found = process.read()["bytes"]
                except Failed:
                    continue  # the row of its time says why
            row = {"engine": engine.name, "ours": engine.ours, "batch": batch, "threads": threads, "bytes": found}
            rows.append(row)
    return rows


class Team:
    """The processes of all engines with one number of threads, checked and ready for samples.

    Attributes:
        failed: rows of the engines that failed or computed something else.
    """

    def __init__(self, place: Place, engines: Sequence[Engine], batches: Sequence[int], threads: int) -> None:
        self.threads, self._place = threads, place
        self.failed: Rows = []
        self._members: dict[str, tuple[Engine, Process]] = {}
        self._ways: dict[str, dict[str, dict[str, float]]] = {}
        self._outputs: dict[str, dict[str, Tensor]] = {}
        for engine in engines:
            process = place.process(engine, "serve", threads, batches)
            try:
                found = process.read()
                outputs = torch.load(found["outputs"], weights_only=True)
                for name, logits in outputs.items():
                    if problem := wrong(logits, place.reference[: len(logits)], engine.kind):
                        raise Failed(f"{name}: {problem}")
            except Failed as error:
                process.close()
                self.failed.append(not_run(engine, str(error)))
                continue
            self._members[engine.name] = (engine, process)
            self._ways[engine.name], self._outputs[engine.name] = found["ways"], outputs

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        for _engine, process in self._members.values():
            process.close()

    def case(self, batch: int, rounds: int, most_seconds: float, cores: SteadyCores) -> dict[str, Any]:
        """Samples of one batch size, and its rows; an engine that fails meanwhile has none."""
        begin = time.perf_counter()
        turns = self._turns(batch)
        samples: dict[tuple[str, str], list[float]] = {turn: [] for turn in turns}
        order = random.Random(0)
        for turn in range(rounds):
            if turn >= _LEAST_ROUNDS and time.perf_counter() - begin >= most_seconds:
                break
            for member in order.sample(list(samples), len(samples)):
                try:
                    samples[member].append(cores.sample(partial(self._sample, member, batch)))
                except Failed as error:
                    del samples[member]
                    self.failed.append(not_run(self._members[member[0]][0], f"while it was measured: {error}"))
        rows = [self._row(name, way, batch, found) for (name, way), found in samples.items()]
        return {
            "threads": self.threads,
            "case": f"batch {batch}",
            "batch": batch,
            "seconds": round(time.perf_counter() - begin, 1),
            "cores": cores.counts(),
            "rows": rows,
        }

    def _turns(self, batch: int) -> list[tuple[str, str]]:
        """What is measured: each engine in its ways but for one that is much slower than the other."""
        found = []
        for name, ways in self._ways.items():
            seconds = ways[str(batch)]
            least = min(seconds.values())
            found += [(name, way) for way in seconds if seconds[way] <= _SLOWER * least]
        return found

    def _sample(self, member: tuple[str, str], batch: int) -> float:
        process = self._members[member[0]][1]
        return process.ask({"batch": batch, "way": member[1], "least": _ROUND_SECONDS})["seconds"]

    def _row(self, name: str, way: str, batch: int, samples: Sequence[float]) -> dict[str, Any]:
        engine = self._members[name][0]
        logits = self._outputs[name][f"{batch} {way}"]
        reference = self._place.reference[: len(logits)]
        free = self._place.isa is not None and not engine.holds
        peer = not engine.ours and not free
        return {
            "name": name if way == WHOLE else f"{name}, {SINGLE}",
            "kind": engine.kind,
            "ours": engine.ours,
            "peer_of": ["int8"] if peer else [],
            "partial": False,
            "free": free,
            "error": float(f"{relative_error(logits, reference):.4g}"),
            "agreement": float((logits.argmax(1) == reference.argmax(1)).double().mean()),
            "samples": rounded(samples),
        }


def wrong(logits: Tensor, reference: Tensor, kind: str) -> str:
    """What is wrong with logits, in words; empty where nothing is."""
    if logits.shape != reference.shape:
        return f"wrong result: shape {list(logits.shape)}, not {list(reference.shape)}"
    exact = reference.double()
    differs = (exact - exact.mean(0)).norm() if len(exact) > 1 else exact.norm()
    off = float((logits.double() - exact).norm() / differs.clamp_min(1e-300))
    if off <= LIMITS[kind]:
        return ""
    return f"wrong result: off by {off:.3g} of what differs between pictures, allowed {LIMITS[kind]:g}"


def sqnr(row: Mapping[str, Any]) -> float:
    """The logits of float32 over the error of a row's, dB."""
    return -20 * math.log10(max(row["error"], 1e-12))


def share(row: Mapping[str, Any], batch: int, products: int, int8_ops: float) -> float:
    """Which part of the int8 ceiling a row's median time is."""
    return 2 * products * batch / quantile(row["samples"], 0.5) / int8_ops


def not_run(engine: Engine, reason: str) -> dict[str, Any]:
    """A row for an engine that gave none."""
    return {"name": engine.name, "kind": engine.kind, "reason": reason}
