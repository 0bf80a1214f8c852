"""``make test-gpu``: what only a GPU can show, within ten minutes: tests, compute-sanitizer, and the benchmark.

Every step has a limit of time and ends the same way: its exit code, seconds and the end of its output are written to
``gpu.json`` in the folder that is given, beside the result of the benchmark. A step that can't run is listed with the
reason, and the exit code is 1 unless all others passed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdnative.machine.environment import write_result

TESTS = "tests/gpu/test_on_device.py"
TAIL = 4000  # characters of output that are kept


@dataclass(frozen=True)
class Step:
    """A command with its limit in seconds; ``missing`` says in words why it can't run."""

    name: str
    command: Sequence[str]
    limit: float
    missing: str = ""


def steps(folder: Path) -> list[Step]:
    """What is run, in this order; together at most ten minutes."""
    tests = [sys.executable, "-m", "pytest", "-q", TESTS]
    sanitizer = sanitizer_path()
    missing = "" if sanitizer else "compute-sanitizer is in neither PATH nor CUDA_HOME: it comes with the CUDA toolkit"
    checked = [sanitizer or "compute-sanitizer", "--error-exitcode", "9", "--target-processes", "all"]
    bench = [sys.executable, "-m", "kdnative", "bench", "gpu-gemm", "--json", str(folder / "gpu_gemm.json")]
    return [
        Step("tests", tests, 150),
        Step("memcheck", [*checked, "--tool", "memcheck", *tests, "-k", "small"], 110, missing),
        Step("racecheck", [*checked, "--tool", "racecheck", *tests, "-k", "small"], 110, missing),
        Step("benchmark", bench, 220),
    ]


def sanitizer_path() -> str | None:
    """compute-sanitizer, if it is installed."""
    home = os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=str(Path(home) / "bin"))


def run(step: Step) -> dict[str, Any]:
    """Runs a step: ``{"name", "command", "code", "seconds", "output"}``, or ``{"name", "reason"}`` if it can't run."""
    if step.missing:
        return {"name": step.name, "reason": step.missing}
    begun = time.monotonic()
    try:
        done = subprocess.run(
            step.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=step.limit, check=False
        )
        code, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        code, output = 124, (late.stdout or b"").decode(errors="replace")
    seconds = round(time.monotonic() - begun, 1)
    command = ["python" if part == sys.executable else part for part in step.command]
    return {"name": step.name, "command": command, "code": code, "seconds": seconds, "output": output[-TAIL:]}


def line(found: dict[str, Any]) -> str:
    """A step's result in one line."""
    if "reason" in found:
        return f"{found['name']}: not run: {found['reason']}"
    ended = {0: "passed", 124: "ran past its limit"}.get(found["code"], f"failed with code {found['code']}")
    return f"{found['name']}: {ended}, {found['seconds']} s"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs all steps and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--folder", type=Path, default=Path("build/gpu"), help="for JSON (default: build/gpu)")
    folder = parser.parse_args(argv).folder
    if not torch.cuda.is_available():
        parser.exit(2, "these tests need an NVIDIA GPU, and torch finds none: `kdnative doctor` says what is missing\n")
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for step in steps(folder):
        results.append(run(step))
        print(line(results[-1]), flush=True)
        write_result(folder / "gpu.json", {"steps": results})
    return int(any(found.get("code", 0) for found in results))


if __name__ == "__main__":
    sys.exit(main())
