"""The soak test notices what it is there for: a wrong bit, a failure, and memory that grows."""

import json
import threading
import types

import pytest
import torch

from kdnative.bench import soak
from kdnative.bench.encoder_models import converted, load_encoder
from kdnative.bench.soak_memory import judge, resident_bytes

pytest.importorskip("transformers", reason='needs pip install "kdnative[pipeline]"')
MB = 1 << 20


@pytest.fixture(scope="module")
def tiny():
    model = load_encoder("random-tiny")
    ours = converted(model, "w8a8")
    return ours, soak.pool(model, ours, size=12, batch=3, tokens=9)


def test_the_pool_has_different_shapes_and_paddings(tiny):
    _, expected = tiny
    shapes = {tuple(given.inputs["input_ids"].shape) for given in expected}
    assert len(shapes) >= 6
    padded = [given for given in expected if bool((given.inputs["attention_mask"] == 0).any())]
    assert 4 <= len(padded) <= 8
    for given in expected:
        assert given.output.shape == (*given.inputs["input_ids"].shape, 64)


def test_a_sound_encoder_passes(tiny):
    ours, expected = tiny
    lines = []
    result = soak.run(ours, expected, forwards=3000, threads=4, show=lines.append)
    assert soak.passed(result) and result["wrong"] == 0 and result["problems"] == []
    assert result["forwards"] == result["asked"] == 3000
    assert result["samples"]["bytes"][-1] > MB
    assert lines[-1] == "passed"
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_one_wrong_bit_in_thousands_of_forwards_is_noticed(tiny):
    ours, expected = tiny
    lock, calls = threading.Lock(), [0]

    def faulty(**inputs):
        output = ours(**inputs).last_hidden_state
        with lock:
            calls[0] += 1
            hit = calls[0] == 777
        if hit:
            output = output.clone()
            output.view(torch.int32).view(-1)[5] ^= 1  # the last bit of one value
        return types.SimpleNamespace(last_hidden_state=output)

    lines = []
    result = soak.run(faulty, expected, forwards=1500, threads=3, show=lines.append)
    assert not soak.passed(result) and result["wrong"] == 1
    (problem,) = result["problems"]
    assert "1 of " in problem["problem"] and "other bits" in problem["problem"]
    assert lines[-1] == "FAILED" and any("other bits" in line for line in lines)


def test_a_failure_in_a_thread_is_noticed_and_the_rest_goes_on(tiny):
    ours, expected = tiny

    def faulty(**inputs):
        if inputs["input_ids"].shape == expected[0].inputs["input_ids"].shape:
            raise RuntimeError("no such luck")
        return ours(**inputs)

    result = soak.run(faulty, expected, forwards=400, threads=2)
    assert not soak.passed(result) and result["forwards"] == 400
    assert 10 < result["wrong"] < 200 and len(result["problems"]) == 10
    assert all(row["problem"] == "RuntimeError: no such luck" for row in result["problems"])


def test_a_leak_in_the_real_memory_of_the_process_is_noticed(tiny):
    ours, expected = tiny
    kept = []

    def leaking(**inputs):
        kept.append(bytearray(b"x" * 65536))  # written, so that it is resident
        return ours(**inputs)

    options = {"forwards": 2000, "threads": 4}
    result = soak.run(leaking, expected, **options)
    kept.clear()
    assert not soak.passed(result) and result["wrong"] == 0
    assert soak.memory(result)["verdict"] == "grows"
    assert 30_000 < soak.memory(result)["slope"] < 130_000
    assert soak.memory(soak.run(ours, expected, **options))["verdict"] == "steady"


def test_a_command_that_fails_ends_with_1(monkeypatch, tmp_path):
    command = ["--model", "random-tiny", "--forwards", "50", "--threads", "2", "--json", str(tmp_path / "s.json")]
    assert soak.main(command) == 0
    found = json.loads((tmp_path / "s.json").read_text())
    assert soak.passed(found) and found["environment"]["threads"] == 1 and found["forwards"] == 50
    monkeypatch.setattr(soak, "difference", lambda found, expected: "another bit")
    assert soak.main(command) == 1
    found = json.loads((tmp_path / "s.json").read_text())
    assert not soak.passed(found) and found["wrong"] == 50


def test_time_ends_a_run(tiny):
    ours, expected = tiny
    result = soak.run(ours, expected, forwards=10**6, threads=2, seconds=0.3)
    assert 0 < result["forwards"] < 10**6 and result["seconds"] < 20 and result["wrong"] == 0


def test_memory_that_was_not_judged_does_not_pass(tiny):
    ours, expected = tiny
    lines = []
    result = soak.run(ours, expected, forwards=3, threads=2, show=lines.append)
    assert not soak.passed(result) and result["wrong"] == 0 and soak.memory(result)["verdict"] == "not judged"
    assert "too short" in lines[-2]


def test_a_system_that_does_not_tell_its_memory_is_named(tiny):
    ours, expected = tiny

    def unknown():
        raise RuntimeError("Linux only")

    with pytest.raises(RuntimeError, match="Linux only"):
        soak.run(ours, expected, forwards=3, threads=2, resident=unknown)


def test_an_interruption_ends_the_threads(tiny, monkeypatch):
    ours, expected = tiny
    before = threading.active_count()

    def interrupted(workers, seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(soak._Workers, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        soak.run(ours, expected, forwards=10**9, threads=2)
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (torch.tensor([0.0, -0.0]), "1 of 2 values"),
        (torch.tensor([0.0]), r"\[1\] instead of"),
        (torch.zeros(2, dtype=torch.bfloat16), "bfloat16"),
    ],
)
def test_differences_in_words(found, words):
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(soak.difference(found, torch.zeros(2)))


def test_bits_are_compared_not_values():
    nan = torch.tensor([float("nan"), 1.0])
    assert soak.difference(nan.clone(), nan) is None
    assert soak.difference(torch.tensor([1.0, float("nan")]), nan) == "2 of 2 values have other bits"


def _series(sizes):
    return [{"forwards": 10 * i, "bytes": size} for i, size in enumerate(sizes)]


def test_growth_is_judged_after_the_warm_up():
    warm_up_then_flat = [100 * MB + i * 20 * MB for i in range(10)] + [300 * MB] * 90
    found = judge(_series(warm_up_then_flat), 990, 8 * MB)
    assert (found["verdict"], found["growth"], found["slope"]) == ("steady", 0, 0.0)
    leak = [300 * MB + i * MB for i in range(100)]
    found = judge(_series(leak), 990, 8 * MB)
    assert found["verdict"] == "grows" and found["slope"] == pytest.approx(MB / 10)
    assert found["growth"] == pytest.approx(68 * MB, rel=0.05)
    assert found["noticed"] == pytest.approx(8 * MB / 680, rel=0.05)
    saw = [300 * MB + (i % 2) * 30 * MB for i in range(100)]  # up and down is no growth
    assert judge(_series(saw), 990, 8 * MB)["verdict"] == "steady"
    assert judge(_series(leak[:7]), 60, 8 * MB)["verdict"] == "not judged"


def test_resident_size_follows_an_allocation():
    before = resident_bytes()
    block = bytearray(b"x" * (64 * MB))
    assert resident_bytes() - before > 48 * MB
    del block
