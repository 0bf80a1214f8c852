"""The suite of linears on a GPU: its cases, checks and report with the CPU in the place of the GPU."""

import json

import pytest
import torch

from kdnative.bench import gpu_gemm, gpu_timing, table
from kdnative.bench.gpu_candidates import GpuCase, candidates, copies_of
from kdnative.machine.timer import Timing

LIMITS = {"copy_bytes": 2e12, "read_bytes": 3e12, "bf16_ops": 8e14, "int8_ops": 9e14}
DEVICE = {"gpu": "Some GPU", "capability": "9.0", "multiprocessors": 132, "memory": 1 << 36, "cuda": "13.0"}


def times(calls, copies, rounds):
    """Each call takes a microsecond for each copy of its layer, the product of torch two; the last isn't captured."""
    names = list(calls)
    return {name: Timing(tuple([1e-6 * (2 if "cuBLAS" in name else 1)] * rounds), copies[name]) for name in names[:-1]}


def run(cases, wanted, **options):
    lines = []
    result = gpu_gemm.run(cases, wanted, [], LIMITS, DEVICE, rounds=3, show=lines.append, replay=times, **options)
    return result, lines


def case(n=48, k=128, m=20):
    return GpuCase(n, k, m, 1, device="cpu", cache=3 * n * k)


def test_rows_errors_and_what_did_not_run():
    wanted = [c for c in candidates(["w8a8", "w8a8+2:4", "w4a16-g64"]) if "gemlite" not in c.name]
    result, lines = run([case()], wanted)
    (found,) = result["cases"]
    rows = {row["name"]: row for row in found["rows"]}
    assert (found["n"], found["k"], found["m"]) == (48, 128, 20)
    assert {"kdnative w8a8", "kdnative w4a16-g64", "cuBLAS fp16", "torch._int_mm"} <= set(rows)
    assert rows["kdnative w8a8"]["error"] < 0.02 < rows["kdnative w4a16-g64"]["error"] < 0.2
    assert rows["cuBLAS fp16"]["error"] < 2e-3 and rows["cuBLAS fp16"]["samples"] == [2e-6] * 3
    reasons = {row["name"]: row["reason"] for row in result["not_run"]}
    assert "tinygemm w4" in reasons, "torch has it for CUDA alone"
    assert reasons["kdnative w8a8+2:4"] == "a CUDA graph can't capture it", "the last one"
    assert any("kdnative w8a8: median 2.00x the speed of the best peer" in line for line in lines)


def test_sparse_candidates_are_compared_with_a_pruned_weight():
    given = case()
    wanted = [c for c in candidates(["w8a8", "w8a8+2:4"], peers=False)]
    prepared, errors, failed = gpu_gemm._prepared(wanted, given)
    assert not failed and max(errors.values()) < 0.02, "each against its own weight"
    pruned = given.pruned()
    assert (pruned.weight.reshape(-1, 4) != 0).sum(1).max() <= 2 and (given.weight != 0).all()
    four = given.weight[0, :4].abs()
    assert torch.equal(pruned.weight[0, :4] != 0, four >= four.sort().values[2])
    dense, sparse = (prepared[c.name].call() for c in wanted)
    assert not torch.allclose(dense, sparse, atol=0.1)
    odd = GpuCase(8, 30, 4, 1, device="cpu", cache=1)
    (row,) = gpu_gemm._prepared(wanted[1:], odd)[2]
    assert row["reason"] == "2:4 needs K divisible by 4, K is 30"


def test_copies_exceed_the_cache():
    given = case()
    assert [given.copies(size) for size in (given.cache / 2, given.cache * 4, 1)] == [3, 2, 24]
    by_name = {c.name: copies_of(c, given) for c in candidates(["w4a16-g64"])}
    assert by_name["cuBLAS fp16"] == 2 and by_name["kdnative w4a16-g64"] == 7
    (ours,) = candidates(["w8a8"], peers=False)
    assert ours.prepare(given).call().shape == (20, 48)


def test_the_result_is_json_and_a_table(tmp_path):
    wanted = [c for c in candidates(["w8a8"]) if c.name in ("kdnative w8a8", "cuBLAS fp16", "torch._int_mm")]
    result, _ = run([case()], wanted)
    text = table.markdown(json.loads(json.dumps(result)))
    assert "`kdnative bench gpu-gemm`" in text and "Some GPU (sm_90, CUDA 13.0)" in text
    assert "reads 3.00 TB/s" in text and "| 48 x 128 | 20 | 1 | 2.00x" in text


def test_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        gpu_gemm.main(["--shapes", "8x8"])
    assert ended.value.code == 2 and "needs an NVIDIA GPU" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_graphs_are_replayed():
    x = torch.ones(1 << 20, device="cuda")
    (found,) = gpu_timing.replayed({"add": lambda: x + 1}, {"add": 2}, 5).values()
    assert len(found.samples) == 5 and 0 < found.p50 < 1e-2
