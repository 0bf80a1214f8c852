"""The processes of the vision suite, seen from the one that starts them."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from kdnative.bench.vision_engine import Engine
from kdnative.machine.environment import child_environment

START_SECONDS = 1200
"""Compiling or quantizing a network takes minutes on a slow machine. What takes longer is a failure."""
_ANSWER_SECONDS = 300
_LOOK = """
import importlib.metadata as metadata, importlib.util, json, sys
names = json.loads(sys.argv[1])
found = {}
for name in names:
    if importlib.util.find_spec(name) is not None:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
print(json.dumps(found))
"""

# What holds engines to an instruction set: ours, then oneDNN (torch, OpenVINO) and torch's own kernels.
_HOLDING = {
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "avxvnni": {"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI", "DNNL_MAX_CPU_ISA": "AVX2_VNNI", "ATEN_CPU_CAPABILITY": "avx2"},
    "avx512vnni": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI", "DNNL_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
}
ISAS = tuple(_HOLDING)
"""Instruction sets that engines can be held to."""


def holding(isa: str | None) -> dict[str, str]:
    """Variables that hold engines to an instruction set; none for None."""
    return {} if isa is None else {"KDNATIVE_ISA": isa, **_HOLDING[isa]}


class Failed(Exception):
    """An engine's process said why it failed, or ended without a word."""


class Process:
    """A child that does one job and answers requests, see `kdnative.bench.vision_child`.

    Args:
        python: the interpreter.
        job: its job.
        variables: of its environment, besides those of this process.
    """

    def __init__(self, python: str, job: Mapping[str, Any], variables: Mapping[str, str]) -> None:
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._child = subprocess.Popen(
            [python, "-m", "kdnative.bench.vision_child", json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**child_environment(), **variables},
            text=True,
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, seconds: float = START_SECONDS) -> dict[str, Any]:
        """The next answer.

        Raises:
            Failed: the engine failed, or said nothing in this time.
        """
        assert self._child.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._child.kill()

        timer = threading.Timer(seconds, stop)
        timer.start()
        try:
            line = self._child.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            self._child.wait()
            raise Failed(f"no answer within {seconds:.0f} s" if late.is_set() else self._last_words())
        found = json.loads(line)
        if "error" in found:
            raise Failed(found["error"])
        return found

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(request) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            pass  # it ended; reading says why
        return self.read(_ANSWER_SECONDS)

    def close(self) -> None:
        """Ends the process."""
        self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout, self._errors):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass  # a request that nobody read

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return " ".join(f"its process ended with {self._child.returncode}: {lines[-1] if lines else ''}".split())[:300]


def interpreters(engines: Sequence[Engine], pythons: Sequence[str]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Who runs each engine: the first interpreter that has all of its packages.

    Args:
        engines: to look for.
        pythons: interpreters, this one first.

    Returns:
        Interpreters by the names of engines, versions by the names of packages, and the names of engines that none has
        all packages of.

    Raises:
        ValueError: an interpreter that can't be started.
    """
    packages = sorted({name for engine in engines for name in engine.packages})
    has: dict[str, dict[str, str]] = {}
    for python in pythons:
        command = [python, "-c", _LOOK, json.dumps(packages)]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, env=child_environment(), check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise ValueError(f"{python} is no Python that can be started: {error}") from error
        has[python] = json.loads(ended.stdout)
    found: dict[str, str] = {}
    versions: dict[str, str] = {}
    absent: list[str] = []
    for engine in engines:
        able = [python for python in pythons if set(engine.packages) <= has[python].keys()]
        if not able:
            absent.append(engine.name)
            continue
        found[engine.name] = able[0]
        versions |= {name: has[able[0]][name] for name in engine.packages if has[able[0]][name]}
    return found, dict(sorted(versions.items())), absent
