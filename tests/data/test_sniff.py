"""Tables of unknown columns: how they are separated, and what of a large one is read."""

from __future__ import annotations

import pytest

from kdnative.data import DataError
from kdnative.data.columns import Columns
from kdnative.data.sniff import read_sheet
from tests.data.reading import read


def sheet_of(tmp_path, name, content, **options):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_sheet(tmp_path / name, **options)


@pytest.mark.parametrize(
    ("name", "content", "delimiter"),
    [
        ("a.csv", "text,label\nx; y,1\nz,2\n", None),
        ("a.csv", 'text;label\n"a; b";1\n"c, d";2\n', "semicolon"),
        ("a.csv", "text;label\na, b;1\nc, d;2\n", "semicolon"),
        ("a.csv", "text\tlabel\na, b\t1\nc; d\t2\n", "tab"),
        ("a.csv", 'text,label\n"two\nlines, and; more",1\nx,2\n', None),
        ("a.tsv", 'text\tlabel\n"half\t1\nx"\t2\n', None),
        ("a.tsv", '"text"\t"label"\n"a ""b"""\t"1"\n', "tab"),
        ("a.tsv", 'text\tlabel\n"a\tb"\t1\n"two\nlines"\t2\n', "tab"),
        ("a.csv", "text,label\r\na,1\r\nb,2\r\n", None),
    ],
)
def test_delimiters(tmp_path, name, content, delimiter):
    """The whole file has the same texts with the delimiter that was found."""
    sheet = sheet_of(tmp_path, name, content)
    assert sheet.delimiter == delimiter and list(sheet.columns) == ["text", "label"] and sheet.complete
    found = read(tmp_path / name, Columns(label=None, delimiter=delimiter))
    assert found.column("text") == sheet.columns["text"]


def test_lines_and_names(tmp_path):
    sheet = sheet_of(tmp_path, "a.csv", b'\xef\xbb\xbfx,y,x\n1,"a\nb",2\n\n3,c,4\n')
    assert sheet.lines == [2, 5] and sheet.columns == {"y": ["a\nb", "c"]} and sheet.repeated == ("x",)
    sheet = sheet_of(tmp_path, "a.jsonl", '{"a": 1}\n\n{"b": [2], "a": null}\n')
    assert sheet.lines == [1, 3] and sheet.columns == {"a": [1, None], "b": [None, [2]]}


@pytest.mark.parametrize(("name", "row"), [("a.csv", "a text of words,1\n"), ("a.jsonl", '{"text": "some words"}\n')])
def test_the_first_part_of_a_large_file(tmp_path, name, row):
    """Cut in the middle of a row, and of a character; the number of rows is estimated."""
    rows = row * 1000
    content = rows if name == "a.jsonl" else f"text,label\n{rows}"
    sheet = sheet_of(tmp_path, name, content, most=len(content) // 4)
    assert not sheet.complete and 240 <= len(sheet) <= 250 and sheet.rows == pytest.approx(1000, rel=0.01)
    sheet = sheet_of(tmp_path, "b.csv", "text,label\n" + "\u00fc\u00fc\u00fc,x\n" * 100, most=500)
    assert set(sheet.columns["text"]) == {"\u00fc\u00fc\u00fc"}
    sheet = sheet_of(tmp_path, "c.csv", "text,label\nx,y\n" + '"a\nb\nc\nd",y\n' * 100, most=100)
    assert set(sheet.columns["text"]) == {"x", "a\nb\nc\nd"}, "a row that goes on where the part ends is left out"


def test_rows_of_tables_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("kdnative.data.sniff.MOST_ROWS", 10)
    sheet = sheet_of(tmp_path, "a.csv", "text,label\n" + "abc,de\n" * 1000)
    assert len(sheet) == 10 and sheet.rows == pytest.approx(1000, rel=0.2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na,b\nc,d,e\n", "line 3: 3 columns, but the header has 2"),
        ('text,label\n"a,b\nc,d\n', "line 2: .*a double quote is not closed"),
        ("text,label\n", "a header, but no rows"),
        ("a" * 200, "no line end within 100 bytes"),
    ],
)
def test_broken_tables(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        sheet_of(tmp_path, "a.csv", content, most=100)
