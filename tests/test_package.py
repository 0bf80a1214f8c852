"""The package's front door."""

import importlib.metadata
from pathlib import Path

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


def test_the_version_is_that_of_the_installed_package():
    assert importlib.metadata.version("kdnative") == kdnative.__version__


def test_type_checkers_may_read_the_annotations():
    """PEP 561: without this file they ignore those of an installed package."""
    assert (Path(kdnative.__file__).parent / "py.typed").is_file()
