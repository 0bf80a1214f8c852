"""Times on a GPU: replays of a captured CUDA graph, so that no launch from Python is part of them; and its ceilings."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch

from kdnative.machine.timer import Timing

_COPY_BYTES = 2 << 30
_SQUARE = 8192


class Graph:
    """A function as a CUDA graph; it must not allocate pinned memory nor wait for the device.

    Raises:
        RuntimeError: it can't be captured.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):  # what is made at a first call must not be captured
                call()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            call()
        self._graph.replay()

    def seconds(self) -> float:
        """Of one replay, by the device's own clock."""
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        self._graph.replay()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3


def replayed(calls: Mapping[str, Callable[[], Any]], copies: Mapping[str, int], rounds: int) -> dict[str, Timing]:
    """Times functions side by side: every round replays each once, in an order that is drawn anew.

    Args:
        calls: functions without arguments, by name.
        copies: how many layers each runs.
        rounds: samples of each.

    Returns:
        For each name the seconds of one layer. Names that can't be captured are missing.
    """
    graphs = {}
    for name, call in calls.items():
        try:
            graphs[name] = Graph(call)
        except RuntimeError:  # the stream is left capturing by some engines' own synchronization
            torch.cuda.synchronize()
    samples: dict[str, list[float]] = {name: [] for name in graphs}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(graphs), len(graphs)):
            samples[name].append(graphs[name].seconds() / copies[name])
    return {name: Timing(tuple(found), copies[name]) for name, found in samples.items()}


def ceilings(rounds: int = 9) -> dict[str, float]:
    """What the device reaches at best: bytes a second, copied and read, and operations a second in bf16 and int8."""
    source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    left = torch.randn(_SQUARE, _SQUARE, device="cuda", dtype=torch.bfloat16)
    codes = torch.randint(-127, 127, (_SQUARE, _SQUARE), device="cuda", dtype=torch.int8)
    work: dict[str, tuple[Callable[[], Any], float]] = {
        "copy_bytes": (lambda: target.copy_(source), 2 * _COPY_BYTES),
        "read_bytes": (lambda: source.view(torch.int64).sum(), _COPY_BYTES),
        "bf16_ops": (lambda: left @ left, 2 * _SQUARE**3),
        "int8_ops": (lambda: torch._int_mm(codes, codes.t()), 2 * _SQUARE**3),
    }
    found = replayed({name: call for name, (call, _) in work.items()}, dict.fromkeys(work, 1), rounds)
    return {name: work[name][1] / statistics.median(timing.samples) for name, timing in found.items()}


def device_name() -> dict[str, Any]:
    """Which GPU it is."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory": properties.total_memory,
        "cuda": torch.version.cuda,
    }
