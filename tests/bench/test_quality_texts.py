"""The texts of the quality suite: first sentences of docstrings, and never the same texts twice."""

import pytest

from kdnative.bench import quality_texts as texts
from kdnative.data import Dataset, DataSplits, Example


def part(*found, name=""):
    return Dataset([Example({"text": text, "label": 0}, f"{name}{i}") for i, text in enumerate(found)], ("a", "b"))


def test_first_sentences():
    assert texts.first_sentence("\n  Adds a\n  number. And more.\n") == "Adds a number"
    assert texts.first_sentence("One line\n\nAnother paragraph.") == "One line"


def test_docstrings_are_read_and_not_run(tmp_path):
    (tmp_path / "a.py").write_text('"""Of a module."""\ndef f():\n    """Of f."""\nraise SystemExit("was run")\n')
    (tmp_path / "b.py").write_text("this is no Python\n")
    (tmp_path / "c.py").write_bytes(b'"""\xff"""')
    for folder in ("test", "site-packages"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "d.py").write_text('"""Of others."""')
    assert list(texts.docstrings(tmp_path)) == ["Of a module.", "Of f."]


def test_too_few_docstrings(monkeypatch):
    monkeypatch.setattr(texts, "docstrings", lambda: iter(["A sentence of some length. More."] * 3 + ["Short."]))
    assert texts.first_sentences(1) == ["A sentence of some length"]
    with pytest.raises(ValueError, match="has 1 different docstrings, but 2 are needed"):
        texts.first_sentences(2)


def test_embedders_get_halves_of_two_domains_that_calibrate_nothing(monkeypatch):
    monkeypatch.setattr(texts, "first_sentences", lambda count: [f"docstring {i}" for i in range(count)])
    data = DataSplits(train=part("c", "d", "c"), validation=part("v", name="v"), test=part("t", "u", "t"))
    assert texts.embedder_texts(data, 4) == ["t", "u", "docstring 0", "docstring 1"]
    assert sorted(texts.calibration_texts(data, 5)) == ["c", "d"] and len(texts.calibration_texts(data, 1)) == 1
    assert texts.texts_of(texts.held_out(data)) == ["v", "t", "u", "t"]


def test_what_stops_a_training_measures_nothing():
    data = DataSplits(train=part("c"), validation=part("v", "w", "x", name="v"), test=part("t", "u"))
    stopping, measuring = map(texts.texts_of, texts.stopping_and_measuring(data))
    assert stopping == ["v", "x"] and measuring == ["w", "t", "u"]


def test_windows_of_tokens():
    assert texts.chunks(range(10), 3, 5) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert texts.chunks(range(10), 3, 1) == [[0, 1, 2]] and texts.chunks(range(2), 3, 1) == []
