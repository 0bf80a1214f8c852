"""Converted models inside the libraries that people run them with: transformers itself and sentence-transformers."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch

from kdnative import convert_, load, save
from kdnative.nn import Encoder
from tests.pipeline.conftest import write_model

transformers = pytest.importorskip("transformers")

TEXTS = ["the film was great", "a very dull plot and an awful cast", "fine"]


@pytest.fixture
def folder(tmp_path):
    return str(write_model(tmp_path / "bert"))


def sentence_model(folder: str):
    """Mean pooling over the encoder, which is what the library does with a plain model."""
    library = pytest.importorskip("sentence_transformers")
    return library.SentenceTransformer(folder, device="cpu")


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def test_sentence_transformers(folder, tmp_path):
    model = sentence_model(folder)
    expected = model.encode(TEXTS)
    report = convert_(model, "w8a8")
    assert sum(isinstance(module, Encoder) for module in model.modules()) == 1 and "fused" in str(report)
    actual = model.encode(TEXTS)
    assert actual.shape == (3, 64) and cosine(actual, expected) > 0.99 and not np.array_equal(actual, expected)
    assert model.device == torch.device("cpu")
    longer = model.encode([*TEXTS, " ".join(TEXTS)])  # more padding: the same sentences have the same embeddings
    np.testing.assert_array_equal(longer[:3], actual)

    save(model, tmp_path / "m")
    other = sentence_model(folder)
    assert load(tmp_path / "m", into=other) is other
    np.testing.assert_array_equal(other.encode(TEXTS), actual)
    import kdnative.transformers  # noqa: F401

    model.save_pretrained(str(tmp_path / "theirs"))
    again = type(model)(str(tmp_path / "theirs"), device="cpu")
    np.testing.assert_array_equal(again.encode(TEXTS), actual)


def test_cross_encoder(folder):
    library = pytest.importorskip("sentence_transformers")
    torch.manual_seed(0)
    model = library.CrossEncoder(folder, num_labels=1, device="cpu")
    pairs = [(TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[0])]
    expected = model.predict(pairs)
    convert_(model, "w8a8")
    assert any(isinstance(module, Encoder) for module in model.modules())
    np.testing.assert_allclose(model.predict(pairs), expected, atol=0.02)


def test_pipeline_of_a_classifier(folder):
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    run = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    expected = [row["score"] for row in run(TEXTS, batch_size=2)]
    convert_(model, "w8a8")
    assert isinstance(model.bert, Encoder)
    np.testing.assert_allclose([row["score"] for row in run(TEXTS, batch_size=2)], expected, atol=0.02)


def test_pipeline_of_a_bare_encoder(folder):
    model, tokenizer = (
        transformers.AutoModel.from_pretrained(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
    )
    convert_(model, "w8a8")
    run = transformers.pipeline("feature-extraction", model=model, tokenizer=tokenizer, device="cpu")
    with torch.inference_mode():
        expected = model(**tokenizer(TEXTS[0], return_tensors="pt")).last_hidden_state
    np.testing.assert_array_equal(np.array(run(TEXTS[0]), dtype=np.float32), expected.numpy())


def test_what_trainer_passes_on(folder):
    """Trainer gives the number of items of a batch to the model, which gives it to its encoder."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    convert_(model, "w8a8")
    ids, labels = torch.randint(5, 20, (2, 7)), torch.tensor([0, 1])
    with torch.inference_mode():
        output = model(input_ids=ids, labels=labels, num_items_in_batch=torch.tensor(2))
    assert torch.isfinite(output.loss)
    with pytest.raises(ValueError, match="does not support cu_seq_lens_q"):
        model(input_ids=ids, cu_seq_lens_q=torch.tensor([0, 7]))


def test_config_is_that_of_the_model(folder, tmp_path):
    model = transformers.AutoModel.from_pretrained(folder)
    config = model.config
    convert_(model, "w8a8")
    assert model.config is config and model.device == torch.device("cpu")
    save(model, tmp_path / "m")
    text = (tmp_path / "m" / "kdnative.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text, "a checkpoint tells where the model lay"
    fresh = Encoder.from_spec(json.loads(json.dumps(model.spec)))
    for other in (load(tmp_path / "m"), copy.deepcopy(model), pickle.loads(pickle.dumps(model)), fresh):
        assert type(other.config) is type(config) and other.spec == model.spec
        assert other.config.hidden_size == 64 and other.config.pad_token_id == config.pad_token_id
    fresh.config = None
    assert not hasattr(fresh, "config") and fresh.spec["transformers"] is None


def test_unknown_kind_of_config(folder):
    model = transformers.AutoModel.from_pretrained(folder)
    spec = convert_(model, "w8a8").model.spec
    spec["transformers"]["model_type"] = "brandnew"
    with pytest.raises(ValueError, match="model_type 'brandnew' is not one of transformers"):
        _ = Encoder.from_spec(spec).config


def test_config_that_asks_for_attention_weights(folder):
    options = {"output_attentions": True, "attn_implementation": "eager"}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, **options)
    report = convert_(model, "w8a8")
    row = next(row for row in report.rows if row.name == "bert")
    assert row.action == "kept" and "its config sets output_attentions=True" in row.reason
    with torch.inference_mode():
        output = model(input_ids=torch.randint(5, 20, (1, 7)))
    assert len(output.attentions) >= 3
