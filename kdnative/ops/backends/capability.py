"""Which NVIDIA GPUs run the kernels for them, those of CUDA and those of Triton."""

from __future__ import annotations

import torch

__all__ = ["LEAST_CAPABILITY", "device_refusal", "too_old"]

LEAST_CAPABILITY = (8, 0)
"""That of the devices that run the kernels; ``csrc/cuda/host/device.cpp`` has the same."""


def device_refusal(device: torch.device) -> str | None:
    """Why a device, on which nothing may be yet, can't run the kernels, in words, or None."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    return too_old(torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device))


def too_old(name: str, capability: tuple[int, int]) -> str | None:
    """Why the kernels don't run on a GPU of a compute capability, in words, or None."""
    if capability >= LEAST_CAPABILITY:
        return None
    return (
        f"{name} has compute capability {capability[0]}.{capability[1]}, and kdnative's kernels need 8.0: set "
        "KDNATIVE_GPU_KERNELS=reference to compute in plain torch, or keep the model on the CPU"
    )
