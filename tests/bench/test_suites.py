"""The suites: rows against hand computation, peers that are missing, fail or compute something else, and the files."""

import json
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from kdnative.bench import encoder, gemm, gemm_candidates, peers
from kdnative.bench.gemm_candidates import GemmCase
from kdnative.bench.peers import Candidate, Prepared
from kdnative.bench.results import goal, goal_line, not_run_lines, summarize, summary_lines

TORCH_ONLY = [c for c in gemm_candidates.PEERS if not c.packages]
WEIGHT_ONLY = [c for c in gemm_candidates.WEIGHT_ONLY if not c.packages]


@pytest.fixture
def peers_of_torch(monkeypatch):
    monkeypatch.setattr(gemm_candidates, "PEERS", TORCH_ONLY)
    monkeypatch.setattr(gemm_candidates, "WEIGHT_ONLY", WEIGHT_ONLY)


def rounded(t):
    """float64 rows rounded to 255 levels each, the largest value at the last one."""
    scale = t.double().abs().amax(1, keepdim=True) / 127
    return (t.double() / scale).round() * scale


def test_gemm_rows(peers_of_torch):
    lines = []
    schemes = ["w8a8", "w4a8-g64"]
    result = gemm.run([(64, 128), (33, 72)], [1, 5], schemes=schemes, rounds=2, threads=1, show=lines.append)
    assert [(c["n"], c["k"], c["m"]) for c in result["cases"]] == [(64, 128, 1), (64, 128, 5), (33, 72, 1), (33, 72, 5)]
    names = {row["name"] for row in result["cases"][1]["rows"]}
    assert names == {"kdnative w8a8", "kdnative w4a8-g64", *(c.name for c in TORCH_ONLY)}
    for case in result["cases"]:
        operations = 2 * case["m"] * case["n"] * case["k"]
        assert case["samples"]["taken"] == 2 * len(case["rows"]) >= case["samples"]["disturbed"] >= 0
        for row in case["rows"]:
            assert row["p20"] <= row["p50"] <= row["p80"]
            assert row["gops"] == pytest.approx(operations / row["p50"] / 1e3, rel=2e-3)
            if result["ceilings"]["int8_ops"]:
                assert row["of_ceiling"] == pytest.approx(row["gops"] * 1e9 / result["ceilings"]["int8_ops"], rel=2e-3)
        errors = {row["name"]: row["error"] for row in case["rows"]}
        one = GemmCase(case["n"], case["k"], case["m"], 1)
        exact, found = one.x.double() @ one.weight.double().T, rounded(one.x) @ rounded(one.weight).T
        assert errors["kdnative w8a8"] == pytest.approx(float((found - exact).norm() / exact.norm()), rel=1e-3)
        assert errors["torch fp32"] < 1e-6 < errors["torch bf16"]
    # 72 columns suit no group of 64: neither row vanishes, both are named with the reason.
    absent = {(row["name"], row["case"]) for row in result["not_run"]}
    assert {("kdnative w4a8-g64", "33x72 M=1"), ("torch int4", "33x72 M=5")} <= absent
    assert any("not run: kdnative w4a8-g64 (33x72 M=1, 33x72 M=5)" in line for line in lines)
    assert [(row["name"], row["partial"]) for row in result["summary"]] == [
        ("kdnative w8a8", False),
        ("kdnative w4a8-g64", False),
        ("kdnative w8a8", True),
    ]
    assert {row["peer"] for row in result["summary"] if row["partial"]} == {"torch _int_mm"}
    assert "best peer that does a part of the work (torch _int_mm" in lines[-1]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_float_activations_have_peers_of_their_own(peers_of_torch):
    result = gemm.run([(64, 128)], [3], schemes=["w8a8", "w4a16-g64", "w8a16"], rounds=2)
    rows = {row["name"]: row for row in result["cases"][0]["rows"]}
    assert {c.name for c in (*TORCH_ONLY, *WEIGHT_ONLY)} <= set(rows)
    floats = {"torch fp32", "torch bf16"}
    assert rows["kdnative w4a16-g64"]["kind"] == "w4a16" and rows["kdnative w8a16"]["kind"] == "w8a16"
    assert rows["kdnative w4a16-g64"]["best_peer"] in {"torch int4", *floats}
    assert rows["kdnative w8a16"]["best_peer"] in {"torch int8 weights", *floats}
    assert rows["kdnative w8a8"]["best_peer"] == "torch dynamic int8"
    assert 0.001 < rows["kdnative w8a16"]["error"] < rows["kdnative w8a8"]["error"]


def test_ours_alone(peers_of_torch):
    result = gemm.run([(32, 64)], [2], schemes=["w8a8"], peers=False, rounds=1)
    (row,) = result["cases"][0]["rows"]
    assert row["best_peer"] is None and row["speedup"] is None and result["summary"] == []
    assert "nothing to compare with" in summary_lines([])[0]


@pytest.mark.parametrize("candidate", TORCH_ONLY + WEIGHT_ONLY, ids=lambda c: c.name)
def test_peers_of_torch_compute_the_case(candidate):
    case = GemmCase(96, 128, 7, 1)
    with peers.quiet():
        prepared, errors, failed = peers.prepare_all([candidate], case, case.reference, gemm.TOLERANCE)
    assert not failed and list(errors) == [candidate.name]
    assert prepared[candidate.name].decode(prepared[candidate.name].call()).shape == (7, 96)


@pytest.mark.parametrize("tolerance", [gemm.TOLERANCE, encoder.TOLERANCE], ids=["gemm", "encoder"])
def test_zeros_and_another_cases_result_are_wrong_in_every_kind(tolerance):
    right = torch.randn(6, 50)
    for kind, limit in tolerance.items():
        wrong = [torch.zeros(6, 50), -right, right.flip(0), right.flip(1)]
        close = right + 0.9 * limit * right.norm() / 300**0.5 * torch.randn(6, 50).sign()
        every = [Candidate(str(i), kind, lambda case, y=y: Prepared(lambda: y)) for i, y in enumerate([*wrong, close])]
        prepared, _, failed = peers.prepare_all(every, None, right, tolerance)
        assert list(prepared) == ["4"] and len(failed) == 4, kind


def test_kinds_of_our_schemes():
    kinds = {"w8a8": "int8", "w4a8-g64-int": "int4", "w2a8-g128": "int2", "w4a16-g64-asym": "w4a16", "w8a8+4x1": "int8"}
    assert {scheme: peers.kind_of(scheme) for scheme in kinds} == kinds
    assert peers.kind_of("w3a8") == "unknown"


def test_reference_is_the_product():
    case = GemmCase(3, 5, 2, 1)
    for r in range(2):
        for c in range(3):
            exact = sum(float(case.x[r, i]) * float(case.weight[c, i]) for i in range(5))
            assert float(case.reference[r, c]) == pytest.approx(exact, abs=1e-6)


def test_what_a_peer_does_wrong_is_said():
    def raises(case):
        raise RuntimeError("no kernel\nfor this shape")

    def unsuited(case):
        raise peers.Unsuited("needs K divisible by 32")

    wrong = Candidate("wrong", "float", lambda case: Prepared(lambda: case * 2))
    shape = Candidate("shape", "float", lambda case: Prepared(lambda: case[:1]))
    nan = Candidate("nan", "float", lambda case: Prepared(lambda: case * float("nan")))
    right = Candidate("right", "float", lambda case: Prepared(lambda: case.clone()))
    every = [Candidate("raises", "float", raises), Candidate("unsuited", "float", unsuited), wrong, shape, nan, right]
    prepared, errors, failed = peers.prepare_all(every, torch.ones(2, 2), torch.ones(2, 2), {"float": 0.1})
    assert list(prepared) == ["right"] and errors == {"right": 0.0}
    assert {row["name"]: row["reason"] for row in failed} == {
        "raises": "RuntimeError: no kernel for this shape",
        "unsuited": "needs K divisible by 32",
        "wrong": "wrong result: relative error 1, allowed 0.1",
        "shape": "wrong result: relative error inf, allowed 0.1",
        "nan": "wrong result: relative error nan, allowed 0.1",
    }


def test_missing_packages_are_rows_that_say_what_to_install():
    here, gone = (
        Candidate("here", "int8", None, ("json",)),
        Candidate("gone", "int8", None, ("json", "no_such_package")),
    )
    ready, absent = peers.split_by_installed([here, gone])
    assert ready == [here]
    (row,) = absent
    assert row["name"] == "gone" and row["reason"] == 'not installed: no_such_package: pip install "kdnative[bench]"'


def test_summary_names_the_worst_case():
    def rows(speed, peer):
        return [{"name": "ours", "speedup": speed, "best_peer": peer}, {"name": "peer"}]

    cases = [
        ("a", rows(2.0, "x")),
        ("b", rows(0.5, "y")),
        ("c", rows(4.0, "x")),
        ("d", [{"name": "o", "speedup": None}]),
        ("e", rows(3.0, "x")),
    ]
    (row,) = summarize(cases)
    assert not row["partial"]
    assert (row["worst"], row["case"], row["peer"], row["median"], row["cases"]) == (0.5, "b", "y", 2.5, 4)
    assert "worst 0.50x the speed of the best peer (y, b)" in summary_lines([row])[0]


def test_lines_about_what_did_not_run_are_grouped():
    rows = [{"name": "p", "reason": "r", "case": "1"}, {"name": "p", "reason": "r", "case": "2"}]
    assert not_run_lines(rows) == ["not run: p (1, 2): r"]


def test_gemm_command_writes_json_and_plot(peers_of_torch, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gemm, "rerun_clean", lambda *a: None)
    arguments = ["--shapes", "32x64", "--m", "1,4", "--schemes", "w8a8", "--rounds", "1"]
    files = ["--json", str(tmp_path / "new" / "r.json"), "--plot", str(tmp_path / "r.svg")]
    assert gemm.main(arguments + files) == 0
    result = json.loads((tmp_path / "new" / "r.json").read_text())
    assert result["suite"] == "cpu_gemm" and result["environment"]["threads"] == 1
    assert ElementTree.parse(tmp_path / "r.svg").getroot().tag.endswith("svg")
    assert "32 x 64, M = 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    "bad", [["--shapes", "32"], ["--shapes", "0x4"], ["--m", "a"], ["--m", "0"], ["--threads", "-1"], ["--q"]]
)
def test_wrong_usage_ends_with_2(bad, capsys):
    with pytest.raises(SystemExit) as end:
        gemm.main(bad)
    assert end.value.code == 2
    assert "positive" in capsys.readouterr().err or bad == ["--q"]


def test_unknown_scheme_is_a_row_with_the_reason():
    result = gemm.run([(8, 32)], [1], schemes=["w3a8"], peers=False, rounds=1)
    (row,) = result["not_run"]
    assert row["name"] == "kdnative w3a8" and "w8a8" in row["reason"]


def test_goals_are_met_or_missed():
    assert goal("a", 0.995, 0.995, at_least=True)["met"] and not goal("a", 0.9949, 0.995, at_least=True)["met"]
    assert goal("b", 2.9, 3.0, at_least=False)["met"] and not goal("b", 3.0, 3.0, at_least=False)["met"]
    assert not goal("c", float("nan"), 1.0, at_least=True)["met"]
    assert goal_line(goal("time < 3", 4.0, 3.0, at_least=False)) == "time < 3: 4, MISSED"
    assert goal_line(goal("time < 3", 2.5, 3.0, at_least=False)) == "time < 3: 2.5, met"
