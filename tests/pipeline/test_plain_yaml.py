"""Recipes from anywhere: refused in words, at once, and without unfolding what they describe."""

from __future__ import annotations

import os
import random
import time
import tracemalloc
from pathlib import Path

import pytest

from kdnative.pipeline import RecipeError, load_recipe
from kdnative.pipeline.plain_yaml import DEEPEST, LARGEST, LONGEST, MOST

SMALL = "name: small\ndata: {source: a.tsv}\nteacher:\n  source: b\n"  # four lines


def message(tmp_path: Path, text: str | bytes, *overrides: str) -> str:
    """The text of the refusal, which comes soon, takes little memory, and is fit for a terminal."""
    path = tmp_path / "r.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(RecipeError) as caught:
            load_recipe(path, overrides)
        assert time.process_time() - started < 10  # two where nothing is traced
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()
    words = str(caught.value)
    assert all(line.isprintable() and len(line) < 800 for line in words.split("\n")), words
    assert len(words.split("\n")) <= 21
    return words


def laughs(one: str, of: str) -> str:
    """Nested aliases: a few lines that stand for a value of billions."""
    lines = "".join(f"x{i}: &x{i} {of.format(*[f'*x{i - 1}'] * 4)}\n" for i in range(1, 20))
    return f"{SMALL}x0: &x0 {one}\n{lines}"


REFUSED = {
    "laughs of lists": (
        laughs("[1, 1]", "[{}, {}, {}, {}]"),
        ("line 5", "anchors (&) and aliases (*) are not allowed"),
    ),
    "laughs of tables": (laughs("{a: 1}", "{{a: {}, b: {}, c: {}, d: {}}}"), ("line 5", "anchors (&) and aliases")),
    "an alias of nothing": (SMALL + "seed: *a\n", ("line 5", "aliases (*) are not allowed")),
    "a table in itself": (SMALL + "x: &a\n  b: *a\n", ("line 5", "anchors (&) and aliases")),
    "a list in itself": (SMALL + "x: &a [*a]\n", ("line 5", "anchors (&) and aliases")),
    "a pattern without quotes": (SMALL + "recover:\n  schemes:\n    *.dense: w8a8\n", ("line 7", "needs quotes")),
    "a list as a key": (SMALL + "? [a, b]\n: 1\n", ("line 5", "a key must be a word or a whole number, got a list")),
    "a table as a key": (SMALL + "? {a: b}\n: 1\n", ("line 5", "a key must be a word or a whole number, got a table")),
    "a fraction as a key": (SMALL + "distil: {layer_map: {1.5: 1}}\n", ("line 5", "a key must be", "'1.5'")),
    "nothing as a key": (SMALL + "~: 1\n", ("line 5", "a key must be a word or a whole number, got '~'")),
    "a key that is true": (SMALL + "yes: 1\n", ("line 5", "a key must be")),
    "a tag": (SMALL + "seed: !!float x\n", ("line 5", "tags such as", "float")),
    "a tag of Python": (SMALL + "seed: !!python/object/apply:os.system [x]\n", ("line 5", "tags such as")),
    "a local tag": (SMALL + "data: !mine {source: a}\n", ("line 5", "tags such as")),
    "a bare tag": (SMALL + "seed: ! 3\n", ("line 5", "tags such as")),
    "deep lists": (SMALL + "x: " + "[" * 5000, ("line 5", f"nested more than {DEEPEST} deep")),
    "deep tables": (SMALL + "x: " + "{a: " * 5000, ("line 5", "are nested more than")),
    "deep blocks": (SMALL + "x:\n" + "".join(" " * i + "a:\n" for i in range(1, 300)), ("are nested more than",)),
    "deep dashes": (SMALL + "x:\n  " + "- " * 5000, ("line 6", "are nested more than")),
    "many values": (SMALL + f"x: [{'1, ' * 20000}]\n", ("line 5", f"more than {MOST:,} keys and values")),
    "many keys": (SMALL + "".join(f"a{i}: 1\n" for i in range(6000)), (f"more than {MOST:,} keys",)),
    "unknown keys": (SMALL + "".join(f"a{i}: 1\n" for i in range(2000)), ("line 5", "'a0'", "and 1,980 more")),
    "a large file": (SMALL + "#" * LARGEST, (f"at most {LARGEST:,}", "too many")),
    "a huge file": (SMALL + "#" * 9 * LARGEST, (f"at most {LARGEST:,} characters", "too large")),
    "a long word": (SMALL + f"seed: {'9' * (LONGEST + 1)}\n", ("line 5", f"at most {LONGEST:,}")),
    "a long folded word": (SMALL + "seed: " + "a\n  " * 9000, ("line 5", f"at most {LONGEST:,}")),
    "a long key": (SMALL + f'? "{"k" * 5000}"\n: 1\n', ("line 5", f"at most {LONGEST:,}")),
    "a number of many digits": (SMALL + f"seed: {'9' * 1900}\n", ("line 5", "too large a number")),
    "a number of many nines": (SMALL + f"seed: 0x{'f' * 1900}\n", ("line 5", "too large a number")),
    "a number of base 60": (SMALL + f"seed: 1{':59' * 600}\n", ("line 5", "too large a number")),
    "a fraction of base 60": (SMALL + f"seed: 1{':59' * 600}.5\n", ("line 5", "is not a number")),
    "a text of many digits": (SMALL + f'seed: "{"9" * 1900}"\n', ("line 5", "seed: at most")),
    "bad digits": (SMALL + "seed: 0o9\n", ("line 5", "seed", "integer")),
    "a NUL": (SMALL + "seed: \0\n", ("line 5", "U+0000 is not allowed")),
    "a spelt NUL": (SMALL + 'test: {source: "a\\0b"}\n', ("line 5", "U+0000 is not allowed")),
    "an escape sequence": (SMALL + "name: \x1b[31m\n", ("line 5", "U+001B is not allowed")),
    "a spelt escape sequence": (SMALL + 'recover: {schemes: {"\\e[31m": w8a8}}\n', ("line 5", "U+001B", "'\\x1b[31m'")),
    "half a character": (SMALL + 'seed: "\\ud800"\n', ("line 5", "U+D800 is not allowed")),
    "half a character, raw": ((SMALL + "seed: \ud800\n").encode("utf-8", "surrogatepass"), ("line 5", "is not UTF-8")),
    "UTF-16": ("name: x\n".encode("utf-16"), ("line 1", "byte 0xff is not UTF-8")),
    "merged keys": (SMALL + "<<: {seed: 1}\n", ("line 5", "unknown key '<<'")),
    "a value that is no word": (SMALL + "seed: =\n", ("line 5", "seed", "'='")),
    "two documents": (SMALL + "---\nname: b\n", ("line 5", "expected a single document")),
    "a key given twice in a list": (SMALL + "x: [{a: 1, a: 2}]\n", ("line 5", "x.0.a is already given in line 5")),
    "a huge value": (SMALL + f"prune: [{'[a, b, c], ' * 1000}]\n", ("line 5", "prune must be a table of keys", "...")),
    "a huge scheme": (SMALL + f"recover: {{schemes: {'w' * 1900}}}\n", ("line 5", "recover.schemes: unknown scheme")),
    "many layers": (SMALL + f"student: {{layers: [{'9, ' * 3000}]}}\n", ("line 5", "ascending", "9, 9, ...]")),
    "many wrong numbers": (SMALL + f"train_teacher: {{class_weights: [{'x, ' * 3000}]}}\n", ("class_weights", "more")),
    "many cases": (SMALL + f"benchmark: {{grid_batches: [{'1, ' * 3000}]}}\n", ("benchmark.grid_batches", "100")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_file_and_line(tmp_path, case):
    text, expected = REFUSED[case]
    words = message(tmp_path, text)
    assert "r.yaml" in words and all(part in words for part in expected), words


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=&a [*a]", "anchors (&) and aliases (*) are not allowed"),
        ("seed=" + "[" * 5000, "are nested more than"),
        ("seed=" + "9" * 100_000, "are too many"),
        ("seed=!!float x", "tags such as"),
        ("seed=\0", "U+0000 is not allowed"),
        ('seed="\\0"', "U+0000 is not allowed"),
        ("seed=\udc80", "U+DC80 is not allowed"),
        ("seed=0x" + "f" * 100, "too large a number"),
        ("a" + ".a" * 5000 + "=1", "can't read the setting"),
        ("se\x1b[31med=1", "can't read the setting 'se\\x1b[31med=1'"),
        ("\ud800=1", "can't read the setting '\\ud800=1'"),
        ("x" * 100_000, "can't read the setting 'xxx"),
        ("x" * 100_000 + "=[", "can't read the value of xxx"),
    ],
)
def test_overrides_are_read_as_strictly(tmp_path, override, expected):
    assert expected in message(tmp_path, SMALL, override)


@pytest.mark.parametrize("path", ["a folder", "a pipe", "/dev/zero", "a\0b", "n" * 300])
def test_what_is_no_file(tmp_path, path):
    target = tmp_path / path
    if path == "a folder":
        target.mkdir()
    if path == "a pipe":
        os.mkfifo(target)
    with pytest.raises(RecipeError, match="recipe .*(is not a file|can't read|null|too long)") as caught:
        load_recipe(target)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-0x1F", -31),
        ("1_000", 1000),
        ("1.5e+3", 1500.0),
        ("5e-5", "5e-5"),
        ("yes", True),
        ("Null", None),
        ("'12'", "12"),
        ("2020-13-45", "2020-13-45"),
        ("[1, [a, ~], {b: {1: c}}]", [1, ["a", None], {"b": {1: "c"}}]),
        ('"\\u00e9\\U0001F600"', "é😀"),
        ("|-\n  one line", "one line"),
        ("# nothing", None),
    ],
)
def test_values_are_those_of_yaml(text, value):
    from kdnative.pipeline.plain_yaml import parse

    found, _ = parse(text, str)
    assert found == value and type(found) is type(value)


def test_lines_of_keys_and_entries():
    from kdnative.pipeline.plain_yaml import parse

    _, lines = parse("a: 1\nb:\n  c: [1,\n    2]\n3: x\n", str)
    assert lines == {("a",): 1, ("b",): 2, ("b", "c"): 3, ("b", "c", "0"): 3, ("b", "c", "1"): 4, ("3",): 5}


def test_changed_recipes_never_end_in_another_error(tmp_path):
    """The recipes that come along, with bytes overwritten, doubled and taken out."""
    rng = random.Random(4)
    original = (Path(__file__).parents[2] / "recipes" / "movies.yaml").read_bytes()
    path, outcomes = tmp_path / "r.yaml", set()
    for _ in range(150):
        data = bytearray(original)
        for _ in range(rng.randint(1, 4)):
            start, length = rng.randrange(len(data)), rng.randint(1, 8)
            piece = bytes(rng.choice(b"&*!%@`{}[]:,?|>-'\"#\n\t \\~=<0x9e.\x00\x1b\xff") for _ in range(length))
            data[start : start + rng.choice((0, length))] = rng.choice((piece, data[start : start + 40], b""))
        path.write_bytes(data)
        try:
            load_recipe(path)
            outcomes.add("read")
        except RecipeError as error:
            outcomes.add("refused")
            assert all(line.isprintable() for line in str(error).split("\n"))
    assert outcomes == {"read", "refused"}
