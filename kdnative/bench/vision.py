"""``kdnative bench vision``: networks of convolutions on pictures, ours against every other engine.

Each engine runs in a process of its own, so none finds the threads, allocators or settings of another; the processes
are asked for one sample after the other, in rounds. Every engine is given the same float32 pictures, ``[N, 3, H, W]``,
and returns logits; converting, transposing and quantizing the pictures is part of its time. Other engines are given a
batch whole and picture by picture, and the faster way counts.

The result, as JSON::

    {"suite": "cpu_vision", "complete": bool,        false while the run goes on, and in what an interrupted run leaves
     "environment": {..., "threads": [1, 2]},        see kdnative.machine.environment
     "versions": {package: version},
     "held": isa,                                    what engines were held to; null: each takes what it finds
     "ceilings": [{"threads", "int8_ops", "read"}],  one per number of threads
     "models": {name: {"pixels", "products"}},       multiply-accumulates of a picture
     "cases": [{"model", "threads", "case", "batch", "seconds", "cores",
                "rows": [...]}],                     see kdnative.bench.results, and below
     "memory": [{"model", "engine", "ours", "batch", "threads", "bytes"}],   peak above the imports
     "not_run": [{"name", "kind", "reason", "case"}]}

A row has ``"agreement"``, the share of pictures with the same first class as in float32, and ``"free"``, true for an
engine that can't be held to the instruction set: then it is no peer.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kdnative.bench.options import names, numbers, positive
from kdnative.bench.peers import quiet
from kdnative.bench.results import against_peers, median, quantiles
from kdnative.bench.steady import SteadyCores, int8_speed
from kdnative.bench.vision_engine import Engine, Shared
from kdnative.bench.vision_engines import ENGINES, engine_named
from kdnative.bench.vision_models import MODELS, NAMES, load_network, products
from kdnative.bench.vision_processes import ISAS, holding, interpreters
from kdnative.bench.vision_runs import Place, Team, memory, not_run, save_files, share, sqnr
from kdnative.bench.whole_models import SECONDS, begin, command, end, took
from kdnative.extras import how_to_get, installed

_APART = "pip install ai-edge-litert litert-torch executorch, in an environment of their own that --python names"
_HOWTO = dict.fromkeys(("ai_edge_litert", "litert_torch", "executorch"), _APART)  # they pin what others need newer


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the suite from command-line arguments and returns the exit code."""
    text = "Networks of convolutions on pictures, ours against every other engine."
    parser = argparse.ArgumentParser(prog="kdnative bench vision", description=text, allow_abbrev=False)
    parser.add_argument("--models", type=names, default=MODELS, help=f"{NAMES} (default: {MODELS})")
    parser.add_argument("--batches", type=numbers, default="1,16", help="pictures of a forward (default: 1,16)")
    parser.add_argument("--pixels", type=positive, default=224, help="height and width of pictures (default: 224)")
    every = ", ".join(engine.name for engine in ENGINES)
    parser.add_argument("--engines", type=names, help=f"only these, of {every}")
    text = "hold ours and the engines that can be held to this instruction set"
    parser.add_argument("--isa", choices=ISAS, help=text)
    text = "another interpreter, for engines whose packages are not installed here; may be given several times"
    parser.add_argument("--python", action="append", default=[], metavar="PATH", help=text)
    text = "peak memory of each engine too"
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True, help=text)

    def measure(options: argparse.Namespace, **how: Any) -> dict[str, Any]:
        return run(
            options.models,
            options.batches,
            pixels=options.pixels,
            engines=chosen(options.engines, peers=options.peers, compiled=options.compile),
            isa=options.isa,
            pythons=options.python,
            with_memory=options.memory,
            **how,
        )

    return command(__spec__.name, parser, argv, measure)


def chosen(only: Sequence[str] | None, *, peers: bool, compiled: bool) -> list[Engine]:
    """The engines of a run: those that are named, or ours and, with ``peers``, the others.

    Args:
        only: names of engines; None: all.
        peers: other engines than ours.
        compiled: those that are compiled, too.

    Raises:
        ValueError: there is no engine of a name.
    """
    if only is not None:
        return [engine_named(name) for name in only]
    return [engine for engine in ENGINES if engine.ours or (peers and (compiled or not engine.compiled))]


def run(
    models: Sequence[str],
    batches: Sequence[int] = (1, 16),
    *,
    pixels: int = 224,
    engines: Sequence[Engine],
    isa: str | None = None,
    pythons: Sequence[str] = (),
    with_memory: bool = True,
    threads: Sequence[int] = (1,),
    rounds: int = 9,
    case_seconds: float = SECONDS,
    show: Callable[[str], None] = lambda line: None,
    save: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Measures every network with every number of threads and every batch size.

    Args:
        models: names or folders, see `kdnative.bench.vision_models.NAMES`.
        batches: pictures of a forward.
        pixels: height and width of the pictures.
        engines: see :func:`chosen`.
        isa: holds engines to this instruction set, one of `kdnative.bench.vision_processes.ISAS`.
        pythons: further interpreters, for engines whose packages are not installed here.
        with_memory: peaks of memory too, with the first number of threads.
        threads: of every engine, one number after the other.
        rounds: samples per engine, fewer (but three) where ``case_seconds`` are over.
        case_seconds: see ``rounds``.
        show: called with each line of the report.
        save: called with the result after each case, so that an interrupted run keeps what it measured.

    Returns:
        The result, see the head of this module.

    Raises:
        ValueError: no such network or interpreter.
    """
    python, versions, absent = interpreters(engines, [sys.executable, *pythons])
    ready = [engine for engine in engines if engine.name in python]
    missing = [not_run(engine, _missing(engine)) for engine in engines if engine.name in absent]
    missing += [
        not_run(engine, "left out: --compile measures it")
        for engine in ENGINES
        if engine.compiled and any(not e.ours for e in engines) and engine not in engines
    ]
    result = begin("cpu_vision", threads, versions, missing, show, isa) | {"held": isa, "models": {}, "memory": []}
    with quiet():
        for name in models:
            with tempfile.TemporaryDirectory(prefix="kdnative-bench-") as folder:
                network = load_network(name, pixels, max(batches))
                with torch.inference_mode():
                    reference = torch.cat([network.model(x) for x in network.pictures.split(1)]).float()
                counted = products(network.model, network.pictures[:1])
                result["models"][name] = {"pixels": pixels, "products": counted}
                place = Place(Shared.write(Path(folder), network), reference, python, holding(isa), isa)
                del network
                _measure(result, name, place, ready, batches, with_memory, rounds, case_seconds, show, save)
    return end(result, show, save)


def _measure(
    result: dict[str, Any],
    model: str,
    place: Place,
    engines: Sequence[Engine],
    batches: Sequence[int],
    with_memory: bool,
    rounds: int,
    case_seconds: float,
    show: Callable[[str], None],
    save: Callable[[dict[str, Any]], None],
) -> None:
    """All cases of one network, put into the result one after the other."""
    threads = [limits["threads"] for limits in result["ceilings"]]
    ready, failed = save_files(place, engines, max(threads))
    result["not_run"] += [{**row, "case": model} for row in failed]
    if with_memory:
        found = memory(place, ready, batches, threads[0])
        result["memory"] += [{"model": model, **row} for row in found]
        for batch in batches:
            show(memory_line(model, batch, found))
    for limits in result["ceilings"]:
        count = limits["threads"]
        with Team(place, ready, batches, count) as team:
            cores = SteadyCores(int8_speed(count))
            for batch in batches:
                case = {"model": model, **team.case(batch, rounds, case_seconds, cores)}
                result["cases"].append(case)
                save(result)
                show(_table(case, result["models"][model]["products"], limits["int8_ops"]))
            result["not_run"] += [{**row, "case": f"{model} {count}t"} for row in team.failed]


def _missing(engine: Engine) -> str:
    names = [name for name in engine.packages if not installed(name)] or engine.packages
    ways = dict.fromkeys(_HOWTO.get(name) or how_to_get("bench") for name in names)
    return f"not installed: {', '.join(names)}: {'; '.join(ways)}"


def memory_line(model: str, batch: int, rows: Sequence[Mapping[str, Any]]) -> str:
    """What each engine needs, least first."""
    found = sorted((row for row in rows if row["batch"] == batch), key=lambda row: row["bytes"])
    told = ", ".join(f"{row['engine']} {row['bytes'] / 1e6:.1f}" for row in found)
    return f"{model}, batch {batch}: peak memory above the imports, MB: {told or 'not measured'}"


def memory_cells(result: Mapping[str, Any], case: Mapping[str, Any]) -> list[str]:
    """Ours and the least of the peers, for the table of a case; ``"-"`` where it was not measured."""
    found = [row for row in result["memory"] if row["model"] == case["model"] and row["batch"] == case["batch"]]
    cells = []
    for ours in (True, False):
        rows = [row for row in found if row["ours"] == ours]
        least = min(rows, key=lambda row: row["bytes"], default=None)
        name = "" if ours or least is None else f" ({least['engine']})"
        cells.append("-" if least is None else f"{least['bytes'] / 1e6:.1f}{name}")
    return cells


def _table(case: Mapping[str, Any], products: int, int8_ops: float | None) -> str:
    lines = [
        f"{case['model']}, {case['threads']} threads, batch {case['batch']} ({took(case)})",
        f"  {'':34}{'ms':>10}{'p20':>10}{'p80':>10}{'ceiling':>9}{'SQNR, dB':>10}{'same':>7}  "
        "speed-up over the best peer",
    ]
    for row in sorted(case["rows"], key=median):
        low, middle, high = (1e3 * seconds for seconds in quantiles(row))
        compared = against_peers(row, case["rows"])
        part = f"{100 * share(row, case['batch'], products, int8_ops):.0f} %" if int8_ops else "-"
        speedup = f"  {compared.speedup}" if compared else "  (not held)" if row["free"] else ""
        numbers_of = f"{middle:>10.3f}{low:>10.3f}{high:>10.3f}{part:>9}{sqnr(row):>10.1f}{row['agreement']:>7.0%}"
        lines.append(f"  {row['name']:34}{numbers_of}{speedup}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
