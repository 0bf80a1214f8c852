"""What CMake says before it compiles anything: which instruction sets are built, and where none of it can be."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ISAS

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
CMAKE, NINJA = (shutil.which(name, path=f"{TOOLS}{os.pathsep}{os.environ['PATH']}") for name in ("cmake", "ninja"))
pytestmark = [
    pytest.mark.skipif(not (ROOT / "CMakeLists.txt").is_file(), reason="a test of the source tree"),
    pytest.mark.skipif(not (CMAKE and NINJA), reason="needs cmake and ninja"),
]
X86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86-64 only")


def configure(folder: Path, *defines: str, **environment: str) -> tuple[int, str, set[str]]:
    """The exit status, what it printed on one line, and the instruction sets that it would compile."""
    pybind11 = pytest.importorskip("pybind11")
    settings = (f"CMAKE_MAKE_PROGRAM={NINJA}", f"Python_EXECUTABLE={sys.executable}", *defines)
    command = [CMAKE, "-S", ROOT, "-B", folder, "-G", "Ninja", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    command += [f"-D{setting}" for setting in settings]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300)
    rules = folder / "build.ninja"
    sets = set(re.findall(r"kdnative_(\w+)\.dir", rules.read_text())) - {"torch_stub"} if rules.is_file() else set()
    return done.returncode, " ".join((done.stdout + done.stderr).split()), sets


@X86
def test_a_chosen_set_brings_those_that_it_extends(tmp_path):
    assert configure(tmp_path, "KDNATIVE_ISAS=avx512vnni")[::2] == (0, {"reference", "avx2", "avx512vnni"})
    assert configure(tmp_path, "KDNATIVE_ISAS=avxvnni,avx2")[::2] == (0, {"reference", "avx2", "avxvnni"})
    assert configure(tmp_path, "KDNATIVE_ISAS=reference")[::2] == (0, {"reference"})
    assert configure(tmp_path, "KDNATIVE_ISAS=")[::2] == (0, set(ISAS))


def test_an_unknown_set_is_refused_with_those_that_there_are(tmp_path):
    status, text, _ = configure(tmp_path, "KDNATIVE_ISAS=reference,sse9")
    assert status != 0 and "KDNATIVE_ISAS names sse9." in text
    for isa in ISAS:
        assert isa in text.split("there are:")[1]


def test_without_a_compiler_it_says_what_to_install(tmp_path):
    status, text, _ = configure(tmp_path, CXX=str(tmp_path / "no-such-compiler"))
    assert status != 0 and "no C++ compiler works here: install one (Debian and Ubuntu: apt-get install g++" in text


@pytest.mark.parametrize("system", ["Windows", "Darwin"])
def test_other_systems_are_refused(tmp_path, system):
    status, text, _ = configure(tmp_path, f"CMAKE_SYSTEM_NAME={system}")
    assert status != 0 and f"kdnative builds on Linux only, not on {system}" in text


def test_other_processors_get_the_reference_kernels(tmp_path):
    status, text, sets = configure(tmp_path, "CMAKE_SYSTEM_NAME=Linux", "CMAKE_SYSTEM_PROCESSOR=riscv64")
    assert status == 0 and "On riscv64 it runs the portable reference kernels" in text
    assert sets == {"reference"}
