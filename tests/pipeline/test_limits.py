"""What models can read: compared with what they do when they are given one token more."""

from __future__ import annotations

import logging

import pytest
import torch

import kdnative
from kdnative.pipeline import PipelineError, limits, load_recipe
from kdnative.pipeline.kinds.texts import TEXTS
from kdnative.pipeline.limits import check_sizes, positions
from kdnative.pipeline.stages import Context, Shared, training
from tests.pipeline.conftest import changed, write_recipe

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
MARKS = {"pad_token_id": 1, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
NAMED = {
    "DistilBert": {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
    "GPT2": {"n_embd": 32, "n_layer": 1, "n_head": 2, "pad_token_id": 1},
    "Bart": {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
    "DebertaV2": {**SIZES, "position_biased_input": False, "relative_attention": True, "pos_att_type": ["p2c"]},
    "XLNet": {"d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 32},
    "Nystromformer": {**SIZES, "num_landmarks": 2, "segment_means_seq_len": 2},
}


def classifier(family: str, declared: int | None = 20, device: str = "cpu"):
    """A small random classifier of a family of transformers, whose configuration declares so many positions."""
    import transformers

    sizes = NAMED.get(family, SIZES)
    sizes = {**sizes, **MARKS} if family in ("Roberta", "XLMRoberta", "MPNet", "ModernBert") else sizes
    sizes = sizes if declared is None else {**sizes, "max_position_embeddings": declared}
    config = getattr(transformers, f"{family}Config")(vocab_size=40, **sizes)
    with torch.device(device):
        return transformers.AutoModelForSequenceClassification.from_config(config).eval()


def reads(model, tokens: int) -> bool:
    ids = torch.randint(5, 40, (1, tokens))
    ids[:, -1] = 2  # BART looks for the end of a text
    try:
        with torch.no_grad():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize(
    ("family", "expected"),
    [(family, 20) for family in ("Bert", "Electra", "DistilBert", "Albert", "GPT2", "Bart", "Nystromformer")]
    + [(family, 18) for family in ("Roberta", "XLMRoberta", "MPNet")],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tables_of_positions(family, expected, device):
    model = classifier(family, device=device)
    assert positions(model) == expected
    if device == "cpu":
        assert reads(model, expected) and not reads(model, expected + 1)


@pytest.mark.parametrize(("family", "declared"), [("DebertaV2", 20), ("XLNet", None)])
def test_relative_positions_have_no_end(family, declared):
    model = classifier(family, declared)
    assert positions(model) is None and reads(model, 40)


def test_rotary_positions_end_where_the_kernels_end():
    """torch reads on; the native model, as which every model of a run is measured, does not."""
    model = classifier("ModernBert")
    assert positions(model) == 20 and reads(model, 21)
    native = kdnative.convert_(model, "w8a8").model
    assert reads(native, 20) and not reads(native, 21)


def recipe_of(tiny, tmp_path, **sections):
    return load_recipe(write_recipe(tmp_path / "r.yaml", changed(tiny, **sections)))


def test_defaults_that_a_small_model_does_not_fit(tiny, tmp_path):
    recipe = changed(tiny, benchmark={"tokens": 8})
    del recipe["data"]["max_length"], recipe["benchmark"]["grid_tokens"]
    recipe, model = load_recipe(write_recipe(tmp_path / "r.yaml", recipe)), classifier("Bert", 100, "meta")
    with pytest.raises(PipelineError, match=r"^data.max_length is 128 \(its default\), but the student \(x\)"):
        check_sizes(recipe, "student", "x", model, {"distil"})
    with pytest.raises(PipelineError, match=r"^benchmark.grid_tokens holds 128 \(its default\), but the student \(x\)"):
        check_sizes(recipe, "student", "x", model, {"benchmark"})
    check_sizes(recipe, "student", "x", model, {"report"})
    check_sizes(recipe, "student", "x", classifier("Bert", 128, "meta"), {"distil", "benchmark"})


def test_a_roberta_of_514_rows_reads_512_tokens(tiny, tmp_path):
    model = classifier("Roberta", 514, "meta")
    for section, key in (("data", "max_length"), ("benchmark", "tokens")):
        fits, wrong = (recipe_of(tiny, tmp_path, **{section: {key: tokens}}) for tokens in (512, 513))
        check_sizes(fits, "teacher", "x", model, {"evaluate", "benchmark"})
        with pytest.raises(PipelineError, match=rf"{section}.{key} is 513"):
            check_sizes(wrong, "teacher", "x", model, {"evaluate", "benchmark"})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch": 1001, "tokens": 100}, r"^benchmark, batch and tokens: 1,001 sentences of 100 tokens need 0.1 GB"),
        ({"grid_batches": [1, 4000], "grid_tokens": [8, 32]}, r"^benchmark, grid_batches and grid_tokens: 4,000 sent"),
    ],
)
def test_cases_of_the_benchmark_fit_the_memory(tiny, tmp_path, monkeypatch, settings, words):
    """128 numbers of four bytes for each token in the wider layer of the feed-forward part."""
    model = classifier("Bert", 512, "meta")
    model.bert.encoder.layer[0].intermediate.dense = torch.nn.Linear(32, 128, device="meta")
    monkeypatch.setattr(limits, "machine_memory", lambda: 1000 * 100 * 128 * 4)
    fits, wrong = (recipe_of(tiny, tmp_path, benchmark=own) for own in ({"batch": 1000, "tokens": 100}, settings))
    check_sizes(fits, "teacher", "x", model, {"benchmark"})
    with pytest.raises(PipelineError, match=words):
        check_sizes(wrong, "teacher", "x", model, {"benchmark"})
    monkeypatch.setattr(limits, "machine_memory", lambda: None)
    check_sizes(wrong, "teacher", "x", model, {"benchmark"})


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"data": {"max_length": 65}}, "data.max_length is 65"),
        ({"benchmark": {"tokens": 65}}, "benchmark.tokens is 65"),
    ],
)
def test_a_model_that_was_not_rehearsed_is_judged_before_its_training(tiny, tmp_path, monkeypatch, sections, words):
    for module in ("rehearsal", "kinds.texts"):
        monkeypatch.setattr(f"kdnative.pipeline.{module}.may_be_asked", lambda source, needed: False)
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("trained"))
    path = write_recipe(tmp_path / "r.yaml", changed(tiny, **sections))
    with pytest.raises(PipelineError, match=words):
        kdnative.run(path, runs=tmp_path / "runs", progress=False)


def test_hidden_tokens_of_a_later_stage_are_judged_before_training(tiny, tmp_path):
    recipe = recipe_of(tiny, tmp_path, recover={"mask_tokens": 0.1})
    shared = Shared(recipe)
    source = recipe.teacher.source
    context = Context(recipe, None, "train_teacher", tmp_path, "cpu", logging.getLogger(), False, shared)
    TEXTS.tokenizer(context.shared, source).mask_token = None
    with pytest.raises(PipelineError, match=r"^recover\.mask_tokens: the tokenizer of .* has no mask token"):
        training._check_recipe(context, source, classifier("Bert", 512, "meta"))
