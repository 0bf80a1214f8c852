"""Labels that are taken away, and texts without one that are added."""

from __future__ import annotations

import json

import pytest

from kdnative.data import DataError, Dataset, Example, load_dataset
from kdnative.data.transfer import keep_labels
from kdnative.data.types import text_hash


def dataset(counts: dict[str, int]) -> Dataset:
    names = tuple(counts)
    rows = [(name, i) for name, count in counts.items() for i in range(count)]
    return Dataset([Example({"text": f"{n} {i}", "label": names.index(n)}, f"{n}{i}") for n, i in rows], names, "train")


def write_csv(path, rows, header="text,label"):
    path.write_text(header + "\n" + "".join(",".join(row) + "\n" for row in rows), "utf-8")
    return path


ROWS = [(f"text number {i}", ("x", "y", "y")[i % 3]) for i in range(300)]


class TestLabelsThatAreKept:
    @pytest.mark.parametrize(
        ("counts", "number", "expected"),
        [
            ({"a": 60, "b": 40}, 10, {"a": 6, "b": 4}),
            ({"a": 97, "b": 2, "c": 1}, 10, {"a": 8, "b": 1, "c": 1}),  # none without
            ({"a": 50, "b": 50}, 99, {"a": 50, "b": 49}),  # never more than there are
            ({"a": 3, "b": 3, "c": 3}, 3, {"a": 1, "b": 1, "c": 1}),
            ({"a": 5, "b": 4}, 9, {"a": 5, "b": 4}),
        ],
    )
    def test_each_class_in_proportion(self, counts, number, expected):
        whole = dataset(counts)
        found = keep_labels(whole, number, "here")
        assert found.labelled == number and len(found) == len(whole)
        if counts != {"a": 50, "b": 50}:
            assert found.counts == expected
        else:
            assert sorted(found.counts.values()) == [49, 50]

    def test_those_of_the_smallest_hashes(self):
        whole = dataset({"a": 40, "b": 20})
        found = keep_labels(whole, 6, "here")
        for label, number in ((0, 4), (1, 2)):
            texts = sorted((e["text"] for e in whole if e.label == label), key=lambda text: text_hash((text,)))
            assert {e["text"] for e in found if e.label == label} == set(texts[:number])
        backwards = keep_labels(Dataset(list(whole)[::-1], whole.labels), 6, "here")
        assert {e.id for e in backwards if e.label is not None} == {e.id for e in found if e.label is not None}
        assert [e.id for e in found] == [e.id for e in whole] and found.column("text") == whole.column("text")

    def test_refused(self, tmp_path):
        path = write_csv(tmp_path / "a.csv", ROWS)
        with pytest.raises(DataError, match=r"a\.csv: labelled=400 .*data\.labelled.* only 2\d\d training examples"):
            load_dataset(path, labelled=400)
        with pytest.raises(DataError, match=r"labelled=1 .* 2 classes: give at least one label per class"):
            load_dataset(path, labelled=1)
        with pytest.raises(ValueError, match="labelled=0: at least 1"):
            load_dataset(path, labelled=0)
        with pytest.raises(DataError, match="only 20 training examples"):
            load_dataset(path, labelled=30, limit=20)

    def test_the_other_splits_are_those_of_all_labels(self, tmp_path):
        path = write_csv(tmp_path / "a.csv", ROWS)
        whole, found = load_dataset(path), load_dataset(path, labelled=30)
        assert found.train.column("text") == whole.train.column("text")
        assert found.validation.fingerprint == whole.validation.fingerprint
        assert found.test.fingerprint == whole.test.fingerprint and found.fingerprint != whole.fingerprint
        for name, count in whole.train.counts.items():
            assert abs(found.train.counts[name] - 30 * count / len(whole.train)) <= 1
        sizes = {"labelled": 30, "unlabelled": len(whole.train) - 30}
        assert found.sizes == {**sizes, "validation": len(whole.validation), "test": len(whole.test)}
        assert len(found.labelled) == found.labelled.labelled == 30
        assert whole.labelled is whole.train

    def test_beside_rows_that_never_had_one(self, tmp_path):
        rows = [(text, label if i % 2 else "") for i, (text, label) in enumerate(ROWS)]
        found = load_dataset(write_csv(tmp_path / "a.csv", rows), unlabelled="keep", labelled=20)
        assert found.train.labelled == 20
        assert all(rows[_row(e)][1] for e in found.train if e.label is not None)

    def test_targets(self, tmp_path):
        path = write_csv(tmp_path / "a.csv", [(text, str(i / 10)) for i, (text, _) in enumerate(ROWS)])
        found = load_dataset(path, numbers=True, labelled=25)
        kept = [e for e in found.train if e.label is not None]
        assert len(kept) == 25 and all(e.label == _row(e) / 10 for e in kept)

    def test_a_text_that_is_held_out_is_not_learned_from_with_or_without_its_label(self, tmp_path):
        train = write_csv(tmp_path / "train.csv", ROWS)
        known = ROWS[7][0], ROWS[8][0].upper()
        test = write_csv(tmp_path / "test.csv", [(known[0], "x"), ("new", "y")])
        validation = write_csv(tmp_path / "validation.csv", [("a", "x"), (known[1], "y")])
        note = "2 of 300 training examples are left out: their texts are in the validation or test split"
        for labelled in (None, 298, 10):
            found = load_dataset(train, validation=validation, test=test, labelled=labelled)
            assert found.train.column("text") == [text for text, _ in ROWS if text not in (ROWS[7][0], ROWS[8][0])]
            assert found.train.labelled == (labelled or 298) and found.notes == (note,)
        with pytest.raises(DataError, match="only 298 training examples have a label"):
            load_dataset(train, validation=validation, test=test, labelled=299)
        with pytest.raises(DataError, match="every training text is also in the validation or test split"):
            load_dataset(train, validation=validation, test=train)


def _row(e: Example) -> int:
    return int(e["text"].rpartition(" ")[2])


class TestTextsThatAreAdded:
    def test_every_kind_of_file(self, tmp_path):
        path = write_csv(tmp_path / "a.csv", ROWS)
        whole = load_dataset(path)
        held, known = whole.test[0]["text"], whole.train[0]["text"]
        (tmp_path / "b.txt").write_text(f"one\n\n two \r\n{held.upper()}\n{known}\nONE\n", "utf-8")
        write_csv(tmp_path / "c.csv", [("three", "no class"), ("two", "")])
        (tmp_path / "d.jsonl").write_text(json.dumps({"text": "four"}) + "\n")
        files = [tmp_path / name for name in ("b.txt", "c.csv", "d.jsonl")]
        found = load_dataset(path, unlabelled_files=files)
        added = list(found.train)[len(whole.train) :]
        assert [e["text"] for e in added] == ["one", "two", "three", "four"]
        assert all(e.label is None for e in added) and found.train.labelled == len(whole.train)
        assert found.labels == whole.labels and found.test.fingerprint == whole.test.fingerprint
        assert [e.id for e in added] == ["unlabelled 1:1", "unlabelled 1:3", "unlabelled 2:2", "unlabelled 3:1"]
        assert found.notes == (
            f"{files[0]}: 2 texts without a label are added to the training split; 1 texts of the "
            "validation or test split and 2 duplicates are left out",
            f"{files[1]}: 1 texts without a label are added to the training split; 0 texts of the "
            "validation or test split and 1 duplicates are left out",
            f"{files[2]}: 1 texts without a label are added to the training split; 0 texts of the "
            "validation or test split and 0 duplicates are left out",
        )

    def test_with_few_labels_and_a_limit(self, tmp_path):
        path = write_csv(tmp_path / "a.csv", ROWS)
        (tmp_path / "b.txt").write_text("".join(f"another {i}\n" for i in range(50)))
        found = load_dataset(path, labelled=10, limit=20, unlabelled_files=[tmp_path / "b.txt"])
        assert found.sizes["labelled"] == 10 and found.sizes["unlabelled"] == 10 + 20

    def test_pairs(self, tmp_path):
        rows = [(text, f"second {i % 7}", label) for i, (text, label) in enumerate(ROWS)]
        path = write_csv(tmp_path / "a.csv", rows, "text,other,label")
        more = write_csv(tmp_path / "b.csv", [("second 0", "text number 0"), ("x", "y")], "text,other")
        found = load_dataset(path, text_pair_column="other", unlabelled_files=[more])
        assert [e.texts for e in found.train if e.label is None] == [("x", "y")], "in either order, a pair is the same"
        (tmp_path / "c.txt").write_text("one\n")
        with pytest.raises(DataError, match=r"c\.txt: a \.txt file has one text per line, but pairs are needed"):
            load_dataset(path, text_pair_column="other", unlabelled_files=[tmp_path / "c.txt"])

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("b.txt", "\n \n", r"b\.txt: no texts"),
            ("b.txt", None, r"b\.txt: no such file"),
            ("b.doc", "one\n", r"unknown kind of file '\.doc'; allowed are \.txt, \.csv"),
            ("b.csv", "words\none\n", r"b\.csv, line 1: the column 'text' is missing"),
            ("b.csv", "text\n  \n", r"b\.csv, line 2: the text is empty"),
        ],
    )
    def test_refused(self, tmp_path, name, content, words):
        path = write_csv(tmp_path / "a.csv", ROWS)
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=words):
            load_dataset(path, unlabelled_files=[tmp_path / name])
