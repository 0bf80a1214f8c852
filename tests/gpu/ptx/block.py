"""One block of threads: registers as numpy arrays over its threads, operands, and the order in which threads run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tests.gpu.ptx.copies import Copies
from tests.gpu.ptx.costs import Costs
from tests.gpu.ptx.memory import GlobalMemory, SharedMemory
from tests.gpu.ptx.numerics import FLOATS, INTEGERS, RAW, SIZE, from_bf16, integer_bits, to_bf16
from tests.gpu.ptx.parsing import Address, Instruction, Kernel, Operand, PtxError, Vector

WARP = 32
Handler = Callable[["Block", Instruction, np.ndarray], None]
HANDLERS: dict[str, Handler] = {}


def instruction(*names: str) -> Callable[[Handler], Handler]:
    """Registers the meaning of instructions, by the first part of their name."""

    def register(handler: Handler) -> Handler:
        for name in names:
            assert name not in HANDLERS, name
            HANDLERS[name] = handler
        return handler

    return register


@dataclass(frozen=True)
class Place:
    """Which block of which grid, and its sizes: x, y, z."""

    block: tuple[int, int, int]
    grid: tuple[int, int, int]
    threads: tuple[int, int, int]


class Block:
    """Runs one block of a kernel.

    Args:
        parameters: their bytes, one behind the other.
        symbols: addresses of variables, and where each parameter starts.
        limit: instructions after which a run is taken for endless.
    """

    def __init__(
        self,
        kernel: Kernel,
        place: Place,
        memory: GlobalMemory,
        shared_bytes: int,
        parameters: bytes,
        symbols: dict[str, int],
        costs: Costs,
        lazy: bool,
        limit: int,
    ) -> None:
        count = int(np.prod(place.threads))
        self.threads = -(-count // WARP) * WARP
        self.kernel, self.memory, self.parameters, self.symbols = kernel, memory, parameters, symbols
        self.shared, self.costs, self.limit = SharedMemory(shared_bytes), costs, limit
        self.copies = Copies(self.shared, self.threads, lazy)
        self.lane = np.arange(self.threads)
        self.everyone = np.ones(self.threads, bool)
        self.registers = {
            name: np.zeros(self.threads, bool if kind == "pred" else RAW[SIZE[kind]])
            for name, kind in kernel.registers.items()
        }
        self._special = self._special_registers(place)
        self._constants: dict[tuple[str, int], np.ndarray] = {}
        # Threads: where each is, which have not ended, and the barrier that each waits at (-1: none) and for how many.
        self._pc = np.zeros(self.threads, np.int64)
        self.live = self.lane < count
        self._barrier = np.full(self.threads, -1)
        self._expected: dict[int, int | None] = {}
        # The threads that run now, all at one place, until they reach that of the next ones.
        self._front: int | None = None
        self._next = 0
        self._running = self.everyone

    # -- operands --

    def bits(self, operand: Operand, size: int) -> np.ndarray:
        """An operand's raw bits as unsigned integers of ``size`` bytes, one a thread; never to be changed in place."""
        assert isinstance(operand, str), operand
        register = self.registers.get(operand)
        if register is not None:
            if register.dtype == bool or register.dtype.itemsize < size:
                raise PtxError(f"{operand} is read as {size} bytes, and is smaller")
            return register if register.dtype.itemsize == size else register.astype(RAW[size])
        constant = self._constants.get((operand, size))
        if constant is None:
            constant = self._constants[operand, size] = self._constant(operand, size)
        return constant

    def _constant(self, operand: str, size: int) -> np.ndarray:
        if operand in self._special:
            return self._special[operand].astype(RAW[size])
        if operand in self.symbols:
            value = self.symbols[operand]
        else:
            try:
                value = integer_bits(operand)
            except ValueError:
                raise PtxError(f"unknown operand {operand}") from None
        return np.full(self.threads, value & ((1 << 8 * size) - 1), np.uint64).astype(RAW[size])

    def value(self, operand: Operand, kind: str) -> np.ndarray:
        """An operand's values of a type: bf16 and tf32 as float32."""
        if kind == "pred":
            return self.predicate(operand)
        raw = self.bits(operand, SIZE[kind])
        if kind == "bf16":
            return from_bf16(raw)
        if kind == "tf32":
            return (raw & np.uint32(0xFFFFE000)).view(np.float32)
        return raw.view(FLOATS.get(kind) or INTEGERS[kind])

    def predicate(self, operand: Operand) -> np.ndarray:
        """A predicate, ``!`` before it or not."""
        assert isinstance(operand, str), operand
        name = operand.lstrip("!")
        if name not in self.registers:
            return np.full(self.threads, integer_bits(name) != 0) ^ operand.startswith("!")
        register = self.registers[name]
        if register.dtype != bool:
            raise PtxError(f"{name} is no predicate")
        return ~register if operand.startswith("!") else register

    def scalar(self, operand: Operand) -> int:
        """An operand that has to be the same number in all threads."""
        return int(self.bits(operand, 4)[0])

    def write(self, operand: Operand, values: np.ndarray, kind: str, mask: np.ndarray) -> None:
        """Gives a register new values of a type in the threads of a mask; a wider register is filled up by sign."""
        if operand == "_":
            return
        assert isinstance(operand, str), operand
        register = self.registers.get(operand)
        if register is None:
            raise PtxError(f"{operand} is no register")
        if kind == "pred":
            raw = values
        elif kind == "bf16":
            raw = to_bf16(values)
        else:
            raw = np.ascontiguousarray(values, FLOATS.get(kind) or INTEGERS[kind])
            if raw.dtype.itemsize < register.dtype.itemsize and kind in INTEGERS:
                raw = raw.astype(f"{raw.dtype.kind}{register.dtype.itemsize}")
            raw = raw.view(RAW[raw.dtype.itemsize])
        if raw.dtype != register.dtype:
            raise PtxError(f"{operand} can't take a value of type {kind}")
        # A new array each time: others may be views of the old one, or the old one itself.
        self.registers[operand] = raw if mask is self.everyone else np.where(mask, raw, register)

    def items(self, operand: Operand) -> Sequence[str]:
        """The registers of a vector; one register alone is a vector of one."""
        return operand.items if isinstance(operand, Vector) else (str(operand),)

    def address(self, operand: Operand) -> np.ndarray:
        """An address operand as signed 64-bit numbers; registers of 32 bits address shared memory."""
        assert isinstance(operand, Address), operand
        register = self.registers.get(operand.base)
        return (
            self.bits(operand.base, 8 if register is None else register.dtype.itemsize).astype(np.int64)
            + operand.offset
        )

    def warps(self, mask: np.ndarray, what: str, lanes: int = WARP) -> np.ndarray:
        """Which warps (or groups of ``lanes`` threads) execute this: with all their lanes, or it is an error."""
        groups = mask.reshape(-1, lanes)
        whole = groups.all(1)
        if (groups.any(1) != whole).any():
            raise PtxError(f"{what}: lanes of a warp are apart")
        return whole

    def _special_registers(self, place: Place) -> dict[str, np.ndarray]:
        x, y, _ = place.threads
        thread = {"x": self.lane % x, "y": self.lane // x % y, "z": self.lane // (x * y)}
        found = {f"%tid.{axis}": thread[axis] for axis in "xyz"}
        for name, sizes in (("%ntid", place.threads), ("%ctaid", place.block), ("%nctaid", place.grid)):
            found |= {f"{name}.{axis}": np.full(self.threads, size) for axis, size in zip("xyz", sizes, strict=True)}
        found |= {"%laneid": self.lane % WARP, "%warpid": self.lane // WARP, "WARP_SZ": np.full(self.threads, WARP)}
        bit = np.uint32(1) << (self.lane % WARP).astype(np.uint32)
        masks = {"eq": bit, "lt": bit - 1, "le": bit | (bit - 1), "gt": ~(bit | (bit - 1)), "ge": ~(bit - 1)}
        return found | {f"%lanemask_{name}": mask for name, mask in masks.items()}

    # -- the order of threads --

    def run(self) -> None:
        """Runs until every thread has ended."""
        code = self.kernel.code
        steps = 0
        while self._gather():
            while self._front is not None and self._front < self._next:
                if self._front >= len(code):
                    self.end(self._running)
                    break
                steps += 1
                if steps > self.limit:
                    raise PtxError(f"{_short(self.kernel.name)}: no end after {self.limit} instructions")
                current = code[self._front]
                self._front += 1
                try:
                    self._step(current)
                except PtxError as error:
                    raise PtxError(f"{_short(self.kernel.name)}: {error} -- at: {_short(current.text)}") from None
        self.copies.finish()

    def _step(self, current: Instruction) -> None:
        mask = self._running
        if current.guard is not None:
            mask = mask & (self.registers[current.guard] ^ current.negated)
            if not mask.any():
                return
            if not (mask ^ self._running).any():
                mask = self._running
        handler = HANDLERS.get(current.parts[0])
        if handler is None:
            raise PtxError(f"unknown instruction {current.name}")
        warps = mask.size // WARP if mask is self.everyone else int(mask.reshape(-1, WARP).any(1).sum())
        self.costs.instructions[current.name] += warps
        handler(self, current, mask)

    def _gather(self) -> bool:
        """Chooses the threads to run next: those at the lowest place, since those behind may still join them."""
        if self._front is not None:
            self._pc[self._running] = self._front
        ready = self.live & (self._barrier < 0)
        if not ready.any():
            if not self.live.any():
                return False
            raise PtxError(f"{_short(self.kernel.name)}: threads wait at a barrier that others never reach")
        lowest = int(self._pc[ready].min())
        self._running = ready & (self._pc == lowest)
        others = ready & ~self._running
        self._front, self._next = lowest, int(self._pc[others].min()) if others.any() else len(self.kernel.code) + 1
        if self._running.all():
            self._running = self.everyone
        return True

    def jump(self, mask: np.ndarray, label: Operand) -> None:
        """The threads of a mask go on at a label."""
        assert isinstance(label, str), label
        if label not in self.kernel.labels:
            raise PtxError(f"no label {label}")
        target = self.kernel.labels[label]
        if mask is self._running:
            self._front = target
        else:
            self._leave()
            self._pc[mask] = target

    def end(self, mask: np.ndarray) -> None:
        """The threads of a mask have ended."""
        self._leave()
        self.live = self.live & ~mask
        self._release()

    def wait(self, mask: np.ndarray, barrier: int, count: int | None) -> None:
        """The threads of a mask wait until ``count`` threads (None: all that live) are at a barrier."""
        self._leave()
        self._barrier[mask] = barrier
        self._expected[barrier] = count
        self._release()

    def _release(self) -> None:
        for barrier, count in list(self._expected.items()):
            waiting = self.live & (self._barrier == barrier)
            if waiting.any() and waiting.sum() >= (self.live.sum() if count is None else count):
                self._barrier[waiting] = -1
                del self._expected[barrier]
                self.shared.synchronize(waiting | ~self.live)

    def _leave(self) -> None:
        if self._front is not None:
            self._pc[self._running] = self._front
        self._front = None


def _short(text: str) -> str:
    """Names of C++ templates run over pages."""
    return text if len(text) <= 200 else f"{text[:100]} ... {text[-100:]}"
