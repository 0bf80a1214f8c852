"""One process of the vision suite: makes an engine's file of a network, or loads that and runs it on request.

``python -m kdnative.bench.vision_child JOB``; the job is JSON with ``engine``, ``folder``, ``threads``, ``batches`` and
``do``:

``save``: the engine writes its file. The answer is ``{}``.
``memory``: the process loads it and runs one batch, ``{"bytes": peak above the imports}``.
``serve``: the process loads it, runs every batch size in every way, and says::

    {"ways": {"16": {"whole": seconds, "one by one": seconds}, ...},   of the second runs
     "outputs": path}                                                  of {"16 whole": logits, ...}

Then it answers requests, one a line: ``{"batch": 16, "way": "whole", "least": 0.02}`` gives ``{"seconds": mean}`` of as
many runs as take that long. An error is ``{"error": text}``. Engines print what they like; their standard output goes
where their errors go.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdnative.bench.memory_child import sizes
from kdnative.bench.vision_engine import Engine, Run, Shared
from kdnative.machine.timer import fitting_repeats, wait_for_idle_threads

WHOLE, SINGLE = "whole", "one by one"


def main(job: dict[str, Any], out: Callable[[dict[str, Any]], None]) -> None:
    """Does the job; what it has to say goes to ``out``."""
    from kdnative.bench.vision_engines import engine_named

    engine = engine_named(job["engine"])
    shared = Shared(Path(job["folder"]))
    torch.set_num_threads(job["threads"])
    try:
        if job["do"] == "save":
            if engine.save is not None:
                engine.save(shared)
            out({})
            return
        # Compiled graphs of before inference mode can't be mixed with those of inside.
        with torch.no_grad() if engine.compiled else torch.inference_mode():
            if job["do"] == "memory":
                out({"bytes": memory(engine, shared, job["threads"], job["batches"][0])})
                return
            serving = Serving(engine, shared, job["threads"], job["batches"])
            out(serving.start())
            for line in sys.stdin:
                out(serving.answer(json.loads(line)))
    except Exception as error:  # an engine may raise anything; the row must name it
        out({"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]})


class Serving:
    """A loaded engine."""

    def __init__(self, engine: Engine, shared: Shared, threads: int, batches: list[int]) -> None:
        self.engine, self.shared, self.threads, self.batches = engine, shared, threads, sorted(batches)
        self.pictures = shared.pictures()
        self.calls: dict[tuple[int, str], Callable[[], Any]] = {}

    def start(self) -> dict[str, Any]:
        """Loads the file, runs everything twice, and says what came of it."""
        make = self.engine.load(self.shared, self.threads)
        outputs: dict[str, Tensor] = {}
        ways: dict[str, dict[str, float]] = {}
        for batch in self.batches:
            ways[str(batch)] = {}
            for way, call, decode in self._ways(make, batch):
                self.calls[batch, way] = partial(call, self.pictures[:batch].contiguous())
                outputs[f"{batch} {way}"] = torch.cat([decode(call(x)) for x in self._batches(batch)])
                start = time.perf_counter()
                self.calls[batch, way]()
                ways[str(batch)][way] = time.perf_counter() - start
        path = self.shared.path(f"outputs of {self.engine.name}.pt")
        torch.save(outputs, path)
        return {"ways": ways, "outputs": str(path)}

    def _ways(self, make: Callable[[Tensor], Run], batch: int) -> list[tuple[str, Callable[[Tensor], Any], Callable]]:
        x = self.pictures[:batch]
        ways: list[tuple[str, Callable[[Tensor], Any], Callable]] = []
        if batch > 1 and not self.engine.ours:  # ours goes through the pictures of a batch by itself
            ways.append((SINGLE, partial(_singly, make(x[:1])), torch.cat))
        run = make(x)
        return [(WHOLE, run.call, run.decode), *ways]

    def _batches(self, batch: int) -> list[Tensor]:
        """All pictures but for a rest that is no whole batch; there are as many as the largest batch has."""
        return [x for x in self.pictures.split(batch) if len(x) == batch]

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """A sample."""
        call = self.calls[request["batch"], request["way"]]
        call()  # the process before has used the caches
        count = fitting_repeats(call, request["least"])
        start = time.perf_counter()
        for _ in range(count):
            call()
        seconds = (time.perf_counter() - start) / count
        wait_for_idle_threads()
        return {"seconds": seconds}


def _singly(single: Run, x: Tensor) -> list[Tensor]:
    # Decoded at once: an engine may give its next result in the same memory.
    return [single.decode(single.call(row)) for row in x.split(1)]


def memory(engine: Engine, shared: Shared, threads: int, batch: int) -> int:
    """Peak of loading an engine's file and running one batch twice, less what was resident before; bytes."""
    for name in engine.imports:
        importlib.import_module(name)
    x = shared.pictures()[:batch].clone()
    _forget_peak()
    before = sizes()["resident"]
    run = engine.load(shared, threads)(x)
    for _ in range(2):
        run.decode(run.call(x))
    return sizes()["peak"] - before


def _forget_peak() -> None:
    """From here on the peak is what follows; where that can't be said, importing is part of it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    main(json.loads(sys.argv[1]), lambda found: print(json.dumps(found), file=answers))
