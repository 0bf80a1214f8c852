"""The package's front door."""

import pytest

import kdnative


def test_every_public_name_resolves():
    for name in kdnative.__all__:
        assert getattr(kdnative, name) is not None, name


def test_the_public_list_is_the_lazy_tables():
    assert set(kdnative.__all__) == {"__version__", *kdnative._LAZY, *kdnative._PACKAGES}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_thing"):
        getattr(kdnative, "no_such_thing")  # noqa: B009
