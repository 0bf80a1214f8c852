"""The suites: rows against hand computation, peers that are missing, fail or compute something else, and the files."""

import json
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from kdnative.bench import gemm, gemm_candidates, peers
from kdnative.bench.gemm_candidates import GemmCase
from kdnative.bench.peers import Candidate, Prepared
from kdnative.bench.results import Case, against_peers, goal, goal_line, gops, not_run_lines, summary_lines

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
        assert case["cores"]["taken"] == 2 * len(case["rows"]) >= case["cores"]["disturbed"] >= 0
        for row in case["rows"]:
            assert len(row["samples"]) == 2 and min(row["samples"]) > 0
            assert gops(case, row) == pytest.approx(operations / (sum(row["samples"]) / 2) / 1e9)
        errors = {row["name"]: row["error"] for row in case["rows"]}
        one = GemmCase(case["n"], case["k"], case["m"], 1)
        exact, found = (x @ w.T + one.bias.double() for x, w in (
            (one.x.double(), one.weight.double()), (rounded(one.x), rounded(one.weight)),
        ))  # fmt: skip
        assert errors["kdnative w8a8"] == pytest.approx(float((found - exact).norm() / exact.norm()), rel=1e-2)
        assert errors["torch fp32"] < 1e-6 < errors["torch bf16"]
    # 72 columns suit no group of 64: neither row vanishes, both are named with the reason.
    absent = {(row["name"], row["case"]) for row in result["not_run"]}
    assert {("kdnative w4a8-g64", "33x72 M=1"), ("torch int4", "33x72 M=5")} <= absent
    assert any("not run: kdnative w4a8-g64 (33x72 M=1, 33x72 M=5)" in line for line in lines)
    names = [line.partition(":")[0] for line in lines[-3:]]
    assert names == ["kdnative w8a8", "kdnative w4a8-g64", "kdnative w8a8"]
    assert "the best peer that does a part of the work, worst" in lines[-1] and "(torch _int_mm" in lines[-1]
    assert not {"summary", "speedup", "p50"} & {*result, *result["cases"][0], *result["cases"][0]["rows"][0]}
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_float_activations_have_peers_of_their_own(peers_of_torch):
    result = gemm.run([(64, 128)], [3], schemes=["w8a8", "w4a16-g64", "w8a16"], rounds=2)
    rows = {row["name"]: row for row in result["cases"][0]["rows"]}
    assert {c.name for c in (*TORCH_ONLY, *WEIGHT_ONLY)} <= set(rows)
    floats = {"torch fp32", "torch bf16"}
    assert rows["kdnative w4a16-g64"]["kind"] == "w4a16" and rows["kdnative w8a16"]["kind"] == "w8a16"

    def best(name):
        return against_peers(rows[name], list(rows.values())).peer["name"]

    assert best("kdnative w4a16-g64") in {"torch int4", *floats}
    assert best("kdnative w8a16") in {"torch int8 weights", *floats}
    assert best("kdnative w8a8") in {"torch dynamic int8"}
    assert 0.001 < rows["kdnative w8a16"]["error"] < rows["kdnative w8a8"]["error"]


def test_ours_alone(peers_of_torch):
    result = gemm.run([(32, 64)], [2], schemes=["w8a8"], peers=False, rounds=1)
    (row,) = result["cases"][0]["rows"]
    assert against_peers(row, [row]) is None
    assert "nothing to compare with" in summary_lines(map(gemm.as_case, result["cases"]))[0]


@pytest.mark.parametrize("candidate", TORCH_ONLY + WEIGHT_ONLY, ids=lambda c: c.name)
def test_peers_of_torch_compute_the_case(candidate):
    case = GemmCase(96, 128, 7, 1)
    with peers.quiet():
        prepared, errors, failed = peers.prepare_all([candidate], case, case.reference, gemm.checks(case))
    assert not failed and list(errors) == [candidate.name]
    assert prepared[candidate.name].decode(prepared[candidate.name].call()).shape == (7, 96)


def test_kinds_of_our_schemes():
    kinds = {"w8a8": "int8", "w4a8-g64-int": "int4", "w2a8-g128": "int2", "w4a16-g64-asym": "w4a16", "w8a8+4x1": "int8"}
    assert {scheme: peers.kind_of(scheme) for scheme in kinds} == kinds
    assert peers.kind_of("w3a8") == "unknown"


def test_reference_is_the_product():
    case = GemmCase(3, 5, 2, 1)
    for r in range(2):
        for c in range(3):
            exact = sum(float(case.x[r, i]) * float(case.weight[c, i]) for i in range(5)) + float(case.bias[c])
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
    ones = torch.ones(2, 2)
    prepared, errors, failed = peers.prepare_all(every, ones, ones, lambda candidate: peers.Check(ones, 0.1))
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


def _rows(ours, **peers):
    """Rows with one sample each, of ours and of peers that do the same work."""
    rows = [{"name": "ours", "kind": "int8", "ours": True, "peer_of": [], "partial": False, "samples": [ours]}]
    for name, seconds in peers.items():
        peer = {"name": name, "kind": "float", "ours": False, "peer_of": ["int8"], "partial": False}
        rows.append({**peer, "samples": [seconds]})
    return rows


def test_the_best_peer_is_the_fastest_of_those_that_are_fair():
    rows = _rows(2.0, slow=9.0, fast=3.0, other=1.0, part=0.5)
    rows[3]["peer_of"], rows[4]["partial"] = ["int4"], True
    found = against_peers(rows[0], rows)
    assert (found.peer["name"], found.speedup.value) == ("fast", 1.5)
    part = against_peers(rows[0], rows, partial=True)
    assert (part.peer["name"], part.speedup.value) == ("part", 0.25)
    assert against_peers(rows[1], rows) is None  # not one of ours
    assert against_peers({**rows[0], "unmasked": True}, rows) is None


def test_files_that_only_have_quantiles_give_ratios_without_an_interval():
    rows = _rows(2.0, peer=3.0)
    for row in rows:
        (middle,) = row.pop("samples")
        row["quantiles"] = [0.9 * middle, middle, 1.2 * middle]
    assert str(against_peers(rows[0], rows).speedup) == "1.50x"


def test_the_summary_names_the_worst_case_with_and_without_ragged_batches():
    cases = [
        Case("a", _rows(1.0, x=2.0)),
        Case("b", _rows(1.0, x=3.0, y=0.5)),
        Case("c", _rows(1.0, x=4.0)),
        Case("d", _rows(1.0)),
        Case("e", _rows(1.0, x=6.0), ragged=True),
        Case("f", _rows(1.0, x=8.0), ragged=True),
    ]
    best = "the speed of the best peer, worst 0.50x (y, b), over"
    assert summary_lines(cases) == [
        f"ours: median 2.00x {best} 3 cases without ragged batches",
        f"ours: median 4.00x {best} 5 cases, ragged batches included",
    ]
    assert summary_lines(cases[:4]) == [f"ours: median 2.00x {best} 3 cases"]


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
