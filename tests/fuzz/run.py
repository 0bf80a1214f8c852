"""Fuzzes: ``python -m tests.fuzz.run TARGET[=INPUTS] ... [--seed S] [--jobs 2]``; status 1 where something was found.

Every input has a number: ``python -m tests.fuzz.run TARGET --seed S --only NUMBER`` runs it again.
"""

from __future__ import annotations

import os

if __name__ == "__main__":  # tests that import this keep their environment
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: more threads than processors must not spin
    os.environ.update({"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "critical"})

import argparse
import gc
import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.fuzz.target import Target

TARGETS = {  # the module, and the class in it
    "checkpoint": ("checkpoint", "Checkpoints"),
    "operators": ("operators", "Operators"),
    "recipes": ("recipes", "Recipes"),
    "data": ("data", "DataFiles"),
    "regressions": ("regressions", "Regressions"),
    "planted": ("planted", "Planted"),
}
SHOWN = 3
"""Inputs of each place whose numbers are printed, and that are written down."""


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.sanitized:
        from tests.fuzz import sanitized  # before what imports kdnative

        sanitized.use(Path(options.sanitized))
    import torch

    torch.set_num_threads(1)  # a thread pool that the parent has does not run in forked workers
    results = []
    with tempfile.TemporaryDirectory(prefix="kdnative-fuzz-") as scratch:
        for number, text in enumerate(options.targets):
            name, _, inputs = text.partition("=")
            results.append(_run(name, int(inputs or options.inputs), options, Path(scratch) / str(number)))
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1), encoding="utf-8")
    return int(any(result["findings"] for result in results))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz.run", description="Fuzzes kdnative; see docs/fuzzing.md."
    )
    parser.add_argument("targets", nargs="+", metavar="TARGET[=INPUTS]", type=_target, help=", ".join(TARGETS))
    parser.add_argument("--inputs", type=int, default=1000, help="of each target that does not say so itself (1000)")
    parser.add_argument("--seed", type=int, default=0, help="other numbers, other inputs (0)")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this input alone, with all that it says")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (2)")
    parser.add_argument("--deadline", type=float, default=5.0, help="seconds of computing that an input may take (5)")
    parser.add_argument("--most", type=int, default=200, help="findings of a target at which it is stopped (200)")
    parser.add_argument("--keep", default="build/fuzz", help="folder for what is found (build/fuzz)")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too")
    parser.add_argument(
        "--sanitized", nargs="?", const="build/sanitized", metavar="FOLDER",
        help="build the library with address and undefined-behaviour sanitizers there (build/sanitized), and use it",
    )  # fmt: skip
    return parser


def _target(text: str) -> str:
    name, _, inputs = text.partition("=")
    if name not in TARGETS or not (inputs or "0").isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: write {', '.join(TARGETS)}, or one of them with =INPUTS")
    return text


def load(name: str, folder: Path) -> Target:
    """A target, with its seeds in a new folder."""
    module, cls = TARGETS[name]
    return getattr(importlib.import_module(f".{module}", __package__), cls)(folder)


def _run(name: str, inputs: int, options: argparse.Namespace, scratch: Path) -> dict:
    from tests.fuzz.findings import by_place
    from tests.fuzz.pool import fuzz

    scratch.mkdir()
    target = load(name, scratch / "seeds")
    gc.collect()
    gc.freeze()  # a collection in a worker would copy all that it shares with this process
    numbers = range(inputs if target.inputs is None else min(inputs, target.inputs))
    numbers = range(options.only, options.only + 1) if options.only is not None else numbers
    result = fuzz(
        target, name, options.seed, numbers, scratch / "work",
        jobs=options.jobs, deadline=options.deadline * (4 if options.sanitized else 1), most=options.most,
    )  # fmt: skip
    print(result, flush=True)
    places = by_place(result.found)
    for place, found in places.items():
        shown = sorted(found, key=lambda one: one.number)[:SHOWN]
        print(f"  {len(found)} x {place} (inputs {', '.join(str(one.number) for one in shown)})", flush=True)
        for one in shown:
            _keep(target, name, options, place, one)
        if options.only is not None:
            print(f"{shown[0].input}\n{shown[0].detail}")
    return {
        "target": name,
        "inputs": result.inputs,
        "worked": result.worked,
        "refused": result.refused,
        "seconds": round(result.seconds, 1),
        "findings": {place: sorted(one.number for one in found) for place, found in places.items()},
    }


def _keep(target, name: str, options: argparse.Namespace, place: str, found) -> None:
    """Writes down what was found, how to see it again, and the input itself."""
    from tests.fuzz.worker import rng_of

    folder = Path(options.keep) / f"{name}-{options.seed}-{found.number}"
    folder.mkdir(parents=True, exist_ok=True)
    again = f"python -m tests.fuzz.run {name} --seed {options.seed} --only {found.number}"
    again += " --sanitized" if options.sanitized else ""
    text = f"{place}\n\n{again}\n\n{found.input}\n\n{found.detail}\n"
    (folder / "finding.txt").write_text(text, encoding="utf-8", errors="backslashreplace")
    if not (folder / "input").exists() and os.fork() == 0:  # in a process of its own: making it may be what is wrong
        try:
            target.save(target.make(found.number, rng_of(name, options.seed, found.number)), folder / "input")
        finally:
            os._exit(0)
    try:
        os.wait()
    except ChildProcessError:
        pass


if __name__ == "__main__":
    sys.exit(main())
