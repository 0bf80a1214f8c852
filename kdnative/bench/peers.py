"""What other engines are compared with: a candidate is a name, a class of precision, and a function that prepares it.

A peer that is not installed, or fails, or computes something else, is reported with the reason; it never just vanishes.
"""

from __future__ import annotations

import importlib.metadata
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from kdnative.extras import how_to_get, installed
from kdnative.formats.scheme import Scheme

Case = TypeVar("Case")
# Packages that the extra `bench` does not bring.
_INSTALL = {"optimum": "pip install optimum-onnx optimum-intel, in an environment of its own: they pin transformers"}
_ROW = 1.0  # two independent rows that are swapped are off by 1.4


@dataclass(frozen=True)
class Prepared:
    """A candidate ready to be timed.

    Attributes:
        call: one run; its result stays in the engine's own form.
        decode: turns that result into a tensor to compare with the reference. Not timed.
    """

    call: Callable[[], Any]
    decode: Callable[[Any], Tensor] = torch.as_tensor


@dataclass(frozen=True)
class Candidate(Generic[Case]):
    """One way of running a case.

    Attributes:
        name: shown in tables.
        kind: the class of precision, such as ``"float"``, ``"int8"`` or ``"w4a16"``: it says how far the result of a
            peer may be off, and candidates are compared within their kind and those that they name besides.
        prepare: builds it for a case; raises what the engine raises.
        packages: names to import that it needs.
        ours: whether it is kdnative's own.
        note: what sets it apart, for the reader.
        partial: it leaves work out that the others do, so it is compared with apart from them.
        also: further kinds of ours that it is a fair peer of.
        scheme: of ours: the scheme.
    """

    name: str
    kind: str
    prepare: Callable[[Case], Prepared]
    packages: tuple[str, ...] = ()
    ours: bool = False
    note: str = ""
    partial: bool = False
    also: tuple[str, ...] = ()
    scheme: str = ""


def kind_of(scheme: str) -> str:
    """The kind of one of our schemes: its weights' bits, as ``"int4"``; with float activations ``"w4a16"``.

    A text that is no scheme has the kind ``"unknown"``: preparing it says why.
    """
    try:
        found = Scheme.parse(scheme)
    except ValueError:
        return "unknown"
    return f"w{found.weight_bits}a16" if found.activation_bits == 16 else f"int{found.weight_bits}"


class Unsuited(Exception):
    """The engine does not take this shape; the text says why."""


def missing_packages(candidate: Candidate) -> list[str]:
    """Packages that the candidate needs and that are not installed."""
    return [name for name in candidate.packages if not installed(name)]


def split_by_installed(candidates: Sequence[Candidate[Case]]) -> tuple[list[Candidate[Case]], list[dict[str, str]]]:
    """The candidates that can be tried, and for the others a row that says what to install."""
    ready, absent = [], []
    for candidate in candidates:
        missing = missing_packages(candidate)
        if missing:
            ways = dict.fromkeys(_INSTALL.get(name) or how_to_get("bench") for name in missing)
            absent.append(_failure(candidate, f"not installed: {', '.join(missing)}: {'; '.join(ways)}"))
        else:
            ready.append(candidate)
    return ready, absent


def left_out(candidates: Sequence[Candidate[Case]], option: str) -> list[dict[str, str]]:
    """Rows for candidates that only run when the caller asks for them, naming the option that does."""
    return [_failure(candidate, f"left out: {option} measures it") for candidate in candidates]


@dataclass(frozen=True)
class Check:
    """What a candidate has to return.

    Attributes:
        result: ``[rows, columns]``, what its format gives, or the exact result where its format is known in kind only.
        limit: largest relative error (Frobenius norm) of the whole; below 1, which is the error of zeros. One row may
            be off by twice that, and by its own size at most: two rows that were swapped are off by more.
        rows: whether rows are looked at one by one. Those of an engine that quantizes with one range for a whole tensor
            may be far off and yet be what its users get: it stays in the table, where its error stands.
    """

    result: Tensor
    limit: float
    rows: bool = True

    def problem(self, found: Tensor) -> str | None:
        """What is wrong with a result, in words; None where nothing is."""
        whole = relative_error(found, self.result)
        if not whole <= self.limit:
            return f"wrong result: relative error {whole:.3g}, allowed {self.limit:.3g}"
        if not self.rows:
            return None
        row = worst_row_error(found, self.result)
        allowed = min(2 * self.limit, _ROW)
        if not row <= allowed:
            return f"wrong result: relative error of one row {row:.3g}, allowed {allowed:.3g}"
        return None


def prepare_all(
    candidates: Sequence[Candidate[Case]],
    case: Case,
    exact: Tensor,
    check: Callable[[Candidate[Case]], Check],
) -> tuple[dict[str, Prepared], dict[str, float], list[dict[str, str]]]:
    """Prepares candidates for one case and checks what each computes.

    Args:
        candidates: those that are installed.
        case: what to run.
        exact: the exact result; errors are reported against it.
        check: what a candidate has to return.

    Returns:
        Prepared candidates by name, their relative errors, and a row with the reason for each one that failed.
    """
    prepared, errors, failed = {}, {}, []
    for candidate in candidates:
        try:
            ready = candidate.prepare(case)
            found = ready.decode(ready.call())
            problem = check(candidate).problem(found)
        except Exception as error:  # an engine may raise anything; the row must name it
            text = str(error) if isinstance(error, Unsuited) else f"{type(error).__name__}: {error}"
            problem = " ".join(text.split())[:300]
        if problem is not None:
            failed.append(_failure(candidate, problem))
            continue
        prepared[candidate.name], errors[candidate.name] = ready, relative_error(found, exact)
    return prepared, errors, failed


def relative_error(found: Tensor, reference: Tensor) -> float:
    """``|found - reference| / |reference|`` in the Frobenius norm, computed in float64; infinite if shapes differ."""
    if found.shape != reference.shape:
        return float("inf")
    difference = found.detach().double() - reference.double()
    return float(difference.norm() / reference.double().norm().clamp_min(1e-300))


def worst_row_error(found: Tensor, reference: Tensor) -> float:
    """The largest relative error of a row, the last dimension, in float64; of rows of zeros against the mean row."""
    difference, exact = found.detach().double() - reference.double(), reference.double()
    sizes = exact.norm(dim=-1)
    sizes = torch.where(sizes > 0, sizes, exact.norm() / max(sizes.numel(), 1) ** 0.5)
    errors = difference.norm(dim=-1) / sizes.clamp_min(1e-300)
    return float(errors.max()) if errors.numel() else 0.0


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps the engines' warnings off the screen; their errors become rows of the result."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def versions(candidates: Sequence[Candidate]) -> dict[str, str]:
    """Versions of the installed packages that the candidates use."""
    names = sorted({name for candidate in candidates for name in candidate.packages})
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _failure(candidate: Candidate, reason: str) -> dict[str, str]:
    return {"name": candidate.name, "kind": candidate.kind, "reason": reason}
