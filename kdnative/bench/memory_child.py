"""One process of the memory suite: imports, loads a model and runs it, and prints its own sizes as JSON.

``python -m kdnative.bench.memory_child JOB``; the job is JSON with ``imports`` (modules), ``kind`` (``"none"``,
``"native"`` or ``"float"``), ``folder``, ``batch``, ``tokens``, ``vocabulary`` and ``threads``. The forwards together
use every row of the vocabulary once, as a served model does before long: files are mapped, and a row of a table that
nobody used is not in memory yet.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path


def main(job: dict) -> dict[str, int]:
    """Does the job and returns the sizes of this process in bytes, see :func:`sizes`, with ``tensors``, the model's."""
    for name in job["imports"]:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(job["threads"])
    model = _load(job["kind"], job["folder"])
    if model is not None:
        mask = torch.ones(job["batch"], job["tokens"], dtype=torch.int64)
        with torch.inference_mode():
            for first in range(0, job["vocabulary"], mask.numel()):
                ids = (first + torch.arange(mask.numel())) % job["vocabulary"]
                model(input_ids=ids.view_as(mask), attention_mask=mask)
    found = sizes()
    tensors = {} if model is None else {t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}
    return {**found, "tensors": sum(tensors.values())}


def _load(kind: str, folder: str):
    if kind == "none":
        return None
    if kind == "native":
        import kdnative

        return kdnative.load(folder)
    import torch
    import transformers

    return transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


def sizes(process: Path = Path("/proc/self")) -> dict[str, int]:
    """``peak`` and ``resident`` (VmHWM, VmRSS), and of what is mapped now ``private`` (by no other process) and its
    proportional share ``shared_out``, all in bytes."""
    status = _kilobytes(process / "status")
    rollup = _kilobytes(process / "smaps_rollup")
    return {
        "peak": status["VmHWM"],
        "resident": status["VmRSS"],
        "private": rollup["Private_Clean"] + rollup["Private_Dirty"],
        "shared_out": rollup["Pss"],
    }


def _kilobytes(path: Path) -> dict[str, int]:
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) << 10 for row in rows if len(row) == 3 and row[2] == "kB"}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
