"""Backends: what a kind of device can do, how weights lie there, and who computes the operators.

One file a backend. It makes a :class:`Backend`, and is named here: :func:`register` says which devices have it, and
:func:`implement` gives torch its functions, which replace those of the reference. What a
scheme means is the business of :mod:`kdnative.formats`; whether a device computes with it is asked here::

    refusal = backend_for("cpu").refusal(Scheme.parse("w8a8-g64"), (768, 768))  # None, or why not

Devices without a backend have the reference one, which computes in plain torch. ``KDNATIVE_BACKEND=reference`` takes it
everywhere. ``KDNATIVE_BACKEND=cuda`` is for tests: CUDA kernels, run by an emulator, on tensors of the CPU.
"""

from __future__ import annotations

import os

import torch

from kdnative.formats.scheme import Scheme
from kdnative.ops.backends import cublas, cuda
from kdnative.ops.backends.base import Backend
from kdnative.ops.backends.cpu import CPU
from kdnative.ops.backends.implementing import implement
from kdnative.ops.backends.reference import MPS, REFERENCE, take_over

__all__ = ["Backend", "accepted", "backend_for", "device_refusal", "implement", "register"]

_BACKENDS: dict[str, Backend] = {}

GPU_KERNELS = ("cuda", "triton", "cublas", "reference")
"""Who may compute on NVIDIA GPUs: values of KDNATIVE_GPU_KERNELS."""


def register(device_type: str, backend: Backend) -> None:
    """Let ``backend`` be the one of all devices of a type, such as ``"cpu"``."""
    _BACKENDS[device_type] = backend


def backend_for(device: torch.device | str) -> Backend:
    """The backend of a device; meta tensors have that of the CPU, for which weights are laid out when they arrive."""
    kind = torch.device(device).type
    return _BACKENDS.get("cpu" if kind == "meta" else kind, REFERENCE)


def device_refusal(device: torch.device) -> str | None:
    """Why no layer on a device can be native, whatever its scheme is, in words, or None.

    Devices that nobody registered compute in plain torch if a module is moved there, and nothing is made for them.
    """
    backend = _BACKENDS.get("cpu" if device.type == "meta" else device.type)
    if backend is None or not backend.schemes:
        return "native modules run on the CPU and on NVIDIA GPUs: call model.cpu() first"
    return backend.device_refusal(device)


def accepted(scheme: Scheme | str, device: torch.device | str = "cpu") -> Scheme:
    """The scheme of a name that a user wrote, if linears of a device compute with it.

    Raises:
        ValueError: there is no such scheme, or no kernel for it; or it has input scales, which nobody asks for.
        TypeError: neither a string nor a Scheme.
    """
    scheme = Scheme.parse(scheme)
    if refusal := backend_for(device).refusal(scheme):
        raise ValueError(refusal)
    if scheme.input_scales:
        raise ValueError(f"scheme {scheme} is what calibration makes of {scheme.plain}: ask for that")
    return scheme


def _start() -> None:
    """Say which devices have which backend, by two environment variables."""
    everywhere = os.environ.get("KDNATIVE_BACKEND", "")
    if everywhere not in ("", "reference", "cuda"):
        raise ImportError(f"KDNATIVE_BACKEND={everywhere!r} can't be chosen: it is reference, or left out")
    gpu = os.environ.get("KDNATIVE_GPU_KERNELS", "") or GPU_KERNELS[0]
    if gpu not in GPU_KERNELS:
        raise ImportError(f"KDNATIVE_GPU_KERNELS={gpu!r} can't be chosen: it is {', '.join(GPU_KERNELS)}, or left out")
    if everywhere == "reference" or torch.version.hip is not None:
        gpu = "reference"
    register("mps", MPS)
    if everywhere != "reference":
        register("cpu", CPU)
    take_over(cpu=everywhere == "reference", native={"cuda": cuda.OPERATORS} if gpu in ("cuda", "cublas") else {})
    for device_type in ("cpu", "cuda") if everywhere == "cuda" else ("cuda",):
        register(device_type, _gpu_backend(gpu, device_type))


def _gpu_backend(kernels: str, device_type: str) -> Backend:
    """One of :data:`GPU_KERNELS`, which computes the operators of a type of device from now on."""
    if kernels == "reference":
        return REFERENCE
    if kernels == "cublas":
        cublas.start(device_type)
        return cublas.CUBLAS
    if kernels == "triton":
        from kdnative.ops.backends.triton import backend  # which imports triton: nobody else has to have it

        backend.start(device_type)
        return backend.TRITON
    return cuda.start(device_type)


_start()
