"""``make test-gpu-wheels``: an installed wheel works without a GPU, and ``kdnative doctor`` says which GPU kernels it
brings. The Python of the wheel runs this file by its path, so that the source tree isn't imported.

    python tools/gpu_wheels.py 80 90    # a wheel with cubins for these capabilities
    python tools/gpu_wheels.py          # one with sources alone
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import kdnative
from kdnative.nn import Linear
from kdnative.ops.backends import cuda_images

FAMILIES = ["blocks", "quantize", "sparse24", "w4a16", "w8a8"]


def check(capabilities: list[int]) -> None:
    """AssertionError unless this package has cubins for these capabilities, or none for an empty list."""
    here = Path(kdnative.__file__)
    assert here.is_relative_to(sys.prefix), f"{here} is the source tree, and not a wheel in {sys.prefix}"
    x, layer = torch.randn(3, 64), torch.nn.Linear(64, 8)
    assert (Linear.from_float(layer)(x) - layer(x)).abs().max() < 0.1  # the native library loads, and computes
    assert cuda_images.families() == FAMILIES, "the sources of the kernels aren't in the package"

    found, text = doctor()
    gpu, row = found["gpu"], row_of(text, "gpu kernels")
    assert found["native"]["loaded"] and not found["problems"], found["problems"]
    assert gpu["compiled"] == {family: capabilities for family in FAMILIES if capabilities}, gpu["compiled"]
    if gpu["driver"] is None:
        assert "no CUDA driver" in row_of(text, "gpu driver") and "NVIDIA's driver" in gpu["driver_error"]
    without, without_text = doctor(KDNATIVE_NVRTC="")
    assert without["gpu"]["nvrtc"] is None and "nvidia-cuda-nvrtc-cu12" in without["gpu"]["nvrtc_error"]
    missing = row_of(without_text, "gpu kernels")
    if capabilities:
        listed = ", ".join(f"{each / 10}" for each in capabilities)
        assert row.startswith(f"compiled for capability {listed} (driver 525 or newer; PTX for newer devices: "), row
        assert gpu["compiled_by"].startswith("12.") and "others aren't: " in missing, missing
        for family in FAMILIES:
            assert cuda_images.image(family, capabilities[0]).startswith(b"\x7fELF")
    else:
        assert row.startswith("sources; ") and gpu["compiled_by"] is None, row
        assert missing == f"sources; {without['gpu']['nvrtc_error']}", missing
    print(f"torch {torch.__version__}, gpu kernels: {row}")


def doctor(**environment: str) -> tuple[dict[str, Any], str]:
    """What ``kdnative doctor`` says, as JSON and as a person reads it; away from the source tree."""
    command, variables = [sys.executable, "-m", "kdnative", "doctor"], {**os.environ, **environment}
    run = [
        subprocess.run(given, capture_output=True, text=True, check=True, env=variables, cwd=sys.prefix).stdout
        for given in ([*command, "--json"], command)
    ]
    return json.loads(run[0]), run[1]


def row_of(text: str, name: str) -> str:
    return next(line.removeprefix(name).strip() for line in text.splitlines() if line.startswith(name))


if __name__ == "__main__":
    check([int(given) for given in sys.argv[1:]])
