"""Choosing the instruction set."""

import os
import subprocess
import sys

import pytest

from kdnative import ops
from tests.conftest import ISAS


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


def test_best_is_the_default():
    done = run("from kdnative import ops; print(ops.isa())", KDNATIVE_ISA="")
    assert done.stdout.split() == [ops.available_isas()[-1]], done.stderr


@pytest.mark.parametrize("name", ISAS)
def test_forced_by_the_environment(name):
    done = run("from kdnative import ops; print(ops.isa())", KDNATIVE_ISA=name)
    if name in ops.available_isas():
        assert done.stdout.split() == [name], done.stderr
    else:
        assert done.returncode != 0
        assert f"'{name}' cannot run on this processor; possible here: reference" in done.stderr


def test_another_architecture_is_refused_in_words():
    done = run("import kdnative.ops", KDNATIVE_ISA="avx2" if "neon" in ISAS else "neon")
    assert done.returncode != 0
    assert "is not one that this build has" in done.stderr


def test_an_unknown_name_is_refused_in_words():
    done = run("import kdnative.ops", KDNATIVE_ISA="sse9")
    assert done.returncode != 0
    assert "instruction set 'sse9' is not one that this build has" in done.stderr
    assert "possible here: reference" in done.stderr


def test_select_isa_keeps_the_old_one_after_an_error():
    before = ops.isa()
    with pytest.raises(ValueError, match="'nonsense' is not one"):
        ops.select_isa("nonsense")
    assert ops.isa() == before


def test_importing_the_package_loads_neither_torch_nor_cuda():
    done = run("import sys, kdnative; print('torch' in sys.modules, len(kdnative.__all__) > 5)")
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_importing_the_operators_does_not_initialise_cuda():
    done = run("import torch, kdnative.ops; print(torch.cuda.is_initialized())")
    assert done.stdout.split() == ["False"], done.stderr


def test_the_kernel_table_names_every_operator():
    assert ops.kernel_table() == dict.fromkeys(ops.OPERATORS, ops.isa())
