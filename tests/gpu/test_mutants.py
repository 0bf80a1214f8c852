"""The lists of mutants fit the kernels as they are. Trying them takes a while: ``make mutants-gpu``."""

from __future__ import annotations

import pytest

from tests.gpu.building import ROOT
from tests.gpu.mutate import families, mutate

FAMILIES = families()
ALL = [(family.name, *mutant) for family in FAMILIES for mutant in family.mutants]


@pytest.mark.parametrize(("family", "file", "old", "new"), ALL, ids=lambda text: text[-40:].replace("\n", " "))
def test_a_mutant_changes_its_file(family, file, old, new):
    source = (ROOT / file).read_text()
    assert mutate(source, old, new, file) != source


def test_no_mutant_is_listed_twice():
    assert len(ALL) == len(set(ALL)) > 0


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_somebody_runs_the_mutants_of_a_family(family):
    assert family.programs or family.tests or family.check
    for program in family.programs:
        assert (ROOT / program[0]).is_file()
    for argument in family.tests:
        assert "tests/" not in argument or (ROOT / argument.partition("::")[0]).exists()


@pytest.mark.parametrize(("source", "message"), [("b", "0 times, not once"), ("a a", "2 times"), ("a", "nothing")])
def test_a_mutant_that_does_not_fit_is_an_error(source, message):
    with pytest.raises(ValueError, match=message):
        mutate(source, "a", "a" if source == "a" else "c", "f.h")
