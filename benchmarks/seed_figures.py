"""Figures of runs with several seeds, for benchmarks/results/runs/seeds: what `kdnative run --seeds` measured.

    python benchmarks/seed_figures.py RUNS NAME OUT.json

reads RUNS/NAME-seeds.json and the first of its runs, and writes medians and values by row, seconds by stage, how many
texts there were, and the machine. Texts, weights and paths stay behind.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# Of a row of the final table; figures of single classes and confidence bounds are in the report of the run.
KEPT = ("parameters", "bytes", "kept", "speedup", "ece")
PREFIXES = ("latency.", "native.")
MEASURES = ("accuracy", "macro_f1", "agreement", "pearson", "spearman", "rmse")


def figures_of(runs: Path, name: str) -> dict[str, Any]:
    """What is kept of the runs of one recipe.

    Raises:
        FileNotFoundError: there are no such runs.
    """
    seeds = _read(runs / f"{name}-seeds.json")
    first = runs / seeds["runs"][0]
    summary = _read(first / "summary.json")
    teacher, benchmark = (_read(first / "stages" / name / "metrics.json") for name in ("train_teacher", "benchmark"))
    rows = [{**row, "figures": {k: v for k, v in row["figures"].items() if _is_kept(k)}} for row in seeds["rows"]]
    return {
        "recipe": name,
        "task": seeds["task"],
        "seeds": seeds["seeds"],
        "data": {"source": summary["data"]["source"], **teacher["data"]},
        "case": summary["case"],
        "rows": rows,
        "seconds": seeds["seconds"],
        "environment": benchmark["environment"],
    }


def _is_kept(name: str) -> bool:
    return name in (*KEPT, *MEASURES) or name.startswith(PREFIXES)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def main(runs: str, name: str, out: str) -> None:
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures_of(Path(runs), name), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
