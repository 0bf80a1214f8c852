"""Where a measurement was made: a block that every result carries, and a clean environment for the peers."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kdnative import __version__
from kdnative.files import replace_text

# Processor flags that decide which kernels anyone can run: of x86-64, then of ARM64.
_FLAGS = (
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
    "svei8mm",
    "svebf16",
    "sme",
    "sme2",
)
# Vendor, family, models from and to, name of the core.
_CORES = (
    ("AuthenticAMD", "23", 48, 127, "Zen 2"),
    ("AuthenticAMD", "25", 0, 15, "Zen 3"),
    ("AuthenticAMD", "25", 16, 31, "Zen 4"),
    ("AuthenticAMD", "25", 32, 95, "Zen 3"),
    ("AuthenticAMD", "25", 96, 175, "Zen 4"),
    ("AuthenticAMD", "26", 0, 255, "Zen 5"),
    ("GenuineIntel", "6", 85, 85, "Skylake or Cascade Lake"),
    ("GenuineIntel", "6", 106, 108, "Ice Lake"),
    ("GenuineIntel", "6", 143, 143, "Sapphire Rapids"),
    ("GenuineIntel", "6", 173, 174, "Granite Rapids"),
    ("GenuineIntel", "6", 207, 207, "Emerald Rapids"),
)
_NUMBERS = re.compile(r"\[(?:\s+-?\d[\d.e+-]*,?)+\s+\]")
_CPUINFO = "/proc/cpuinfo"
# They pin the BLAS behind torch or numpy to another processor's kernels or to one thread: that would flatter us.
_SPOILING = "OPENBLAS_"
_NOTED = ("OMP_", "MKL_", "KMP_", "GOMP_", "KDNATIVE_", "ONEDNN_", "DNNL_", "TORCHINDUCTOR_")


def environment(threads: int | list[int] | None = None) -> dict[str, Any]:
    """Machine, versions and settings, ready for JSON.

    Args:
        threads: torch threads of the measurement, or of each of its parts (None: as torch has them now).
    """
    from kdnative import ops

    flags = cpu_flags()
    threads = torch.get_num_threads() if threads is None else threads
    return {
        "cpu": cpu_name(),
        "core": core_name(_cpuinfo("vendor_id"), _cpuinfo("cpu family"), _cpuinfo("model")),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kdnative": __version__,
        "isa": ops.isa(),
        "threads": threads if isinstance(threads, int) else list(threads),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "revision": _revision(),
        "variables": _variables(),
    }


def _variables() -> dict[str, str]:
    """Settings that change speed; folders do not, and are nobody's business."""
    return {k: v for k, v in sorted(os.environ.items()) if k.startswith(_NOTED) and os.sep not in v}


def cpu_name() -> str:
    """The processor's name; ARM64 Linux only knows numbers of its maker and model."""
    maker, part = _cpuinfo("CPU implementer"), _cpuinfo("CPU part")
    numbers = f"ARM implementer {maker} part {part}" if maker and part else ""
    return _cpuinfo("model name") or numbers or platform.processor() or platform.machine()


def core_name(vendor: str, family: str, model: str) -> str:
    """The design of a core, such as ``"Zen 4"``, by the numbers that Linux shows; empty where the table lacks it.

    Rented machines often hide it in the processor's name ("AMD EPYC Processor").
    """
    for maker, of_family, first, last, name in _CORES:
        if (vendor, family) == (maker, of_family) and model.isdecimal() and first <= int(model) <= last:
            return name
    return ""


def cpu_flags() -> set[str]:
    """The processor's feature flags as Linux names them; empty elsewhere."""
    return set((_cpuinfo("flags") or _cpuinfo("Features")).split())


def rerun_clean(module: str, argv: Sequence[str]) -> int | None:
    """Runs ``python -m module`` again without the variables that slow the peers down.

    Returns:
        The exit code of that run, or None when no such variable is set and nothing was run.
    """
    spoiling = sorted(name for name in os.environ if name.startswith(_SPOILING))
    if not spoiling:
        return None
    print(f"{', '.join(spoiling)} would change the speed of the other engines: measuring without.", file=sys.stderr)
    return subprocess.run([sys.executable, "-m", module, *argv], env=child_environment(), check=False).returncode


def child_environment() -> dict[str, str]:
    """This process's variables for a Python of its own that finds kdnative, less those that slow the peers down."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_SPOILING)}
    package_parent = str(Path(__file__).resolve().parents[2])
    clean["PYTHONPATH"] = os.pathsep.join(filter(None, [package_parent, clean.get("PYTHONPATH")]))
    return clean


def folder_name() -> str:
    """What results of this machine lie under: its core, such as ``"zen4"``, or the instruction set in use."""
    from kdnative import ops

    core = core_name(_cpuinfo("vendor_id"), _cpuinfo("cpu family"), _cpuinfo("model"))
    return re.sub(r"\W", "", core).lower() or ops.isa()


def write_result(path: str | Path, result: dict[str, Any]) -> None:
    """Writes a result as JSON in one step: readers see the old file or the new one. A list of numbers is one line."""
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    replace_text(path, _NUMBERS.sub(lambda found: " ".join(found[0].split()), text) + "\n")


def _cpuinfo(key: str) -> str:
    try:
        with open(_CPUINFO, encoding="utf-8") as stream:
            for line in stream:
                name, _, value = line.partition(":")
                if name.strip() == key:
                    return value.strip()
    except OSError:
        pass  # not Linux
    return ""


def _revision() -> str | None:
    """The git revision of the source tree, marked when files differ from it; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


if __name__ == "__main__":
    print(folder_name())
