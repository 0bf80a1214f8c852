"""`kdnative new` on random tables: what it writes can be run, and what it refuses is refused in words."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdnative.data import DataError
from kdnative.pipeline import PipelineError, RecipeError, check, new
from tests.pipeline.conftest import write_model
from tests.pipeline.new_recipe.tables import random_table


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("teacher") / "model")


def outcome(folder, teacher, seed: int) -> str:
    """What became of a table: "written", or the first words of the refusal."""
    folder.mkdir(exist_ok=True)
    path, recipe = random_table(random.Random(seed), folder), folder / "recipe.yaml"
    recipe.unlink(missing_ok=True)
    try:
        new(path, recipe, teacher=str(teacher))
    except (DataError, RecipeError, PipelineError) as error:
        assert not recipe.exists()
        assert len(str(error)) > 20 and path.name in str(error), error
        return str(error)
    check(recipe, runs=folder)
    return "written"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_it_runs_or_is_refused(tmp_path, teacher, seed):
    outcome(tmp_path / "data", teacher, seed)


def test_most_tables_become_recipes(tmp_path, teacher):
    """Else refusing everything would pass the test above. Of these tables, some are bound to be refused."""
    found = [outcome(tmp_path / "data", teacher, seed) for seed in range(20)]
    assert 20 > found.count("written") >= 8, found
