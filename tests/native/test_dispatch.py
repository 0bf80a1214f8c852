"""Choosing the instruction set."""

import os
import re
import subprocess
import sys

import pytest

from kdnative import _C, ops
from tests.conftest import ISAS
from tests.native.disassembly import functions


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


def test_best_is_the_default():
    done = run("from kdnative import ops; print(ops.isa())", KDNATIVE_ISA="")
    assert done.stdout.split() == [ops.available_isas()[-1]], done.stderr


@pytest.mark.parametrize("name", ISAS)
def test_forced_by_the_environment(name):
    done = run("from kdnative import ops; print(ops.isa())", KDNATIVE_ISA=name)
    if name in ops.available_isas():
        assert done.stdout.split() == [name], done.stderr
        return
    assert done.returncode != 0
    if name not in ops.built_isas():
        assert f"this build has no instruction set '{name}': it holds reference" in done.stderr
    else:
        assert f"'{name}' cannot run on this processor; possible here: reference" in done.stderr


def test_another_architecture_is_refused_in_words():
    done = run("import kdnative.ops", KDNATIVE_ISA="avx2" if "neon" in ISAS else "neon")
    assert done.returncode != 0
    assert "this build has no instruction set" in done.stderr


def test_an_unknown_name_is_refused_in_words():
    done = run("import kdnative.ops", KDNATIVE_ISA="sse9")
    assert done.returncode != 0
    assert f"this build has no instruction set 'sse9': it holds {', '.join(ops.built_isas())};" in done.stderr
    assert "possible here: reference" in done.stderr


def test_select_isa_keeps_the_old_one_after_an_error():
    before = ops.isa()
    with pytest.raises(ValueError, match="no instruction set 'nonsense'"):
        ops.select_isa("nonsense")
    assert ops.isa() == before


def test_importing_the_package_loads_neither_torch_nor_cuda():
    done = run("import sys, kdnative; print('torch' in sys.modules, len(kdnative.__all__) > 5)")
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_importing_the_operators_does_not_initialise_cuda():
    done = run("import torch, kdnative.ops; print(torch.cuda.is_initialized())")
    assert done.stdout.split() == ["False"], done.stderr


# What a set has no kernel of its own for, it takes from the next one.
BASES = {"avx2": "reference", "avxvnni": "avx2", "avx512vnni": "avx2", "avx512bf16": "avx512vnni", "amx": "avx512bf16"}
BASES |= {"neon": "reference", "i8mm": "neon", "reference": None}
LAYERS = ["gemm_w8a8", "gemm_w4a8", "gemm_w2a8", "gemm_two_level", "attention", "layer_norm", "rotate", "gate"]
KERNELS = {
    "quantize_per_token": ["quantize_rows"],
    "norm_quantize": ["layer_norm", "quantize_rows", "convert_rows"],
    **{f"linear_w{bits}a8": [f"gemm_w{bits}a8", "quantize_rows"] for bits in (8, 2)},
    "linear_w4a8": ["gemm_w4a8", "gemm_two_level", "quantize_rows"],
    **{f"linear_w{bits}a16": ["gemm_a16_bf16", "gemm_a16", "convert_rows"] for bits in (8, 4, 2)},
    "linear_sparse": ["gemm_blocks", "gemm_mask", "expand_mask", "gemm_w8a8", "quantize_rows"],
    "encoder": [*LAYERS, "quantize_rows", "add_scaled_int8"],
    "encoder_hidden_states": [*LAYERS, "quantize_rows", "add_scaled_int8"],
    "encoder_layers": [*LAYERS, "quantize_rows"],
    "convnet": [
        *("conv", "depthwise", "max_window", "average_window", "add_codes", "multiply_codes", "look_up"),
        "quantize_pixels",
    ],
}


def compiled_for(isa: str, kernel: str) -> str | None:
    """The set, from this one down, whose kernel is in the library; None where there is none."""
    while isa is not None and not any(f"kdnative::cpu::{isa}::{kernel}(" in name for name in functions(_C.__file__)):
        isa = BASES[isa]
    return isa


def test_a_build_has_each_set_that_another_one_extends():
    built = ops.built_isas()
    assert built[0] == "reference" and set(ops.available_isas()) <= set(built) <= set(ISAS)
    assert {BASES[isa] for isa in built[1:]} <= set(built)


@pytest.mark.parametrize("isa", ISAS)
def test_the_kernel_table_tells_what_is_compiled(isa):
    if isa not in ops.built_isas():
        pytest.skip(f"this build has no {isa}")
    table = _C.kernel_table(isa)
    assert list(table) == list(ops.OPERATORS) and KERNELS.keys() == table.keys()
    for operator, kernels in KERNELS.items():
        sets = {found for kernel in kernels if (found := compiled_for(isa, kernel))}
        few = (
            {"amx": {"avx512vnni"}, "i8mm": {"neon"}}.get(isa, set()) if any("gemm_w" in k for k in kernels) else set()
        )
        assert set(re.sub(r" \(.*?\)", "", table[operator]).split(", ")) == sets | few, operator


def test_sets_that_run_everything_themselves_are_one_name():
    for isa in {"reference", "avx2", "avx512vnni"} & set(ops.built_isas()):
        assert set(_C.kernel_table(isa).values()) == {isa}


@pytest.mark.skipif(not {"amx", "avxvnni"} <= set(ops.built_isas()), reason="a build with all sets of x86-64")
def test_what_is_inherited_and_what_few_rows_take_is_told():
    assert _C.kernel_table("avxvnni")["linear_w8a8"] == "avxvnni (gemm_w8a8), avx2"
    assert _C.kernel_table("avxvnni")["linear_w8a16"] == "avx2"
    assert _C.kernel_table("avx512bf16")["linear_w8a8"] == "avx512vnni"
    assert _C.kernel_table("avx512bf16")["linear_w4a16"] == "avx512bf16 (gemm_a16_bf16), avx512vnni"
    amx = _C.kernel_table("amx")
    assert amx["quantize_per_token"] == "avx512vnni"
    assert amx["linear_w8a8"] == "amx (gemm_w8a8 above 4 rows), avx512vnni"
    assert amx["linear_w4a8"] == "amx (gemm_w4a8 above 8 rows, gemm_two_level above 8 rows), avx512vnni"


def test_the_kernel_table_is_of_the_set_in_use():
    for name in ops.available_isas():
        done = run("from kdnative import ops; print(ops.kernel_table())", KDNATIVE_ISA=name)
        assert done.stdout.strip() == str(_C.kernel_table(name)), done.stderr
    with pytest.raises(ValueError, match="this build has no instruction set 'sse9'"):
        _C.kernel_table("sse9")
