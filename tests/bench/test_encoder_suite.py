"""The encoder suite: its cases, what it measures on a tiny model, and the files it leaves."""

import argparse
import json
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from kdnative.bench import encoder, encoder_candidates, encoder_models, whole_models
from kdnative.bench.encoder_cases import RAGGED, Encoder, EncoderCase, Shape, ragged_lengths, shapes
from kdnative.bench.encoder_models import load_encoder, load_encoders
from kdnative.bench.plots import encoder_plot
from kdnative.bench.results import against_peers
from kdnative.nn import EncoderLayer, PackedEncoder, TransformerEncoder

pytest.importorskip("transformers", reason='needs pip install "kdnative[pipeline]"')
RAGGED_TINY = Shape(4, 12, (12, 3, 5, 4))


@pytest.fixture
def peers_of_torch(monkeypatch):
    monkeypatch.setattr(encoder_candidates, "PEERS", [c for c in encoder_candidates.PEERS if not c.packages])


@pytest.fixture(scope="module")
def tiny():
    return load_encoder("random-tiny")


@pytest.mark.parametrize("sizes", [RAGGED, (2, 1, 9, 5), (5, 4, 4, 4), (7, 1, 512, 100), (40, 2, 3, 3)])
def test_ragged_lengths(sizes):
    batch, least, largest, mean = sizes
    if sizes == (40, 2, 3, 3):
        with pytest.raises(ValueError, match="can't have the mean 3"):
            ragged_lengths(*sizes)
        return
    lengths = ragged_lengths(*sizes)
    assert len(lengths) == batch and sum(lengths) == batch * mean
    assert min(lengths) == least and max(lengths) == largest
    assert lengths == ragged_lengths(*sizes)
    if batch > 2 and least < largest:
        assert lengths != tuple(sorted(lengths))


def test_shapes_of_the_command_line():
    plain, ragged = shapes("16x128,ragged")
    assert plain == Shape(16, 128) and plain.label == "16x128"
    assert (ragged.batch, ragged.tokens, ragged.label, len(ragged.lengths)) == (32, 128, "ragged", 32)
    with pytest.raises(argparse.ArgumentTypeError, match="neither 'ragged' nor"):
        shapes("16x128,raged")


def test_names_of_random_models():
    with pytest.raises(ValueError, match="no random model 'random-gpt'; there are .*random-tiny, random-torch"):
        load_encoder("random-gpt")


def test_a_ragged_case_masks_padding_and_compares_tokens_only(tiny):
    case = EncoderCase(Encoder(tiny), RAGGED_TINY)
    mask = case.inputs["attention_mask"]
    assert mask.sum(1).tolist() == list(RAGGED_TINY.lengths)
    assert bool((case.inputs["input_ids"][mask == 0] == tiny.config.pad_token_id).all())
    with torch.inference_mode():
        assert case.reference.shape == (24, 64) == case.of_tokens([torch.zeros(4, 12, 64)]).shape
        alone = tiny(input_ids=case.inputs["input_ids"][1:2, :3]).last_hidden_state[0]
    torch.testing.assert_close(case.reference[12:15], alone, atol=1e-5, rtol=1e-5)  # after the 12 tokens of the first
    wrong = torch.zeros(1, 2, 3)
    assert case.of_tokens([wrong]) is wrong  # another shape is left to the check of the result


def test_sorted_batches_hold_every_sequence_with_little_padding_and_give_the_same_rows(tiny):
    whole = EncoderCase(Encoder(tiny), RAGGED_TINY)  # lengths 12, 3, 5, 4
    with torch.inference_mode():
        for bucket, widths in ((2, [(2, 4), (2, 12)]), (1, [(1, 3), (1, 4), (1, 5), (1, 12)])):
            case = EncoderCase(whole.encoder, RAGGED_TINY, bucket)
            assert [tuple(batch["input_ids"].shape) for batch in case.batches] == widths
            torch.testing.assert_close(case.reference, whole.reference, atol=1e-5, rtol=1e-5)


def test_logits_come_back_in_the_order_of_the_sequences():
    case = EncoderCase(Encoder(load_encoder("random-tiny"), output="logits"), RAGGED_TINY, 2)
    logits = [torch.tensor([[3.0], [4.0]]), torch.tensor([[5.0], [12.0]])]
    assert case.of_tokens(logits).flatten().tolist() == [12.0, 3.0, 5.0, 4.0]


def test_rows_of_every_model_thread_count_and_case(peers_of_torch, tiny, tmp_path):
    before = {name: t.clone() for name, t in tiny.state_dict().items()}
    saved, lines = [], []
    result = encoder.run(
        {"a": tiny, "b": tiny},
        [Shape(1, 8), RAGGED_TINY],
        threads=[1, 2],
        rounds=1,
        show=lines.append,
        save=lambda partial: saved.append(json.loads(json.dumps(partial, allow_nan=False))),
    )
    places = [(case["model"], case["threads"], case["case"]) for case in result["cases"]]
    assert places == [(m, t, c) for m in "ab" for t in (1, 2) for c in ("1x8", "ragged")]
    ours, peers = {"kdnative w8a8"}, {"torch fp32", "torch bf16", "torch dynamic int8"}
    for case in result["cases"]:
        rows = {row["name"]: row for row in case["rows"]}
        ragged = case["case"] == "ragged"
        ways = {f"{name}, sorted, {way}" for name in peers for way in ("batches of 8", "one by one")}
        assert set(rows) == ours | peers | ({"kdnative w8a8, nothing masked"} | ways if ragged else set())
        assert all(row["error"] < 0.1 and len(row["samples"]) == 1 for row in case["rows"])
        found = against_peers(rows["kdnative w8a8"], case["rows"])
        assert found.peer["name"] in peers | ways and found.speedup.value > 0
        assert (encoder.over_unmasked(rows["kdnative w8a8"], case["rows"]) is not None) == ragged
        assert case["lengths"] == (list(RAGGED_TINY.lengths) if ragged else None)
        assert case["seconds"] >= 0 and case["cores"]["taken"] == len(rows)
        if ragged:
            assert rows["kdnative w8a8, nothing masked"]["unmasked"]
    assert [row["reason"] for row in result["not_run"]] == ["left out: --compile measures it"] * 3
    assert [limits["threads"] for limits in result["ceilings"]] == result["environment"]["threads"] == [1, 2]
    # After each case what is known so far, and complete only at the end.
    assert [len(partial["cases"]) for partial in saved] == [1, 2, 3, 4, 5, 6, 7, 8, 8]
    assert [partial["complete"] for partial in saved] == [False] * 8 + [True]
    assert saved[-1] == result and "summary" not in result
    assert sum("without ragged batches" in line for line in lines) == 1
    assert any("lengths 3 to 12, mean 6 (1 rounds" in line for line in lines)
    after = tiny.state_dict()
    assert all(torch.equal(after[name], t) for name, t in before.items())  # every candidate worked on a copy

    encoder_plot(result, tmp_path / "e.svg")
    panels = ElementTree.parse(tmp_path / "e.svg").getroot().findall(".//{*}svg")
    titles = [panel.find("{*}title").text for panel in panels]
    assert [title.partition(":")[0] for title in titles] == [
        "a, 1 thread",
        "a, 2 threads",
        "b, 1 thread",
        "b, 2 threads",
    ]
    with pytest.raises(ValueError, match=r"\.svg"):
        encoder_plot(result, tmp_path / "e.png")


@pytest.mark.parametrize("name", ["random-torch", "random-vit"])
def test_encoders_of_other_parts(peers_of_torch, monkeypatch, name):
    if name == "random-vit":
        pytest.importorskip("transformers", "5.0")
    sizes = encoder_models.TORCH if name in encoder_models.TORCH else encoder_models.VISION
    monkeypatch.setitem(sizes, name, (2, 64, 2, 128))
    models = load_encoders([name])
    result = encoder.run(models, [Shape(2, 8), RAGGED_TINY], rounds=1)
    for case in result["cases"]:
        assert {"kdnative w8a8", "torch fp32", "torch bf16", "torch dynamic int8"} <= {r["name"] for r in case["rows"]}
        assert all(row["error"] < 0.1 for row in case["rows"])
    assert [row["reason"] for row in result["not_run"]] == ["left out: --compile measures it"] * 3
    assert torch.backends.mha.get_fastpath_enabled()
    native = encoder_models.converted(models[name], "w8a8")
    found = [type(module) for module in native.modules() if isinstance(module, PackedEncoder)]
    assert found == ([TransformerEncoder] if name == "random-torch" else 2 * [EncoderLayer])
    assert not any(isinstance(module, PackedEncoder) for module in models[name].modules())


def test_input_scales_are_timed_with_scales_that_change_nothing():
    pytest.importorskip("transformers")
    model = encoder_models.load_encoder("random-tiny")
    scaled, plain = (encoder_models.converted(model, scheme) for scheme in ("w8a8-is", "w8a8"))
    assert {layer["qkv"] for layer in scaled.spec["layers"]} == {"w8a8-is"}
    ids = torch.arange(4, 20).view(2, 8)
    assert torch.equal(scaled(ids).last_hidden_state, plain(ids).last_hidden_state)


def test_what_depends_on_threads_is_built_again():
    encoder = Encoder(None)
    made = []
    for threads in (1, 2):
        encoder.use_threads(threads)
        encoder.build("model", lambda: made.append("model"))
        encoder.engine("engine", lambda: made.append(f"engine {encoder.threads}"))
        encoder.engine("engine", lambda: made.append("twice"))
    assert made == ["model", "engine 1", "engine 2"]


def test_a_failure_to_build_is_raised_each_time():
    encoder, calls = Encoder(None), []

    def fails():
        calls.append(1)
        raise RuntimeError("no")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="no"):
            encoder.build("x", fails)
    assert calls == [1]


def test_an_interrupted_command_leaves_the_cases_it_finished(peers_of_torch, tmp_path, monkeypatch):
    monkeypatch.setattr(whole_models, "rerun_clean", lambda *a: None)
    real, calls = encoder._run_case, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(encoder, "_run_case", interrupted)
    path = tmp_path / "new" / "e.json"
    command = ["--models", "random-tiny", "--cases", "1x4,2x4", "--threads", "1", "--rounds", "1", "--json", str(path)]
    with pytest.raises(KeyboardInterrupt):
        encoder.main(command)
    left = json.loads(path.read_text())
    assert [case["case"] for case in left["cases"]] == ["1x4"] and left["complete"] is False
    assert encoder.main([*command, "--no-peers", "--plot", str(tmp_path / "e.svg")]) == 0
    found = json.loads(path.read_text())
    assert [case["case"] for case in found["cases"]] == ["1x4", "2x4"] and found["complete"] is True
    assert (tmp_path / "e.svg").is_file()


def test_names_of_models():
    assert list(load_encoders(["random-tiny"])) == ["random-tiny"]
    with pytest.raises(ValueError, match="random-minilm"):
        load_encoder("random-gpt")
