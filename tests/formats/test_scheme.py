import dataclasses
import pickle

import pytest

from kdnative.formats.scheme import NAMES, SPARSITIES, ActivationFormat, Scheme, WeightFormat

TO_COME = ["w8au8", "w4au8-g64", "w8a8-is", "w4a8-g64-asym-is", "w8a8-ag32", "w4a8-g64-int-ag64-is", "w8a8-is+2:4"]
WITHOUT_KERNEL = ["w4a8", "w2a8-asym", "w4a16", "w8a8-g64", "w8a8-asym", "w4a8-g16", "w8a16-g64", "w4a16-g64-int"]


@pytest.mark.parametrize("name", NAMES + TO_COME + WITHOUT_KERNEL)
def test_every_name_round_trips(name):
    scheme = Scheme.parse(name)
    assert str(scheme) == name
    assert Scheme.parse(str(scheme)) == scheme
    assert pickle.loads(pickle.dumps(scheme)) == scheme and hash(scheme) == hash(Scheme.parse(name.upper()))


def test_names_are_exactly_the_documented_set():
    expected = {"w8a8", "w8a16"}
    for start in ("w4a8", "w2a8", "w4a16", "w2a16"):
        for group in (32, 64, 128):
            expected |= {f"{start}-g{group}", f"{start}-g{group}-asym"}
    expected |= {"w4a8-g32-int", "w4a8-g64-int", "w4a8-g128-int"}
    expected |= {"w8a8+4x1", "w8a8+2:4", "w8a8+mask"}
    assert set(NAMES) == expected and len(NAMES) == 32


def test_fields():
    assert Scheme.parse("w8a8") == Scheme(WeightFormat(8)) == Scheme(WeightFormat(8), ActivationFormat("dynamic"))
    assert Scheme.parse("w4a8-g64") == Scheme(WeightFormat(4, 64))
    assert Scheme.parse(" W2A8-G32-asym ") == Scheme(WeightFormat(2, 32, symmetric=False))
    assert Scheme.parse(Scheme.parse("w8a8")) == Scheme.parse("w8a8")
    assert Scheme.parse("w8a16") == Scheme(WeightFormat(8), ActivationFormat("float"))
    assert Scheme.parse("w4a8-g64-int") == Scheme(WeightFormat(4, 64, symmetric=False, integer_scales=True))
    assert Scheme.parse("w4a16-g128-asym") == Scheme(WeightFormat(4, 128, False), ActivationFormat("float"))
    assert Scheme.parse("w8au8").activation == ActivationFormat("static")
    assert Scheme.parse("w8a8-ag64-is").activation == ActivationFormat("dynamic", 64, input_scales=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Scheme.parse("w8a8").weight = WeightFormat(4, 64)
    assert len({Scheme(WeightFormat(8)), Scheme.parse("w8a8")}) == 1


def test_properties_are_those_of_the_formats():
    scheme = Scheme.parse("w4a8-g64-int")
    assert (scheme.weight_bits, scheme.activation_bits, scheme.group_size) == (4, 8, 64)
    assert not scheme.symmetric and scheme.integer_scales and scheme.sparsity is None and not scheme.input_scales
    assert [Scheme.parse(name).activation_bits for name in ("w8a8", "w8a16", "w8au8")] == [8, 16, 8]
    assert Scheme.parse("w8a8-is").input_scales


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: WeightFormat(3, 64), "8, 4 or 2 bits, not 3"),
        (lambda: WeightFormat(4, 0), "group_size=0"),
        (lambda: WeightFormat(8, 64, False, integer_scales=True), "integer scales go with 4 bits"),
        (lambda: WeightFormat(4, 64, True, integer_scales=True), "integer scales go with 4 bits"),
        (lambda: WeightFormat(8, sparsity="8x1"), "'8x1' is none of 4x1, 2:4, mask"),
        (lambda: ActivationFormat("int4"), "dynamic, float, static, not 'int4'"),
        (lambda: ActivationFormat("float", 64), "if they are dynamic"),
        (lambda: ActivationFormat("dynamic", 0), "at least one input"),
    ],
)
def test_formats_that_are_none(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "text, suggestion",
    [
        ("w8a9", "'w8a8'"),
        ("int8", "'w8a8'"),
        ("INT4", "'w4a8-g64'"),
        ("bfloat", None),
        ("", None),
        ("w4a8_g64", "'w4a8-g64'"),
        ("w8a8-", "'w8a8'"),
        ("w8a8 x", "'w8a8'"),
    ],
)
def test_unknown_names_list_what_is_allowed(text, suggestion):
    with pytest.raises(ValueError, match=r"Allowed: w8a8, w8a16, w4a8-gG, .*; G is one of 32, 64, 128$") as info:
        Scheme.parse(text)
    assert len(str(info.value)) < 350
    assert repr(text) in str(info.value)
    assert (f"did you mean {suggestion}" in str(info.value)) == (suggestion is not None)


@pytest.mark.parametrize("text", ["w8a32", "w4a4-g128", "w8a4"])
def test_other_activation_widths_are_refused_in_words(text):
    with pytest.raises(ValueError, match="no kernel for that: only a8 and a16"):
        Scheme.parse(text)


@pytest.mark.parametrize("text", ["w3a8-g64", "w16a8", "w8a8-int", "w2a8-g64-int", "w8a8+", "w8a8+8x1", "w4a8-g0"])
def test_formats_that_there_are_not_are_refused(text):
    with pytest.raises(ValueError, match="Allowed"):
        Scheme.parse(text)


def test_sparse_schemes():
    dense = Scheme.parse("w8a8")
    for sparsity in SPARSITIES:
        scheme = Scheme.parse(f" W8A8+{sparsity} ")
        assert scheme == Scheme(WeightFormat(8, sparsity=sparsity)) and scheme.dense == dense and scheme != dense
    assert dense.dense == dense


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
