"""The ARM64 kernels, cross-built and run by an emulator, and the whole library cross-built for ARM64.

`make test-arm` installs the tools; without them these tests are skipped. What an emulator cannot show is speed.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.native.disassembly import functions

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CXX = "aarch64-linux-gnu-g++"
OBJDUMP = "aarch64-linux-gnu-objdump"
EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
STRICT = ["-Wall", "-Wextra", "-Werror"]

# A processor with everything, one with dot products only, and one with neither.
PROCESSORS = {"max": ["reference", "neon", "i8mm"], "neoverse-n1": ["reference", "neon"], "cortex-a72": ["reference"]}


@pytest.fixture(scope="module", autouse=True)
def _tools():
    missing = [] if shutil.which(CXX) else ["g++-aarch64-linux-gnu"]
    missing += [] if EMULATOR else ["qemu-user"]
    if missing and os.environ.get("KDNATIVE_REQUIRE_ARM"):
        pytest.fail(f"missing: {' '.join(missing)}")
    if missing:
        pytest.skip(f"`make test-arm` installs what this needs: {' '.join(missing)} (Debian's names)")


def execute(*command, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(part) for part in command], env={**os.environ, **environment}, capture_output=True, text=True, timeout=1500
    )


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    program = tmp_path_factory.mktemp("arm") / "harness"
    flags = ["-g", "-fsanitize=undefined", "-fno-sanitize-recover=all", "-static", *STRICT]
    built = execute("sh", HERE / "build_harness.sh", program, *flags, CXX=CXX, TARGET="aarch64")
    assert built.returncode == 0, built.stderr
    return program


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The extension module as CMake builds it, for ARM64."""
    build = tmp_path_factory.mktemp("library")
    include = sysconfig.get_path("include")
    probe = build / "probe.cpp"
    probe.write_text("#include <Python.h>\n")
    if execute(CXX, "-fsyntax-only", f"-I{include}", probe).returncode != 0:
        pytest.skip("the headers of this Python cannot be used for another architecture")
    pybind11 = execute(sys.executable, "-m", "pybind11", "--cmakedir").stdout.strip()
    configured = execute(
        *(sys.executable, "-m", "cmake", "-S", ROOT, "-B", build, "-G", "Ninja"),
        *("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={CXX}"),
        *("-DCMAKE_CXX_FLAGS=-Werror", "-DSKBUILD_PROJECT_VERSION=0", f"-Dpybind11_DIR={pybind11}"),
        *(
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DPython_INCLUDE_DIR={include}",
        ),
    )
    assert configured.returncode == 0, configured.stdout + configured.stderr
    built = execute(sys.executable, "-m", "cmake", "--build", build)
    assert built.returncode == 0, built.stdout + built.stderr
    [path] = (build / "csrc").glob("_C*")
    return path


@pytest.mark.timeout(1800)  # an emulator takes minutes, more where the machine is shared
@pytest.mark.parametrize("processor", PROCESSORS)
def test_every_table_agrees_with_plain_loops(harness, processor):
    done = execute(EMULATOR, "-cpu", processor, harness)
    print(f"\n{processor}: {done.stdout}", end="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"PASS: {' '.join(PROCESSORS[processor])}, 0 failed checks"


@pytest.mark.parametrize(
    ("processor", "name"), [("cortex-a72", "neon"), ("cortex-a72", "i8mm"), ("neoverse-n1", "i8mm")]
)
def test_what_the_processor_lacks_is_refused_in_words(harness, processor, name):
    done = execute(EMULATOR, "-cpu", processor, harness, "--isa", name)
    assert done.returncode == 2
    possible = ", ".join(PROCESSORS[processor])
    assert f"'{name}' cannot run on this processor; possible here: {possible}." in done.stdout


def test_another_architecture_is_refused_in_words(harness):
    done = execute(EMULATOR, "-cpu", "max", harness, "--isa", "avx2")
    assert done.returncode == 2
    assert (
        "no instruction set 'avx2': it holds reference, neon, i8mm; possible here: reference, neon, i8mm."
        in done.stdout
    )


def test_only_instruction_set_namespaces_use_its_instructions(library):
    for instruction, spaces in {"sdot": "neon|i8mm", "smmla": "i8mm"}.items():
        users = {n for n, body in functions(library, OBJDUMP).items() if any(b.startswith(instruction) for b in body)}
        assert users, f"the kernels must use {instruction}, or this test proves nothing"
        assert not [n for n in users if not re.search(rf"kdnative::cpu::({spaces})::", n)]
