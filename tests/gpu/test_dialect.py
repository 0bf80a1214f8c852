"""The dialect: both halves have the same functions and give the same bits, and kernels use nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.gpu import both_layers, building, compiling, dialect

HERE = Path(__file__).parent
DEVICE = building.ROOT / "csrc" / "cuda"
HALVES = [path.name for path in sorted((DEVICE / "gpu").glob("*.h")) if path.name != "values.h"]
KERNELS = sorted([*DEVICE.glob("*.cuh"), *DEVICE.glob("*.cu")])
MEMORY = re.compile(r"(ld\.shared|ld\.global\.(?!nc)|st\.|red\.|atom\.|membar|bar\.|cp\.async|ldmatrix)")


@pytest.mark.parametrize("header", HALVES)
def test_both_halves_have_the_same_functions(header):
    device, emulated = (
        {(f.name, f.parameters) for f in dialect.functions(folder / header)}
        for folder in (DEVICE / "gpu", HERE / "emulator")
    )
    assert device == emulated and device


@pytest.mark.parametrize("header", HALVES)
def test_a_device_function_is_the_instruction_that_its_comment_names(header):
    for function in dialect.functions(DEVICE / "gpu" / header):
        named = re.match(r"// ([a-z0-9.:_A-Z]*[a-zA-Z0-9_])", function.comment)
        assert named, f"{function.name}: the comment must begin with the PTX instruction"
        for statement in dialect.assembly(function.body):
            assert named[1] in statement.text, f"{function.name}: {statement.text}"


@pytest.mark.parametrize("header", HALVES)
def test_operands_and_clobbers_of_assembly(header):
    for function in dialect.functions(DEVICE / "gpu" / header):
        for statement in dialect.assembly(function.body):
            used = {int(n) for n in re.findall(r"%(\d+)", statement.text)}
            assert used == set(range(statement.operands)), f"{function.name}: {statement}"
            if MEMORY.match(statement.text):  # a compiler must neither move nor merge it
                assert statement.volatile and "memory" in statement.clobbers, f"{function.name}: {statement}"


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda path: path.name)
def test_kernels_keep_to_the_dialect(kernel):
    assert dialect.complaints(kernel.read_text()) == []


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('asm volatile("bar.sync 0;");', "inline assembly"),
        ("__shared__ float tile[32];", "a name of CUDA's"),
        ("__syncthreads();", "a name of CUDA's"),
        ("const int t = threadIdx.x;", "a variable of CUDA's"),
        ("cudaStream_t stream;", "a type or function of CUDA's"),
        ("float4 v;", "a type or function of CUDA's"),
        ("#include <cuda_fp16.h>", "a header of a library"),
        ("std::min(1, 2);", "something of a library"),
        ("GPU_FN void f(const float* x) { g(x[1]); }", "the pointer x"),
        ("GPU_FN void f(const float* x) { g(*x); }", "the pointer x"),
        ("GPU_FN void f(float* out) { *out = 1; }", "the pointer out"),
        ("GPU_FN float f(Args* args) { return args->scale; }", "the pointer args"),
        ("struct A {\n  const T* rows;\n};\nGPU_FN T f(A a) { return a.rows[0]; }", "line 4"),
    ],
)
def test_what_a_kernel_must_not_do(line, what):
    assert any(what in text for text in dialect.complaints(f"int a = 1;\n{line}\n".removeprefix("int a = 1;\n")))


@pytest.mark.parametrize(
    "line",
    [
        "GPU_FN float f(const float* x, int i) { return load_global(x + i * 2); }",
        "const int8_t* from[4];\nfrom[i] = x + 1;",
        "int product = columns * rows, sums[4];  // x[1] in a comment, and asm",
        "GPU_FN void f(float (&v)[4]) { v[0] = -1.0f; }",
    ],
)
def test_what_a_kernel_may_do(line):
    assert dialect.complaints(line) == []


@pytest.mark.skipif(not building.has_compiler(), reason="no C++ compiler")
@pytest.mark.skipif(compiling.missing() is not None, reason=str(compiling.missing()))
def test_every_function_gives_the_same_bits_in_both_layers():
    """The emulator's C++ and the PTX of the inline assembly, which another program interprets."""
    source = (HERE / "instructions.cu").read_text()
    for header in HALVES:
        for function in dialect.functions(DEVICE / "gpu" / header):
            assert re.search(rf"\b{function.name}[<(]", source), f"{function.name} is missing in instructions.cu"
    assert both_layers.difference() is None
    rows, counters = both_layers.emulated()
    assert counters.any() and rows.any(1).sum() >= 80  # so many results are written, and none is missing
