"""The hand-written declarations of torch's C ABI agree with torch's own headers, and nothing else of torch is used."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from kdnative import _C

ROOT = Path(__file__).parents[2]
INCLUDE = Path(torch.__file__).parent / "include"


def test_declarations_agree_with_torch(tmp_path):
    """C allows a function to be declared twice only with one type: a difference does not compile."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    assert compiler, "a C++ compiler is needed: install g++"
    header = (ROOT / "csrc/ops/torch_abi.h").read_text()
    (tmp_path / "abi.h").write_text(header)
    source = tmp_path / "agree.cpp"
    source.write_text('#include <torch/csrc/stable/c/shim.h>\n#include "abi.h"\n')
    done = subprocess.run(
        [
            compiler,
            "-std=c++20",
            "-fsyntax-only",
            "-DTORCH_TARGET_VERSION=0x020a000000000000",
            f"-I{INCLUDE}",
            str(source),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr

    wrong = re.sub(
        r"aoti_torch_get_dim\(AtenTensorHandle tensor, int64_t\*",
        "aoti_torch_get_dim(AtenTensorHandle tensor, int32_t*",
        header,
    )
    assert wrong != header
    (tmp_path / "abi.h").write_text(wrong)
    done = subprocess.run(
        [
            compiler,
            "-std=c++20",
            "-fsyntax-only",
            "-DTORCH_TARGET_VERSION=0x020a000000000000",
            f"-I{INCLUDE}",
            str(source),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0, "a wrong declaration must be noticed, or this test proves nothing"


def test_every_symbol_taken_from_torch_is_declared():
    """The built library imports nothing of torch but the C functions in torch_abi.h: no C++ symbol."""
    assert shutil.which("nm"), "binutils is needed: install binutils"
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", _C.__file__], capture_output=True, text=True, check=True
    ).stdout
    names = [line.split()[-1].split("@")[0] for line in listing.splitlines()]
    declared = set(re.findall(r"\b((?:aoti_)?torch_\w+)\(", (ROOT / "csrc/ops/torch_abi.h").read_text()))
    used = {n for n in names if re.match(r"(aoti_)?torch_", n)}
    assert used and used <= declared
    assert not [n for n in names if re.search(r"\b(c10|at|torch)\b", n) and n not in declared]


def test_the_library_asks_for_libtorch_only():
    if not shutil.which("readelf"):
        pytest.fail("binutils is needed: install binutils")
    text = subprocess.run(["readelf", "-d", _C.__file__], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"NEEDED.*\[(.+?)\]", text)
    assert "libtorch.so" in needed
    assert not [n for n in needed if n.startswith(("libtorch_", "libc10"))]
    assert "RPATH" not in text and "RUNPATH" not in text
