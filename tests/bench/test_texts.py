"""Sentences through sentence-transformers: the rows, and that what is computed is checked."""

import json

import pytest
import torch

from kdnative.bench import table, texts
from tests.small_models import bert

sentence_transformers = pytest.importorskip("sentence_transformers", reason='needs pip install "kdnative[embedders]"')
SENTENCES = ["a film", "a much longer sentence about the very same film", "no", "not good , not bad"] * 2


@pytest.fixture
def embedder(tmp_path):
    from transformers import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(" ".join(SENTENCES).split()))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    bert(kind="BertModel").save_pretrained(tmp_path)
    return sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu", local_files_only=True), str(tmp_path)


def test_every_engine_encodes_the_sentences_both_ways(embedder, monkeypatch):
    model, folder = embedder
    monkeypatch.setattr(texts, "PEERS", [c for c in texts.PEERS if not c.packages])
    lines = []
    result = texts.run(model, folder, SENTENCES, rounds=2, show=lines.append)
    assert [case["case"] for case in result["cases"]] == ["one by one", "batches of 32"]
    for case in result["cases"]:
        rows = {row["name"]: row for row in case["rows"]}
        assert set(rows) == {"kdnative w8a8", "torch fp32", "torch bf16"}
        assert all(len(row["samples"]) == 2 and row["error"] < 0.1 for row in rows.values())
        assert rows["kdnative w8a8"]["error"] > rows["torch fp32"]["error"] == 0
    assert result["not_run"] == [] and json.loads(json.dumps(result, allow_nan=False)) == result
    text = table.markdown({**result, "model": "m", "data": "d"})
    assert text.count("| batches of 32 |") == 3 and "8 sentences of d through `encode()`, m." in text


def test_both_ways_give_the_same_embeddings(embedder):
    model, folder = embedder
    one, batch = (texts.Texts(model, folder, SENTENCES, size).reference for size in (1, 32))
    assert one.shape == batch.shape == (8, model[0].auto_model.config.hidden_size)
    torch.testing.assert_close(one, batch, atol=1e-5, rtol=1e-5)


def test_what_encodes_something_else_is_no_row(embedder, monkeypatch):
    model, folder = embedder
    wrong = texts.Candidate(
        "other texts", "float", lambda case: texts.Prepared(lambda: case.encode(model)[:1].expand(4, -1))
    )
    right = texts._candidate("the same model", "float", lambda case: model)
    swapped = texts.Candidate(
        "swapped", "float", lambda case: texts.Prepared(lambda: case.reference.flip(0)), also=("int8",)
    )
    monkeypatch.setattr(texts, "PEERS", [wrong, right, swapped])
    result = texts.run(model, folder, SENTENCES[:4], schemes=["w8a16"], rounds=1)
    assert {row["name"] for row in result["not_run"]} == {"other texts", "swapped"}
    for case in result["cases"]:
        (native, peer) = case["rows"]
        assert (native["name"], peer["name"]) == ("kdnative w8a16", "the same model")
        assert texts.against_peers(native, case["rows"]).peer is peer
    assert all("wrong result" in row["reason"] for row in result["not_run"])


def test_backends_that_are_not_installed_are_named(embedder, monkeypatch):
    model, folder = embedder
    missing = texts._candidate("sentence-transformers onnx", "float", lambda case: model, ("no_such_package",))
    monkeypatch.setattr(texts, "PEERS", [missing])
    (row,) = texts.run(model, folder, SENTENCES[:2], rounds=1)["not_run"]
    assert "not installed: no_such_package" in row["reason"]
