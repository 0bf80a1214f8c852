import dataclasses
import pickle

import pytest

from kdnative.formats.scheme import SPARSITIES, Scheme


@pytest.mark.parametrize("name", Scheme.allowed())
def test_every_allowed_name_round_trips(name):
    scheme = Scheme.parse(name)
    assert str(scheme) == name
    assert Scheme.parse(str(scheme)) == scheme
    assert pickle.loads(pickle.dumps(scheme)) == scheme


def test_allowed_is_exactly_the_documented_set():
    expected = {"w8a8", "w8a16"}
    for start in ("w4a8", "w2a8", "w4a16", "w2a16"):
        for group in (32, 64, 128):
            expected |= {f"{start}-g{group}", f"{start}-g{group}-asym"}
    expected |= {"w4a8-g32-int", "w4a8-g64-int", "w4a8-g128-int"}
    expected |= {"w8a8+4x1", "w8a8+2:4", "w8a8+mask"}
    assert set(Scheme.allowed()) == expected and len(Scheme.allowed()) == 32


def test_fields():
    assert Scheme.parse("w8a8") == Scheme(8)
    assert Scheme.parse("w4a8-g64") == Scheme(4, 8, 64, True)
    assert Scheme.parse(" W2A8-G32-asym ") == Scheme(2, 8, 32, False)
    assert Scheme.parse(Scheme(8)) == Scheme(8)
    assert Scheme.parse("w8a16") == Scheme(8, 16)
    assert Scheme.parse("w4a8-g64-int") == Scheme(4, 8, 64, False, integer_scales=True)
    assert Scheme.parse("w4a16-g128-asym") == Scheme(4, 16, 128, False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Scheme(8).weight_bits = 4
    assert len({Scheme(8), Scheme.parse("w8a8")}) == 1


@pytest.mark.parametrize(
    "text, suggestion",
    [
        ("w8a9", "'w8a8'"),
        ("int8", None),
        ("", None),
        ("w4a8_g64", "'w4a8-g64'"),
        ("w8a8-", "'w8a8'"),
        ("w8a8 x", "'w8a8'"),
    ],
)
def test_unknown_names_list_what_is_allowed(text, suggestion):
    with pytest.raises(ValueError, match="Allowed: w8a8, w8a16, w4a8-g32") as info:
        Scheme.parse(text)
    assert repr(text) in str(info.value)
    assert (f"did you mean {suggestion}" in str(info.value)) == (suggestion is not None)


@pytest.mark.parametrize("text", ["w8a32", "w4a4-g128", "w8a4"])
def test_other_activation_widths_are_refused_in_words(text):
    with pytest.raises(ValueError, match="no kernel for that: only a8 and a16"):
        Scheme.parse(text)


@pytest.mark.parametrize("text", ["w4a8", "w2a8-asym", "w4a16"])
def test_low_bits_without_a_group_are_refused_in_words(text):
    with pytest.raises(ValueError, match="has no group size"):
        Scheme.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "w8a8-g64",
        "w8a8-asym",
        "w4a8-g16",
        "w3a8-g64",
        "w16a8",
        "w8a16-g64",
        "w8a8-int",
        "w2a8-g64-int",
        "w4a16-g64-int",
    ],
)
def test_combinations_without_a_kernel_are_refused(text):
    with pytest.raises(ValueError, match="Allowed"):
        Scheme.parse(text)
    with pytest.raises(ValueError, match="Allowed"):
        Scheme(3, group_size=64)


def test_sparse_schemes():
    for sparsity in SPARSITIES:
        scheme = Scheme.parse(f" W8A8+{sparsity} ")
        assert scheme == Scheme(8, sparsity=sparsity) and scheme.dense == Scheme(8) and scheme != scheme.dense
    assert Scheme(8).dense == Scheme(8)


@pytest.mark.parametrize(
    "text",
    ["w8a8+", "w8a8+8x1", "w4a8-g64+mask", "w4a8-g32+2:4", "w4a8-g64-asym+4x1", "w4a16-g64+mask", "w2a8-g32+mask"],
)
def test_sparse_schemes_without_a_kernel_are_refused_in_words(text):
    words = r"only w8a8 weights are stored without zeros.*Allowed: .*w8a8\+4x1"
    with pytest.raises(ValueError, match=words):
        Scheme.parse(text)


def test_parse_refuses_other_types():
    with pytest.raises(TypeError, match="not int"):
        Scheme.parse(8)


def test_groups():
    assert Scheme.parse("w8a8").groups(7) == 1
    assert Scheme.parse("w4a8-g64").groups(192) == 3
    with pytest.raises(ValueError, match="divisible by its group size 64, got 96; use g32"):
        Scheme.parse("w4a8-g64").groups(96)
    with pytest.raises(ValueError, match="use w8a8"):
        Scheme.parse("w4a8-g64").groups(100)
    with pytest.raises(ValueError, match="use w8a16"):
        Scheme.parse("w4a16-g64").groups(100)
