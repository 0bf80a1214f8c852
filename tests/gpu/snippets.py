"""Small kernels written in PTX: one thread an element, its inputs loaded, some instructions, its outputs stored."""

from __future__ import annotations

import numpy as np

from tests.gpu import ptx
from tests.gpu.ptx.numerics import SIZE

_REGISTER = {1: ("b16", "rb"), 2: ("b16", "rh"), 4: ("b32", "r"), 8: ("b64", "rd")}


def kernel(body: str, arrays: int, registers: str = "", shared: int = 0, scalars: int = 0) -> str:
    """A kernel ``k`` of some pointers, in ``%rd1`` and up, then 32-bit numbers; ``%tid`` has the thread's number."""
    parameters = [f".param .u64 p{n}" for n in range(arrays)] + [f".param .u32 s{n}" for n in range(scalars)]
    loads = [f"ld.param.u64 %rd{n + 1}, [p{n}];" for n in range(arrays)]
    loads += [f"ld.param.u32 %s{n}, [s{n}];" for n in range(scalars)]
    space = f".shared .align 16 .b8 space[{shared}];" if shared else ""
    return f"""
.version 8.8
.target sm_90a
.address_size 64
.entry k({", ".join(parameters)})
{{
  .reg .pred %p<40>; .reg .b16 %rh<40>; .reg .b32 %r<80>; .reg .f32 %f<40>; .reg .b64 %rd<40>; .reg .b32 %s<9>;
  .reg .b32 %tid; {registers} {space}
  mov.u32 %tid, %tid.x;
  {" ".join(loads)}
  {body}
  ret;
}}
"""


def apply(instruction: str, inputs: list[tuple[str, np.ndarray]], output: str) -> np.ndarray:
    """Runs ``instruction`` on each element: ``{d}`` is its destination, ``{0}``, ``{1}`` ... its inputs.

    Args:
        inputs: a PTX type and the elements as numpy has them (bf16 and packed pairs as integers of their bits).
        output: the PTX type of the result; ``pred`` gives 0 and 1 of u32.
    """
    count = len(inputs[0][1])
    lines, names, declared = [], [], []
    for n, (kind, _) in enumerate(inputs):
        size = SIZE[kind]
        declared.append(f".reg .b{max(8 * size, 16)} %x{n};")
        lines.append(f"mad.wide.u32 %rd20, %tid, {size}, %rd{n + 1}; ld.global.b{8 * size} %x{n}, [%rd20];")
        names.append(f"%x{n}")
    if output == "pred":
        lines.append(instruction.format(*names, d="%p1") + "; selp.u32 %y, 1, 0, %p1;")
        output = "u32"
    else:
        lines.append(instruction.format(*names, d="%y") + ";")
    size = SIZE[output]
    declared.append(f".reg .b{max(8 * size, 16)} %y;")
    lines.append(f"mad.wide.u32 %rd20, %tid, {size}, %rd{len(inputs) + 1}; st.global.b{8 * size} [%rd20], %y;")
    out = np.zeros(count, {"bf16": "u2", "f16": "f2", "f32": "f4"}.get(output, f"{_letter(output)}{size}"))
    text = kernel("\n  ".join(lines), len(inputs) + 1, " ".join(declared))
    ptx.run(text, "k", 1, count, [*(np.ascontiguousarray(array) for _, array in inputs), out])
    return out


def _letter(kind: str) -> str:
    return "i" if kind[0] == "s" and "x" not in kind else "u"
