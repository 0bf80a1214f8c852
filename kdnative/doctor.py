"""What kdnative finds on this machine: kernels, torch, GPU, optional packages; and what to do about what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import torch

from kdnative import __version__
from kdnative.data import cache_dir
from kdnative.extras import EXTRAS, how_to_get, installed
from kdnative.machine.environment import cpu_name

SUPPORTED_TORCH = (2, 10)
_LEAST_DRIVERS = {12: 525, 13: 580}
"""The first driver of each CUDA, which loads the cubins of all its versions."""
# Where the name to install differs from the name to import.
_DISTRIBUTIONS = {"huggingface_hub": "huggingface-hub", "yaml": "pyyaml", "PIL": "pillow"}


def collect() -> dict[str, Any]:
    """Everything ``kdnative doctor`` prints, as plain values ready for JSON.

    ``problems`` lists in words what keeps kdnative from working here; it is empty on a sound machine. Missing optional
    packages are no problem, they are listed under ``extras`` with the command that installs them.
    """
    torch_ok = _version(torch.__version__) >= SUPPORTED_TORCH
    supported = ">=" + ".".join(map(str, SUPPORTED_TORCH))
    native = _native()
    gpu = _gpu(native["loaded"])
    problems = list(gpu.pop("problems"))
    if not torch_ok:
        problems.append(f"torch {torch.__version__} is too old: kdnative needs torch {supported}")
    if not native["loaded"]:
        problems.append(native["error"])
    elif native["emulates_amx"]:
        problems.append("this build emulates AMX tiles in software, which is for tests only: reinstall kdnative")
    return {
        "kdnative": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "torch": {"version": torch.__version__, "supported": supported, "ok": torch_ok},
        "threads": torch.get_num_threads(),
        "native": native,
        "gpu": gpu,
        "extras": _extras(),
        "cache": _cache(),
        "problems": problems,
    }


def describe(found: dict[str, Any]) -> str:
    """The text of ``kdnative doctor`` for what :func:`collect` returned."""
    native, gpu, cache = found["native"], found["gpu"], found["cache"]
    torch_row = f"{found['torch']['version']} (supported: {found['torch']['supported']})"
    rows = [
        ("kdnative", found["kdnative"]),
        ("python", f"{found['python']}, {found['system']}"),
        ("processor", f"{found['cpu']}, {found['cores']} cores"),
        ("torch", torch_row),
        ("threads", str(found["threads"])),
    ]
    if native["loaded"]:
        forced = f", forced by KDNATIVE_ISA={native['forced']}" if native["forced"] else ""
        rows.append(("native library", f"{native['megabytes']:.1f} MB, holds {', '.join(native['built'])}"))
        available = ", ".join(native["available"])
        rows.append(("instruction set", f"{native['isa']}{forced} (this machine runs: {available})"))
        rows += [(f"  {operator}", isa) for operator, isa in native["kernels"].items()]
    else:
        rows.append(("native library", "NOT LOADED"))
    rows += _gpu_rows(gpu)
    for extra, packages in found["extras"].items():
        missing = [name for name, version in packages.items() if version is None]
        present = ", ".join(f"{name} {version}" for name, version in packages.items() if version is not None)
        need = f"missing {', '.join(missing)}: {how_to_get(extra)}" if missing else ""
        rows.append((f"extra [{extra}]", "; ".join(part for part in (present, need) if part)))
    rows.append(("cache", f"{cache['path']} ({cache['megabytes']:.1f} MB; KDNATIVE_CACHE moves it)"))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    lines += [f"PROBLEM: {problem}" for problem in found["problems"]] or ["no problem found"]
    return "\n".join(lines)


def _native() -> dict[str, Any]:
    forced = os.environ.get("KDNATIVE_ISA") or None
    try:
        from kdnative import ops

        return {
            "loaded": True,
            "error": None,
            "forced": forced,
            "isa": ops.isa(),
            "built": ops.built_isas(),
            "megabytes": os.path.getsize(ops._C.__file__) / 1e6,
            "available": ops.available_isas(),
            "emulates_amx": ops.emulates_amx(),
            "kernels": ops.kernel_table(),
        }
    except AttributeError as error:
        problem = f"the native library is older than the sources ({error}): run make build"
    except (ImportError, ValueError, RuntimeError) as error:  # not built, or a forced name this machine can't run
        problem = str(error)
    nothing: dict[str, Any] = {
        "isa": None,
        "built": [],
        "megabytes": None,
        "available": [],
        "emulates_amx": False,
        "kernels": {},
    }
    return {"loaded": False, "error": problem, "forced": forced, **nothing}


def _gpu(native: bool) -> dict[str, Any]:
    """GPUs, their driver, and the kernels for them. ``native``: whether the native library is there."""
    name = None
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        name = f"{torch.cuda.get_device_name()} (sm_{major}{minor})"
    found: dict[str, Any] = {"name": name, "cuda": torch.version.cuda, "triton": _installed_version("triton")}
    found |= {"driver": None, "driver_error": None, "devices": [], "compiled": {}, "nvrtc": None, "nvrtc_error": None}
    found |= {"compiled_by": None, "problems": []}
    if not native:
        return found
    from kdnative import _C
    from kdnative.ops import nvrtc
    from kdnative.ops.backends import backend_for, cuda_images
    from kdnative.ops.backends.capability import too_old

    version = None
    try:
        file, version = _C.cuda_driver()
        found["driver"] = {"file": file, "cuda": f"{version // 1000}.{version % 1000 // 10}"}
        devices = _C.cuda_devices()
        found["devices"] = [
            {"name": name, "capability": f"{capability // 10}.{capability % 10}", "multiprocessors": count}
            for name, capability, count in devices
        ]
        if not backend_for("cuda").is_fallback:
            old = (too_old(name, divmod(capability, 10)) for name, capability, _ in devices)
            found["problems"] = list(filter(None, old))
    except RuntimeError as error:
        found["driver_error"] = str(error)
    try:
        found["nvrtc"] = (nvrtc.load() if version is None else nvrtc.load(version // 1000)).version_text
    except nvrtc.NvrtcError as error:
        found["nvrtc_error"] = str(error)
    by = cuda_images.compiled_by()
    return found | {"compiled": cuda_images.compiled(), "compiled_by": by and f"{by[0]}.{by[1]}"}


def _gpu_rows(gpu: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("gpu", gpu["name"] or "none found by torch")]
    rows.append(("cuda, triton", f"{gpu['cuda'] or 'torch without CUDA'}, {gpu['triton'] or 'no triton'}"))
    if gpu["driver"] is None:
        rows.append(("gpu driver", gpu["driver_error"] or "not checked, because the native library is missing"))
    else:
        devices = ", ".join(f"{each['name']} (capability {each['capability']})" for each in gpu["devices"])
        rows.append(("gpu driver", f"of CUDA {gpu['driver']['cuda']}: {devices or gpu['driver_error'] or 'no device'}"))
    made = {capability for capabilities in gpu["compiled"].values() for capability in capabilities}
    compiled = ", ".join(f"{capability / 10}" for capability in sorted(made))
    if made:
        text = f"compiled for capability {compiled}{_drivers(gpu['compiled_by'])}"
        compiler = (
            f"NVRTC {gpu['nvrtc']} compiles for other devices"
            if gpu["nvrtc"]
            else f"other devices are not supported: {gpu['nvrtc_error']}"
        )
    else:
        text = "sources"
        compiler = f"NVRTC {gpu['nvrtc']} compiles them at first use" if gpu["nvrtc"] else gpu["nvrtc_error"]
    rows.append(("gpu kernels", f"{text}; {compiler or 'no compiler'}"))
    return rows


def _drivers(compiler: str | None) -> str:
    """The drivers that load what a compiler made: cubins go to all of its CUDA and newer, PTX to its own and newer."""
    if compiler is None:
        return ""
    major = int(compiler.partition(".")[0])
    least = _LEAST_DRIVERS.get(major)
    cubins = f"driver {least} or newer" if least else f"a driver of CUDA {major} or newer"
    return f" ({cubins}; PTX for newer devices: a driver of CUDA {compiler} or newer)"


def _extras() -> dict[str, dict[str, str | None]]:
    extras: dict[str, dict[str, str | None]] = {}
    for module, extra in EXTRAS.items():
        extras.setdefault(extra, {})[_DISTRIBUTIONS.get(module, module)] = _installed_version(module)
    return extras


def _installed_version(module: str) -> str | None:
    if not installed(module):
        return None
    try:
        return importlib.metadata.version(_DISTRIBUTIONS.get(module, module))
    except importlib.metadata.PackageNotFoundError:
        return "(unknown version)"


def _cache() -> dict[str, Any]:
    path = cache_dir()
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else []
    return {"path": str(path), "megabytes": sum(file.stat().st_size for file in files) / 1e6}


def _version(text: str) -> tuple[int, ...]:
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in text.split("+")[0].split(".")[:2])
