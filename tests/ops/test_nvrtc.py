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
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    for path in (system, new, old):
        path.parent.mkdir(parents=True)
        path.touch()
        assert nvrtc.find() == path  # each is preferred to those before


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
