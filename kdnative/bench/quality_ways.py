"""The ways of ours to quantize a model, each by name: what ``kdnative bench quality`` compares."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from kdnative.bench.memory_child import sizes
from kdnative.bench.quality_subjects import Runs, Subject

ROUND = "rtn"
"""Round to nearest: what every other way is compared with."""
CALIBRATED = ("clip", "hqq", "smoothquant", "gptq", "awq", "awq+gptq")
SEQUENTIAL = "gptq layer by layer"
MIXED = "gptq + 10 % in 8 bits"
_SHARE, _HIGH = 0.1, "w8a8"
_RESET_PEAK = Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """What it took to quantize a model.

    Attributes:
        seconds: wall time of calibration and method, without packing.
        peak: bytes of memory above those before, None where the system does not say.
        examples: how many texts calibrated; 0 for a way without data.
    """

    seconds: float = 0.0
    peak: int | None = None
    examples: int = 0


@dataclass(frozen=True)
class Way:
    """One way to quantize.

    Attributes:
        name: as in tables.
        make: ``make(subject, scheme, cost)`` gives what is run on the texts, and writes down what it cost.
        ours: whether it is kdnative's.
        packages: names to import that it needs.
        note: what sets a peer apart, for the reader.
        slow: it takes minutes.
    """

    name: str
    make: Callable[[Subject, str, Cost], Runs]
    ours: bool = True
    packages: tuple[str, ...] = ()
    note: str = ""
    slow: bool = False


@contextlib.contextmanager
def counted(cost: Cost) -> Iterator[None]:
    """Adds the wall time of what is inside, and its peak of memory."""
    before = _resident()
    began = time.perf_counter()
    yield
    cost.seconds += time.perf_counter() - began
    if before is not None:
        cost.peak = max(cost.peak or 0, sizes()["peak"] - before)


def _resident() -> int | None:
    """Memory of the process now, with the record of its peak begun anew; None where there is no such record."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # memory that was freed and kept would hide what is allocated
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _RESET_PEAK.write_text("5")
        return sizes()["resident"]
    except OSError:
        return None


def rounded(subject: Subject, scheme: str, cost: Cost) -> nn.Module:
    """To the nearest code."""
    return _converted(subject.copy(), subject.schemes(scheme), cost, method="rtn")


def clip_search(subject: Subject, scheme: str, cost: Cost) -> nn.Module:
    """Ranges by the error of the weights alone."""
    return _converted(subject.copy(), subject.schemes(scheme), cost, clip_search=True)


def _converted(model: nn.Module, scheme: Any, cost: Cost, **options: Any) -> nn.Module:
    from kdnative import convert_

    with counted(cost):
        return convert_(model, scheme, **options).model


def calibrated(method: str, examples: int, sequential: bool = False) -> Callable[[Subject, str, Cost], nn.Module]:
    """A method of `kdnative.quantize.methods` with so many texts."""

    def make(subject: Subject, scheme: str, cost: Cost) -> nn.Module:
        from kdnative import convert_
        from kdnative.quantize import calibrate_
        from kdnative.quantize.methods import method_named

        data = subject.calibration(examples) if method_named(method).needs else None
        cost.examples = examples if data else 0
        model, schemes = subject.copy(), subject.schemes(scheme)
        with counted(cost):
            found = calibrate_(model, schemes, data, method=method, sequential=sequential)
        return convert_(model, schemes, calibration=found).model

    return make


def mixed(examples: int, share: float = _SHARE) -> Callable[[Subject, str, Cost], nn.Module]:
    """Eight bits for the layers that lose most at the model's output, up to a share of the weights' way to 8 bits.

    The texts that calibrate also say what each layer loses; what is measured stays unseen.
    """

    def make(subject: Subject, scheme: str, cost: Cost) -> nn.Module:
        from kdnative import convert_
        from kdnative.precision import assign, sensitivity
        from kdnative.quantize import calibrate_

        data, model = subject.calibration(examples), subject.copy()
        cost.examples = examples
        with counted(cost):
            low = calibrate_(model, scheme, data, method="gptq")
            rows = sensitivity(model, data, (scheme, _HIGH), weights={scheme: low}, layers=list(low), device="cpu")
            bytes_of = {c: sum(row.bytes for row in rows if row.change == c) for c in (scheme, _HIGH)}
            budget = (1 - share) * bytes_of[scheme] + share * bytes_of[_HIGH]
            chosen = dict(assign(rows, budget_bytes=budget))
            found = calibrate_(model, chosen, data)
        return convert_(model, chosen, calibration=found).model

    return make


SPARSE = {"2:4": None, "4x1": 0.5}
"""Patterns of zeros, with the share of zeros where it does not follow from the pattern."""
_LAYERS = "*layer*"  # the linear layers of the encoder, without the head


def sparse_ways(pattern: str, examples: int) -> list[Way]:
    """Zeros in one shot, chosen by magnitude and by SparseGPT, then rounded to the nearest."""

    def make(subject: Subject, scheme: str, cost: Cost, **options: Any) -> nn.Module:
        from kdnative.prune import finalize_masks_, mask_

        model = subject.copy()
        with counted(cost):
            mask_(model, SPARSE[pattern], pattern, modules=_LAYERS, **options)
        finalize_masks_(model)
        return _converted(model, scheme, Cost(), method="rtn")

    def sparsegpt(subject: Subject, scheme: str, cost: Cost) -> nn.Module:
        cost.examples = examples
        return make(subject, scheme, cost, method="sparsegpt", calibration=subject.calibration(examples))

    return [Way("magnitude", make), Way("sparsegpt", sparsegpt)]


def ways(examples: int, methods: Sequence[str] | None = None, counts: Sequence[int] = ()) -> list[Way]:
    """Ours, round to nearest first.

    Args:
        examples: texts that calibrate.
        methods: names of those to take besides; None: all.
        counts: further numbers of texts for gptq.
    """
    found = [Way("clip search", clip_search)]
    found += [Way(name, calibrated(name, examples)) for name in CALIBRATED]
    found += [Way(MIXED, mixed(examples))]
    found += [Way(SEQUENTIAL, calibrated("gptq", examples, sequential=True))]
    if methods is not None:
        if unknown := sorted(set(methods) - {way.name for way in found} - {ROUND}):
            raise ValueError(f"no way called {unknown[0]!r}; there are {ROUND}, {', '.join(way.name for way in found)}")
        found = [way for way in found if way.name in methods]
    found += [Way(f"gptq {count} texts", calibrated("gptq", count)) for count in counts if count != examples]
    return [Way(ROUND, rounded), *found]
