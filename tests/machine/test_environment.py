"""The block that every result carries, the clean environment, and files that are never half-written."""

import json
import os
import sys

import pytest

from kdnative.files import replace_text
from kdnative.machine.environment import core_name, environment, folder_name, rerun_clean, write_result


def test_environment_names_machine_and_versions():
    import torch

    from kdnative import ops

    found = environment(3)
    assert found["threads"] == 3 and found["torch"] == torch.__version__ and found["isa"] == ops.isa()
    assert found["cpu"] and found["cores"] >= 1
    assert json.loads(json.dumps(found)) == found


def test_settings_that_change_speed_are_noted(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("UNRELATED_SECRET", "x")
    monkeypatch.setenv("KDNATIVE_CACHE", "/home/somebody/cache")
    variables = environment()["variables"]
    assert variables["OMP_NUM_THREADS"] == "7" and "UNRELATED_SECRET" not in variables
    assert "KDNATIVE_CACHE" not in variables


@pytest.fixture
def no_openblas(monkeypatch):
    for name in list(os.environ):
        if name.startswith("OPENBLAS_"):
            monkeypatch.delenv(name)


def test_nothing_is_run_again_in_a_clean_environment(no_openblas):
    assert rerun_clean("kdnative.bench.gemm", []) is None


def test_the_suite_runs_again_without_openblas_variables(no_openblas, monkeypatch, tmp_path, capfd):
    (tmp_path / "probe_module.py").write_text(
        "import os, sys, kdnative\n"
        "print(sorted(n for n in os.environ if n.startswith('OPENBLAS_')), sys.argv[1:])\nsys.exit(7)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)  # the package is found from anywhere
    assert rerun_clean("probe_module", ["--m", "1"]) == 7
    output = capfd.readouterr()
    assert output.out.strip() == "[] ['--m', '1']"
    assert "OPENBLAS_CORETYPE, OPENBLAS_NUM_THREADS" in output.err


def test_result_replaces_the_old_one_whole(tmp_path):
    path = tmp_path / "a" / "b.json"
    write_result(path, {"x": 1})
    write_result(path, {"x": 2})
    assert json.loads(path.read_text()) == {"x": 2}
    assert os.listdir(path.parent) == ["b.json"]


def test_old_result_survives_a_failing_write(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    path.write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_text(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["r.json"]


def test_not_a_number_is_refused(tmp_path):
    with pytest.raises(ValueError):
        write_result(tmp_path / "r.json", {"x": float("nan")})
    assert not (tmp_path / "r.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="flags come from /proc/cpuinfo")
def test_flags_are_those_of_the_processor():
    with open("/proc/cpuinfo", encoding="utf-8") as stream:
        text = stream.read()
    assert all(flag in text for flag in environment()["flags"])


ARM = """processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimddp sha3 sve i8mm bf16 dgh
CPU implementer\t: 0x41
CPU architecture: 8
CPU part\t: 0xd40
"""


def test_features_of_an_arm_processor(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(ARM)
    monkeypatch.setattr("kdnative.machine.environment._CPUINFO", str(tmp_path / "cpuinfo"))
    found = environment()
    assert found["flags"] == ["asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve"]
    assert found["cpu"] == "ARM implementer 0x41 part 0xd40"


def test_threads_of_a_result_with_several_parts():
    assert environment([1, 2])["threads"] == [1, 2]


def test_cores_are_named_by_their_numbers():
    assert core_name("AuthenticAMD", "25", "1") == "Zen 3"
    assert core_name("AuthenticAMD", "25", "17") == "Zen 4"
    assert core_name("AuthenticAMD", "26", "2") == "Zen 5"
    assert core_name("GenuineIntel", "6", "207") == "Emerald Rapids"
    assert core_name("GenuineIntel", "25", "1") == core_name("", "", "") == core_name("AuthenticAMD", "25", "x") == ""
    assert folder_name() and folder_name() == folder_name().lower() and " " not in folder_name()


def test_numbers_of_a_result_stand_in_one_line(tmp_path):
    result = {"samples": [1.5e-05, -2, 3], "names": ["[ 1,", "2 ]"], "rows": [{"none": []}, {"nested": [[1, 2], [3]]}]}
    write_result(tmp_path / "r.json", result)
    text = (tmp_path / "r.json").read_text()
    assert json.loads(text) == result and '"samples": [ 1.5e-05, -2, 3 ]' in text
