"""The memory suite: its arithmetic, sizes against known allocations, and whole processes."""

import json
import subprocess
import sys

import pytest

from kdnative.bench import memory
from kdnative.bench.memory_child import sizes
from kdnative.machine.environment import child_environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sizes come from /proc")

STATUS = "Name:\tpython\nVmPeak:\t  900 kB\nVmHWM:\t  300 kB\nVmRSS:\t  200 kB\nThreads:\t3\n"
ROLLUP = (
    "55d-7ff ---p 00000000 00:00 0    [rollup]\nRss: 200 kB\nPss: 120 kB\nPrivate_Clean: 30 kB\nPrivate_Dirty: 70 kB\n"
)


def test_sizes_are_read_from_the_process_files(tmp_path):
    (tmp_path / "status").write_text(STATUS)
    (tmp_path / "smaps_rollup").write_text(ROLLUP)
    k = 1024
    assert sizes(tmp_path) == {"peak": 300 * k, "resident": 200 * k, "private": 100 * k, "shared_out": 120 * k}


def test_sizes_follow_an_allocation():
    script = (
        "from kdnative.bench.memory_child import sizes\n"
        "a = sizes(); b = bytearray(b'x' * (128 << 20)); c = sizes(); del b; d = sizes()\n"
        "print([x[k] >> 20 for x in (a, c, d) for k in ('peak', 'resident', 'private')])"
    )
    found = subprocess.run([sys.executable, "-c", script], env=child_environment(), capture_output=True, text=True)
    before, full, after = (json.loads(found.stdout)[i : i + 3] for i in (0, 3, 6))
    assert all(100 < b - a < 300 for a, b in zip(before[1:], full[1:], strict=True))
    assert after[0] >= full[0] - 1  # the peak stays
    assert full[1] - after[1] > 100 and full[2] - after[2] > 100


def test_goals_with_and_without_the_imports():
    processes = {
        "native_imports": {"peak": [110], "resident": [100], "private": [50]},
        "native": {"peak": [130, 129, 999], "resident": [125], "private": [90]},
        "float_imports": {"peak": [220], "resident": [200], "private": [60]},
        "float": {"peak": [300], "resident": [290], "private": [140]},
    }
    model, process, private = memory.goals(processes)
    assert (model["of"], model["native"], model["float"]) == ("model", 30, 100)
    assert model["value"] == pytest.approx(0.3) and model["met"] and model["limit"] == 0.4
    assert (process["native"], process["float"], process["met"]) == (130, 300, False)
    assert (private["native"], private["float"], private["value"], private["met"]) == (40, 80, 0.5, False)


def test_whole_processes_of_a_tiny_model(tmp_path, capsys):
    pytest.importorskip("transformers", reason='needs pip install "kdnative[pipeline]"')
    command = ["--models", "random-tiny", "--case", "4x100", "--repeats", "1", "--json", str(tmp_path / "m.json")]
    assert memory.main(command) == 0
    found = json.loads((tmp_path / "m.json").read_text())
    (case,) = found["cases"]
    assert (found["suite"], found["batch"], found["tokens"], case["model"]) == ("memory", 4, 100, "random-tiny")
    processes = case["processes"]
    assert set(processes) == {"native", "native_imports", "float", "float_imports"}
    for name, repeated in processes.items():
        assert all(len(values) == 1 for values in repeated.values())
        sizes_of = {key: value for key, (value,) in repeated.items()}
        assert sizes_of["peak"] >= sizes_of["resident"] >= sizes_of["private"] > 10 << 20
        assert (sizes_of["tensors"] > 0) == (not name.endswith("imports"))
    words = 30522 * 64
    assert words < processes["native"]["tensors"][0] < 1.5 * words  # int8
    assert 4 * words < processes["float"]["tensors"][0] < 6 * words
    assert [goal["of"] for goal in memory.goals(processes)] == ["model", "process", "private"]
    assert "of the whole process < 40 % of fp32" in capsys.readouterr().out


def test_a_process_that_fails_is_named():
    pytest.importorskip("transformers", reason='needs pip install "kdnative[pipeline]"')
    job = {"imports": [], "kind": "native", "folder": "no/such/folder", "batch": 1, "tokens": 1, "threads": 1}
    with pytest.raises(RuntimeError, match="measures native failed with 1(.|\n)*no/such/folder"):
        memory._child({**job, "vocabulary": 10})
