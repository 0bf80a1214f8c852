"""The kernels alone, without torch, under the address and undefined-behaviour sanitizers; AMX also in software.

The same C++ program checks every instruction set against plain loops. On a processor without AMX the emulated run is
what covers the AMX kernels: same code, tiles computed by tests/native/amx_emulator.h. It covers the other sets too, so
a run without it adds something only where tiles are real, or where the emulation cannot run.
"""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from kdnative import ops
from tests.native.mutate_kernels import object_of

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# Some kernels take minutes to compile with -O2 and full debug information.
SANITIZE = ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
OF_TILES = [
    object_of("harness", "tests/native/kernel_harness.cpp"),
    *(object_of("amx", f"csrc/cpu/amx/{p.name}") for p in ROOT.glob("csrc/cpu/amx/*.cpp")),
]

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64", "aarch64"), reason="has kernels for x86-64 and ARM64 only"
)


def build(folder: Path, name: str, **environment: str) -> Path:
    assert shutil.which("g++"), "a C++ compiler is needed: install g++"
    program, objects = folder / name, folder / "objects"
    objects.mkdir(exist_ok=True)
    command = ["sh", str(HERE / "build_harness.sh"), str(program), *SANITIZE]
    environment = {**os.environ, "OBJECTS": str(objects), **environment}
    built = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return program


def check(program: Path, expected: list[str], *arguments: str) -> None:
    done = subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"PASS: {' '.join(expected)}, 0 failed checks"


@pytest.mark.timeout(3600)  # the sanitizers take minutes where the processor has every instruction set and is shared
def test_every_table_agrees_with_plain_loops(tmp_path):
    possible = ops.available_isas()
    if "avx512bf16" not in possible:  # the AMX kernels are built on it
        check(build(tmp_path, "hardware"), possible)
    elif "amx" not in possible:
        check(build(tmp_path, "emulated", EMULATE_AMX="1"), [*possible, "amx"])
    else:
        check(build(tmp_path, "hardware"), possible)
        emulated = build(tmp_path, "emulated", EMULATE_AMX="1", ONLY=" ".join(OF_TILES))
        check(emulated, ["reference", "amx"], "--isa", "amx")
