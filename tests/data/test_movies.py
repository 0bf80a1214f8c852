"""Rated sentences as classes, as ratings and as pairs."""

from __future__ import annotations

import pytest

from kdnative.data import Dataset, Example, load_dataset
from kdnative.data import movies as module


@pytest.fixture
def rated(tmp_path, monkeypatch) -> dict[str, float]:
    """A small file of ratings, some near 0; returns {sentence: rating}."""
    ratings = {f"sentence number {i}": ((i * 7) % 17 - 8) / 4 for i in range(300)}
    lines = [f"{i}\t{rating}\t{text}" for i, (text, rating) in enumerate(ratings.items())]
    (tmp_path / "reviews.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.setattr(module, "movie_reviews_file", lambda: tmp_path / "reviews.txt")
    return ratings


def parts(found):
    return found.train, found.validation, found.test


def test_classes_leave_out_what_is_near_zero(rated):
    found = load_dataset("package:movie-reviews")
    labels = {e["text"]: found.labels[e.label] for part in parts(found) for e in part}
    assert labels == {t: "positive" if r > 0 else "negative" for t, r in rated.items() if abs(r) >= 0.5}


def test_ratings_keep_every_sentence(rated):
    found = load_dataset("package:movie-reviews", numbers=True)
    assert {e["text"]: e.label for part in parts(found) for e in part} == rated


def test_pairs_compare_two_sentences_of_one_split(rated):
    numbers = load_dataset("package:movie-reviews", text_pair_column="text_pair", numbers=True)
    single = load_dataset("package:movie-reviews", numbers=True)
    for pairs, sentences in zip(parts(numbers), parts(single), strict=True):
        texts = sorted(sentences.column("text"))
        assert sorted(pairs.column("text")) == texts and sorted(pairs.column("text_pair")) == texts
        assert all(e.label == pytest.approx(rated[e["text"]] - rated[e["text_pair"]]) for e in pairs)
        assert all(e["text"] != e["text_pair"] for e in pairs)


def test_classes_of_pairs_say_which_is_rated_higher(rated):
    found = load_dataset("package:movie-reviews", text_pair_column="text_pair")
    assert found.labels == ("first", "second")
    numbers = load_dataset("package:movie-reviews", text_pair_column="text_pair", numbers=True)
    expected = {e.id: "first" if e.label > 0 else "second" for p in parts(numbers) for e in p if abs(e.label) >= 1}
    assert {e.id: found.labels[e.label] for p in parts(found) for e in p} == expected
    assert min(found.train.counts.values()) > 0.3 * len(found.train)


def test_the_order_of_the_file_makes_no_difference():
    sentences = [Example({"text": f"text {i}", "label": float(i % 5)}, str(i)) for i in range(40)]
    one, two = (module.compared(Dataset(e), numbers=True) for e in (sentences, sentences[::-1]))
    assert one.fingerprint == two.fingerprint and len(one) == 40


def test_the_name_of_the_column_is_fixed(rated):
    with pytest.raises(ValueError, match="data.text_pair in a recipe.* its columns and splits are fixed"):
        load_dataset("package:movie-reviews", text_pair_column="other")
