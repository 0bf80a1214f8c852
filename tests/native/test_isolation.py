"""Wide instructions stay inside the functions of their instruction set, so the library loads on any x86-64 machine."""

import platform
import re

import pytest

from kdnative import _C, ops
from tests.conftest import ISAS
from tests.native.disassembly import functions

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86-64 only")

WIDE = re.compile(r"%zmm|%ymm|%k[1-7]\b|%tmm|^v[a-z0-9]+\s")  # registers, or a VEX/EVEX mnemonic


def test_only_instruction_set_namespaces_use_wide_registers():
    wide = {name for name, body in functions(_C.__file__).items() if any(WIDE.search(line) for line in body)}
    allowed = re.compile(
        r"kdnative::cpu::(avx2|avxvnni|avx512vnni|avx512bf16|amx)::|kdnative::cpu::\(anonymous namespace\)::"
    )
    assert any("avx2::" in name for name in wide), "the AVX2 kernels must be there, or this test proves nothing"
    assert not [name for name in wide if not allowed.search(name)]


def test_a_set_that_the_build_lacks_leaves_no_symbol():
    present = {space for space in re.findall(r"kdnative::cpu::(\w+)::", "\n".join(functions(_C.__file__)))}
    assert present & {*ISAS} == {*ops.built_isas()}


@pytest.mark.parametrize(("namespace", "registers"), [("avx2", "%zmm"), ("avxvnni", "%zmm"), ("reference", "%ymm")])
def test_no_kernel_uses_more_than_its_instruction_set(namespace, registers):
    if namespace not in ops.built_isas():
        pytest.skip(f"this build has no {namespace}")
    bodies = {n: b for n, b in functions(_C.__file__).items() if f"kdnative::cpu::{namespace}::" in n}
    assert bodies
    assert not [n for n, b in bodies.items() if any(registers in line for line in b)]


@pytest.mark.skipif(not {"amx", "avxvnni"} <= set(ops.built_isas()), reason="a build with all sets of x86-64")
def test_amx_kernels_use_tiles_and_vnni_kernels_use_dot_products():
    text = {
        space: "\n".join("\n".join(b) for n, b in functions(_C.__file__).items() if f"cpu::{space}::" in n)
        for space in ("amx", "avx512bf16", "avx512vnni", "avxvnni")
    }
    assert "tdpbssd" in text["amx"] and "tdpbf16ps" in text["amx"]
    assert "vdpbf16ps" in text["avx512bf16"]
    assert "vpdpbusd" in text["avx512vnni"] and "{vex} vpdpbusd" in text["avxvnni"]
