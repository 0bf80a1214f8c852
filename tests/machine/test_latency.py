"""Latency of models: what is measured, with which inputs, and that the model is left as it was."""

import pytest
import torch
from torch import nn

from kdnative.machine.latency import as_dtype, example_inputs, latency, latency_grid


class Config:
    vocab_size, max_position_embeddings = 50, 64


class Toy(nn.Module):
    """Like a Hugging Face encoder: takes ids and a mask by name, and records what it was called with."""

    def __init__(self, scale=1):
        super().__init__()
        self.config, self.calls, self.scale = Config(), [], scale
        self.table = nn.Embedding(50, 8)

    def forward(self, input_ids, attention_mask):
        self.calls.append((tuple(input_ids.shape), self.training, torch.is_inference_mode_enabled()))
        x = self.table(input_ids) * attention_mask[..., None]
        for _ in range(self.scale):
            x = x @ torch.ones(8, 8, dtype=x.dtype)
        return x


class WithTypes(Toy):
    def forward(self, input_ids, attention_mask, token_type_ids):
        return super().forward(input_ids + token_type_ids, attention_mask)


def test_latency_of_one_case():
    model = Toy().train()
    found = latency(model, 3, 7, repeats=4, threads=1)
    assert {k: found[k] for k in ("batch", "tokens", "threads", "repeats")} == {
        "batch": 3, "tokens": 7, "threads": 1, "repeats": 4,
    }  # fmt: skip
    assert 0 < found["p20"] <= found["p50"] <= found["p80"] < 1000
    assert set(model.calls) == {((3, 7), False, True)}  # evaluation mode, no gradients
    assert model.training  # and back


def test_grid_has_a_row_for_every_model_and_case():
    models = {"small": Toy(), "large": Toy(400)}
    rows = latency_grid(models, [1, 2], [4, 8], repeats=3, threads=1)
    cases = [(row["model"], row["batch"], row["tokens"]) for row in rows]
    assert sorted(cases) == sorted((m, b, t) for m in models for b in (1, 2) for t in (4, 8))
    times = {case: row["p50"] for case, row in zip(cases, rows, strict=True)}
    assert all(times["large", b, t] > times["small", b, t] for b in (1, 2) for t in (4, 8))


def test_another_type_is_a_copy():
    model = Toy()
    half = as_dtype(model, "bfloat16")
    assert half.table.weight.dtype == torch.bfloat16 and model.table.weight.dtype == torch.float32
    latency(model, 1, 4, dtype=torch.bfloat16, repeats=1)
    assert model.table.weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["int8", "flaot32", torch.int8, None])
def test_types_that_no_model_runs_in_are_refused(dtype):
    with pytest.raises(ValueError, match="floating-point type"):
        as_dtype(Toy(), dtype)


def test_inputs_fit_the_model():
    inputs = example_inputs(WithTypes(), 5, 64)
    assert set(inputs) == {"input_ids", "attention_mask", "token_type_ids"}
    assert inputs["input_ids"].shape == (5, 64)
    assert 0 <= inputs["input_ids"].min() and inputs["input_ids"].max() < Config.vocab_size
    assert inputs["attention_mask"].all() and not inputs["token_type_ids"].any()
    assert set(example_inputs(Toy(), 1, 1)) == {"input_ids", "attention_mask"}
    assert torch.equal(example_inputs(Toy(), 2, 9)["input_ids"], example_inputs(Toy(), 2, 9)["input_ids"])


@pytest.mark.parametrize(
    ("batch", "tokens", "words"), [(0, 4, "at least 1"), (1, 0, "at least 1"), (1, 65, "64 positions")]
)
def test_impossible_cases_are_refused(batch, tokens, words):
    with pytest.raises(ValueError, match=words):
        latency(Toy(), batch, tokens)


@pytest.mark.parametrize("none", [-1, 0, None])
def test_a_configuration_without_a_limit_limits_nothing(none):
    """As those of XLNet, whose positions are relative and whose limit reads -1."""
    model = Toy()
    model.config.max_position_embeddings = model.config.vocab_size = none
    inputs = example_inputs(model, 2, 700)
    assert inputs["input_ids"].shape == (2, 700) and 0 <= inputs["input_ids"].min() and inputs["input_ids"].max() < 1000


def test_given_inputs_are_used():
    model = Toy()
    given = {"input_ids": torch.zeros(2, 3, dtype=torch.long), "attention_mask": torch.ones(2, 3, dtype=torch.long)}
    latency(model, 2, 3, inputs=given, repeats=1)
    assert {shape for shape, *_ in model.calls} == {(2, 3)}


def test_a_failing_model_is_back_in_training_mode():
    model = Toy().train()
    model.table.eval()
    with pytest.raises(ValueError, match="positions"):
        latency(model, 1, 1000)
    assert model.training and not model.table.training  # each module's own mode
