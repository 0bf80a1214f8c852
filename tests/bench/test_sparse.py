"""The suite of sparse layers: rows, peers that are left out, and the crossovers against hand computation."""

import json

import pytest
import torch

from kdnative.bench import sparse


def test_rows_and_crossovers(tmp_path):
    lines = []
    result = sparse.run(
        [(64, 128)], [1, 33], patterns=["4x1", "mask", "2:4"], zeros=[0.5, 0.9], rounds=2, show=lines.append
    )
    assert [(c["pattern"], c["zeros"], c["m"]) for c in result["cases"]] == [
        *(("4x1", z, m) for z in (0.5, 0.9) for m in (1, 33)),
        *(("mask", z, m) for z in (0.5, 0.9) for m in (1, 33)),
        ("2:4", 0.5, 1),
        ("2:4", 0.5, 33),
    ]
    for case in result["cases"]:
        rows = {row["name"]: row for row in case["rows"]}
        ours = f"kdnative w8a8+{case['pattern']}"
        assert rows.keys() == {"kdnative w8a8", ours, "torch fp32", "torch sparse CSR"}
        assert all(len(row["samples"]) == 2 for row in rows.values()) and sparse.over_dense(case).value > 0
        assert rows[ours]["error"] == rows["kdnative w8a8"]["error"] < 0.03 and rows["torch sparse CSR"]["error"] < 1e-6
    assert [(r["pattern"], list(r["shares"])) for r in sparse.crossovers(result["cases"])] == [
        (p, [1, 33]) for p in ("4x1", "mask", "2:4")
    ]
    assert sum("faster than dense from: 64x128" in line for line in lines) == 3
    assert not result["not_run"]
    json.dumps(result, allow_nan=False)


def test_weights_have_their_share_of_zeros():
    for pattern, zeros in (("unstructured", 0.7), ("4x1", 0.8), ("2:4", 0.5)):
        case = sparse.SparseCase(64, 128, 2, 1)
        case.pattern, case.zeros = pattern, zeros
        assert int((case.weight == 0).sum()) == pytest.approx(zeros * 64 * 128, abs=4)
        assert torch.equal(case.reference, case.x.double() @ case.weight.double().T + case.bias.double())


def test_what_would_take_seconds_is_left_out_in_words(monkeypatch):
    monkeypatch.setattr(sparse, "CSR_WORK", 64 * 64 * 2)
    result = sparse.run([(64, 64)], [2, 3], patterns=["mask"], zeros=[0.5], rounds=1)
    assert [(r["name"], r["case"]) for r in result["not_run"]] == [("torch sparse CSR", "64x64 mask 0.5 M=3")]
    assert "seconds a call" in result["not_run"][0]["reason"]


@pytest.mark.parametrize(
    "gains, share",
    [
        ([0.5, 0.8, 0.9], 1.01),  # never
        ([1.2, 1.5, 2.0], 0.5),  # from the first one that was measured
        ([0.83, 1.23, 2.0], 0.6),  # half way between
        ([1.5, 0.83, 1.23], 0.8),  # a loss above counts
        ([0.9, 0.95, 1.02], 1.01),  # a gain that the next run may not show
    ],
)
def test_crossover(gains, share):
    def rows(gain):
        return [{"name": "kdnative w8a8", "samples": [gain]}, {"name": "kdnative w8a8+4x1", "samples": [1.0]}]

    cases = [
        {"n": 1, "k": 2, "m": 4, "pattern": "4x1", "zeros": z, "rows": rows(g)}
        for z, g in zip((0.5, 0.7, 0.9), gains, strict=True)
    ]
    (row,) = sparse.crossovers(cases[::-1])
    assert row == {"n": 1, "k": 2, "pattern": "4x1", "shares": {4: pytest.approx(share, abs=1e-3)}}


def test_command_line(tmp_path, capsys):
    file = tmp_path / "r.json"
    options = ["--shapes", "32x64", "--m", "2", "--zeros", "0.9", "--patterns", "4x1", "--rounds", "1", "--no-peers"]
    assert sparse.main([*options, "--json", str(file)]) == 0
    assert json.loads(file.read_text())["suite"] == "cpu_sparse"
    for bad, words in {
        "--zeros 1.5": "list of shares",
        "--zeros x": "list of shares",
        "--plot a.svg": "unrecognized arguments",
        "--patterns 8x1": "allowed: 4x1, mask, 2:4",
    }.items():
        with pytest.raises(SystemExit) as info:
            sparse.main([*options, *bad.split()])
        assert info.value.code == 2 and words in capsys.readouterr().err
