"""``kdnative bench soak``: many forwards of changing shapes from several Python threads at once, every result checked.

A fixed pool of inputs (batches, lengths and padding differ) is run once, alone, on one thread: those are the expected
outputs. Then every thread draws inputs from the pool at random and each output must equal the expected one **bit for
bit**. The resident size of the process is sampled meanwhile. After the first tenth of the forwards, in which allocators
find their size, it must not grow by more than the allowance from the first quarter of the samples to the last.

The result, as JSON: ``{"suite": "soak", "environment", "model", "scheme", "python_threads", "forwards", "asked",
"seconds", "inputs", "wrong", "problems", "allowed", "samples"}``. ``wrong`` counts forwards that gave other bits or
raised, ``problems`` has the first ten as ``{"forward", "thread", "input", "problem"}``; ``allowed`` is in bytes;
``samples`` has lists of equal length, ``seconds``, ``forwards`` and ``bytes``. It passed when nothing was wrong and
memory was judged steady (`memory`, `passed`); otherwise the exit code is 1.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.bench.encoder_models import NAMES, converted, load_encoder
from kdnative.bench.options import add_output, positive
from kdnative.bench.results import start_line
from kdnative.bench.soak_memory import ALLOWED_MB, judge, memory_line, resident_bytes
from kdnative.machine.environment import environment, write_result
from kdnative.machine.latency import example_inputs
from kdnative.machine.timer import torch_threads

MODEL = "random-minilm"
FORWARDS = 100_000
_INPUTS, _BATCH, _TOKENS = 96, 8, 64  # inputs of the pool, the largest batch, the longest sequence
_KEPT, _SAMPLES = 10, 400  # problems in the result, samples of the resident size


@dataclass(frozen=True)
class Expected:
    """One input of the pool and the output that it has when it runs alone."""

    inputs: Mapping[str, Tensor]
    output: Tensor


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the suite from command-line arguments and returns the exit code: 1 unless it passed."""
    text = "Many forwards from several threads: the same bits as alone, and no growing memory."
    parser = argparse.ArgumentParser(prog="kdnative bench soak", description=text, allow_abbrev=False)
    parser.add_argument("--model", default=MODEL, help=f"{NAMES} (default: {MODEL})")
    parser.add_argument("--scheme", default="w8a8", help="ours (default: w8a8)")
    parser.add_argument("--forwards", type=positive, default=FORWARDS, help=f"of all threads (default: {FORWARDS:,})")
    parser.add_argument("--threads", type=positive, default=4, help="Python threads (default: 4)")
    parser.add_argument("--op-threads", type=positive, default=1, help="threads within one forward (default: 1)")
    parser.add_argument("--seconds", type=positive, help="end after this time (default: when all forwards are done)")
    text = f"allowed growth of memory after the warm-up (default: {ALLOWED_MB})"
    parser.add_argument("--allow-mb", type=positive, default=ALLOWED_MB, metavar="MB", help=text)
    add_output(parser, rounds=None)
    options = parser.parse_args(argv)
    model = load_encoder(options.model)
    ours = converted(model, options.scheme)
    expected = pool(model, ours)
    del model
    result: dict[str, Any] = {"suite": "soak", "environment": environment(options.op_threads)}
    print(start_line(result["environment"]))
    result |= {"model": options.model, "scheme": options.scheme}
    result |= run(
        ours,
        expected,
        forwards=options.forwards,
        threads=options.threads,
        op_threads=options.op_threads,
        seconds=options.seconds,
        allowed=options.allow_mb << 20,
        show=lambda line: print(line, flush=True),
    )
    if options.json:
        write_result(options.json, result)
    return 0 if passed(result) else 1


def pool(
    model: nn.Module, ours: nn.Module, size: int = _INPUTS, batch: int = _BATCH, tokens: int = _TOKENS
) -> list[Expected]:
    """Inputs of many shapes for an encoder, with the outputs of its converted form, each run alone on one thread.

    Args:
        model: the float encoder, for its vocabulary and arguments.
        ours: the converted one.
        size: inputs. Every third has no padding, every third has it on the right, every third anywhere.
        batch, tokens: the largest.
    """
    draw = random.Random(0)
    found = []
    with torch_threads(1), torch.inference_mode():
        for index in range(size):
            inputs = example_inputs(model, draw.randint(1, batch), draw.randint(1, tokens), seed=index)
            rows, columns = inputs["input_ids"].shape
            if index % 3 == 1:
                lengths = torch.tensor([draw.randint(1, columns) for _ in range(rows)])
                inputs["attention_mask"] = (torch.arange(columns) < lengths[:, None]).long()
            elif index % 3 == 2:
                kept = [[draw.random() < 0.7 for _ in range(columns)] for _ in range(rows)]
                inputs["attention_mask"] = torch.tensor(kept).long()
            found.append(Expected(inputs, ours(**inputs).last_hidden_state.clone()))
    return found


def run(
    forward: Callable[..., Any],
    expected: Sequence[Expected],
    *,
    forwards: int,
    threads: int = 4,
    op_threads: int = 1,
    seconds: float | None = None,
    allowed: int = ALLOWED_MB << 20,
    resident: Callable[[], int] = resident_bytes,
    show: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Runs the pool from several threads.

    Args:
        forward: takes the keyword arguments of an input and returns an object with ``last_hidden_state``.
        expected: the pool.
        forwards: of all threads together.
        threads: Python threads.
        op_threads: torch threads within one forward.
        seconds: no further forward begins after this time; None: no limit.
        allowed: growth of the resident size that passes, in bytes.
        resident: returns the resident size of the process.
        show: called with each line of the report.

    Returns:
        From ``python_threads`` on, what the head of this module lists.
    """
    workers = _Workers(forward, expected, forwards, threads, resident)
    begin, shown = time.perf_counter(), 0.0
    with torch_threads(op_threads):
        workers.start(op_threads)
        try:
            while workers.wait(0.1):
                now = time.perf_counter() - begin
                if seconds is not None and now >= seconds:
                    workers.stop()
                if now - shown >= 30:
                    shown = now
                    show(f"{workers.finished:,} forwards, {now:.0f} s, {resident() / 2**20:.1f} MB")
        finally:
            workers.stop()
    took = time.perf_counter() - begin
    show(
        f"{workers.finished:,} of {forwards:,} forwards on {threads} Python threads in {took:.1f} s, "
        f"{len(expected)} different inputs: {workers.wrong} differ from the run alone or failed"
    )
    for problem in workers.problems:
        show("  forward {forward}, thread {thread}, input {input}: {problem}".format(**problem))
    result = {
        "python_threads": threads,
        "forwards": workers.finished,
        "asked": forwards,
        "seconds": round(took, 1),
        "inputs": len(expected),
        "wrong": workers.wrong,
        "problems": workers.problems,
        "allowed": allowed,
        "samples": {key: [sample[key] for sample in workers.samples] for key in ("seconds", "forwards", "bytes")},
    }
    show(memory_line(memory(result)))
    show("passed" if passed(result) else "FAILED")
    return result


def memory(result: Mapping[str, Any]) -> dict[str, Any]:
    """Whether memory grew, see :func:`kdnative.bench.soak_memory.judge`."""
    samples = result["samples"]
    rows = [{"forwards": f, "bytes": b} for f, b in zip(samples["forwards"], samples["bytes"], strict=True)]
    return judge(rows, result["forwards"], result["allowed"])


def passed(result: Mapping[str, Any]) -> bool:
    """Whether every output had the expected bits and memory was steady."""
    return not result["wrong"] and memory(result)["verdict"] == "steady"


class _Workers:
    """Threads that draw inputs until all forwards are done or they are told to stop."""

    def __init__(
        self,
        forward: Callable[..., Any],
        expected: Sequence[Expected],
        forwards: int,
        threads: int,
        resident: Callable[[], int],
    ) -> None:
        self.forward, self.expected, self.forwards, self.resident = forward, expected, forwards, resident
        self.problems: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self.wrong = 0
        self._begin = time.perf_counter()
        resident()  # what it raises is raised here, not in a thread
        self._done = [0] * threads
        self._next, self._lock, self._end = itertools.count(), threading.Lock(), threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def finished(self) -> int:
        return sum(self._done)

    def start(self, op_threads: int) -> None:
        for index in range(len(self._done)):
            self._threads.append(threading.Thread(target=self._work, args=(index, op_threads), daemon=True))
            self._threads[-1].start()

    def wait(self, seconds: float) -> bool:
        """Waits this long; whether threads still run."""
        end = time.perf_counter() + seconds
        for thread in self._threads:
            thread.join(max(end - time.perf_counter(), 0))
        return any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _work(self, index: int, op_threads: int) -> None:
        torch.set_num_threads(op_threads)  # OpenMP counts per thread
        draw = random.Random(index)
        with torch.inference_mode():
            while not self._end.is_set() and (number := next(self._next)) < self.forwards:
                which = draw.randrange(len(self.expected))
                problem = self._problem(self.expected[which])
                if problem is not None:
                    self._note({"forward": number, "thread": index, "input": which, "problem": problem})
                self._done[index] += 1
                if number % max(self.forwards // _SAMPLES, 1) == 0:
                    self._sample()

    def _problem(self, given: Expected) -> str | None:
        try:
            output = self.forward(**given.inputs).last_hidden_state
        except Exception as error:  # anything it raises is a result that is not the expected one
            return f"{type(error).__name__}: {error}"
        return difference(output, given.output)

    def _sample(self) -> None:
        with self._lock:
            now = time.perf_counter() - self._begin
            self.samples.append({"seconds": round(now, 2), "forwards": self.finished, "bytes": self.resident()})

    def _note(self, problem: dict[str, Any]) -> None:
        with self._lock:
            self.wrong += 1
            if len(self.problems) < _KEPT:
                self.problems.append(problem)


def difference(found: Tensor, expected: Tensor) -> str | None:
    """What tells two tensors apart bit for bit, in words; None where nothing does."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return f"{found.dtype} {list(found.shape)} instead of {expected.dtype} {list(expected.shape)}"
    if torch.equal(_bits(found), _bits(expected)):
        return None
    differing = int((_bits(found) != _bits(expected)).sum())
    return f"{differing} of {found.numel()} values have other bits"


def _bits(t: Tensor) -> Tensor:
    """The values as integers: NaN equals itself, and 0 is not -0."""
    return t.contiguous().view({4: torch.int32, 2: torch.int16}[t.element_size()])


if __name__ == "__main__":
    sys.exit(main())
