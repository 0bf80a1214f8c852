"""``kdnative bench memory``: how much memory a process needs that loads and runs a model, native against fp32.

Every figure is from a fresh process. One loads a kdnative checkpoint and runs it, one loads the Hugging Face folder in
fp32 and runs that, and for each of them one does the same imports and nothing else: torch and transformers alone take
more than a small model. The forwards use every row of the vocabulary once. Reported are the whole process, and what the
model adds: the peak less the resident size of the imports. Each process runs several times; figures are medians.

The result, as JSON: ``{"suite": "memory", "environment", "batch", "tokens", "repeats", "cases"}``; a case has
``model``, ``scheme`` and ``processes``: ``native``, ``native_imports``, ``float`` and ``float_imports``, each with a
list of bytes, one a process, for ``peak`` (VmHWM), ``resident``, ``private`` (Private_Clean + Private_Dirty of smaps),
``shared_out`` (Pss) and ``tensors``, the size of the model's tensors. `goals` compares native with float.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from kdnative.bench.encoder_models import NAMES, converted, load_encoders
from kdnative.bench.options import add_output, add_threads, names, positive, sizes
from kdnative.bench.results import goal, goal_line, start_line
from kdnative.machine.environment import child_environment, environment, write_result

MODELS = "package:minilm-l6,random-bert-base"
GOAL = 0.4
_IMPORTS = ("torch", "safetensors.torch", "transformers.modeling_outputs")
_NATIVE_IMPORTS = (*_IMPORTS, "kdnative.nn", "kdnative.checkpoint")
_FLOAT_IMPORTS = (*_IMPORTS, "transformers.models.auto.modeling_auto")
# What is compared: a size of the processes, and the one of the imports to take away.
_COMPARED = {
    "model": ("peak", "resident", "peak above the imports"),
    "process": ("peak", None, "peak of the whole process"),
    "private": ("private", "private", "private memory above the imports"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the suite from command-line arguments and returns the exit code."""
    text = "Memory of a process that loads and runs a model, native against fp32."
    parser = argparse.ArgumentParser(prog="kdnative bench memory", description=text, allow_abbrev=False)
    parser.add_argument("--models", type=names, default=MODELS, help=f"{NAMES} (default: {MODELS})")
    parser.add_argument("--schemes", type=names, default="w8a8", help="such as w8a8,w4a8-g64 (default: w8a8)")
    parser.add_argument("--case", type=sizes, default="1x128", help="BATCHxTOKENS of a forward (default: 1x128)")
    parser.add_argument("--repeats", type=positive, default=3, help="processes per figure (default: 3)")
    add_threads(parser)
    add_output(parser, rounds=None)
    options = parser.parse_args(argv)
    ((batch, tokens),) = options.case
    result = run(
        load_encoders(options.models),
        schemes=options.schemes,
        batch=batch,
        tokens=tokens,
        repeats=options.repeats,
        threads=options.threads,
        show=lambda line: print(line, flush=True),
    )
    if options.json:
        write_result(options.json, result)
    return 0


def run(
    models: Mapping[str, nn.Module],
    *,
    schemes: Sequence[str] = ("w8a8",),
    batch: int = 1,
    tokens: int = 128,
    repeats: int = 3,
    threads: int = 1,
    show: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measures every model in every scheme.

    Args:
        models: Hugging Face encoders, fp32, that kdnative fuses.
        schemes: to convert to.
        batch, tokens: of the forwards.
        repeats: processes per figure.
        threads: of torch.
        show: called with each line of the report.

    Returns:
        The result, see the head of this module.

    Raises:
        RuntimeError: not Linux, or a process failed; the text has the end of what it said.
    """
    if not Path("/proc/self/smaps_rollup").exists():
        raise RuntimeError("the memory of a process is read from /proc/self/smaps_rollup: Linux only")
    import kdnative

    def measure(job: dict[str, Any], kind: str, imports: Sequence[str]) -> dict[str, dict[str, list[int]]]:
        found = {}
        for process, what in ((f"{kind}_imports", "none"), (kind, kind)):
            found[process] = _measure({**job, "imports": list(imports), "kind": what}, repeats)
            show(_row(process, found[process]))
        return found

    where = environment(threads)
    cases: list[dict[str, Any]] = []
    show(start_line(where))
    for name, model in models.items():
        size = model.config.vocab_size
        job = {"batch": batch, "tokens": tokens, "vocabulary": size, "threads": threads}
        with tempfile.TemporaryDirectory(prefix="kdnative-bench-") as folder:
            model.save_pretrained(f"{folder}/float")
            show(f"{name}\n  {'MB':18}{'peak':>9}{'resident':>10}{'private':>9}{'tensors':>9}")
            # What the class of the model brings along is no part of its memory either.
            imports = (*_FLOAT_IMPORTS, type(model).__module__)
            plain = measure({**job, "folder": f"{folder}/float"}, "float", imports)
            for scheme in schemes:
                show(f" {scheme}")
                kdnative.save(converted(model, scheme), f"{folder}/{scheme}")
                native = measure({**job, "folder": f"{folder}/{scheme}"}, "native", _NATIVE_IMPORTS)
                processes = {**native, **plain}
                cases.append({"model": name, "scheme": scheme, "processes": processes})
                for row in goals(processes):
                    show(f"  {row['native'] / 1e6:.1f} MB to {row['float'] / 1e6:.1f} MB, {goal_line(row)}")
    return {
        "suite": "memory",
        "environment": where,
        "batch": batch,
        "tokens": tokens,
        "repeats": repeats,
        "cases": cases,
    }


def goals(processes: Mapping[str, Mapping[str, Sequence[int]]]) -> list[dict[str, Any]]:
    """Native against float: ``model`` without the imports, ``process`` with them, ``private`` without imports.

    Args:
        processes: sizes of the four processes, see the head of this module.

    Returns:
        ``{"of", "native", "float", "goal", "value", "limit", "met"}`` each; ``value`` is the quotient of the medians.
    """

    def middle(process: str, size: str) -> int:
        return int(statistics.median_low(processes[process][size]))

    found = []
    for of, (size, baseline, words) in _COMPARED.items():
        native, plain = (
            middle(kind, size) - (middle(f"{kind}_imports", baseline) if baseline else 0)
            for kind in ("native", "float")
        )
        text = f"{words} < {100 * GOAL:g} % of fp32"
        found.append({"of": of, "native": native, "float": plain, **goal(text, native / plain, GOAL, at_least=False)})
    return found


def _row(process: str, found: Mapping[str, Sequence[int]]) -> str:
    peak, resident, private, tensors = (
        statistics.median_low(found[key]) / 1e6 for key in ("peak", "resident", "private", "tensors")
    )
    return f"  {process:18}{peak:>9.1f}{resident:>10.1f}{private:>9.1f}{tensors:>9.1f}"


def _measure(job: Mapping[str, Any], repeats: int) -> dict[str, list[int]]:
    """The sizes of fresh processes."""
    rows = [_child(job) for _ in range(repeats)]
    return {key: [row[key] for row in rows] for key in rows[0]}


def _child(job: Mapping[str, Any]) -> dict[str, int]:
    command = [sys.executable, "-m", "kdnative.bench.memory_child", json.dumps(job)]
    ended = subprocess.run(command, capture_output=True, text=True, env=child_environment(), check=False)
    if ended.returncode:
        end = "\n".join(ended.stderr.strip().splitlines()[-5:])
        raise RuntimeError(f"the process that measures {job['kind']} failed with {ended.returncode}:\n{end}")
    return json.loads(ended.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
