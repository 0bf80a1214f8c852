"""`kdnative new`: guesses that were made by hand first, refusals, and recipes that are really run."""

from __future__ import annotations

import csv
import json
import random

import pytest

import kdnative
from kdnative.cli import main
from kdnative.data import DataError
from kdnative.pipeline import RunFolder, load_recipe, new
from tests.pipeline.conftest import BAD, GOOD, OTHER, sentences, write_model

SHORT = [
    *(f"{section}.max_steps=2" for section in ("train_teacher", "train_baseline", "distil")),
    *("benchmark.repeats=5", "benchmark.grid_repeats=1", "benchmark.grid_batches=[1]", "threads=1"),
]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return str(write_model(tmp_path_factory.mktemp("teacher") / "model"))


@pytest.fixture
def make(tmp_path, teacher):
    """Writes a recipe for a file and reads it back."""

    def make(path, **options):
        made = new(path, tmp_path / "recipe.yaml", **{"teacher": teacher, "overwrite": True, **options})
        return made, load_recipe(tmp_path / "recipe.yaml")

    return make


def write(path, header, rows, delimiter=","):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


def words(count, seed=0):
    return [text for text, _ in sentences(count, seed)]


def test_ids_and_dates_are_neither_texts_nor_labels(tmp_path, make):
    """A semicolon, odd names, quoted line ends, and a byte order mark; the label comes before the text."""
    rows = [[i, f"2021-03-{i % 28 + 1:02d}", "yes" if i % 3 else "no", f'{t}; "so"\nit was', f"u{i % 7}"]
            for i, t in enumerate(words(90))]  # fmt: skip
    path = write(tmp_path / "My data.csv", ["Unnamed: 0", "date", "is Good?", "Review Body", "user id"], rows, ";")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    made, recipe = make(path)
    assert (recipe.data.text, recipe.data.label, recipe.data.delimiter) == ("Review Body", "is Good?", "semicolon")
    assert recipe.task == "text-classification" and recipe.name == "My-data" and recipe.data.unlabelled == "error"
    assert made.checked.data.labels == ("no", "yes") and len(made.checked.data.train) > 60
    assert "semicolons" in made.guesses["data"]


def test_a_scale_is_numbers_and_says_so(tmp_path, make):
    path = write(tmp_path / "a.tsv", ["stars", "text"], [[i % 5 + 1, t] for i, t in enumerate(words(100))], "\t")
    made, recipe = make(path)
    assert recipe.task == "text-regression" and "--task text-classification" in " ".join(made.unsure)
    _, recipe = make(path, task="text-classification")
    assert recipe.task == "text-classification"


@pytest.mark.parametrize(
    ("name", "labels", "task"),
    [
        ("label", ["0", "1"], "text-classification"),
        ("score", ["0.5", "1", "2.25"], "text-regression"),
        ("label", ["0", "1", "2"], "text-classification"),
        ("intent", [str(i) for i in range(15)], "text-classification"),
        ("price", [str(i * 37) for i in range(60)], "text-regression"),
        ("verdict", ["True", "False"], "text-classification"),
        ("label_id", ["0", "1", "2", "3"], "text-classification"),
        ("category_id", ["10", "20", "35"], "text-classification"),
    ],
)
def test_classes_or_numbers(tmp_path, make, name, labels, task):
    rows = [[t, labels[i % len(labels)]] for i, t in enumerate(words(150))]
    _, recipe = make(write(tmp_path / "a.csv", ["text", name], rows))
    assert recipe.task == task and recipe.data.label == name


def test_ids_that_do_not_repeat_are_no_labels(tmp_path, make):
    rows = [[i * 3 % 151, t, "xy"[i % 2]] for i, t in enumerate(words(150))]
    _, recipe = make(write(tmp_path / "a.csv", ["category_id", "text", "kind"], rows))
    assert recipe.data.label == "kind"


def test_whole_numbers_with_a_point_may_be_classes(tmp_path, make):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": t, "label": float(i % 2)}) + "\n" for i, t in enumerate(words(100))))
    made, recipe = make(path)
    assert recipe.task == "text-regression" and "write them without the decimal point, such as 0" in " ".join(
        made.unsure
    )
    path.write_text("".join(json.dumps({"text": t, "label": i / 8}) + "\n" for i, t in enumerate(words(100))))
    assert "decimal point, such" not in " ".join(make(path)[0].unsure)


def test_pairs(tmp_path, make):
    rng = random.Random(0)
    rows = [[b, rng.choice("xyz"), a] for a, b in zip(words(80, 1), words(80, 2), strict=True)]
    made, recipe = make(write(tmp_path / "a.csv", ["hypothesis", "gold_label", "premise"], rows))
    assert (recipe.data.text, recipe.data.text_pair) == ("premise", "hypothesis")
    assert recipe.task == "sentence-pair-classification"
    _, recipe = make(tmp_path / "a.csv", task="text-classification", text="hypothesis")
    assert (recipe.data.text, recipe.data.text_pair) == ("hypothesis", None)
    made, _ = make(write(tmp_path / "a.csv", ["headline", "y", "body"], rows))
    assert "--text-pair" in " ".join(made.unsure), "two texts that may belong together are not taken for a pair"


def test_lines_of_json_without_some_keys(tmp_path, make):
    records = [{"text": t, **({"intent": "ab"[i % 2]} if i % 3 == 0 else {})} for i, t in enumerate(words(120))]
    records += [{"intent": "a"}, {"text": "the last scene", "intent": "alone"}]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    made, recipe = make(path)
    assert recipe.data.unlabelled == "keep" and recipe.data.empty == "drop"
    assert sum(made.checked.data.sizes.values()) <= 121 and made.checked.data.sizes["unlabelled"] > 60
    assert "'alone' has a single example" in " ".join(made.unsure)
    assert recipe.distil.class_weights is None
    labelled = made.checked.data.train.labelled
    batch = recipe.train_teacher.batch_size
    assert made.checked.steps["train_teacher"][1] == recipe.train_teacher.epochs * -(-labelled // batch)


def test_unequal_classes_are_weighed(tmp_path, make):
    rows = [[t, "spam" if i % 8 == 0 else "ham"] for i, t in enumerate(words(200))]
    _, recipe = make(write(tmp_path / "a.csv", ["message", "label"], rows))
    for section in (recipe.train_teacher, recipe.train_baseline, recipe.distil):
        assert section.class_weights == "balanced"


def test_lengths_are_those_of_the_teachers_tokenizer(tmp_path, make):
    """19 texts of 10 words and one of 40 in every 20: each word is one token, and 2 tokens are special."""
    rows = [[" ".join([rng_word(i)] * (40 if i % 20 == 0 else 10)), "xy"[i % 2]] for i in range(200)]
    made, recipe = make(write(tmp_path / "a.csv", ["text", "label"], rows))
    assert recipe.data.max_length == 16 and "at most 12 tokens (counted by the teacher's tokenizer); 5 %" in made.text
    rows = [[" ".join([rng_word(i)] * 300), "xy"[i % 2]] for i in range(200)]
    _, recipe = make(write(tmp_path / "a.csv", ["text", "label"], rows))
    assert recipe.data.max_length == 64, "the teacher has no more positions"


def rng_word(i):
    return (GOOD + BAD + OTHER)[i % 20]


def test_without_the_teacher_words_are_counted(tmp_path, make):
    rows = [[f"{' '.join(['word'] * 99)} {i}", "xy"[i % 2]] for i in range(60)]
    made, recipe = make(write(tmp_path / "a.csv", ["text", "label"], rows), teacher="hub:some/model")
    assert recipe.data.max_length == 144, "1.4 tokens for each of 100 words, and two special ones"
    assert recipe.student.heads == 0 and "downloaded when the recipe runs" in made.text
    assert "the sizes of the teacher hub:some/model are unknown, so the student is as large" in " ".join(made.unsure)


@pytest.mark.parametrize(
    ("name", "rate", "heads", "neurons"),
    [
        ("package:minilm-l6", 1e-4, [6, 6, 4, 4, 2, 2], [512, 448, 384, 256, 192, 128]),
        ("package:mpnet-base", 3e-5, [6, 6, 5, 5, 5, 4, 4, 3, 3, 3, 2, 2], [1024, 960, 896, 832]),
    ],
)
def test_packaged_teachers_have_known_sizes_before_they_are_fetched(
    tmp_path, make, monkeypatch, name, rate, heads, neurons
):
    monkeypatch.setattr("kdnative.pipeline.new_recipe.teacher.is_here", lambda source: False)
    monkeypatch.setattr("kdnative.data.packages.is_here", lambda source: False)
    made, recipe = make(write(tmp_path / "a.csv", ["text", "label"], TWENTY * 3), teacher=name)
    assert recipe.train_teacher.lr == rate and "sizes of the teacher" not in " ".join(made.unsure)
    assert recipe.student.heads == heads and recipe.student.ffn[: len(neurons)] == neurons


def test_batches_are_chosen_by_what_is_learned_from(tmp_path, make):
    rows = [[t, "xy"[i % 2] if i < 100 else ""] for i, t in enumerate(words(900))]
    _, recipe = make(write(tmp_path / "a.csv", ["text", "label"], rows))
    assert (recipe.train_teacher.batch_size, recipe.train_baseline.batch_size) == (8, 8)
    assert recipe.distil.batch_size == 32


@pytest.mark.parametrize(
    ("names", "known", "asked"),
    [(["Y", "x"], True, False), (["LABEL_0", "LABEL_1"], False, True), (["p", "q"], False, False)],
)
def test_a_teacher_that_knows_the_classes(tmp_path, make, teacher, names, known, asked):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    numbered = dict(enumerate(names))
    model = AutoModelForSequenceClassification.from_pretrained(teacher, num_labels=2, id2label=numbered)
    model.save_pretrained(tmp_path / "tuned")
    AutoTokenizer.from_pretrained(teacher).save_pretrained(tmp_path / "tuned")
    rows = [[t, "xy"[i % 2]] for i, t in enumerate(words(60))]
    made, recipe = make(write(tmp_path / "a.csv", ["text", "label"], rows), teacher=str(tmp_path / "tuned"))
    assert recipe.teacher.fine_tuned == known and ("train_teacher" in made.checked.steps) != known
    assert ("without names" in " ".join(made.unsure)) == asked
    assert ("counts as trained for this task" in " ".join(made.unsure)) == known
    assert ("not trained again" in made.guesses["teacher"]) == known


def test_every_key_has_a_reason(tmp_path, make):
    made, _ = make(write(tmp_path / "a.csv", ["text", "label"], [[t, "xy"[i % 2]] for i, t in enumerate(words(60))]))
    lines = made.text.split("\n")
    for above, line in zip(lines, lines[1:], strict=False):
        if line.strip() and not line.strip().startswith("#"):
            assert above.strip().startswith("#"), line
    assert max(map(len, lines)) <= 120


def test_a_folder_whose_test_file_has_no_labels(tmp_path, make):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [[i, t, "xy"[i % 2]] for i, t in enumerate(words(120))]
    write(folder / "train.csv", ["id", "text", "target"], rows)
    write(folder / "test.csv", ["id", "text"], [[i, f"new {t}"] for i, t in enumerate(words(30, 5))])
    (folder / "unlabelled.txt").write_text("a lovely film\na dull film\n", encoding="utf-8")
    made, recipe = make(folder)
    assert recipe.data.source == str(folder / "train.csv") and recipe.data.test is None
    assert made.checked.data.sizes["unlabelled"] == 32 and "test.csv has no labels" in " ".join(made.unsure)
    write(
        folder / "test.csv", ["id", "text", "target"], [[i, f"new {t}", "xy"[i % 2]] for i, t in enumerate(words(30))]
    )
    made, recipe = make(folder)
    assert recipe.data.source == str(folder) and len(made.checked.data.test) == 30
    assert recipe.data.unlabelled_files == [str(folder / "unlabelled.txt")]


def test_a_large_file_is_looked_at_in_part(tmp_path, teacher, monkeypatch):
    rows = [[t, "xy"[i % 2]] for i, t in enumerate(words(900))]
    path = write(tmp_path / "a.csv", ["text", "label"], rows)
    monkeypatch.setattr("kdnative.data.sniff.LOOKED_AT", path.stat().st_size // 3)
    made = new(path, tmp_path / "r.yaml", teacher=teacher)
    assert made.checked is None and "only the first 33 %" in " ".join(made.unsure)
    assert load_recipe(tmp_path / "r.yaml").data.label == "label"
    count = int(made.guesses["data"].split("about ")[1].split(" rows")[0].replace(",", ""))
    assert count == pytest.approx(900, rel=0.05)


TOO_FEW = [["only one row here", "x"]]
TWENTY = [[t, "xy"[i % 2]] for i, t in enumerate(words(20))]


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (["text", "label"], [], "a header, but no rows"),
        (["text", "label"], TOO_FEW, "every label in 'label' is 'x'"),
        (["text", "label"], [[t, "same"] for t, _ in TWENTY], "every label in 'label' is 'same'"),
        (["text"], [[t] for t, _ in TWENTY], "no column of labels"),
        (["text\nof it", "label"], TWENTY, "the column 'text\\nof it' contains a line break"),
        (["id", "label"], [[i, "xy"[i % 2]] for i in range(20)], "no column of texts: 'id' holds ids"),
        (["0", "a text"], TWENTY, "line 1: '0' looks like data"),
        (["text", "label"], [*TWENTY, ["three", "columns", "here"]], "line 22: 3 columns, but the header has 2"),
        (["text", "text", "label"], [[t, t, y] for t, y in TWENTY], "no column of texts"),
        (["text", "labels"], [[t, "['a', 'b']"] for t, _ in TWENTY], "holds lists such as"),
        (["question", "context", "answers"], [[t, t, y] for t, y in TWENTY], "data for question answering"),
        (["article", "summary"], [[f"{t} and {t}", t] for t, _ in TWENTY], "no column of labels"),
        (["text", "a", "b", "c"], [[t, i % 2, i // 2 % 2, i // 4 % 2] for i, (t, _) in enumerate(TWENTY)], "--label"),
        (["text", "label"], [[t, f"{t} again"] for t, _ in TWENTY], "look like answers to generate, not like classes"),
        (["text", "score"], [[t, i / 3 if i else "n/a"] for i, (t, _) in enumerate(TWENTY * 2)], "finite number"),
    ],
)
def test_what_becomes_no_recipe(tmp_path, teacher, header, rows, message):
    path, out = write(tmp_path / "a.csv", header, rows), tmp_path / "recipe.yaml"
    with pytest.raises(DataError) as caught:
        new(path, out, teacher=teacher)
    assert message in str(caught.value) and str(path) in str(caught.value) and not out.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"PK\x03\x04\x00\x00", "an Excel file or another zip file"),
        ("a.csv", b"text,label\ngood,x\nb\xe9d,y\n", "line 3: byte 0xe9 is not UTF-8"),
        ("a.csv", "text,label\na,x\n".encode("utf-16"), "the file is UTF-16"),
        ("a.parquet", b"PAR1", "a Parquet file"),
        ("a.txt", b"one\ntwo\n", "lines of text have no labels"),
        ("a.json", b"[]", "name the file .jsonl"),
        ("a.jsonl", b'{"text": "a"}\n{"text"\n', "line 2: not JSON"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', "line 2: a list"),
        ("a.doc", b"x", "unknown kind of file '.doc'"),
    ],
)
def test_files_that_are_no_tables(tmp_path, teacher, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        new(tmp_path / name, tmp_path / "recipe.yaml", teacher=teacher)


def test_options_that_can_not_be(tmp_path, teacher):
    path = write(tmp_path / "a.csv", ["text", "label"], TWENTY)
    for options, message in (
        ({"task": "summarisation"}, "there is no task 'summarisation'"),
        ({"teacher": str(tmp_path / "absent")}, "is not a folder"),
        ({"teacher": "package:other"}, "packaged models are"),
        ({"label": "y"}, r"there is no column 'y' \(--label\); the file has 'text', 'label'"),
        ({"task": "sentence-pair-regression"}, "reads two texts"),
    ):
        with pytest.raises(ValueError, match=message):
            new(path, tmp_path / "r.yaml", **{"teacher": teacher, **options})
    (tmp_path / "r.yaml").write_text("mine")
    with pytest.raises(FileExistsError, match="--overwrite"):
        new(path, tmp_path / "r.yaml", teacher=teacher)
    assert (tmp_path / "r.yaml").read_text() == "mine"


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_a_recipe_that_is_run(tmp_path, teacher, kind, capsys):
    rows = [
        [t, (y if kind == "classes" else len(t) / 20) if i % 4 else ""] for i, (t, y) in enumerate(sentences(160, 3))
    ]
    path = write(
        tmp_path / "film notes.tsv", ["Unnamed: 0", "note", "what"], [[i, *r] for i, r in enumerate(rows)], "\t"
    )
    recipe = tmp_path / "recipe.yaml"
    assert main(["new", str(path), "--out", str(recipe), "--teacher", teacher]) == 0
    assert f"next: kdnative run {recipe} --check" in capsys.readouterr().out
    done = RunFolder(kdnative.run(recipe, runs=tmp_path / "runs", overrides=SHORT, progress=False))
    assert (done.path / "summary.txt").is_file() and kdnative.load(done.output("convert") / "model") is not None
