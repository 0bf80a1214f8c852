"""Patterns over module names, with values of any kind."""

import pytest

from kdnative.patterns import Choice, Selection, matches, within


def test_values_of_any_kind():
    selection = Selection({"a.*": "3", "b": 0, "c": None}, keep=["a.x"], parse=int)
    assert selection.choose("a.y") == Choice(3, explicit=True)
    assert selection.choose("b") == Choice(0, explicit=True)  # which is a value, if a false one
    assert selection.choose("c.deep").value is None and "'c' is None" in selection.choose("c.deep").reason
    assert selection.choose("a.x.z") == Choice(None, "asked for by keep='a.x'")
    assert selection.choose("d") == Choice(None, Selection.UNMATCHED)
    assert Selection(7).choose("anything") == Choice(7)
    with pytest.raises(ValueError, match="invalid literal"):
        Selection({"a": "x"}, parse=int)


def test_inside():
    assert within("a.b", "a") and within("a", "a") and within("a", "")
    assert not within("ab", "a") and not within("a", "a.b")
    assert matches("a", "a.b.c") and not matches("b", "a.b") and matches("re:a\\.[bc]", "a.c.d")


def test_patterns_that_nothing_uses():
    Selection({"*": 1}).check_used([])
    with pytest.raises(ValueError, match=r"pattern 'x' matches no module; the names are: \(none\)"):
        Selection({"x": 1}).check_used([])
    with pytest.raises(ValueError, match=r"n39, \.\.\. \(5 more\)"):
        Selection(1, keep="x").check_used([f"n{i}" for i in range(45)])
