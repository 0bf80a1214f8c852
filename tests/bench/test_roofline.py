"""Ceilings: real probes of the native library, short, and the arithmetic around them."""

import threading

import pytest

from kdnative import ops
from kdnative.bench.roofline import cache_sizes, ceilings, together


def test_ceilings_of_this_machine():
    found = ceilings(1, seconds=0.02)
    assert found["isa"] == ops.isa()
    assert [row["level"] for row in found["read"]] == ["L1", "L2", "L3", "memory"]
    assert all(1e8 < row["bytes_per_second"] < 1e13 for row in found["read"])
    assert found["read"][0]["bytes"] < found["read"][1]["bytes"] < found["read"][2]["bytes"] < found["read"][3]["bytes"]
    assert found["read"][0]["bytes_per_second"] > found["read"][3]["bytes_per_second"]


def test_compute_ceiling_of_each_instruction_set(isa):
    peak = ceilings(1, seconds=0.02)["int8_ops"]
    if isa == "reference":
        assert peak is None
    else:
        assert 1e9 < peak < 1e14


def test_wider_instruction_sets_have_higher_ceilings():
    # avx512bf16 has the integer instructions of avx512vnni, and its probe
    wider = [name for name in ops.available_isas() if name not in ("reference", "avx512bf16")]
    peaks = [ops._C.peak_int8_ops(name, 0.05) for name in wider]
    assert peaks == sorted(peaks)


@pytest.mark.parametrize("name", ["reference", "neon", ""])
def test_instruction_sets_without_a_probe_have_no_ceiling(name):
    assert ops._C.peak_int8_ops(name, 0.01) == 0.0


@pytest.mark.parametrize("size", [0, 1, 4097, 100_001])
def test_odd_buffer_sizes_are_read(size):
    assert ops._C.read_bandwidth(size, 0.005) > 1e8


def test_a_buffer_that_cannot_be_allocated_gives_no_figure():
    assert ops._C.read_bandwidth(1 << 60, 0.005) == 0.0


def test_a_kernel_still_runs_after_its_ceiling_was_measured(isa):
    """The AMX probe must leave the tile configuration that the kernels count on."""
    import torch

    from kdnative.nn import Linear

    layer, x = Linear.from_float(torch.nn.Linear(70, 33), "w8a8"), torch.randn(40, 70)
    before = layer(x)
    ops._C.peak_int8_ops(isa, 0.005)
    assert torch.equal(layer(x), before)


def test_threads_run_at_the_same_time_and_add_up():
    gate = threading.Barrier(3)

    def probe():
        gate.wait(timeout=10)  # passes only when all three are here
        return 2.0

    assert together(probe, 3) == 6.0


def test_an_error_on_a_thread_is_raised():
    def probe():
        raise OSError("no such probe")

    with pytest.raises(OSError, match="no such probe"):
        together(probe, 2)


def test_no_threads_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        ceilings(0)


def test_cache_sizes_are_read_from_the_system(tmp_path):
    for index, (level, kind, size) in enumerate([(1, "Data", "48K"), (1, "Instruction", "64K"), (2, "Unified", "2M")]):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in (("level", str(level)), ("type", kind), ("size", size)):
            (folder / name).write_text(text + "\n")
    (tmp_path / "index9").mkdir()  # a level that says nothing
    found = cache_sizes(tmp_path)
    assert found[1] == 48 << 10 and found[2] == 2 << 20
    assert found[3] == 32 << 20  # not told: the usual size
    assert set(cache_sizes(tmp_path / "nothing")) == {1, 2, 3}
