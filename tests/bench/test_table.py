"""Results as Markdown: the cells against the results they come from, and files that are none."""

import json

import pytest

from kdnative import cli
from kdnative.bench import table
from kdnative.bench.overhead import _case
from kdnative.machine.environment import environment
from kdnative.machine.timer import Timing


def _result(suite, **fields):
    return {"suite": suite, "environment": environment([1, 2]), **fields}


def _row(name, seconds, kind="int8", **more):
    ours = name.startswith("kd")
    row = {"name": name, "kind": kind, "ours": ours, "peer_of": [] if ours else ["int8"], "partial": False}
    return {**row, "samples": 5 * [seconds], **more}


def _cells(text):
    """The rows of all tables below their heads, as lists of cells."""
    rows = []
    for part in text.split("\n\n"):
        lines = [line for line in part.splitlines() if line.startswith("|")]
        assert len({len(line.split(" | ")) for line in lines}) <= 1  # no ragged table
        rows += [line.strip("| ").split(" | ") for line in lines[2:]]
    return rows


GEMM = _result(
    "cpu_gemm",
    versions={"onnxruntime": "1.2"},
    cases=[
        {
            "n": 384, "k": 64, "m": m,
            "rows": [
                _row("kdnative w8a8", 5e-6 * m),
                _row("kdnative w4a8-g64", 4e-6 * m, "int4"),
                _row("b", 8e-6 * m),
                _row("p", 2.5e-6 * m, partial=True),
            ],
        }
        for m in (1, 32)
    ],
    not_run=[{"name": "x", "kind": "int8", "reason": "not installed", "case": "all"}],
)  # fmt: skip


def test_gemm():
    text = table.markdown(GEMM)
    where = GEMM["environment"]
    head = text.splitlines()[0]
    assert head.startswith("`kdnative bench gemm`, ") and where["cpu"] in head and f"torch {where['torch']}" in head
    assert "1 and 2 threads" in head and "onnxruntime 1.2" in head and where["date"][:10] in head
    assert str(where["revision"]) not in head  # a reader can't look a revision up
    assert _cells(text) == [
        ["384 x 64", "1", "5", "1.60x [1.60, 1.60] (b)", "0.50x [0.50, 0.50] (p)", "4", "-"],
        ["384 x 64", "32", "160", "1.60x [1.60, 1.60] (b)", "0.50x [0.50, 0.50] (p)", "128", "-"],
    ]
    assert "ratio of the median times" in text
    assert "- kdnative w8a8: median 1.60x the speed of the best peer, worst 1.60x (b, 384x64 M=1), over 2 cases" in text
    assert "- not run: x (all): not installed" in text
    assert _cells(table.markdown(GEMM, schemes=["w4a8-g64"], m=[32])) == [["384 x 64", "32", "128", "-"]]
    assert "not run" not in table.markdown(GEMM, summary=False)
    with pytest.raises(ValueError, match="has no kdnative w2a8; it has kdnative w8a8, kdnative w4a8-g64"):
        table.markdown(GEMM, schemes=["w2a8"])
    with pytest.raises(ValueError, match="the table of cpu_gemm has no option 'rows'; it has schemes, m, summary"):
        table.markdown(GEMM, rows=3)


def test_encoder():
    rows = [_row("kdnative w8a8", 0.5e-3), _row("openvino", 1e-3)]
    ragged = [
        _row("kdnative w8a8", 5e-3),
        _row("kdnative w8a8, nothing masked", 12.5e-3, unmasked=True),
        _row("openvino", 15e-3),
        _row("openvino, sorted, one by one", 10e-3),
    ]
    place = {"model": "m", "threads": 2, "batch": 3, "tokens": 9, "seconds": 1}
    cases = [
        {**place, "case": "1x16", "lengths": None, "rows": rows},
        {**place, "case": "ragged", "lengths": [2, 4, 9], "rows": ragged},
    ]
    result = _result("cpu_encoder", complete=True, versions={}, cases=cases, not_run=[])
    text = table.markdown(result)
    twice = "2.00x [2.00, 2.00]"
    assert _cells(text) == [
        ["m", "2", "1x16", "w8a8", "0.5", "openvino", "1", twice, "-"],
        ["m", "2", "ragged", "w8a8", "5", "openvino, sorted, one by one", "10", twice, "2.50x [2.50, 2.50]"],
    ]
    assert "`ragged`: 3 sequences of 2 to 9 tokens, mean 5" in text and "interrupted" not in text
    assert "samples were" not in text  # results of before they were counted
    counted = [{**case, "cores": {"taken": 20, "disturbed": n}} for n, case in enumerate(cases, 2)]
    assert "- 5 of 40 samples were taken on cores" in table.markdown({**result, "cases": counted})
    assert "interrupted" in table.markdown({**result, "complete": False})
    alone = {**result, "cases": [{**cases[0], "rows": rows[:1]}]}
    assert _cells(table.markdown(alone)) == [["m", "2", "1x16", "w8a8", "0.5", "-", "-", "-"]]


def test_goals_of_memory_accuracy_and_overhead():
    sizes = {"peak": [10**6], "resident": [10**6], "private": [10**6]}
    processes = {"native_imports": sizes, "float_imports": sizes}
    processes |= {k: {**sizes, "peak": [p * 10**6], "private": [p * 10**6]} for k, p in (("native", 3), ("float", 11))}
    case = {"model": "m", "scheme": "w8a8", "processes": processes}
    text = table.markdown(_result("memory", batch=1, tokens=128, repeats=3, cases=[case]))
    assert _cells(text)[0] == ["m", "w8a8", "peak above the imports", "2.0", "10.0", "20.0 %", "< 40 %: met"]
    assert _cells(text)[1][3:] == ["3.0", "11.0", "27.3 %", "< 40 %: met"]
    case = {"scheme": "w8a8", "min_cosine": 0.9, "mean_cosine": 0.9912345, "spearman": 0.996}
    text = table.markdown(_result("accuracy", model="m", sentences=1000, pairs=499500, cases=[case]))
    assert _cells(text) == [
        ["w8a8", "mean cosine", "0.99123", ">= 0.995: missed"],
        ["w8a8", "spearman", "0.99600", ">= 0.995: met"],
        ["w8a8", "least cosine", "0.90000", "-"],
    ]
    assert "499,500 pairs" in text
    timings = {"module": Timing((5e-6,), 1), "operator": Timing((3e-6,), 1)}
    cases = [_case("kdnative.nn.X", timings), _case("torch.nn.X", timings)]
    assert _cells(table.markdown(_result("overhead", cases=cases))) == [
        ["kdnative.nn.X", "5.00", "3.00", "2.00", "Python's part < 3 us: 2, met"],
        ["torch.nn.X", "5.00", "3.00", "2.00", "-"],
    ]


def test_logits():
    def row(dtype, logits, tiles):
        return {"dtype": dtype, "tokens": 4096, "logits": logits, "tiles": tiles}

    given = {"counted": [row("bfloat16", 14e9, 7e9)], "resident": [row("float32", 5e6, 1e6)]}
    assert _cells(table.markdown(_result("logits", **given, trained=[row("float32", 4e6, 1e6)]))) == [
        ["counted peak of a step", "bfloat16", "4,096", "14,000", "7,000", "50.0 %"],
        ["resident peak of a step", "float32", "4,096", "5", "1", "20.0 %"],
        ["resident peak of a training", "float32", "4,096", "4", "1", "25.0 %"],
    ]


def test_sparse():
    cases = [
        {
            "n": 64, "k": 96, "pattern": "4x1", "m": m, "zeros": share,
            "rows": [_row("kdnative w8a8", gain), _row("kdnative w8a8+4x1", 1.0)],
        }
        for m, share, gain in [(1, 0.5, 0.4), (1, 0.9, 1.25), (32, 0.9, 3.0)]
    ]  # fmt: skip
    text = table.markdown(_result("cpu_sparse", cases=cases, clock="wall clock"))
    assert "| N x K | pattern | M | 50 % | 90 % |" in text
    assert "| 64 x 96 | 4x1 | 1 | 0.40x | 1.25x |" in text and "| 64 x 96 | 4x1 | 32 | - | 3.00x |" in text
    assert "dense w8a8" in text and "wall clock" in text


def test_soak_and_model():
    samples = {"seconds": list(range(40)), "forwards": [10 * i for i in range(40)], "bytes": 40 * [1 << 28]}
    fields = {"model": "m", "scheme": "w8a8", "python_threads": 4, "forwards": 390, "inputs": 9, "seconds": 2.5}
    result = _result("soak", **fields, wrong=0, allowed=8 << 20, samples=samples)
    text = table.markdown(result)
    assert _cells(text) == [["m", "w8a8", "4", "390", "9", "2.5", "0", "passed"]] and "memory: steady" in text
    rows = [{"name": "a|b", "batch": 1, "tokens": 16, "threads": 1, "samples": [1e-3 * n for n in range(1, 7)]}]
    assert "| a\\|b | 1 x 16 | 3.5 | 2 | 5 |" in table.markdown(_result("model", rows=rows))


def test_the_command_prints_files_and_names_what_is_none(tmp_path, capsys):
    (tmp_path / "g.json").write_text(json.dumps(GEMM))
    assert cli.main(["bench", "table", str(tmp_path / "g.json"), str(tmp_path / "g.json"), "--m", "1"]) == 0
    assert capsys.readouterr().out.count("| 384 x 64 | 1 |") == 2
    (tmp_path / "other.json").write_text('{"suite": "cpu_gemm"}')
    (tmp_path / "text.json").write_text("hello")
    (tmp_path / "new.json").write_text(json.dumps(_result("gpu")))
    for name, words in (("other", "no 'environment'"), ("text", "not JSON"), ("new", "no table for results")):
        assert cli.main(["bench", "table", str(tmp_path / f"{name}.json")]) == 1
        assert words in capsys.readouterr().err


def test_the_stored_results_have_tables():
    from pathlib import Path

    files = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("*/*.json"))
    files = [file for file in files if file.parent.name != "runs"]  # these are blocks of documents
    assert files
    for file in files:
        result = table.read(file)
        cases = result.get("cases", [0])
        if result["suite"] == "cpu_sparse":  # shares of zeros stand side by side
            cases = {(case["n"], case["k"], case["pattern"], case["m"]) for case in cases}
        assert len(_cells(table.markdown(result))) >= len(cases)
