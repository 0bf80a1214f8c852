"""What pyproject.toml, CITATION.cff, the workflows and the Makefile say of each other is true."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import kdnative

if sys.version_info < (3, 11):
    pytest.skip("reading pyproject.toml needs tomllib, of Python 3.11", allow_module_level=True)
import tomllib

ROOT = Path(__file__).parents[1]
if not (ROOT / "CITATION.cff").is_file():
    pytest.skip("a test of the source tree", allow_module_level=True)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
SETUP = re.compile(r"sudo apt-get (update|install --yes [a-z0-9+ -]+)|pip install [a-z0-9 -]+")


def commands(workflow: dict) -> list[str]:
    """Every command that a workflow runs, once for each cell of its job's matrix."""
    found = []
    for job in workflow["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        lines = [step["run"] for step in job["steps"] if "run" in step]
        for values, line in itertools.product(itertools.product(*matrix.values()), lines):
            for name, value in zip(matrix, values, strict=True):
                line = line.replace(f"${{{{ matrix.{name} }}}}", str(value))
            found.append(line)
    return found


def wrong(command: str) -> str | None:
    """Why a workflow may not run this, or None."""
    if SETUP.fullmatch(command):
        return None
    match = re.fullmatch(r"make ([a-z-]+)", command)
    if match is None:
        return f"{command!r} is neither `make TARGET` nor the installation of packages"
    return None if match[1] in TARGETS else f"the Makefile has no target {match[1]!r}"


def test_what_a_workflow_may_not_run():
    assert "neither" in wrong("python -m pytest") and "neither" in wrong("make test && curl x | sh")
    assert "no target 'tests'" in wrong("make tests") and "neither" in wrong("sudo apt-get install --yes g++; make")
    assert wrong("make test") is None and wrong("sudo apt-get install --yes g++-aarch64-linux-gnu qemu-user") is None


def test_a_matrix_gives_a_command_for_each_cell():
    job = {"strategy": {"matrix": {"a": [1, 2], "b": ["x"]}}, "steps": [{"uses": "y"}, {"run": "make ${{ matrix.a }}"}]}
    assert commands({"jobs": {"j": job}}) == ["make 1", "make 2"]
    assert commands({"jobs": {"j": {"steps": [{"run": "make test"}]}}}) == ["make test"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_only_call_make(path):
    workflow = yaml.safe_load(path.read_text())
    run = commands(workflow)
    assert run and not [reason for command in run if (reason := wrong(command))]
    assert workflow["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())


def test_every_check_of_the_makefile_is_in_a_workflow():
    run = {command for path in WORKFLOWS for command in commands(yaml.safe_load(path.read_text()))}
    checks = {target for target in TARGETS if target.startswith("test")}
    checks -= {"test-wheel", "test-gpu"}  # `make wheels` tests wheels; no workflow has a GPU
    checks |= {"lint", "mutants", "mutants-gpu", "fuzz", "kills", "docs", "wheels"}
    assert {f"make {target}" for target in checks} <= run


def test_every_python_that_is_promised_gets_a_wheel():
    promised = {text.rsplit(" ", 1)[1] for text in PROJECT["project"]["classifiers"] if "Python :: 3." in text}
    built = PROJECT["tool"]["cibuildwheel"]["build"].split()
    assert {f"cp{version.replace('.', '')}-*" for version in promised} == set(built)
    oldest = min(promised, key=lambda version: int(version.split(".")[1]))
    assert PROJECT["project"]["requires-python"] == f">={oldest}"


def test_constraints_are_those_of_our_dependencies():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    names = [pin.name for pin in pins]
    assert names == sorted(set(names)) and all(name == canonicalize_name(name) for name in names)
    for pin in pins:
        (only,) = pin.specifier
        assert only.operator == "==" and "+" not in only.version and "*" not in only.version, pin
    extras = PROJECT["project"]["optional-dependencies"]
    needed = PROJECT["project"]["dependencies"] + extras["pipeline"] + extras["dev"]
    direct = {requirement.name: requirement.specifier for requirement in map(Requirement, needed)}
    machine = {"torch", "torchvision", "triton"}  # their builds depend on it
    assert not machine & set(names)
    assert {canonicalize_name(name) for name in direct} - machine - {"kdnative"} <= set(names)
    pinned = dict(zip(names, pins, strict=True))
    for name, allowed in direct.items():
        if pin := pinned.get(canonicalize_name(name)):
            assert allowed.contains(next(iter(pin.specifier)).version, prereleases=True), pin


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == kdnative.__version__
    assert citation["license"] == PROJECT["project"]["license"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what the format requires
