"""Data files from anywhere: refused with file and line, in a few words, whatever they hold."""

from __future__ import annotations

import json
import os

import pytest

from kdnative.data import DataError, load_dataset, tables
from kdnative.data.labels import label_name

LONG = "x" * 100_000
NESTED = "lists and objects are nested too deep"


def refused(path) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(path)
    words = str(caught.value).replace(str(path), path.name)
    assert words.isprintable() and len(words) < 1000
    return words


def rows(*last) -> str:
    first = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    return "".join(json.dumps(row) + "\n" for row in first) + "\n".join(last) + "\n"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", rows("[" * 3000), f"line 3: {NESTED}"),
        ("a.jsonl", rows('{"text": "c", "label": ' + "[" * 3000), f"line 3: {NESTED}"),
        ("a.jsonl", rows('{"a":' * 3000), f"line 3: {NESTED}"),
        ("a.jsonl", rows('{"text": "c", "label": ' + "[" * 900 + "]" * 900 + "}"), "line 3: the label must be a"),
        ("a.jsonl", rows('{"text": "c", "label": ' + "9" * 5000 + "}"), "line 3: not JSON that can be read"),
        ("a.jsonl", rows('{"text": "c", "label": ' + "9" * 4000 + "}"), "(column 'label') has 4,000 characters"),
        ("a.jsonl", rows('{"text": "c", "label": 1e999}'), "line 3: the label must be a string"),
        ("a.jsonl", rows(json.dumps({"text": "c", "label": [LONG, LONG]})), "line 3: the label must be a string"),
        ("a.jsonl", rows(json.dumps({"text": "c", "label": LONG})), "line 3: the label (column 'label') has 100,000"),
        ("a.jsonl", rows(json.dumps({"text": "c", LONG: "y"})), "line 3: no 'label'; the object has 'text', 'xxx"),
        ("a.jsonl", rows(json.dumps({"text": "c", **dict.fromkeys(map(str, range(5000)))})), "and 4,993 more"),
        ("a.jsonl", rows('{"text": "c", "label": "\\u001b]0;y\\u0007"}'), "line 3: the label '\\x1b]0;y\\x07' (column"),
        ("a.jsonl", rows('{"text": "c", "label": "\\ud800"}'), "line 3: the label '\\ud800' (column 'label') has"),
        ("a.jsonl", rows('{"text": "half \\ud83d of it", "label": "x"}'), "line 3: 'text' holds half a character"),
        ("a.jsonl", rows('{"text": "c\0", "label": "x"}'), "line 3: a NUL character"),
        ("a.jsonl", rows('{"text": NaN, "label": "x"}'), "line 3: 'text' is not a string"),
        ("a.jsonl", rows(LONG), "line 3: not JSON (Expecting value at column 1)"),
        ("a.tsv", "text\tlabel\na\tx\nb\0\ty\n", "line 3: a NUL character"),
        ("a.csv", "text,label\na,x\nb\0,y\n", "line 3: a NUL character"),
        ("a.csv", f"{LONG},label\na,x\n", "line 1: the column 'text' is missing; the header has 'xxx"),
        ("a.csv", ",".join(map(str, range(5000))) + "\n", "'text' is missing; the header has '0', '1'"),
        ("a.csv", f"text,label\na,x\nb,{LONG}\n", "line 3: the label (column 'label') has 100,000 characters"),
        ("a.csv", "text,label\na,x\nb,\x1b[31my\n", "line 3: the label '\\x1b[31my' (column 'label') has characters"),
        ("a.csv", 'text,label\na,x\n"' + LONG, "line 3: unexpected end of data"),
        ("a.csv", "text,label\na,x\n" + "," * 100_000, "line 3: 100001 columns, but the header has 2"),
    ],
)
def test_refused_with_file_and_line(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    words = refused(tmp_path / name)
    assert words.startswith(f"{name}, ") and expected in words, words


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv"])
def test_bytes_that_are_no_text(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"text\tlabel\na\tx\n\xff\xfe\ty\n")
    assert "line 3: byte 0xff is not UTF-8" in refused(path)
    path.write_bytes("text,label\na,x\n".encode("utf-16-le"))
    assert "line 1: a NUL character; the file may be UTF-16" in refused(path)
    path.write_bytes("text,label\na,x\n".encode("utf-16"))
    assert "line 1: byte 0xff is not UTF-8" in refused(path)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "device.csv").symlink_to("/dev/zero")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    assert "pipe.csv: a file is needed, but this is a folder, a pipe or a device" in refused(tmp_path / "pipe.csv")
    assert "device.csv: a file is needed, but this is a folder, a pipe or a device" in refused(tmp_path / "device.csv")
    assert "loop.csv: no such file" in refused(tmp_path / "loop.csv")
    (tmp_path / "good.csv").write_text("text,label\na,x\nb,y\n")
    (tmp_path / "folder.csv").mkdir()
    for option in ("validation", "test"):
        with pytest.raises(DataError, match="folder.csv: a file is needed, but this is a folder, a pipe or a device"):
            load_dataset(tmp_path / "good.csv", **{option: tmp_path / "folder.csv"})


def test_texts_that_no_tokenizer_should_be_given(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "LONGEST_TEXT", 1000)
    path = tmp_path / "a.csv"
    path.write_text(f"text,label\n{'a' * 1000},x\n{'b' * 1001},y\n")
    assert "line 3: a text of 1,001 characters; at most 1,000: cut it" in refused(path)


def test_files_that_memory_can_not_hold(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"text {i},{'xy'[i % 2]}\n" for i in range(500)))
    monkeypatch.setattr(tables, "machine_memory", lambda: 4 * path.stat().st_size)
    assert len(load_dataset(path).train)
    monkeypatch.setattr(tables, "machine_memory", lambda: 4 * path.stat().st_size - 1)
    assert "GB are too much for a machine with" in refused(path)
    monkeypatch.setattr(tables, "machine_memory", lambda: None)
    assert len(load_dataset(path).train)


def test_labels_in_any_writing():
    for name in ("größer", "否定", "нет", "👍🏽", "e\u0301", "a b", "می‌خواهم"):
        assert label_name(name, "label", "here") == name
