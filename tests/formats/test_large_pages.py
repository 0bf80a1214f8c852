"""Buffers on large pages hold what others hold, and go where others go."""

import copy
import gc
import mmap
import pickle
from pathlib import Path

import pytest
import torch

import kdnative as kd
from kdnative.formats import dense, large_pages
from tests.native.test_linear import weight


@pytest.fixture
def always(monkeypatch):
    """Every packed weight is large."""
    monkeypatch.setattr(large_pages, "LEAST", 1)


def mapping(tensor: torch.Tensor) -> list[str]:
    """What Linux tells of the mapping that holds the tensor."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    found: list[str] = []
    for line in lines:
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):  # "begin-end permissions ...": the next mapping
            begin, end = (int(address, 16) for address in first.split("-"))
            if found:
                break
            if not begin <= tensor.data_ptr() < end:
                continue
            found.append(line)
        elif found:
            found.append(line)
    return found


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this system has no large pages")
def test_large_pages_are_asked_for(monkeypatch):
    large = large_pages.zeros(large_pages.LEAST)
    asked = [line for line in mapping(large) if line.startswith("VmFlags:")]
    assert asked and "hg" in asked[0].split()

    # A small buffer makes no mapping of its own. Its flags tell nothing: it may lie where NumPy asked for large pages.
    monkeypatch.delattr(mmap, "mmap")
    assert not large_pages.zeros(large_pages.LEAST - 1).any()


@pytest.mark.parametrize("size", [1, 4097, 3 * 2**20 + 5])
def test_zeros(always, size):
    out = large_pages.zeros(size)
    assert out.dtype == torch.uint8 and out.shape == (size,) and not out.any()
    out[-1] = 7
    assert out[-1] == 7 and int(out.sum()) == 7


@pytest.mark.parametrize("missing", ["name", "pages"])
def test_a_system_without_large_pages(always, monkeypatch, missing):
    if missing == "name":
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    else:
        monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 10_000, raising=False)  # the system refuses what it does not know
    out = large_pages.zeros(5000)
    assert out.shape == (5000,) and not out.any()


@pytest.mark.parametrize("scheme", ["w8", "w4-32"])
def test_packed_weights_are_the_same(monkeypatch, scheme):
    w = weight(scheme, 100, 128)
    usual = dense.pack(w)
    monkeypatch.setattr(large_pages, "LEAST", 1)
    assert torch.equal(dense.pack(w), usual)


def test_a_view_keeps_the_memory(always):
    view = large_pages.zeros(100_000)[50_000:]
    gc.collect()
    assert not view.any()
    view.fill_(3)
    assert int(view.sum()) == 150_000


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell the size of a process")
def test_memory_goes_back():
    def pages() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0])

    size = 64 * 2**20
    before = pages()
    buffer = large_pages.zeros(size)
    assert pages() - before >= size // mmap.PAGESIZE
    del buffer
    gc.collect()
    assert pages() - before < size // mmap.PAGESIZE // 2


def test_modules_go_where_modules_go(always, tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(192, 96))
    kd.convert_(model, "w8a8")
    x = torch.randn(5, 192)
    with torch.inference_mode():
        expected = model(x)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(x), expected)
        torch.save(model, tmp_path / "model.pt")
        assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=False)(x), expected)
        exported = torch.export.export(model, (x,)).module()
        assert torch.equal(exported(x), expected)
        model.share_memory()
        assert model[0].packed.is_shared() and torch.equal(model(x), expected)
        assert torch.equal(torch.compile(model, fullgraph=True, backend="eager")(x), expected)
