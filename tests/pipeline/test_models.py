"""Loading of classifiers: what becomes of a head that the model brings along, and damaged weights."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch

from kdnative.data import Dataset, Example
from kdnative.pipeline import PipelineError
from kdnative.pipeline.models import load_any, load_for_task, load_tokenizer
from kdnative.tasks import TASKS
from kdnative.tasks.heads import fit_head

IDS = torch.arange(12).reshape(2, 6)


def write_classifier(folder: Path, names, family="Bert", headless=False) -> Path:
    """A tiny random classifier (or, headless, its encoder alone) whose config.json lists these class names."""
    import transformers

    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=32,
        max_position_embeddings=20,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    model = getattr(transformers, f"{family}ForSequenceClassification")(config)
    for parameter in model.parameters():  # biases of 0 would hide that they stay behind
        torch.nn.init.normal_(parameter, std=0.5)
    (model.base_model if headless else model).save_pretrained(folder)
    return folder


def load_classifier(folder: Path, labels) -> torch.nn.Module:
    return load_for_task(folder, TASKS["text-classification"], Dataset([], labels))


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def published(folder: Path) -> torch.Tensor:
    """Logits of the model as transformers loads it, untouched: the reference."""
    from transformers import AutoModelForSequenceClassification

    return logits(AutoModelForSequenceClassification.from_pretrained(folder))


@pytest.mark.parametrize("family", ["Bert", "Roberta"])  # one linear layer, and two of which the last is meant
def test_rows_of_the_head_follow_the_names(tmp_path, family):
    folder = write_classifier(tmp_path, ["positive", "neutral", "negative"], family)
    model = load_classifier(folder, ["negative", "neutral", "positive"])
    assert torch.equal(logits(model), published(folder)[:, [2, 1, 0]])
    assert model.config.id2label == {0: "negative", 1: "neutral", 2: "positive"}


def test_a_rotation_of_three_is_not_inverted(tmp_path):
    folder = write_classifier(tmp_path, ["b", "c", "a"])
    assert torch.equal(logits(load_classifier(folder, ["a", "b", "c"])), published(folder)[:, [2, 0, 1]])


def test_case_of_the_names_does_not_matter(tmp_path):
    folder = write_classifier(tmp_path, ["POSITIVE", "NEGATIVE"])
    assert torch.equal(logits(load_classifier(folder, ["negative", "positive"])), published(folder)[:, [1, 0]])


@pytest.mark.parametrize(
    ("own", "labels"),
    [
        (["LABEL_0", "LABEL_1"], ["0", "1"]),
        (["positive", "negative"], ["0", "1"]),  # data that numbers the rows
        (["negative", "positive"], ["negative", "positive"]),
        (["a", "A"], ["a", "A"]),
    ],
)
def test_rows_stay(tmp_path, caplog, own, labels):
    folder = write_classifier(tmp_path, own)
    assert torch.equal(logits(load_classifier(folder, labels)), published(folder))
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_rows_without_names_are_taken_in_their_order_and_named(tmp_path, caplog):
    folder = write_classifier(tmp_path, ["LABEL_0", "LABEL_1"])
    assert torch.equal(logits(load_classifier(folder, ["negative", "positive"])), published(folder))
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "row 0 for negative, row 1 for positive; if this is wrong" in record.getMessage()


def test_a_head_for_other_classes_is_drawn_anew(tmp_path, caplog):
    folder = write_classifier(tmp_path, ["spam", "ham"])
    torch.manual_seed(5)
    model = load_classifier(folder, ["negative", "positive"])
    before, after = published(folder), logits(model)
    assert not torch.allclose(before, after) and not torch.allclose(before[:, [1, 0]], after)
    assert not model.classifier.bias.any() and 0.01 < model.classifier.weight.std() < 0.03
    for part in (str(folder), "spam, ham", "negative, positive", "must be trained"):
        assert part in caplog.text
    torch.manual_seed(5)
    assert torch.equal(logits(load_classifier(folder, ["negative", "positive"])), after), "drawn from the seed"


def test_a_head_of_another_size_is_named(tmp_path, caplog):
    folder = write_classifier(tmp_path, ["spam", "ham", "eggs"])
    assert logits(load_classifier(folder, ["negative", "positive"])).shape == (2, 2)
    assert "spam, ham, eggs" in caplog.text


def test_a_head_that_becomes_one_of_numbers_begins_at_their_mean(tmp_path, caplog):
    caplog.set_level("INFO")
    folder = write_classifier(tmp_path, ["spam", "ham", "eggs"])
    train = Dataset([Example({"text": "a", "label": y}, str(y)) for y in (1.0, 4.0)])
    model = load_for_task(folder, TASKS["text-regression"], train)
    assert model.classifier.bias.tolist() == [2.5] and "starts at 2.5, the mean of the training labels" in caplog.text


def test_an_encoder_without_a_head_is_quiet(tmp_path, caplog):
    folder = write_classifier(tmp_path, ["spam", "ham"], headless=True)
    load_classifier(folder, ["negative", "positive"])
    load_classifier(folder, ["negative", "neutral", "positive"])
    assert not caplog.records


def test_a_head_that_cannot_be_found(tmp_path):
    model = load_classifier(write_classifier(tmp_path, ["a", "b"]), ["a", "b"])
    model.classifier = torch.nn.Conv1d(32, 2, 1)
    with pytest.raises(ValueError, match=r"folder: its classes are b, a, the data's a, b, .*2 outputs") as caught:
        fit_head(model, ["b", "a"], ["a", "b"], [], "folder")
    assert "id2label" in str(caught.value)


@pytest.mark.parametrize("kept", [0, 4, 5000])
@pytest.mark.parametrize("load", [load_any, lambda folder: load_classifier(folder, ["a", "b"])])
def test_truncated_weights_are_named(tmp_path, load, kept):
    folder = write_classifier(tmp_path, ["a", "b"])
    weights = folder / "model.safetensors"
    shutil.copy(weights, folder / "another.safetensors")  # whole, and first in order
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(PipelineError, match="model.safetensors is truncated or damaged"):
        load(folder)


def test_a_tokenizer_is_saved_alike_however_it_was_read(tiny, tmp_path, monkeypatch):
    """transformers notes whether it was offline."""
    written = []
    for offline in (False, True):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        load_tokenizer(tiny["teacher"]["source"]).save_pretrained(tmp_path / str(offline))
        written.append({file.name: file.read_bytes() for file in (tmp_path / str(offline)).iterdir()})
    assert written[0] == written[1] and b"local_files_only" not in written[0]["tokenizer_config.json"]
