"""Shared fixtures: instruction sets, thread counts, and a fixed seed for every test."""

import collections
import os
import platform

import pytest
import torch

ISAS = {
    "x86_64": ("reference", "avx2", "avxvnni", "avx512vnni", "avx512bf16", "amx"),
    "aarch64": ("reference", "neon", "i8mm"),
}.get(platform.machine(), ("reference",))


LONG = ("tests/native/test_kernels.py", "tests/native/test_arm.py")


def pytest_collection_modifyitems(items):
    """Files whose single tests take minutes begin first, then those with most tests: the last ones to end are short."""
    counts = collections.Counter(item.path for item in items)
    items.sort(key=lambda item: (not item.path.as_posix().endswith(LONG), -counts[item.path]))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _threads():
    """One thread, unless a test sets more: on tensors this small a second one takes longer to wake than it helps."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def _store(tmp_path_factory):
    """Runs of tests leave nothing in the user's store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNATIVE_STORE", str(tmp_path_factory.mktemp("store")))
        yield


@pytest.fixture(params=ISAS)
def isa(request):
    """Runs the test once per instruction set. One that this processor lacks is reported as skipped, by name.

    With KDNATIVE_ISA in the environment only that one runs, and it must be possible.
    """
    from kdnative import ops

    forced = os.environ.get("KDNATIVE_ISA")
    if forced and request.param != forced:
        pytest.skip(f"KDNATIVE_ISA={forced} runs that one only")
    if request.param not in ops.built_isas():
        pytest.skip(f"this build has no {request.param}")
    if request.param not in ops.available_isas():
        pytest.skip(f"this processor cannot run {request.param}")
    ops.select_isa(request.param)
    yield request.param
    ops.select_isa(forced or "")
