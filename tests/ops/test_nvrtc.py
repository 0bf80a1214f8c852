"""The run-time compiler: what it makes, where it is found, and what it says when something is wrong."""

from __future__ import annotations

import pytest

from kdnative.ops import nvrtc

KERNEL = """
#include "two.h"
extern "C" __global__ void twice(float* x) { x[threadIdx.x] = x[threadIdx.x] * TWO + ONE; }
"""


@pytest.fixture(scope="module")
def compiler():
    if nvrtc.find() is None:
        pytest.skip("libnvrtc isn't here: pip install nvidia-cuda-nvrtc-cu12")
    return nvrtc.load()


@pytest.fixture
def headers(tmp_path):
    (tmp_path / "two.h").write_text("#define TWO 2.0f\n")
    return tmp_path


def test_ptx_and_cubin(compiler, headers, tmp_path):
    file = tmp_path / "twice.cu"
    file.write_text(KERNEL)
    ptx = compiler.compile(file, "compute_80", [headers], ["-DONE=1.0f"])
    assert b".target sm_80" in ptx and b".entry twice" in ptx and not ptx.endswith(b"\0")
    assert ptx == compiler.compile(KERNEL, "compute_80", [headers], ["-DONE=1.0f"])  # no name and no path in it
    assert b"fma.rn.f32" in ptx
    assert b"fma.rn.f32" not in compiler.compile(KERNEL, "compute_80", [headers], ["-DONE=1.0f", "--fmad=false"])
    cubin = compiler.compile(KERNEL, "sm_90", [headers], ["-DONE=1.0f"])
    assert cubin.startswith(b"\x7fELF") and b".text.twice" in cubin
    assert cubin == compiler.compile(KERNEL, "sm_90", [headers], ["-DONE=1.0f"])


def test_errors_have_the_log(compiler, headers):
    with pytest.raises(
        nvrtc.NvrtcError, match=r'(?s)doesn\'t compile kernel.cu for sm_80.*identifier "ONE" is undefined'
    ):
        compiler.compile(KERNEL, "sm_80", [headers])
    with pytest.raises(nvrtc.NvrtcError, match=r"(?s)sm_10\b"):
        compiler.compile(KERNEL, "sm_10", [headers])
    with pytest.raises(ValueError, match="arch: 'ampere' is given"):
        compiler.compile(KERNEL, "ampere")
    with pytest.raises(nvrtc.NvrtcError, match="could not open source file"):
        compiler.compile(KERNEL, "sm_80")


def test_the_older_major_first(monkeypatch, tmp_path):
    monkeypatch.delenv(nvrtc.VARIABLE, raising=False)
    new = tmp_path / "site" / "nvidia" / "cu13" / "lib" / "libnvrtc.so.13"
    old = tmp_path / "more" / "nvidia" / "cuda_nvrtc" / "lib" / "libnvrtc.so.12"
    system = tmp_path / "cuda" / "lib64" / "libnvrtc.so.12"
    monkeypatch.setattr(nvrtc.sys, "path", [str(tmp_path / "site"), str(tmp_path / "more")])
    monkeypatch.setattr(nvrtc.sys, "prefix", str(tmp_path / "conda"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    for path in (system, new, old):
        path.parent.mkdir(parents=True)
        path.touch()
        assert nvrtc.find() == path  # each is preferred to those before


class Library:
    """What Nvrtc is of a path, whose first line is its version."""

    def __init__(self, path):
        self.path, text = path, path.read_text()
        if not text:
            raise nvrtc.NvrtcError(f"{path} can't be loaded")
        self.version_text = text
        self.version = tuple(map(int, text.split(".")))


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with these libraries alone."""
    for variable in (nvrtc.VARIABLE, "CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setattr(nvrtc.sys, "path", [str(tmp_path / "site")])
    monkeypatch.setattr(nvrtc.sys, "prefix", str(tmp_path / "conda"))
    monkeypatch.setattr(nvrtc, "Nvrtc", Library)
    monkeypatch.setattr(nvrtc, "_loadable", lambda name: False)
    nvrtc.load.cache_clear()

    def add(place, version):
        file = tmp_path / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(version)
        nvrtc.load.cache_clear()
        return file

    yield add
    nvrtc.load.cache_clear()


def test_one_that_is_too_old_or_broken_is_passed_over(machine):
    machine("site/nvidia/cuda_nvrtc/lib/libnvrtc.so.12", "12.4")
    machine("site/torch/lib/libnvrtc-builtins.so.12.9", "12.9")
    with pytest.raises(
        nvrtc.NvrtcError, match=r"isn't here \(.*is NVRTC 12\.4, and the kernels need 12\.5\).*nvrtc-cu12"
    ):
        nvrtc.load()
    machine("conda/lib/libnvrtc.so.12", "")
    right = machine("cuda/targets/sbsa-linux/lib/libnvrtc.so.12", "12.5")
    assert nvrtc.load().path == right
    right = machine("conda/targets/x86_64-linux/lib/libnvrtc.so.12", "12.6")
    assert nvrtc.load().path == right
    right = machine("site/torch/lib/libnvrtc-1f2e3d.so.12", "12.8")
    assert nvrtc.load().path == right


def test_packages_are_made_by_the_older_one_and_drivers_limit_the_newer(machine):
    new = machine("site/nvidia/cu13/lib/libnvrtc.so.13", "13.0")
    assert nvrtc.load().path == nvrtc.load(older_first=True).path == new
    with pytest.raises(nvrtc.NvrtcError, match=r"NVRTC 13\.0, and the driver refuses what it makes.*nvrtc-cu12"):
        nvrtc.load(12)
    old = machine("cuda/lib64/libnvrtc.so.12", "12.9")
    assert nvrtc.load(13).path == new and nvrtc.load(12).path == nvrtc.load(older_first=True).path == old


def test_the_loader_may_know_one_that_is_in_no_folder(machine, monkeypatch):
    monkeypatch.setattr(nvrtc, "_systems", lambda: iter(()))
    assert nvrtc.find() is None
    monkeypatch.setattr(nvrtc, "_loadable", lambda name: name == "libnvrtc.so.13")
    assert str(nvrtc.find()) == "libnvrtc.so.13"
    monkeypatch.setenv(nvrtc.VARIABLE, "libnvrtc.so.13")  # as a build is told of it
    assert str(nvrtc.find()) == "libnvrtc.so.13"


def test_variable(monkeypatch, tmp_path):
    monkeypatch.setenv(nvrtc.VARIABLE, "")
    assert nvrtc.find() is None
    monkeypatch.setenv(nvrtc.VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(nvrtc.NvrtcError, match="isn't a file"):
        nvrtc.find()
    file = tmp_path / "libnvrtc.so.12"
    file.write_text("no library")
    monkeypatch.setenv(nvrtc.VARIABLE, str(file))
    assert nvrtc.find() == file
    with pytest.raises(nvrtc.NvrtcError, match="can't be loaded as NVRTC"):
        nvrtc.Nvrtc(file)


def test_without_one(monkeypatch):
    monkeypatch.setenv(nvrtc.VARIABLE, "")
    nvrtc.load.cache_clear()
    try:
        with pytest.raises(nvrtc.NvrtcError, match="pip install nvidia-cuda-nvrtc-cu12"):
            nvrtc.load()
    finally:
        nvrtc.load.cache_clear()
