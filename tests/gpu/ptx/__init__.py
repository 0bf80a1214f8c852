"""Runs PTX on the CPU: what NVRTC and Triton emit for the kernels of this project, instruction by instruction.

A block's threads are the lanes of numpy arrays, stepped lowest program counter first. Every access is checked: bounds,
alignment, shared bytes nobody wrote, bytes of an asynchronous copy under way, and bytes of another thread that no
barrier has made visible. An instruction that isn't known here stops the run with its line.
Source: NVIDIA, PTX ISA (the meaning of each instruction, the fragments of mma and wgmma, matrix descriptors).
"""

from tests.gpu.ptx.memory import Pointer, address_of
from tests.gpu.ptx.parsing import Module, PtxError, parse
from tests.gpu.ptx.running import Stats, run

__all__ = ["Module", "Pointer", "PtxError", "Stats", "address_of", "parse", "run"]
