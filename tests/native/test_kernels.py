"""The kernels alone, without torch, under the address and undefined-behaviour sanitizers; AMX also in software.

The same C++ program checks every instruction set against plain loops. On a processor without AMX the emulated run is
what covers the AMX kernels: same code, tiles computed by tests/native/amx_emulator.h.
"""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from kdnative import ops

HERE = Path(__file__).parent
# Some kernels take minutes to compile with -O2 and full debug information.
SANITIZE = ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64", "aarch64"), reason="has kernels for x86-64 and ARM64 only"
)


@pytest.mark.timeout(1800)  # the sanitizers take minutes where the processor has every instruction set and is shared
@pytest.mark.parametrize("emulated", [False, True], ids=["hardware", "amx-emulated"])
def test_every_table_agrees_with_plain_loops(tmp_path, emulated):
    expected = ops.available_isas()
    if emulated:
        if "avx512bf16" not in expected:
            pytest.skip("this processor cannot run avx512bf16, which the AMX kernels are built on")
        expected = [isa for isa in expected if isa != "amx"] + ["amx"]
    assert shutil.which("g++"), "a C++ compiler is needed: install g++"
    program, environment = tmp_path / "harness", {**os.environ, "EMULATE_AMX": "1" if emulated else ""}
    built = subprocess.run(
        ["sh", str(HERE / "build_harness.sh"), str(program), *SANITIZE], env=environment, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"PASS: {' '.join(expected)}, 0 failed checks"
