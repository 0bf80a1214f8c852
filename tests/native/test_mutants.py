"""The list of mutants fits the kernels as they are. Trying them takes minutes: ``make mutants``."""

from pathlib import Path

import pytest

from tests.native.mutate_kernels import HERE, ROOT, Mutant, apply, includes, read_mutants, sources_of

MUTANTS = read_mutants((HERE / "mutants.txt").read_text())


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.file}: {m.name}")
def test_every_mutant_changes_a_kernel(mutant):
    file: Path = ROOT / "csrc" / "cpu" / mutant.file
    source = file.read_text()
    assert apply(source, mutant) != source
    assert any(file in includes(user) for user in sources_of(ROOT, mutant.isa))


def test_names_are_unique():
    names = [(m.file, m.isa, m.part, m.name) for m in MUTANTS]
    assert len(names) == len(set(names)) > 100


def test_the_list_is_read_pair_by_pair():
    text = "# a comment\n\n[f.h avx2 gemm]\nfirst\n- a\n-  b\n+ c\n- d\n+\nsecond\n- e\n+ f\n"
    first, second = read_mutants(text)
    assert first == Mutant("f.h", "avx2", "gemm", "first", [(["a", " b"], ["c"]), (["d"], [""])])
    assert second.name == "second"
    assert apply("a\n b d", first) == "c "


@pytest.mark.parametrize(("source", "times"), [("b", 0), ("a a", 2)])
def test_a_text_that_is_not_there_once_is_an_error(source, times):
    with pytest.raises(ValueError, match=f"f.h has {times} times, not once: 'a'"):
        apply(source, Mutant("f.h", "avx2", "gemm", "name", [(["a"], ["c"])]))
